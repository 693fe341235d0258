"""What a device says of an action: signed when stored, integers only, one for each state."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from agent.updates import report
from agent.updates.home import Home
from agent.updates.install import confirm_now, take_back
from agent.updates.proof import Asked, Proof
from agent.updates.recover import recover
from agent.updates.report import REPORT_TYPE, integers_only
from agent.updates.run import once
from tests.updates.devices import fresh_fleet
from tests.updates.fleet import MODEL, Fleet, passing, silent


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return fresh_fleet(tmp_path)


def opened(home: Home) -> list[dict[str, Any]]:
    """Every report that waits, its signature checked against the device's public key."""
    key = Ed25519PublicKey.from_public_bytes(home.device.public_key)
    found = []
    for _, content in home.journal.unsent(1000):
        envelope = json.loads(content)
        assert envelope["payloadType"] == REPORT_TYPE
        payload = base64.b64decode(envelope["payload"])
        kind = REPORT_TYPE.encode()
        # https://github.com/secure-systems-lab/dsse/blob/master/protocol.md
        signed = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)
        (signature,) = envelope["signatures"]
        key.verify(base64.b64decode(signature["sig"]), signed)
        with pytest.raises(InvalidSignature):
            key.verify(
                base64.b64decode(signature["sig"]), signed.replace(b"journal_seq", b"journal_sEq")
            )
        assert signature["keyid"] == home.device.device_id
        found.append(json.loads(payload, parse_float=_no_float, parse_constant=_no_float))
    return found


def _no_float(text: str) -> Any:
    raise AssertionError(f"{text} is no integer")


def test_a_release_leaves_one_report_for_each_state(fleet: Fleet) -> None:
    with Home(fleet.device()) as home:
        manifests = []
        for release, end in (("1.0.0", confirm_now), ("2.0.0", take_back)):
            manifests.append(fleet.release(release).manifest_sha256)
            action = once(home, silent, passing)
            assert action is not None
            for _ in range(3):  # nothing is said twice, however often it is interrupted
                recover(home, silent)
            end(home, MODEL, "why")
            recover(home, silent)
        reports = opened(home)
        told = [(r["release"], r["state"], r["reason"]) for r in reports]
        assert told == [
            ("1.0.0", "TRIAL", ""),
            ("1.0.0", "CONFIRMED", "why"),
            ("2.0.0", "TRIAL", ""),
            ("2.0.0", "ROLLED_BACK", "why"),
        ]
        assert [r["manifest_sha256"] for r in reports] == [
            manifest for manifest in manifests for _ in range(2)
        ]
        first = reports[0]
        assert first["device_id"] == home.device.device_id
        assert first["variant"] == "net/intel-any/best"
        assert (
            first["proof"]["net/intel-any/best"]["facts"]["measurement"]["latency_ms"]["p50"]
            == "1.0"
        )
        numbers = [r["journal_seq"] for r in reports]
        assert numbers == sorted(set(numbers))


def test_a_refusal_is_reported_with_what_was_found(fleet: Fleet) -> None:
    def wrong(home: Home, asked: Asked, *, log: Path, time_limit_s: float) -> Proof:
        facts = {"agreement": {"y": 0.25}, "odd": float("nan")}
        return Proof(passed=False, stage="golden", reasons=("y: cosine 0.25",), facts=facts)

    fleet.release("1.0.0")
    with Home(fleet.device()) as home:
        once(home, silent, wrong)
        (found,) = opened(home)
        assert found["state"] == "FAILED"
        assert found["reason"] == "net/intel-any/best: y: cosine 0.25"
        assert found["proof"]["net/intel-any/best"]["facts"] == {
            "agreement": {"y": "0.25"},
            "odd": "NaN",
        }


def test_a_release_for_other_hardware_is_rejected_and_that_is_reported(fleet: Fleet) -> None:
    build = fleet.build("far", match={"identity.arch": "z80"})
    fleet.release("1.0.0", build)
    with Home(fleet.device()) as home:
        action = once(home, silent, passing)
        assert action is not None
        assert action.state == "REJECTED"
        (found,) = opened(home)
        assert found["state"] == "REJECTED"
        assert "fits this device" in found["reason"]
        assert list(home.blobs.folder.iterdir()) == [], "nothing was fetched"


def test_a_disk_too_small_is_found_before_anything_is_fetched(fleet: Fleet) -> None:
    fleet.release("1.0.0")
    with Home(fleet.device(reserve_mib=1 << 30)) as home:
        action = once(home, silent, passing)
        assert action is not None
        assert action.state == "FAILED"
        assert "bytes more, and 0 are free" in action.reason
        assert list(home.blobs.folder.iterdir()) == []


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_what_is_signed_holds_integers_only(value: Any) -> None:
    json.loads(json.dumps(integers_only(value)), parse_float=_no_float, parse_constant=_no_float)


def test_a_report_is_kept_once(fleet: Fleet) -> None:
    fleet.release("1.0.0")
    with Home(fleet.device()) as home:
        action = once(home, silent, passing)
        assert action is not None
        before = home.journal.unsent()
        report.keep(home, action)
        assert home.journal.unsent() == before
        home.journal.sent([name for name, _ in before])
        report.keep(home, action)
        assert home.journal.unsent() == [], "what was sent is not said again"
