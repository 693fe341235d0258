"""Whether a device that introduces itself is let in. Pure.

Three ways lead in: a token that an operator made, a key that was announced, or an operator who
compares the key's fingerprint afterwards. One key per device; another one counts only with the word
of the one before it.
"""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Literal

from agent.updates.wire import Standing

Step = Literal["none", "accept", "wait", "replace key"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Token:
    """An enrolment token, as the server knows it."""

    expires_s: float
    used_by: str | None
    group: str | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Applicant:
    """Who introduces itself; its proof holds."""

    device_id: str
    public_key: bytes
    """32 bytes, Ed25519."""
    has_token: bool
    token: Token | None
    """None where the server knows no such token."""
    announced: bool
    announced_group: str | None = None
    vouched_by: bytes | None = None
    """The key by which the previous proof holds."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Enrolled:
    """The device of that name, if there is one."""

    public_key: bytes
    standing: Standing


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ruling:
    """What follows."""

    step: Step
    standing: Standing = "pending"
    group: str | None = None
    spends_token: bool = False
    refusal: str = ""
    """A code of the protocol, where the device is turned away."""


def device_name(public_key: bytes) -> str:
    """The name of a device whose first key this is.

    >>> device_name(bytes(32))
    '66687aadf862bd776c8fc18b8e9f8e20'
    """
    return hashlib.sha256(public_key).hexdigest()[:32]


def rule(applicant: Applicant, found: Enrolled | None, now_s: float) -> Ruling:
    """Whether to let a device in."""
    if found is not None and found.public_key != applicant.public_key:
        if found.standing != "accepted" or applicant.vouched_by != found.public_key:
            return Ruling(step="none", refusal="taken")
        return Ruling(step="replace key", standing=found.standing)
    if found is None and device_name(applicant.public_key) != applicant.device_id:
        return Ruling(step="none", refusal="misnamed")
    if found is not None and found.standing != "pending":
        return Ruling(step="none", standing=found.standing)
    if applicant.has_token:
        refusal = _spoilt(applicant.token, applicant.device_id, now_s)
        if refusal or applicant.token is None:
            return Ruling(step="none", refusal=refusal)
        group = applicant.token.group
        return Ruling(step="accept", standing="accepted", group=group, spends_token=True)
    if applicant.announced:
        return Ruling(step="accept", standing="accepted", group=applicant.announced_group)
    return Ruling(step="none" if found is not None else "wait", standing="pending")


def _spoilt(token: Token | None, device_id: str, now_s: float) -> str:
    if token is None:
        return "token unknown"
    if token.used_by is not None and token.used_by != device_id:
        return "token used"
    if token.used_by is None and now_s >= token.expires_s:
        return "token expired"
    return ""
