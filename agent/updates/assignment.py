"""Who may run what: an assignment, signed apart from the release that it names.

A release is installed only if both agree: its model's signer has signed it, and a valid assignment
names it for this device or this device's group. docs/reference/protocol/ has test vectors.
"""

from __future__ import annotations

import copy
import dataclasses
import datetime as dt
import json
from typing import Any

from agent.codec import decode
from agent.errors import VerificationError
from agent.manifest import Gate
from agent.updates.trust import Keys

ASSIGNMENT_TYPE = "application/vnd.slipway.assignment.v1+json"
ASSIGNMENT_BYTES = 64 << 10
"""No assignment is longer."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Assignment:
    """What a device or a group is to run."""

    action_id: str
    assignment_seq: int
    """Online and offline assignments are counted apart."""
    issued: str
    """UTC, RFC 3339, such as `2026-11-21T12:00:00Z`."""
    expires: str
    model: str
    release_path: str
    """`models/<name>/<release>/manifest.json`."""
    manifest_sha256: str
    device_id: str | None = None
    group: str | None = None
    """One of the two."""
    variant: str | None = None
    """Only this variant of the release; null: whichever fits."""
    gates: tuple[Gate, ...] = ()
    """Beside those of the manifest, which they can tighten and never loosen."""
    deadline_s: int = 3600
    """Of the trial."""
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)


def opened(content: bytes, keys: Keys) -> Assignment:
    """The assignment in an envelope, if enough of the keys have signed it.

    Raises:
        VerificationError: it is malformed, too long, of another type, or not signed so.
    """
    payload = open_envelope(content, ASSIGNMENT_TYPE, keys)
    try:
        value = json.loads(payload, parse_float=_refuse, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise _malformed(f"{error}") from error
    found = decode(Assignment, value, "assignment")
    if (found.device_id is None) == (found.group is None):
        raise _malformed("it should name a device or a group, and not both")
    return found


def open_envelope(content: bytes, kind: str, keys: Keys) -> bytes:
    """The payload of a DSSE envelope of this type.

    Raises:
        VerificationError: it is malformed, too long, of another type, or not signed so.
    """
    from securesystemslib.dsse import Envelope
    from securesystemslib.exceptions import VerificationError as NotSigned

    if len(content) > ASSIGNMENT_BYTES:
        raise _malformed(f"it has {len(content)} bytes, {ASSIGNMENT_BYTES} at most are read")
    try:
        envelope = Envelope.from_dict(copy.deepcopy(json.loads(content)))
    except Exception as error:
        raise _malformed(f"{type(error).__name__}: {error}"[:200]) from error
    if envelope.payload_type != kind:
        raise _malformed(f"it is of the type {envelope.payload_type!r}, not {kind!r}")
    try:
        envelope.verify(list(keys.keys), keys.threshold)
    except (NotSigned, ValueError) as error:
        raise VerificationError(
            f"The assignment is not signed by {keys.threshold} of the {len(keys.keys)} keys that "
            "may sign it.",
            cause="It is of another fleet, or the key has been replaced since.",
            remedy="Nothing was changed. Assign the release anew.",
        ) from error
    return bytes(envelope.payload)


def check_for_device(
    found: Assignment, *, device_id: str, group: str | None, now: dt.datetime, last_seq: int
) -> None:
    """Whether an assignment is for this device, in time, and newer than what it has seen.

    Args:
        found: a signed one.
        device_id: of this device.
        group: the one that this device is configured for.
        now: UTC.
        last_seq: the highest number seen, of the same kind.

    Raises:
        VerificationError: it is not; both values are named.
    """
    if found.device_id not in (None, device_id) or found.group not in (None, group):
        whom = found.device_id or f"the group {found.group}"
        raise VerificationError(
            f"The assignment is for {whom}, this is {device_id} of the group {group}.",
            cause="The package was made for another machine.",
            remedy="Open it there, or have one made for this device.",
        )
    expires = moment(found.expires)
    if now >= expires:
        raise VerificationError(
            f"The assignment expired at {found.expires}; here it is {now:%Y-%m-%dT%H:%M:%SZ}.",
            cause="It is old, or this device's clock is ahead.",
            remedy="Have it issued anew, or set the clock.",
        )
    if found.assignment_seq <= last_seq:
        raise VerificationError(
            f"The assignment has the number {found.assignment_seq}; {last_seq} was seen already.",
            cause="It was used before, or somebody replays an old one.",
            remedy="Nothing was changed. Have it issued anew if it is meant.",
        )


def moment(text: str) -> dt.datetime:
    """A time of the form `2026-11-21T12:00:00Z`.

    Raises:
        VerificationError: it has another form.
    """
    try:
        return dt.datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=dt.timezone.utc)
    except ValueError as error:
        raise _malformed(f"{text[:40]!r} is no time like 2026-11-21T12:00:00Z") from error


def _malformed(why: str) -> VerificationError:
    return VerificationError(
        f"The assignment cannot be read: {why}.",
        cause="It was cut short, or made by something else.",
        remedy="Nothing was changed. Have it issued anew.",
    )


def _refuse(text: str) -> Any:
    raise ValueError(f"{text} is not an integer, and what is signed holds integers only")
