"""How a device signs what it asks of a fleet server: RFC 9421 in one form. Pure.

Both ends import this: a device makes the headers, a server builds the same bytes from what came.
docs/reference/protocol/fleet.md has an example, vectors.json has cases.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Mapping
from typing import Any

from agent.codec import canonical, pre_authentication
from agent.updates.wire import ENROLMENT_TYPE

LABEL = "slipway"
COMPONENTS = ("@method", "@path", "@query", "content-digest", "slipway-request-seq")
"""What is signed, in this order."""
DIGEST, SEQ = "Content-Digest", "Slipway-Request-Seq"
INPUT, SIGNATURE = "Signature-Input", "Signature"
"""The headers of a signed request."""
_PLAIN = re.compile(r"[\x20\x21\x23-\x5b\x5d-\x7e]{1,200}")
_UNPROVEN = ("proof", "previous_proof")


def signed_headers(
    sign: Callable[[bytes], bytes],
    *,
    method: str,
    path: str,
    query: str = "",
    body: bytes,
    seq: int,
    parameters: str,
) -> dict[str, str]:
    """The headers that make a request a signed one.

    Args:
        sign: makes 64 bytes of some: Ed25519, by the device's key.
        method: such as `POST`.
        path: as it is sent, percent signs and all.
        query: behind the question mark; empty where there is none.
        body: as it is sent.
        seq: the number of the request, higher than any before.
        parameters: of the signature, as `signature_parameters` makes them.
    """
    digest = content_digest(body)
    base = signature_base(
        method=method, path=path, query=query, digest=digest, seq=seq, parameters=parameters
    )
    return {
        DIGEST: digest,
        SEQ: str(seq),
        INPUT: f"{LABEL}={parameters}",
        SIGNATURE: f"{LABEL}=:{base64.b64encode(sign(base)).decode()}:",
    }


def signature_base(
    *, method: str, path: str, query: str, digest: str, seq: int, parameters: str
) -> bytes:
    """The bytes that are signed (RFC 9421, section 2.5).

    Args:
        method: of the request.
        path: of the request, as it was sent.
        query: behind the question mark; empty where there is none.
        digest: the header `Content-Digest`.
        seq: the header `Slipway-Request-Seq`.
        parameters: what stands behind `slipway=` in the header `Signature-Input`.
    """
    values = (method, path, f"?{query}", digest, str(seq))
    lines = [f'"{name}": {value}' for name, value in zip(COMPONENTS, values, strict=True)]
    return "\n".join([*lines, f'"@signature-params": {parameters}']).encode()


def signature_parameters(*, device_id: str, fleet: str, created: int | None, nonce: str) -> str:
    """What a signature says of itself.

    Args:
        device_id: whose key signs.
        fleet: the server's own name: no other takes the request.
        created: seconds since 1970; None on a device that does not know.
        nonce: the server's, in place of that.

    >>> signature_parameters(device_id="ab", fleet="f", created=7, nonce="").partition(")")[2]
    ';created=7;keyid="ab";alg="ed25519";tag="f"'

    Raises:
        ValueError: a text holds what cannot stand in a header.
    """
    names = " ".join(f'"{name}"' for name in COMPONENTS)
    when = f"nonce={_quoted(nonce)}" if created is None else f"created={created}"
    return f'({names});{when};keyid={_quoted(device_id)};alg="ed25519";tag={_quoted(fleet)}'


def content_digest(body: bytes) -> str:
    """The header `Content-Digest` of a body (RFC 9530)."""
    return f"sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode()}:"


def enrolment_statement(body: Mapping[str, Any]) -> bytes:
    """The bytes that an enrolment's proofs sign.

    Args:
        body: as JSON has it. Its proofs, and members that are null, are left out; what lies within
            a member stays as it is.
    """
    told = {
        name: value for name, value in body.items() if value is not None and name not in _UNPROVEN
    }
    return pre_authentication(ENROLMENT_TYPE, canonical(told))


def is_plain(text: str) -> bool:
    """Whether a text may stand between quotes in a header: printable ASCII, 1 to 200."""
    return _PLAIN.fullmatch(text) is not None


def _quoted(text: str) -> str:
    if not is_plain(text):
        raise ValueError(f"{text[:80]!r} cannot stand in a header")
    return f'"{text}"'
