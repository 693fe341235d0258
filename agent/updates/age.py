"""How old what this device trusts is: told by `status`, and by the agent where it has expired."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from pathlib import Path

_FORM = "%Y-%m-%dT%H:%M:%SZ"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Age:
    """Of the newest metadata that is trusted."""

    made: str
    """When it came here, UTC, by this device's clock."""
    age_s: int
    expires: str
    expired: bool


def age_of(state: Path, now: dt.datetime | None = None) -> Age | None:
    """How old the metadata in a state folder is; None where there is none.

    Args:
        state: the folder.
        now: UTC.
    """
    place = state / "trust" / "current" / "timestamp.json"
    try:
        made = dt.datetime.fromtimestamp(place.stat().st_mtime, tz=dt.timezone.utc)
        expires = str(json.loads(place.read_bytes())["signed"]["expires"])
        until = dt.datetime.strptime(expires, _FORM).replace(tzinfo=dt.timezone.utc)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    moment = now or dt.datetime.now(tz=dt.timezone.utc)
    return Age(
        made=made.strftime(_FORM),
        age_s=max(0, round((moment - made).total_seconds())),
        expires=expires,
        expired=moment >= until,
    )
