"""How old the trusted metadata is: told by what was signed, and not by the times of files.

TUF's timestamp says only when it expires. Ours also says when it was signed, in a field that other
clients ignore: `x-slipway: {signed: "2026-11-21T12:00:00Z"}`.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from pathlib import Path
from typing import Any

EXTENSION = "x-slipway"
"""The field of signed metadata that is ours: who signs assignments, what is revoked, and of the
timestamp, when it was signed."""
SIGNED = "signed"
TIME_FORM = "%Y-%m-%dT%H:%M:%SZ"
TIMESTAMP = "timestamp.json"
BUILT = dt.datetime(2026, 11, 1, tzinfo=dt.timezone.utc)
"""Before this version was built: a clock that says less is wrong. Moved on with each version."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Freshness:
    """How old the trusted metadata is, by what was signed and not by the times of files."""

    version: int
    """Of the timestamp."""
    signed: dt.datetime | None
    """None where its signer did not say."""
    expires: dt.datetime

    def age_s(self, now: dt.datetime) -> int | None:
        """Seconds since it was signed; never negative, whatever the clock says."""
        if self.signed is None:
            return None
        return max(0, round((now - self.signed).total_seconds()))


def freshness_of(folder: Path) -> Freshness | None:
    """How old the metadata in a `trust` folder is; None before there is any.

    It takes no lock and needs no library, so it answers beside an agent that is at work.
    """
    try:
        signed = json.loads((folder / "current" / TIMESTAMP).read_bytes())["signed"]
        return Freshness(
            version=signed["version"],
            signed=signed_time(signed),
            expires=_time(signed["expires"]),
        )
    except (OSError, ValueError, LookupError, TypeError):
        return None


def signed_time(signed: Any) -> dt.datetime | None:
    """When metadata was signed, as its signer says; None where it says nothing that can be read."""
    try:
        return _time(signed[EXTENSION][SIGNED])
    except (ValueError, LookupError, TypeError):
        return None


def _time(text: Any) -> dt.datetime:
    return dt.datetime.strptime(text, TIME_FORM).replace(tzinfo=dt.timezone.utc)
