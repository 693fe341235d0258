"""Whether a device's signed request counts: who it is, and that it was not sent before. Pure.

Numbers of requests only grow. One that is too low is a replay; unless it was signed after the last
one that counted: then the key is in two hands. That happens once when a device has lost its
journal, and again and again when its folder was copied to a second machine.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from agent.manifest import Fingerprint
from agent.updates.wire import Standing

WINDOW_S = 300.0
"""A request counts so long before and after the time that it was signed at."""
FORGIVEN_S = 86400.0
"""A device may lose its journal once in so long; the second time there are two of it."""
_SILICON = ("arch", "soc", "cores", "gpu")
_MEMORY = 0.1
"""A kernel or a mode takes its share of memory; beyond that it is another machine."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Claim:
    """What a request says of itself; its signature holds."""

    seq: int
    signed_s: float
    """When it was signed, or when its nonce was made."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Known:
    """What is known of the device."""

    standing: Standing
    request_seq: int
    """The highest that counted."""
    signed_s: float
    """When the latest of those that counted was signed."""
    conflict_s: float | None = None
    """When a lower one was signed after it, last."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
    """What to make of it."""

    code: str
    """`ok`, or why it does not count."""
    conflict_s: float | None = None
    """To be remembered."""
    quarantine: str = ""
    """Why the device gets no work any more; empty: it does."""


def judge(known: Known, claim: Claim) -> Verdict:
    """Whether a request counts.

    >>> known = Known(standing="accepted", request_seq=7, signed_s=100.0)
    >>> judge(known, Claim(seq=8, signed_s=100.0)).code
    'ok'
    >>> judge(known, Claim(seq=7, signed_s=100.0)).code
    'replayed'
    """
    if known.standing != "accepted":
        return Verdict(code=known.standing, conflict_s=known.conflict_s)
    if claim.seq > known.request_seq:
        return Verdict(code="ok", conflict_s=known.conflict_s)
    if claim.signed_s <= known.signed_s:
        return Verdict(code="replayed", conflict_s=known.conflict_s)
    before = known.conflict_s
    if before is not None and claim.signed_s - before < FORGIVEN_S:
        why = (
            f"request {claim.seq} was signed after request {known.request_seq}, for the second "
            "time within a day: two machines have its key"
        )
        return Verdict(code="quarantined", conflict_s=claim.signed_s, quarantine=why)
    return Verdict(code="replayed", conflict_s=claim.signed_s)


def remembered(known: Known, claim: Claim, verdict: Verdict) -> Known:
    """What is known of a device after a request was judged.

    The time of the last signature never goes back, though a device's clock may: otherwise whoever
    has listened could send an earlier request again, and have the device quarantined for it.
    """
    counts = verdict.code == "ok"
    return dataclasses.replace(
        known,
        standing="quarantined" if verdict.quarantine else known.standing,
        request_seq=claim.seq if counts else known.request_seq,
        signed_s=max(known.signed_s, claim.signed_s) if counts else known.signed_s,
        conflict_s=verdict.conflict_s,
    )


def other_machine(before: Fingerprint, now: Fingerprint) -> str:
    """Why a fingerprint is of another machine than before; empty where it may be the same one.

    Software changes with updates, and so may the flags of a processor with its kernel.
    """
    for name in _SILICON:
        old, new = before.identity.get(name), now.identity.get(name)
        if old is not None and new is not None and old != new:
            return f"its {name} was {_short(old)}, and is {_short(new)}"
    old, new = _bytes(before.identity), _bytes(now.identity)
    if old and new and not (1 - _MEMORY) * old <= new <= (1 + _MEMORY) * old:
        return f"its memory was {old >> 20} MiB, and is {new >> 20} MiB"
    return ""


def _bytes(identity: Mapping[str, Any]) -> int:
    found = identity.get("memory_bytes")
    return found if type(found) is int and found > 0 else 0


def _short(value: Any) -> str:
    return repr(value)[:80]
