"""Who may run what: every way in which an assignment may be wrong, and its reason."""

from __future__ import annotations

import base64
import dataclasses
import datetime as dt
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.dsse import Envelope
from securesystemslib.signer import CryptoSigner

from agent.codec import MOST_INTEGER
from agent.errors import VerificationError
from agent.updates.assignment import (
    ASSIGNMENT_BYTES,
    ASSIGNMENT_TYPE,
    Assignment,
    check_for_device,
    claimed_issue,
    last_seen,
    moment,
    opened,
)
from agent.updates.trust import Keys

SIGNERS = [CryptoSigner(Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32)) for n in range(3)]
ONE = Keys(keys=(SIGNERS[0].public_key,), threshold=1)
TWO = Keys(keys=(SIGNERS[0].public_key, SIGNERS[1].public_key), threshold=2)
NOW = dt.datetime(2026, 11, 21, 12, tzinfo=dt.timezone.utc)
PLAIN: dict[str, Any] = {
    "action_id": "net-1-ab",
    "assignment_seq": 7,
    "issued": "2026-11-21T11:00:00Z",
    "expires": "2026-11-22T11:00:00Z",
    "model": "net",
    "release_path": "models/net/1.0.0/manifest.json",
    "manifest_sha256": "ab" * 32,
    "group": "line-3",
}


def envelope(payload: Any, *signers: CryptoSigner, kind: str = ASSIGNMENT_TYPE) -> bytes:
    content = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    made = Envelope(content, kind, {})
    for signer in signers or SIGNERS[:1]:
        made.sign(signer)
    return json.dumps(made.to_dict()).encode()


def test_an_assignment_is_opened() -> None:
    found = opened(envelope({**PLAIN, "new_field": [1]}), ONE)
    assert found.release_path == PLAIN["release_path"]
    assert found.extra == {"new_field": [1]}
    assert found.signers == (SIGNERS[0].public_key.keyid,)
    assert claimed_issue(envelope(PLAIN)) == NOW - dt.timedelta(hours=1)


def test_who_signed_is_never_taken_from_what_is_signed() -> None:
    found = opened(envelope({**PLAIN, "signers": ["somebody"]}), ONE)
    assert found.signers == (SIGNERS[0].public_key.keyid,)


WRONG_VALUES: dict[str, dict[str, Any]] = {
    "another model's release": {"release_path": "models/other/1.0.0/manifest.json"},
    "a path upwards": {"release_path": "models/net/../manifest.json"},
    "a path elsewhere": {"release_path": "/etc/passwd"},
    "a path with more parts": {"release_path": "models/net/a/b/manifest.json"},
    "another file": {"release_path": "models/net/1.0.0/other.json"},
    "a model that is a path": {"model": "net/x", "release_path": "models/net/x/manifest.json"},
    "a model that leads upwards": {"model": "..", "release_path": "models/../1/manifest.json"},
    "an action that is a path": {"action_id": "../../etc"},
    "an action without a name": {"action_id": ""},
    "no sha256": {"manifest_sha256": "ab"},
    "a sha256 in capitals": {"manifest_sha256": "AB" * 32},
    "no device and no group": {"group": None},
    "a device and a group": {"device_id": "d"},
    "a float": {"assignment_seq": 7.0},
    "a float that is none": {"deadline_s": float("nan")},
    "endless": {"deadline_s": float("inf")},
    "a number as a string": {"assignment_seq": "7"},
    "true for a number": {"assignment_seq": True},
    "a number of nothing": {"assignment_seq": 0},
    "a number below": {"assignment_seq": -1},
    "a number beyond": {"assignment_seq": MOST_INTEGER + 1},
    "a number without end": {"assignment_seq": 10**4000},
    "a deadline of nothing": {"deadline_s": 0},
    "a deadline of years": {"deadline_s": MOST_INTEGER},
    "half a character": {"variant": "\ud800"},
    "a time of another form": {"issued": "2026-11-21 11:00:00"},
    "a time of another zone": {"expires": "2026-11-21T11:00:00+02:00"},
    "a time that never was": {"expires": "2026-13-41T11:00:00Z"},
    "a time in other digits": {"expires": "\u0662026-11-21T11:00:00Z"},
    "gates that are none": {"gates": "none"},
    "a gate of another kind": {"gates": [{"quantity": "colour", "max": 1}]},
    "a gate without end": {"gates": [{"quantity": "latency_us", "max": 10**30}]},
}


