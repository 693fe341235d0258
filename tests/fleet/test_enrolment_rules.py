"""Whether a device is let in, by a table and by properties."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdk.fleet.rules.enrolment import Applicant, Enrolled, Ruling, Token, device_name, rule

KEY, OTHER = b"k" * 32, b"o" * 32
NAME = device_name(KEY)
NOW = 1000.0


def _applicant(**more: Any) -> Applicant:
    values: dict[str, Any] = {
        "device_id": NAME, "public_key": KEY, "has_token": False, "token": None,
        "announced": False,
    }  # fmt: skip
    return Applicant(**{**values, **more})


def _token(**more: Any) -> dict[str, Any]:
    values: dict[str, Any] = {"expires_s": 2000.0, "used_by": None, "group": "g"}
    return {"has_token": True, "token": Token(**{**values, **more})}


def _enrolled(standing: Any = "accepted", key: bytes = KEY) -> Enrolled:
    return Enrolled(public_key=key, standing=standing)


LET_IN = Ruling(step="accept", standing="accepted", group="g", spends_token=True)
CASES: dict[str, tuple[Applicant, Enrolled | None, Ruling]] = {
    "nobody knows it": (_applicant(), None, Ruling(step="wait")),
    "it has a token": (_applicant(**_token()), None, LET_IN),
    "its token comes again": (_applicant(**_token(used_by=NAME)), None, LET_IN),
    "it waited, and got a token": (_applicant(**_token()), _enrolled("pending"), LET_IN),
    "its token is made up": (
        _applicant(has_token=True), None, Ruling(step="none", refusal="token unknown"),
    ),
    "its token was another's": (
        _applicant(**_token(used_by="x")), None, Ruling(step="none", refusal="token used"),
    ),
    "its token is too old": (
        _applicant(**_token(expires_s=NOW)), None, Ruling(step="none", refusal="token expired"),
    ),
    "it was announced": (
        _applicant(announced=True, announced_group="h"), None,
        Ruling(step="accept", standing="accepted", group="h"),
    ),
    "it waits already": (_applicant(), _enrolled("pending"), Ruling(step="none")),
    "it is let in already": (
        _applicant(), _enrolled(), Ruling(step="none", standing="accepted"),
    ),
    "it is let in already, with a spoilt token": (
        _applicant(**_token(used_by="x")), _enrolled(), Ruling(step="none", standing="accepted"),
    ),
    "it was turned away, and has a token": (
        _applicant(**_token()), _enrolled("rejected"), Ruling(step="none", standing="rejected"),
    ),
    "it is quarantined, and has a token": (
        _applicant(**_token()), _enrolled("quarantined"),
        Ruling(step="none", standing="quarantined"),
    ),
    "it has another's name": (
        _applicant(device_id="f" * 32), None, Ruling(step="none", refusal="misnamed"),
    ),
    "it takes another's place": (
        _applicant(**_token()), _enrolled(key=OTHER), Ruling(step="none", refusal="taken"),
    ),
    "its key was replaced": (
        _applicant(vouched_by=OTHER), _enrolled(key=OTHER),
        Ruling(step="replace key", standing="accepted"),
    ),
    "a removed device replaces its key": (
        _applicant(vouched_by=OTHER), _enrolled("rejected", OTHER),
        Ruling(step="none", refusal="taken"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_device_is_let_in_for_one_of_three_reasons(name: str) -> None:
    applicant, found, expected = CASES[name]
    assert rule(applicant, found, NOW) == expected


KEYS = st.sampled_from([KEY, OTHER])
APPLICANTS = st.builds(
    Applicant,
    device_id=st.sampled_from([NAME, device_name(OTHER), "f" * 32]),
    public_key=KEYS,
    has_token=st.booleans(),
    token=st.none() | st.builds(
        Token,
        expires_s=st.sampled_from([0.0, 2000.0]),
        used_by=st.sampled_from([None, NAME, "x"]),
        group=st.sampled_from([None, "g"]),
    ),
    announced=st.booleans(),
    vouched_by=st.none() | KEYS,
)  # fmt: skip
STANDINGS = st.sampled_from(["accepted", "pending", "rejected", "quarantined"])


@given(APPLICANTS, st.none() | st.builds(Enrolled, public_key=KEYS, standing=STANDINGS))
def test_nobody_gets_in_or_takes_a_name_without_a_word_for_it(
    applicant: Applicant, found: Enrolled | None
) -> None:
    if applicant.token is not None:
        applicant = dataclasses.replace(applicant, has_token=True)
    ruling = rule(applicant, found, NOW)
    if ruling.refusal:
        assert ruling.step == "none"
        assert not ruling.spends_token
    if ruling.step == "accept":
        assert applicant.announced or applicant.token is not None
        assert found is None or found.standing == "pending"
    if found is not None and found.standing in ("rejected", "quarantined"):
        assert ruling.step == "none"
    if found is not None and found.public_key != applicant.public_key:
        assert ruling.refusal == "taken" or applicant.vouched_by == found.public_key
    if ruling.spends_token:
        assert applicant.token is not None
        assert applicant.token.used_by in (None, applicant.device_id)
    if found is None and not ruling.refusal:
        assert applicant.device_id == device_name(applicant.public_key)
