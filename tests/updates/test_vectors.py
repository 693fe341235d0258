"""The published cases of the protocol hold for the agent itself, and come out of their script."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from agent.errors import VerificationError
from agent.manifest import Fingerprint, match, parse
from agent.names import check_path
from agent.updates import delta
from agent.updates.assignment import check_for_device, moment, opened
from agent.updates.trust import Keys

DOCS = Path(__file__).parents[2] / "docs"
CASES: dict[str, Any] = json.loads(
    (DOCS / "reference" / "protocol" / "vectors.json").read_text(encoding="utf-8")
)


def _named(part: str) -> Any:
    return pytest.mark.parametrize("case", CASES[part], ids=lambda case: case.get("name", ""))


def test_the_file_is_what_its_script_writes() -> None:
    spec = importlib.util.spec_from_file_location("vectors", DOCS / "vectors.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    made = json.loads(json.dumps(script.vectors()))
    # Another zstd may make other bytes; what they decode to is tested below.
    assert {**made, "deltas": None} == {**CASES, "deltas": None}


def test_a_device_is_named_by_its_key() -> None:
    case = CASES["device"]
    public = bytes.fromhex(case["public_key"])
    assert hashlib.sha256(public).hexdigest()[:32] == case["device_id"]


def test_a_report_is_signed_as_published() -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from agent.device import Device

    case = CASES["signing"]
    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(case["seed"]))
    envelope = json.loads(
        Device("any", key).envelope(case["payload"].encode(), case["payload_type"])
    )
    assert base64.b64decode(envelope["payload"]).decode() == case["payload"]
    assert base64.b64decode(envelope["signatures"][0]["sig"]).hex() == case["signature"]


@_named("assignments")
def test_an_assignment_is_taken_or_refused(case: dict[str, Any]) -> None:
    from securesystemslib.signer import SSlibKey

    public = {"public": case["trusted_public_key"]}
    key = SSlibKey(case["trusted_keyid"], "ed25519", "ed25519", public)
    keys = Keys(keys=(key,), threshold=case["threshold"])

    def take() -> None:
        found = opened(json.dumps(case["envelope"]).encode(), keys)
        check_for_device(
            found,
            device_id=case["device_id"],
            group=case["group"],
            now=moment(case["now"]),
            last_seq=case["last_seq"],
        )

    if case["taken"]:
        take()
    else:
        with pytest.raises(VerificationError):
            take()


@_named("match")
def test_a_predicate_fits_or_not(case: dict[str, Any]) -> None:
    assert match(case["predicate"], Fingerprint(**case["fingerprint"])) is case["fits"]


@pytest.mark.parametrize("case", CASES["paths"], ids=lambda case: repr(case["path"][:20]))
def test_a_path_is_allowed_or_not(case: dict[str, Any]) -> None:
    if case["allowed"]:
        assert check_path(case["path"]).as_posix() == case["path"]
    else:
        with pytest.raises(VerificationError):
            check_path(case["path"])


@_named("manifests")
def test_a_manifest_is_read_or_refused(case: dict[str, Any]) -> None:
    if case["read"]:
        assert parse(case["text"].encode()).model == "net"
    else:
        with pytest.raises(VerificationError):
            parse(case["text"].encode())


@_named("deltas")
def test_a_delta_makes_the_new_file_or_is_refused(case: dict[str, Any], tmp_path: Path) -> None:
    old, made = tmp_path / "old", tmp_path / "delta"
    old.write_bytes(base64.b64decode(case["old"]))
    made.write_bytes(base64.b64decode(case["delta"]))
    pieces = delta.apply(case["algorithm"], old, made, case["length"])
    if case["sha256"]:
        assert hashlib.sha256(b"".join(pieces)).hexdigest() == case["sha256"]
    else:
        with pytest.raises(VerificationError):
            b"".join(pieces)
