"""Offline assignments: which device or group is to run which release, signed at publication."""

from __future__ import annotations

import datetime as dt
import json
import secrets
from typing import Any

from agent.codec import canonical
from agent.errors import UsageError
from agent.updates.assignment import ASSIGNMENT_TYPE, Assignment
from sdk.release.publish import Published
from sdk.release.repository import Repository

VALID_DAYS = 365.0
_FORM = "%Y-%m-%dT%H:%M:%SZ"


def assignment_for(
    published: Published,
    *,
    device_id: str | None = None,
    group: str | None = None,
    valid_days: float = VALID_DAYS,
    deadline_s: int = 3600,
) -> Assignment:
    """An assignment of a release.

    Args:
        published: the release.
        device_id: the only device that may take it.
        group: or all devices of a group.
        valid_days: so long.
        deadline_s: of the trial on the device.

    Raises:
        UsageError: neither a device nor a group is named, or both.
    """
    if (device_id is None) == (group is None):
        raise UsageError(
            "An assignment names a device or a group, and not both.",
            cause="Neither or both of --device and --group were given.",
            remedy="Name one: --group line-3",
        )
    now = dt.datetime.now(tz=dt.timezone.utc)
    return Assignment(
        action_id=f"{published.model}-{published.release_counter}-{secrets.token_hex(4)}",
        # Seconds grow, whichever machine publishes next; the release's own count is not enough,
        # since the same release may be assigned again.
        assignment_seq=int(now.timestamp()),
        issued=now.strftime(_FORM),
        expires=(now + dt.timedelta(days=valid_days)).strftime(_FORM),
        model=published.model,
        release_path=published.path,
        manifest_sha256=published.manifest_sha256,
        device_id=device_id,
        group=group,
        deadline_s=deadline_s,
    )


def signed(repository: Repository, assignment: Assignment) -> bytes:
    """The assignment in an envelope, signed by the offline assignment key."""
    from securesystemslib.dsse import Envelope

    envelope = Envelope(canonical(_plain(assignment)), ASSIGNMENT_TYPE, {})
    for name in repository.keys.of_role("assignment_offline"):
        envelope.sign(repository.keys.signer(name))
    return json.dumps(envelope.to_dict(), separators=(",", ":"), sort_keys=True).encode()


def place_of(assignment: Assignment) -> str:
    """Where devices look for it in a repository."""
    if assignment.device_id is not None:
        return f"assignments/device-{assignment.device_id}.json"
    return f"assignments/group-{assignment.group}.json"


def _plain(assignment: Assignment) -> dict[str, Any]:
    from agent.codec import encode

    return {name: value for name, value in encode(assignment).items() if value is not None}
