"""A device's request, as far as it can be judged before anything is looked up: its form and time.

docs/reference/protocol/fleet.md has the one form that is taken. That the signature holds is seen
where the device's key is read.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import struct
from collections.abc import Mapping

from agent.updates.request import (
    COMPONENTS,
    DIGEST,
    INPUT,
    LABEL,
    SEQ,
    SIGNATURE,
    content_digest,
    signature_base,
)
from agent.updates.wire import Poll, Reports, StateOf
from sdk.fleet.refusals import RefusedError
from sdk.fleet.rules.claims import WINDOW_S, Claim
from sdk.fleet.store.batch import Ask

_NAMES = re.escape("(" + " ".join(f'"{name}"' for name in COMPONENTS) + ")")
_INPUT = re.compile(
    rf'{LABEL}=({_NAMES};(?:created=([0-9]{{1,12}})|nonce="([A-Za-z0-9_-]{{1,100}})")'
    r';keyid="([0-9a-f]{32})";alg="ed25519";tag="([\x20\x21\x23-\x5b\x5d-\x7e]{1,200})")'
)
_SIGNATURE = re.compile(rf"{LABEL}=:([A-Za-z0-9+/]{{86}}==):")
_SEQ = re.compile(r"[1-9][0-9]{0,15}")
_MAC_BYTES = 16


class Nonces:
    """Server challenges, for devices without a clock: nothing of them is kept."""

    def __init__(self, secret: bytes) -> None:
        """`secret` is shared by the processes of one server."""
        self._secret = secret

    def make(self, now_s: float) -> str:
        """A new one, which tells when it was made."""
        told = struct.pack(">d", now_s)
        return base64.urlsafe_b64encode(told + self._mac(told)).decode().rstrip("=")

    def made_s(self, nonce: str) -> float | None:
        """When this server made it; None if it did not."""
        try:
            content = base64.urlsafe_b64decode(nonce + "=" * (-len(nonce) % 4))
        except ValueError:
            return None
        told, mac = content[:8], content[8:]
        if len(told) != 8 or not hmac.compare_digest(mac, self._mac(told)):
            return None
        made: float = struct.unpack(">d", told)[0]
        return made

    def _mac(self, told: bytes) -> bytes:
        return hmac.digest(self._secret, told, hashlib.sha256)[:_MAC_BYTES]


def read_ask(
    headers: Mapping[str, str],
    *,
    method: str,
    path: str,
    query: str,
    content: bytes,
    body: Poll | Reports | StateOf,
    action_id: str,
    address: str,
    fleet: str,
    nonces: Nonces,
    now_s: float,
) -> Ask:
    """What a device asks, and the bytes that it has signed.

    Raises:
        RefusedError: it is not signed in the one form that is taken, for another server, or too
            long ago.
    """
    found = _INPUT.fullmatch(headers.get(INPUT.lower(), ""))
    signature = _SIGNATURE.fullmatch(headers.get(SIGNATURE.lower(), ""))
    seq = headers.get(SEQ.lower(), "")
    if found is None or signature is None or not _SEQ.fullmatch(seq):
        raise _unsigned("its headers have not the form that is taken")
    parameters, created, nonce, device_id, tag = found.groups()
    if tag != fleet:
        raise _unsigned(f"it is for the server {tag[:80]!r}")
    digest = headers.get(DIGEST.lower(), "")
    if digest != content_digest(content):
        raise _unsigned("its body is not the one that was signed")
    base = signature_base(
        method=method, path=path, query=query, digest=digest, seq=int(seq), parameters=parameters
    )
    return Ask(
        device_id=device_id,
        claim=Claim(seq=int(seq), signed_s=_signed_s(created, nonce, nonces, now_s)),
        base=base,
        signature=base64.b64decode(signature[1]),
        body=body,
        action_id=action_id,
        address=address,
        now_s=now_s,
    )


def _signed_s(created: str | None, nonce: str | None, nonces: Nonces, now_s: float) -> float:
    if created is not None:
        if abs(int(created) - now_s) > WINDOW_S:
            raise RefusedError(
                "clock",
                f"The request was signed at {created}; here it is {now_s:.0f}, since 1970.",
                cause="The device's clock is off, or the request was held up.",
                remedy="Sign it with a nonce: GET /v1/nonce",
            )
        return float(created)
    made_s = nonces.made_s(nonce or "")
    if made_s is None or not -WINDOW_S <= now_s - made_s <= WINDOW_S:
        raise _unsigned("its nonce is not this server's, or too old")
    return made_s


def _unsigned(why: str) -> RefusedError:
    return RefusedError(
        "unsigned",
        f"The request is not signed as it has to be: {why}.",
        cause="It was changed on the way, or made by something else than an agent.",
        remedy="docs/reference/protocol/fleet.md has the form.",
    )
