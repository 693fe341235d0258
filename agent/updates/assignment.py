"""Who may run what: an assignment, signed apart from the release that it names.

A release is installed only if both agree: its model's signer has signed it, and a valid assignment
names it for this device or this device's group. docs/reference/protocol/ has test vectors.

Its number has to exceed those seen before, counted apart for each model, so that the word on one
never outdates the word on another, and for each key that signed: whoever gets hold of a key can
drive its count to the end, and once root names another key, that one's begins anew. What the old
key signed is refused from then on anyway.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import re
from collections.abc import Callable
from typing import Any

from agent.codec import decode, loads_signed
from agent.errors import VerificationError
from agent.manifest import Gate
from agent.names import check_part
from agent.updates.freshness import TIME_FORM
from agent.updates.trust import Keys

ASSIGNMENT_TYPE = "application/vnd.slipway.assignment.v1+json"
ASSIGNMENT_BYTES = 64 << 10
"""No assignment is longer."""
MOST_MODELS = 256
"""A repository's file of assignments holds one line for each model, and no more than these."""
MOST_DEADLINE_S = 366 * 24 * 3600
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MANIFEST = "manifest.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Assignment:
    """What a device or a group is to run."""

    action_id: str
    assignment_seq: int
    """Grows for each model; online and offline assignments are counted apart."""
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class SignedAssignment(Assignment):
    """One whose signatures hold."""

    signers: tuple[str, ...]
    """The names of the keys that signed it, as many as it takes."""

    def counts(self, kind: str) -> dict[str, int]:
        """The journal's counters that it raises once it was taken."""
        return {_counter(kind, keyid, self.model): self.assignment_seq for keyid in self.signers}


def last_seen(number: Callable[[str], int], kind: str, keys: Keys, model: str) -> int:
    """The highest number of an assignment that was taken and signed by a key that still may sign.

    Args:
        number: the journal's counter of a name.
        kind: `online` or `offline`: they are counted apart.
        keys: those that may sign that kind now.
        model: that it was about.
    """
    return max((number(_counter(kind, key.keyid, model)) for key in keys.keys), default=0)


def place_of(*, device_id: str | None = None, group: str | None = None) -> str:
    """The file of a repository with what is assigned to one of the two: an envelope on each line.

    >>> place_of(group="line-3")
    'assignments/group-line-3.jsonl'
    """
    return f"assignments/{f'group-{group}' if device_id is None else f'device-{device_id}'}.jsonl"


def opened(content: bytes, keys: Keys) -> SignedAssignment:
    """The assignment in an envelope, if enough of the keys have signed it.

    Raises:
        VerificationError: it is malformed, too long, of another type, or not signed so.
    """
    payload, signers = open_envelope(content, ASSIGNMENT_TYPE, keys)
    found = _read(payload)
    values = {field.name: getattr(found, field.name) for field in dataclasses.fields(found)}
    return SignedAssignment(**values, signers=signers)


def claimed_issue(content: bytes) -> dt.datetime:
    """When an assignment says that it was issued, before anybody knows who signed it.

    Raises:
        VerificationError: it cannot be read.
    """
    return moment(_read(bytes(_envelope(content).payload)).issued)


def claimed_action(content: bytes) -> str:
    """The action that an assignment says it is, whoever signed it.

    Raises:
        VerificationError: it cannot be read.
    """
    return _read(bytes(_envelope(content).payload)).action_id


def open_envelope(content: bytes, kind: str, keys: Keys) -> tuple[bytes, tuple[str, ...]]:
    """The payload of a DSSE envelope of this type, and the names of the keys that signed it.

    Raises:
        VerificationError: it is malformed, too long, of another type, or not signed so.
    """
    from securesystemslib.exceptions import VerificationError as NotSigned

    envelope = _envelope(content)
    if envelope.payload_type != kind:
        raise _malformed(f"it is of the type {str(envelope.payload_type)[:80]!r}, not {kind!r}")
    try:
        accepted = envelope.verify(list(keys.keys), keys.threshold)
    except (NotSigned, ValueError) as error:
        raise VerificationError(
            f"The assignment is not signed by {keys.threshold} of the {len(keys.keys)} keys that "
            "may sign it.",
            cause="It is of another fleet, or the key has been replaced since.",
            remedy="Nothing was changed. Assign the release anew.",
        ) from error
    return bytes(envelope.payload), tuple(sorted(accepted))


