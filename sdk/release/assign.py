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
from agent.errors import UsageError
from agent.manifest import Gate
from agent.updates.assignment import ASSIGNMENT_TYPE, Assignment
from agent.updates.freshness import TIME_FORM
from sdk.release.publish import Published, Tell
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


def assign(
    repository: Repository, assignment: Assignment, warn: Tell = lambda _: None
) -> Assignment:
    """Put an assignment where devices look for it, numbered after the one that was there.

    Args:
        repository: gets it.
        assignment: for a device or a group.
        warn: is told if it takes the place of another model's.

    Returns:
        The assignment as it was signed.

    Raises:
        UsageError: a key is not here.
        StorageError: the repository cannot be written.
    """
    with repository.locked():
        place = place_of(assignment)
        number, model = _before(repository.store.read(place))
        if model not in (None, assignment.model):
            warn(
                f"this takes the place of the assignment of {model} at {place}: a device that has "
                "not seen that one never will"
            )
        seq = max(assignment.assignment_seq, number + 1)  # this machine's clock may be behind
        found = dataclasses.replace(assignment, assignment_seq=seq)
        repository.store.write(place, signed(repository, found))
    return found


def place_of(assignment: Assignment) -> str:
    """Where devices look for it in a repository."""
    if assignment.device_id is not None:
        return f"assignments/device-{assignment.device_id}.json"
    return f"assignments/group-{assignment.group}.json"


def _before(content: bytes | None) -> tuple[int, str | None]:
    """(number, model) of an envelope's assignment; (0, None) where there is none to be read."""
    try:
        payload = json.loads(base64.b64decode(json.loads(content or b"")["payload"]))
        return int(payload["assignment_seq"]), str(payload["model"])
    except (ValueError, KeyError, TypeError):
        return 0, None
