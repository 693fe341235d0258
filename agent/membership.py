"""Which fleet a device belongs to, as its server answered when it enrolled: STATE/fleet.json."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from agent.codec import decode, pretty
from agent.errors import SlipwayError, UsageError
from agent.files import write_atomic

FILE = "fleet.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Membership:
    """One device's place in a fleet."""

    server: str
    """Its address, with the path that it lies under and without a slash at the end."""
    fleet: str
    """The server's own name, which each request is bound to."""
    tenant: str
    group: str | None
    """As the server has it; `agent.toml` says whose packages are taken."""
    repository: str
    """Its path on the server."""
    status: str
    """How the device stood when the server last said so: `accepted`, or why it gets no work."""

    @property
    def repository_url(self) -> str:
        """Where the releases are."""
        return self.server + self.repository


def membership_of(state: Path) -> Membership | None:
    """What is kept in a state folder; None where the device was never enrolled.

    Raises:
        UsageError: it cannot be read.
    """
    path = state / FILE
    try:
        return decode(Membership, json.loads(path.read_bytes()), FILE)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError, SlipwayError) as error:
        raise UsageError(
            f"{path} cannot be read: {error}.",
            cause="It was damaged, edited by hand, or belongs to another user.",
            remedy="Remove it and enrol again, which changes nothing else: sdk-agent enroll URL",
        ) from error


def keep_membership(state: Path, found: Membership) -> None:
    """Keep it, durably, if it is not what is kept already.

    Raises:
        StorageError: it cannot be written.
    """
    content = pretty(found)
    path = state / FILE
    if not path.is_file() or path.read_bytes() != content:
        write_atomic(path, content)