def check_for_device(
    found: Assignment, *, device_id: str, group: str | None, now: dt.datetime, last_seq: int
) -> None:
    """Whether an assignment is for this device, in time, and newer than what it has seen.

    Args:
        found: a signed one.
        device_id: of this device.
        group: the one that this device is configured for.
        now: UTC.
        last_seq: the highest number seen, of the same kind and for the same model.

    Raises:
        VerificationError: it is not; both values are named.
    """
    if found.device_id not in (None, device_id) or found.group not in (None, group):
        whom = found.device_id or f"the group {found.group}"
        raise VerificationError(
            f"The assignment is for {whom!r}, this is {device_id} of the group {group}.",
            cause="The package was made for another machine.",
            remedy="Open it there, or have one made for this device.",
        )
    expires = moment(found.expires)
    if now >= expires:
        raise VerificationError(
            f"The assignment expired at {found.expires}; here it is {now:{TIME_FORM}}.",
            cause="It is old, or this device's clock is ahead.",
            remedy="Have it issued anew, or set the clock.",
        )
    if moment(found.issued) >= expires:
        # Its time of issue becomes the earliest that this device takes for now.
        raise _malformed(f"it was issued at {found.issued}, after it expires ({found.expires})")
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
        if not _TIME.fullmatch(text):
            raise ValueError(text)
        return dt.datetime.strptime(text, TIME_FORM).replace(tzinfo=dt.timezone.utc)
    except ValueError as error:
        raise _malformed(f"{text[:40]!r} is no time like 2026-11-21T12:00:00Z") from error


def _read(payload: bytes) -> Assignment:
    try:
        value = loads_signed(payload)
    except ValueError as error:
        raise _malformed(f"{error}") from error
    found = decode(Assignment, value, "assignment")
    if (found.device_id is None) == (found.group is None):
        raise _malformed("it should name a device or a group, and not both")
    _check_names(found)
    for text in (found.issued, found.expires):
        moment(text)
    if found.assignment_seq < 1 or not 0 < found.deadline_s <= MOST_DEADLINE_S:
        raise _malformed(f"number {found.assignment_seq}, deadline {found.deadline_s} s")
    return found


def _check_names(found: Assignment) -> None:
    """The release has to be one of the model: a model's key signs for that model alone."""
    check_part(found.model)
    check_part(found.action_id)
    parts = found.release_path.split("/")
    if len(parts) != 4 or (parts[0], parts[1], parts[3]) != ("models", found.model, _MANIFEST):
        raise _malformed(f"{found.release_path[:80]!r} is no release of the model {found.model}")
    check_part(parts[2])
    if not _SHA256.fullmatch(found.manifest_sha256):
        raise _malformed(f"{found.manifest_sha256[:80]!r} is no sha256")


def _envelope(content: bytes) -> Any:
    from securesystemslib.dsse import Envelope
    from securesystemslib.exceptions import Error

    if len(content) > ASSIGNMENT_BYTES:
        raise _malformed(f"it has {len(content)} bytes, {ASSIGNMENT_BYTES} at most are read")
    try:
        return Envelope.from_dict(json.loads(content))
    except (Error, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise _malformed(f"{type(error).__name__}: {error}"[:200]) from error


def _counter(kind: str, keyid: str, model: str) -> str:
    return f"assignment_seq:{kind}:{keyid}:{model}"


def _malformed(why: str) -> VerificationError:
    return VerificationError(
        f"The assignment cannot be read: {why}.",
        cause="It was cut short, or made by something else.",
        remedy="Nothing was changed. Have it issued anew.",
    )