@pytest.mark.parametrize("name", WRONG_VALUES)
def test_a_signed_assignment_that_is_malformed_is_refused(name: str) -> None:
    with pytest.raises(VerificationError):
        opened(envelope({**PLAIN, **WRONG_VALUES[name]}), ONE)


@pytest.mark.parametrize("field", [name for name in PLAIN if name != "group"])
def test_a_field_that_is_missing_or_of_another_type_is_told(field: str) -> None:
    left = {name: value for name, value in PLAIN.items() if name != field}
    with pytest.raises(VerificationError, match=rf"assignment\.{field} is missing"):
        opened(envelope(left), ONE)
    for other in (None, [], {}, False, 1.5):
        with pytest.raises(VerificationError):
            opened(envelope({**PLAIN, field: other}), ONE)


DEEP = b"[" * 30_000 + b"]" * 30_000
PAYLOADS: dict[str, bytes] = {
    "no JSON": b"\xff\xfe",
    "no object": b"[]",
    "too deep": DEEP,
    "a name twice": b'{"model": "net", ' + json.dumps(PLAIN)[1:].encode(),
    "UTF-16": json.dumps(PLAIN).encode("utf-16"),
    "nothing": b"",
}


@pytest.mark.parametrize("name", PAYLOADS)
def test_a_payload_that_readers_could_read_otherwise_is_refused(name: str) -> None:
    with pytest.raises(VerificationError):
        opened(envelope(PAYLOADS[name]), ONE)


def _changed(**changes: Any) -> bytes:
    value = json.loads(envelope(PLAIN))
    value.update(changes)
    return json.dumps(value).encode()


SIG = json.loads(envelope(PLAIN))["signatures"][0]
ENVELOPES: dict[str, bytes] = {
    "no JSON": b"{",
    "a list": b"[]",
    "too deep": DEEP[:32_000] + DEEP[-32_000:],
    "too long": b" " * ASSIGNMENT_BYTES + envelope(PLAIN),
    "no payload": b'{"payloadType": "x", "signatures": []}',
    "a payload of no base64": _changed(payload="\u00e4"),
    "a payload that is no text": _changed(payload=[1]),
    "signatures that are none": _changed(signatures="abc"),
    "a signature that is none": _changed(signatures=[5]),
    "a signature without a key": _changed(signatures=[{"sig": SIG["sig"]}]),
    "a signature that is no text": _changed(signatures=[{**SIG, "sig": 5}]),
    "the same key twice": _changed(signatures=[SIG, SIG]),
    "of another type": envelope(PLAIN, kind="application/vnd.slipway.report.v1+json"),
    "of a type that is no text": _changed(payloadType=[1]),
}


@pytest.mark.parametrize("name", ENVELOPES)
def test_an_envelope_that_is_malformed_is_refused(name: str) -> None:
    with pytest.raises(VerificationError, match="The assignment cannot be read"):
        opened(ENVELOPES[name], ONE)


SIGNED: dict[str, tuple[bytes, Keys]] = {
    "by nobody": (_changed(signatures=[]), ONE),
    "by another key": (envelope(PLAIN, SIGNERS[2]), ONE),
    "by another key in its name": (
        _changed(signatures=[{**SIG, "sig": base64.b64encode(bytes(64)).decode()}]),
        ONE,
    ),
    "by too few": (envelope(PLAIN, SIGNERS[1]), TWO),
    "by one and a stranger": (envelope(PLAIN, SIGNERS[1], SIGNERS[2]), TWO),
    "over another payload": (
        _changed(payload=base64.b64encode(json.dumps({**PLAIN, "model": "x"}).encode()).decode()),
        ONE,
    ),
    "of another type": (_changed(payloadType=ASSIGNMENT_TYPE + "x"), ONE),
}


