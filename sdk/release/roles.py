"""A repository's roles: who delegates to whom, where each lies, for how long it is valid."""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
from collections.abc import Mapping
from typing import Any

from agent.errors import UsageError
from agent.updates.trust import EXTENSION, METADATA

DAYS: Mapping[str, float] = {
    "root": 365,
    "targets": 180,
    "model": 90,
    "snapshot": 7,
    "timestamp": 1,
}
"""How long metadata of a role is valid."""
ONLINE = ("snapshot", "timestamp")
"""Signed by the publisher here; a fleet server signs them where there is one."""
RENEWED_AFTER = 2 / 3
"""A refresh signs other metadata anew, too, when so much of its time is over."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Due:
    """Metadata that will expire, and whose keys are not here."""

    role: str
    expires: str
    """UTC, RFC 3339."""
    keys: tuple[str, ...]
    """The names of those that may sign it."""


def extension(signed: Any) -> dict[str, Any]:
    """Our own field of signed metadata, to be changed."""
    found: dict[str, Any] = signed.unrecognized_fields.setdefault(EXTENSION, {})
    return found


def said(signed: Any) -> Mapping[str, Any]:
    """The same, to be read alone: what is signed stays as it was signed."""
    found: Mapping[str, Any] = signed.unrecognized_fields.get(EXTENSION, {})
    return found


def delegator(name: str) -> str:
    """The role that says who signs a role."""
    return "targets" if name.startswith("model-") else "root"


def delegation(above: Any, name: str) -> Any:
    """{keyids, threshold} of a role, as the metadata above it has them.

    Raises:
        UsageError: that knows no such model.
    """
    if not name.startswith("model-"):
        return above.roles[name]
    delegations = above.delegations
    if delegations is None or name not in delegations.roles:
        raise unknown_model(name)
    return delegations.roles[name]


def place(name: str, version: int) -> str:
    """Where a repository keeps a version of a role; of the timestamp there is one alone."""
    file = "timestamp.json" if name == "timestamp" else f"{version}.{name}.json"
    return f"{METADATA}/{file}"


def facts(content: bytes) -> dict[str, Any]:
    """What names a file beside its version."""
    return {"length": len(content), "hashes": {"sha256": hashlib.sha256(content).hexdigest()}}


def _days(name: str) -> float:
    return DAYS["model" if name.startswith("model-") else name]


def expiry(name: str) -> dt.datetime:
    """Until when what is signed now is valid."""
    now = dt.datetime.now(tz=dt.timezone.utc).replace(microsecond=0)
    return now + dt.timedelta(days=_days(name))


def is_old(name: str, expires: dt.datetime) -> bool:
    """Whether most of its time is over."""
    left = expires - dt.datetime.now(tz=dt.timezone.utc)
    return left < dt.timedelta(days=_days(name) * (1 - RENEWED_AFTER))


def lacking_keys(what: str, threshold: int, here: list[str], own: list[str]) -> UsageError:
    """Too few keys are here: which ones would do, and how to bring them."""
    absent = [name for name in own if name not in here]
    return UsageError(
        f"{what} takes {threshold} of the keys {', '.join(own) or '(none is known here)'}; here "
        f"are {', '.join(here) or 'none'}.",
        cause="A key's file is kept elsewhere, as an offline key should be, or --keys names "
        "another folder.",
        remedy=f"Bring {' or '.join(f'{name}.pem' for name in absent) or 'them'} into the keys "
        "folder for this command; sdk keys status shows what is here.",
    )


def unknown_model(role: str) -> UsageError:
    """The repository delegates to no such role."""
    model = role.removeprefix("model-")
    return UsageError(
        f"The repository knows no model {model}.",
        cause="It has no key of its own yet, or the name is misspelt.",
        remedy=f"sdk keys add-model {model}",
    )
