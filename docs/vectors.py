"""Write docs/reference/protocol/vectors.json: cases that every client has to answer alike.

    python docs/vectors.py

The keys come from seeds that are in the file itself. Signatures are Ed25519, so they come out the
same each time; deltas are whatever this zstd makes, so only what they decode to is tested.
"""

from __future__ import annotations

import base64
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

FILE = ROOT / "docs" / "reference" / "protocol" / "vectors.json"
SIGNER, STRANGER, DEVICE = (bytes([number]) * 32 for number in (1, 2, 3))
NOW = "2026-11-21T12:00:00Z"


def vectors() -> dict[str, Any]:
    """All cases."""
    return {
        "version": 1,
        "device": _device(),
        "signing": _signing(),
        "assignments": list(_assignments()),
        "match": list(_match()),
        "paths": _paths(),
        "manifests": list(_manifests()),
        "deltas": list(_deltas()),
        "requests": list(_requests()),
        "enrolments": list(_enrolments()),
    }


def pae(kind: str, payload: bytes) -> bytes:
    """What DSSE signs: https://github.com/secure-systems-lab/dsse/blob/master/protocol.md"""
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind.encode(), len(payload), payload)


def public_of(seed: bytes) -> bytes:
    """The public key of a seed, 32 bytes."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    raw = serialization.Encoding.Raw, serialization.PublicFormat.Raw
    return Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes(*raw)


def sign(seed: bytes, content: bytes) -> bytes:
    """64 bytes, Ed25519."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.from_private_bytes(seed).sign(content)