@pytest.mark.parametrize("name", SIGNED)
def test_an_assignment_that_is_not_signed_so_is_refused(name: str) -> None:
    content, keys = SIGNED[name]
    with pytest.raises(VerificationError, match=r"is not signed by|is of the type"):
        opened(content, keys)


def test_as_many_as_it_takes_have_to_sign() -> None:
    found = opened(envelope(PLAIN, SIGNERS[0], SIGNERS[1]), TWO)
    assert len(found.signers) == 2


@given(st.integers(0, 10_000), st.integers(0, 7))
def test_no_bit_of_an_envelope_can_be_changed(at: int, bit: int) -> None:
    content = bytearray(envelope(PLAIN))
    content[at % len(content)] ^= 1 << bit
    try:
        found = opened(bytes(content), ONE)
    except VerificationError:
        return
    # A name of a field that nobody reads, or a blank: what was signed is what comes out.
    assert found == opened(envelope(PLAIN), ONE)


def _check(**changes: Any) -> None:
    chosen = {"device_id": "d-1", "group": "line-3", "now": NOW, "last_seq": 6, **changes}
    found = opened(envelope({**PLAIN, **chosen.pop("plain", {})}), ONE)
    check_for_device(found, **chosen)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another group": ({"group": "line-4"}, "for 'the group line-3', this is d-1 of the group line"),
    "no group": ({"group": None}, "of the group None"),
    "another device": ({"plain": {"group": None, "device_id": "d-2"}}, "for 'd-2', this is d-1"),
    "expired": ({"now": NOW + dt.timedelta(days=1)}, "expired at 2026-11-22T11:00:00Z; here it is"),
    "at its last moment": ({"now": moment(PLAIN["expires"])}, "expired"),
    "issued after it expires": ({"plain": {"issued": "2999-01-01T00:00:00Z"}}, "after it expires"),
    "replayed": ({"last_seq": 7}, "has the number 7; 7 was seen already"),
    "an older one": ({"last_seq": 2**31}, "2147483648 was seen already"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_assignment_that_is_not_for_now_and_here_is_refused(name: str) -> None:
    changes, why = REFUSED[name]
    with pytest.raises(VerificationError, match=why):
        _check(**changes)


def test_an_assignment_for_this_device_or_its_group_is_taken() -> None:
    _check()
    _check(plain={"group": None, "device_id": "d-1"}, group=None)


def test_numbers_are_counted_apart_for_each_model_key_and_kind() -> None:
    journal: dict[str, int] = {}
    found = opened(envelope({**PLAIN, "assignment_seq": MOST_INTEGER}), ONE)
    journal.update(found.counts("offline"))

    def number(name: str) -> int:
        return journal.get(name, 0)

    assert last_seen(number, "offline", ONE, "net") == MOST_INTEGER
    assert last_seen(number, "offline", TWO, "net") == MOST_INTEGER
    assert last_seen(number, "online", ONE, "net") == 0
    assert last_seen(number, "offline", ONE, "other") == 0
    replaced = Keys(keys=(SIGNERS[1].public_key,), threshold=1)
    assert last_seen(number, "offline", replaced, "net") == 0


def test_an_assignment_says_all_that_its_format_has() -> None:
    names = {field.name for field in dataclasses.fields(Assignment)} - {"extra"}
    assert names == {*PLAIN, "device_id", "variant", "gates", "deadline_s"}


def test_a_message_shows_no_control_characters() -> None:
    with pytest.raises(VerificationError) as found:
        _check(plain={"group": "\x1b[2J"}, group="x")
    assert str(found.value).isprintable()
    with pytest.raises(VerificationError) as found:
        opened(envelope({**PLAIN, "model": "\x1b[2J", "release_path": "\x1b"}), ONE)
    assert str(found.value).isprintable()
