"""Whether a signed request counts, by a table and by properties."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.manifest import Fingerprint
from sdk.fleet.rules.claims import FORGIVEN_S, Claim, Known, judge, other_machine, remembered

KNOWN = Known(standing="accepted", request_seq=7, signed_s=100.0)
STRAINED = dataclasses.replace(KNOWN, conflict_s=90.0)

CASES: dict[str, tuple[Known, Claim, str, float | None]] = {
    "the next one": (KNOWN, Claim(seq=8, signed_s=101.0), "ok", None),
    "a later block of numbers": (KNOWN, Claim(seq=1001, signed_s=101.0), "ok", None),
    "a clock that was put back": (KNOWN, Claim(seq=8, signed_s=50.0), "ok", None),
    "the same again": (KNOWN, Claim(seq=7, signed_s=100.0), "replayed", None),
    "an older one": (KNOWN, Claim(seq=3, signed_s=60.0), "replayed", None),
    "a lost journal": (KNOWN, Claim(seq=1, signed_s=101.0), "replayed", 101.0),
    "lost again within a day": (STRAINED, Claim(seq=1, signed_s=101.0), "quarantined", 101.0),
    "lost again after a day": (
        STRAINED,
        Claim(seq=1, signed_s=90.0 + FORGIVEN_S),
        "replayed",
        90.0 + FORGIVEN_S,
    ),
    "an older one after a conflict": (STRAINED, Claim(seq=3, signed_s=60.0), "replayed", 90.0),
    "the next one after a conflict": (STRAINED, Claim(seq=8, signed_s=101.0), "ok", 90.0),
}


@pytest.mark.parametrize("name", CASES)
def test_a_request_counts_by_its_number_and_its_time(name: str) -> None:
    known, claim, code, conflict_s = CASES[name]
    found = judge(known, claim)
    assert (found.code, found.conflict_s) == (code, conflict_s)
    assert bool(found.quarantine) == (code == "quarantined")


@pytest.mark.parametrize("standing", ["pending", "rejected", "quarantined"])
def test_nothing_counts_of_a_device_that_is_not_let_in(standing: Any) -> None:
    known = dataclasses.replace(KNOWN, standing=standing)
    assert judge(known, Claim(seq=8, signed_s=101.0)).code == standing


CLAIMS = st.builds(
    Claim, seq=st.integers(1, 20), signed_s=st.integers(0, 3 * 86400).map(float)
)  # fmt: skip


@given(st.lists(CLAIMS, max_size=60))
def test_a_number_never_counts_twice_whatever_the_order(claims: list[Claim]) -> None:
    counted, known = [], Known(standing="accepted", request_seq=0, signed_s=0.0)
    for claim in claims:
        verdict = judge(known, claim)
        if verdict.code == "ok":
            counted.append(claim.seq)
        known = remembered(known, claim, verdict)
    assert counted == sorted(set(counted))
    assert known.request_seq == max(counted, default=0)


@given(st.lists(CLAIMS, min_size=1, max_size=40), st.data())
def test_what_counted_once_and_is_sent_again_harms_nobody(
    claims: list[Claim], data: st.DataObject
) -> None:
    """Whoever listens on the line can send it again, and must not get the device quarantined."""
    known = Known(standing="accepted", request_seq=0, signed_s=0.0)
    counted = []
    for claim in claims:
        verdict = judge(known, claim)
        if verdict.code == "ok":
            counted.append(claim)
            known = remembered(known, claim, verdict)
    for _ in range(3):
        again = judge(known, data.draw(st.sampled_from(counted)))
        assert again.code == "replayed"
        assert again.conflict_s == known.conflict_s


@given(st.integers(1, 50), st.integers(1, 50))
def test_two_machines_with_one_key_do_not_go_unseen(first: int, second: int) -> None:
    """Each takes the number that it is told, as an honest agent does; they take turns."""
    known = Known(standing="accepted", request_seq=0, signed_s=0.0)
    seqs = [first, second]
    for at in range(12):
        mine = at % 2
        verdict = judge(known, Claim(seq=seqs[mine], signed_s=10.0 * at + 1.0))
        known = remembered(known, Claim(seq=seqs[mine], signed_s=10.0 * at + 1.0), verdict)
        if verdict.code == "quarantined":
            return
        seqs[mine] = (known.request_seq if verdict.code == "replayed" else seqs[mine]) + 1
    pytest.fail("both of them work")


def _print(**identity: Any) -> Fingerprint:
    return Fingerprint(identity=identity, software={}, conditions={})


MACHINES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "the same": ({"soc": "a", "cores": 4}, {"soc": "a", "cores": 4}, ""),
    "another chip": ({"soc": "a"}, {"soc": "b"}, "its soc was 'a', and is 'b'"),
    "fewer cores": ({"cores": 4}, {"cores": 2}, "its cores was 4, and is 2"),
    "what was not told before": ({}, {"soc": "b"}, ""),
    "what is not told any more": ({"soc": "a"}, {}, ""),
    "a kernel that takes more": ({"memory_bytes": 4 << 30}, {"memory_bytes": 4000 << 20}, ""),
    "half the memory": ({"memory_bytes": 4 << 30}, {"memory_bytes": 2 << 30}, "its memory was"),
    "other flags": ({"isa": ["a"]}, {"isa": ["b"]}, ""),
    "memory that is no number": ({"memory_bytes": 4 << 30}, {"memory_bytes": "much"}, ""),
    "memory that is true": ({"memory_bytes": True}, {"memory_bytes": 4 << 30}, ""),
}


@pytest.mark.parametrize("name", MACHINES)
def test_a_machine_is_known_by_its_silicon(name: str) -> None:
    before, now, why = MACHINES[name]
    found = other_machine(_print(**before), _print(**now))
    assert found.startswith(why)
    assert bool(found) == bool(why)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
IDENTITIES = st.dictionaries(
    st.sampled_from(["arch", "soc", "cores", "gpu", "memory_bytes", "x"]), JSON
)


@given(IDENTITIES, IDENTITIES)
def test_whatever_a_device_says_it_is_can_be_compared(
    before: dict[str, Any], now: dict[str, Any]
) -> None:
    assert other_machine(_print(**before), _print(**before)) == ""
    assert len(other_machine(_print(**before), _print(**now))) < 300
