"""Signed requests: another implementation of RFC 9421 takes ours, and nothing that was changed."""

from __future__ import annotations

import base64
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature as Unsigned
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from http_message_signatures import (
    HTTPMessageVerifier,
    HTTPSignatureKeyResolver,
    InvalidSignature,
    algorithms,
)
from hypothesis import given
from hypothesis import strategies as st

from agent.updates.request import (
    COMPONENTS,
    content_digest,
    enrolment_statement,
    is_plain,
    signature_base,
    signature_parameters,
    signed_headers,
)

CASES: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "docs/reference/protocol/vectors.json").read_text("utf-8")
)
KEY = Ed25519PrivateKey.from_private_bytes(bytes([3]) * 32)
BODY = b'{"version":1}'


@dataclasses.dataclass
class Message:
    """A request as the library wants it."""

    method: str
    url: str
    headers: dict[str, str]


class Resolver(HTTPSignatureKeyResolver):
    def resolve_public_key(self, key_id: str) -> Any:
        return KEY.public_key() if key_id == "device" else None


class Verifier(HTTPMessageVerifier):
    require_created = False


def message(path: str = "/v1/poll", query: str = "", **parameters: Any) -> Message:
    told: dict[str, Any] = {"created": int(time.time()), "nonce": "", **parameters}
    headers = signed_headers(
        KEY.sign,
        method="POST",
        path=path,
        query=query,
        body=BODY,
        seq=1017,
        parameters=signature_parameters(device_id="device", fleet="fleet-1", **told),
    )
    asked = f"?{query}" if query else ""
    return Message("POST", f"http://localhost:8000{path}{asked}", headers)


def verify(told: Message, body: bytes = BODY) -> None:
    verifier = Verifier(
        signature_algorithm=algorithms.ED25519,
        key_resolver=Resolver(),
    )
    (found,) = verifier.verify(
        told, max_age=None, expect_tag="fleet-1", require_components=COMPONENTS, body=body
    )
    assert list(found.covered_components) == [
        *(f'"{name}"' for name in COMPONENTS),
        '"@signature-params"',
    ]


@pytest.mark.parametrize("path", ["/v1/poll", "/slipway/v1/actions/net-1-0a1b2c3d/state"])
@pytest.mark.parametrize("query", ["", "a=1&b=%20"])
@pytest.mark.parametrize("parameters", [{}, {"created": None, "nonce": "bm9uY2U"}])
def test_another_implementation_takes_what_is_signed(
    path: str, query: str, parameters: dict[str, Any]
) -> None:
    verify(message(path, query, **parameters))


CHANGES = {
    "method": lambda m: setattr(m, "method", "PUT"),
    "path": lambda m: setattr(m, "url", m.url.replace("poll", "reports")),
    "query": lambda m: setattr(m, "url", m.url + "?a=1"),
    "number": lambda m: m.headers.update({"Slipway-Request-Seq": "1018"}),
    "digest": lambda m: m.headers.update({"Content-Digest": content_digest(b"{}")}),
    "time": lambda m: m.headers.update(
        {"Signature-Input": m.headers["Signature-Input"].replace("created=1", "created=2", 1)}
    ),
    "fleet": lambda m: m.headers.update(
        {"Signature-Input": m.headers["Signature-Input"].replace("fleet-1", "fleet-2")}
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_another_implementation_refuses_what_was_changed(what: str) -> None:
    told = message()
    CHANGES[what](told)
    with pytest.raises(InvalidSignature):
        verify(told)


def test_another_body_is_refused() -> None:
    with pytest.raises(InvalidSignature):
        verify(message(), b'{"version":2}')


@pytest.mark.parametrize("case", CASES["requests"], ids=lambda case: case["name"])
def test_requests_are_signed_as_published(case: dict[str, Any]) -> None:
    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(case["seed"]))
    parameters = signature_parameters(
        device_id=case["device_id"],
        fleet=case["fleet"],
        created=case["created"],
        nonce=case["nonce"] or "",
    )
    body = case["body"].encode()
    asked = {"method": case["method"], "path": case["path"], "query": case["query"]}
    base = signature_base(
        **asked, digest=content_digest(body), seq=case["seq"], parameters=parameters
    )
    assert base.decode() == case["signature_base"]
    made = signed_headers(key.sign, **asked, body=body, seq=case["seq"], parameters=parameters)
    assert made == case["headers"]


@pytest.mark.parametrize("case", CASES["enrolments"], ids=lambda case: case["name"])
def test_enrolments_are_proven_as_published(case: dict[str, Any]) -> None:
    signed = enrolment_statement(case["body"])
    assert signed.hex() == case["signed_bytes"]
    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(case["seed"])).public_key()
    proof = base64.b64decode(case["body"]["proof"])
    key.verify(proof, signed)
    with pytest.raises(Unsigned):
        key.verify(proof, enrolment_statement({**case["body"], "tenant": "other"}))
    assert isinstance(key, Ed25519PublicKey)


def test_a_proof_leaves_out_itself_and_what_is_null() -> None:
    plain = enrolment_statement({"device_id": "ab", "created": 1})
    told = {"created": 1, "device_id": "ab", "proof": "x", "previous_proof": "y", "token": None}
    assert enrolment_statement(told) == plain


@given(st.text())
def test_no_text_becomes_another_parameter(text: str) -> None:
    if is_plain(text):
        made = signature_parameters(device_id="ab", fleet=text, created=1, nonce="")
        assert made.endswith(f';tag="{text}"')
        assert made.count('"') == 2 * (len(COMPONENTS) + 3)
        assert made.isascii()
    else:
        with pytest.raises(ValueError, match="cannot stand in a header"):
            signature_parameters(device_id="ab", fleet=text, created=1, nonce="")