def key_of(seed: bytes) -> Any:
    """The public half, as TUF metadata names it."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from securesystemslib.signer import CryptoSigner

    return CryptoSigner(Ed25519PrivateKey.from_private_bytes(seed)).public_key


def _device() -> dict[str, str]:
    public = public_of(DEVICE)
    return {
        "seed": DEVICE.hex(),
        "public_key": public.hex(),
        "device_id": hashlib.sha256(public).hexdigest()[:32],
    }


def _signing() -> dict[str, str]:
    kind, payload = "application/vnd.slipway.report.v1+json", b'{"state":"CONFIRMED"}'
    signed = pae(kind, payload)
    return {
        "seed": DEVICE.hex(),
        "payload_type": kind,
        "payload": payload.decode(),
        "signed_bytes": signed.hex(),
        "signature": sign(DEVICE, signed).hex(),
    }


def _assignments() -> Any:
    from agent.updates.assignment import ASSIGNMENT_TYPE

    good: dict[str, Any] = {
        "action_id": "net-1-0a1b2c3d",
        "assignment_seq": 7,
        "issued": "2026-11-21T00:00:00Z",
        "expires": "2026-11-22T00:00:00Z",
        "model": "net",
        "release_path": "models/net/1.0.0/manifest.json",
        "manifest_sha256": "ab" * 32,
        "group": "line-3",
        "deadline_s": 600,
    }
    own = _device()["device_id"]
    plain = {"signer": SIGNER, "kind": ASSIGNMENT_TYPE, "now": NOW, "last_seq": 6}
    for name, payload, changes, taken in (
        ("for the group", good, {}, True),
        ("for the device", {**_without(good, "group"), "device_id": own}, {}, True),
        ("with a field that is not known yet", {**good, "later": [1]}, {}, True),
        ("for another group", {**good, "group": "line-4"}, {}, False),
        ("for another device", {**_without(good, "group"), "device_id": "0" * 32}, {}, False),
        ("for a device and a group", {**good, "device_id": own}, {}, False),
        ("for nobody", _without(good, "group"), {}, False),
        ("expired", good, {"now": "2026-11-22T00:00:00Z"}, False),
        ("seen before", good, {"last_seq": 7}, False),
        ("signed by a stranger", good, {"signer": STRANGER}, False),
        ("of another type", good, {"kind": "application/json"}, False),
        ("with a number that is no integer", {**good, "deadline_s": 600.5}, {}, False),
        ("without its model", _without(good, "model"), {}, False),
    ):
        told: dict[str, Any] = {**plain, **changes}
        content = json.dumps(payload, separators=(",", ":"), sort_keys=True).encode()
        envelope = {
            "payload": base64.b64encode(content).decode(),
            "payloadType": told["kind"],
            "signatures": [
                {
                    "keyid": key_of(SIGNER).keyid,
                    "sig": base64.b64encode(
                        sign(told["signer"], pae(told["kind"], content))
                    ).decode(),
                }
            ],
        }
        yield {
            "name": name,
            "envelope": envelope,
            "trusted_public_key": public_of(SIGNER).hex(),
            "trusted_keyid": key_of(SIGNER).keyid,
            "threshold": 1,
            "device_id": own,
            "group": "line-3",
            "now": told["now"],
            "last_seq": told["last_seq"],
            "taken": taken,
        }


def _without(value: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: item for key, item in value.items() if key != name}


def _match() -> Any:
    fingerprint = {
        "identity": {"arch": "aarch64", "memory_bytes": 8 << 30, "isa": ["asimd", "dotprod"]},
        "software": {"jetpack": "6.2.1", "runtimes": {"onnxruntime": "1.23.0"}},
        "conditions": {"power_mode": None},
    }
    for name, predicate, fits in (
        ("nothing asked", {}, True),
        ("equal", {"identity.arch": "aarch64"}, True),
        ("not equal", {"identity.arch": "x86_64"}, False),
        ("one of", {"identity.arch": ["x86_64", "aarch64"]}, True),
        ("none of", {"identity.arch": ["x86_64"]}, False),
        ("a path that is not there", {"identity.gpu": "Orin"}, False),
        ("null never fits", {"conditions.power_mode": [None]}, False),
        ("versions, not strings", {"software.jetpack": {"min": "6.1", "below": "6.10"}}, True),
        ("below is exclusive", {"software.jetpack": {"below": "6.2.1"}}, False),
        ("a number", {"identity.memory_bytes": {"min": 4 << 30}}, True),
        ("has all of", {"identity.isa": {"has": ["dotprod", "asimd"]}}, True),
        ("has not all of", {"identity.isa": {"has": ["dotprod", "i8mm"]}}, False),
        ("a runtime's version", {"software.runtimes.onnxruntime": {"min": "1.20"}}, True),
        ("an operator that is not known", {"identity.arch": {"like": "a"}}, False),
        ("a number is no string", {"identity.memory_bytes": str(8 << 30)}, False),
    ):
        yield {"name": name, "predicate": predicate, "fingerprint": fingerprint, "fits": fits}


def _paths() -> list[dict[str, Any]]:
    allowed = ["model.onnx", "a/b/c/d.bin", "weights-f16_v2@1+x=y.bin"]
    refused = [
        "", "/etc/passwd", "../up", "a/../b", "a//b", ".hidden", "a/.b", "a/b/c/d/e", "a\\b", "a b",
        "nul", "CON.txt", "end.", "a/", "\u00fcber", "a\x00b", "x" * 201,
    ]  # fmt: skip
    cases = [(path, True) for path in allowed] + [(path, False) for path in refused]
    return [{"path": path, "allowed": fine} for path, fine in cases]


def _manifests() -> Any:
    good: dict[str, Any] = {
        "version": 1,
        "model": "net",
        "release": "1.0.0",
        "release_counter": 1,
        "requires": [],
        "inputs": [{"name": "x", "dtype": "float32", "shape": ["batch", 3]}],
        "outputs": [{"name": "y", "dtype": "float32", "shape": ["batch", 2]}],
        "dims": {"batch": [1, 1, 8]},
        "golden": {"sha256": "cd" * 32, "length": 100},
        "evaluation": None,
        "variants": [],
    }
    for name, value, read in (
        ("the least there can be", good, True),
        ("a field that is not known yet", {**good, "later": 1}, True),
        ("a later version", {**good, "version": 2}, False),
        ("a requirement that is not known", {**good, "requires": ["later"]}, False),
        ("a number that is no integer", {**good, "release_counter": 1.0}, False),
        ("a truth value for a number", {**good, "release_counter": True}, False),
        ("a field is missing", _without(good, "golden"), False),
    ):
        yield {"name": name, "text": json.dumps(value), "read": read}


def _deltas() -> Any:
    from sdk.release.deltas import patch, planes

    old = b"".join(number.to_bytes(4, "little") for number in range(1000))
    new = old[:3000] + b"head" * 20 + old[3080:]
    for name, algorithm, made, length, works in (
        ("planes", "planes-zstd", planes(old, new), len(new), True),
        ("planes of a file that grew", "planes-zstd", planes(old, new + b"!!"), len(new) + 2, True),
        ("patch", "zstd-patch", patch(old, new), len(new), True),
        ("more than was signed", "planes-zstd", planes(old, new), len(new) - 1, False),
        ("less than was signed", "planes-zstd", planes(old, new), len(new) + 1, False),
        ("cut short", "planes-zstd", planes(old, new)[:-5], len(new), False),
        ("another magic number", "planes-zstd", b"SWPE" + planes(old, new)[4:], len(new), False),
    ):
        result = (new + b"!!")[:length]
        yield {
            "name": name,
            "algorithm": algorithm,
            "old": base64.b64encode(old).decode(),
            "delta": base64.b64encode(made).decode(),
            "length": length,
            "sha256": hashlib.sha256(result).hexdigest() if works else None,
        }


def _requests() -> Any:
    """Written out by hand, so that the agent's own code is held against something else."""
    own = _device()["device_id"]
    names = '("@method" "@path" "@query" "content-digest" "slipway-request-seq")'
    poll = b'{"version":1}'
    for name, path, query, body, seq, when in (
        ("a poll", "/v1/poll", "", poll, 1017, "created=1795348800"),
        ("of a device without a clock", "/v1/poll", "", poll, 1018, 'nonce="bm9uY2U"'),
        ("with a query", "/v1/reports", "a=1&b=%20", b'{"reports":[]}', 1019, "created=1795348801"),
        ("behind a prefix", "/slipway/v1/poll", "", poll, 1020, "created=1795348802"),
        ("of an empty body", "/v1/poll", "", b"", 2**53 - 1, "created=1795348803"),
    ):
        digest = f"sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode()}:"
        parameters = f'{names};{when};keyid="{own}";alg="ed25519";tag="fleet-0a1b2c3d"'
        base = (
            f'"@method": POST\n"@path": {path}\n"@query": ?{query}\n"content-digest": {digest}\n'
            f'"slipway-request-seq": {seq}\n"@signature-params": {parameters}'
        )
        signature = base64.b64encode(sign(DEVICE, base.encode())).decode()
        yield {
            "name": name,
            "seed": DEVICE.hex(),
            "device_id": own,
            "fleet": "fleet-0a1b2c3d",
            "created": int(when[8:]) if when.startswith("created") else None,
            "nonce": None if when.startswith("created") else when[7:-1],
            "method": "POST",
            "path": path,
            "query": query,
            "body": body.decode(),
            "seq": seq,
            "signature_base": base,
            "headers": {
                "Content-Digest": digest,
                "Slipway-Request-Seq": str(seq),
                "Signature-Input": f"slipway={parameters}",
                "Signature": f"slipway=:{signature}:",
            },
        }


def _enrolments() -> Any:
    device = _device()
    plain = {
        "created": 1795348800,
        "device_id": device["device_id"],
        "public_key": base64.b64encode(public_of(DEVICE)).decode(),
        "tenant": "default",
    }
    fingerprint = {"conditions": {}, "identity": {"arch": "aarch64", "soc": None}, "software": {}}
    for name, told in (
        ("with a key alone", plain),
        ("with what the device is", {**plain, "fingerprint": fingerprint}),
        ("with letters beyond ASCII", {**plain, "tenant": "\u00fcber"}),
    ):
        payload = json.dumps(told, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        signed = pae("application/vnd.slipway.enrolment.v1+json", payload.encode())
        proof = base64.b64encode(sign(DEVICE, signed)).decode()
        yield {
            "name": name,
            "seed": DEVICE.hex(),
            "body": {**told, "token": None, "proof": proof, "previous_proof": None},
            "signed_bytes": signed.hex(),
        }


if __name__ == "__main__":
    FILE.write_text(json.dumps(vectors(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
