"""Offline assignments: which device or group is to run which release, signed at publication."""

from __future__ import annotations

import base64
import dataclasses
import datetime as dt
import json
import re
import secrets
from collections.abc import Sequence

from agent.codec import canonical, encode
from agent.errors import StorageError, UsageError, VerificationError
from agent.manifest import Gate
from agent.updates.assignment import ASSIGNMENT_TYPE, MOST_MODELS, Assignment, moment, place_of
from agent.updates.freshness import TIME_FORM
from sdk.release.publish import Published
from sdk.release.repository import Repository

VALID_DAYS = 365.0
_WHOM = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,63}")


def assignment_for(
    published: Published,
    *,
    device_id: str | None = None,
    group: str | None = None,
    gates: Sequence[Gate] = (),
    valid_days: float = VALID_DAYS,
    deadline_s: int = 3600,
) -> Assignment:
    """An assignment of a release.

    Args:
        published: the release.
        device_id: the only device that may take it.
        group: or all devices of a group.
        gates: what a device holds it against beside the release's own; they only tighten.
        valid_days: so long.
        deadline_s: of the trial on the device.

    Raises:
        UsageError: neither a device nor a group is named, or both, or what cannot be a file name.
    """
    check_whom(device_id, group)
    now = dt.datetime.now(tz=dt.timezone.utc)
    return Assignment(
        action_id=f"{published.model}-{published.release_counter}-{secrets.token_hex(4)}",
        # Microseconds grow, whichever machine publishes next; the release's own count is not
        # enough, since the same release may be assigned again.
        assignment_seq=int(now.timestamp() * 1e6),
        issued=now.strftime(TIME_FORM),
        expires=(now + dt.timedelta(days=valid_days)).strftime(TIME_FORM),
        model=published.model,
        release_path=published.path,
        manifest_sha256=published.manifest_sha256,
        device_id=device_id,
        group=group,
        gates=tuple(gates),
        deadline_s=deadline_s,
    )


def check_whom(device_id: str | None, group: str | None) -> None:
    """Whether one of the two is named, as it may be.

    Raises:
        UsageError: it is not.
    """
    if (device_id is None) == (group is None):
        raise UsageError(
            "An assignment names a device or a group, and not both.",
            cause="Neither or both of --device and --group were given.",
            remedy="Name one: --group line-3",
        )
    whom = device_id or group or ""
    if not _WHOM.fullmatch(whom):
        raise UsageError(
            f"{whom!r} is no name for a device or a group.",
            cause="It becomes part of a file's name.",
            remedy="Use letters, digits, dots, underscores and minus; a device's id is what "
            "sdk-agent status shows.",
        )


def slower_at_most(ratio: float) -> Gate:
    """A gate: no slower than so many times what runs on the device.

    Raises:
        UsageError: that is no ratio.
    """
    if not 0.01 <= ratio <= 100:
        raise UsageError(
            f"A release cannot be held to {ratio:g} times the latency of what runs.",
            cause="The ratio is out of range: 1.1 lets it be a tenth slower.",
            remedy="Give one between 0.01 and 100: --slower-at-most 1.1",
        )
    permille = round(ratio * 1000)
    return Gate(quantity="latency_us", ratio_max_permille=permille, ratio_to="running")


def signed(repository: Repository, assignment: Assignment) -> bytes:
    """The assignment in an envelope, signed by the offline assignment keys that root names.

    Raises:
        UsageError: a key is not here.
        VerificationError: it cannot be opened.
    """
    from securesystemslib.dsse import Envelope

    plain = {name: value for name, value in encode(assignment).items() if value is not None}
    envelope = Envelope(canonical(plain), ASSIGNMENT_TYPE, {})
    for name in repository.assignment_signers():
        envelope.sign(repository.keys.signer(name))
    return json.dumps(envelope.to_dict(), separators=(",", ":"), sort_keys=True).encode()


def assign(repository: Repository, assignment: Assignment) -> Assignment:
    """Put an assignment where devices look for it, in place of the one that its model had there.

    Other models' stay as they are; those that have expired are dropped.

    Args:
        repository: gets it.
        assignment: for a device or a group.

    Returns:
        The assignment as it was signed: its number follows the one that was there.

    Raises:
        UsageError: a key is not here, or too many models are assigned there already.
        StorageError: the repository cannot be written, or has something else at that place.
    """
    place = place_of(device_id=assignment.device_id, group=assignment.group)
    with repository.locked():
        others = _lines(repository.store.read(place) or b"", place)
        before = others.pop(assignment.model, None)
        # This machine's clock may be behind the one that assigned before.
        seq = max(assignment.assignment_seq, before.seq + 1 if before else 0)
        found = dataclasses.replace(assignment, assignment_seq=seq)
        now = moment(assignment.issued)
        lines = [line.content for line in others.values() if line.expires > now]
        if len(lines) >= MOST_MODELS:
            raise UsageError(
                f"{place} assigns {len(lines)} models already; {MOST_MODELS} at most are read.",
                cause="A device reads all that is assigned to its group at every poll.",
                remedy="Split the group, or let assignments expire.",
            )
        repository.store.write(place, b"\n".join([*lines, signed(repository, found), b""]))
    return found


@dataclasses.dataclass(frozen=True)
class _Line:
    """What a line of a repository's file of assignments says."""

    content: bytes
    seq: int
    expires: dt.datetime


def _lines(content: bytes, place: str) -> dict[str, _Line]:
    """The lines by the model that each is about."""
    found = {}
    try:
        for line in content.splitlines():
            told = json.loads(base64.b64decode(json.loads(line)["payload"]))
            expires = moment(told["expires"])
            found[str(told["model"])] = _Line(line, int(told["assignment_seq"]), expires)
    except (VerificationError, ValueError, KeyError, TypeError) as error:
        raise StorageError(
            f"{place} cannot be read: {type(error).__name__}: {error}.",
            cause="Something else than sdk assign has written it, or it was cut short.",
            remedy="Move it away, and assign to this group or device anew what it is to run.",
        ) from error
    return found
