"""What the agent of a device is told: `agent.toml`.

repository = "https://updates.example.org/fleet"   # or a folder
root = "root.json"     # whom to trust at first; came with the installation
group = "line-3"
poll_s = 60
reserve_mib = 256      # disk space that no update takes
[trial]
seconds = 3600
confirm = "health"     # "health": the application says so; "deadline": no bad word until then
[idle]
hook = "/usr/local/bin/is-idle"    # ends with 0 where a preflight may disturb
[preflight]
seconds = 900          # of all variants that are tried, together
memory_mib = 512       # of one variant
[ladder]
reserve_mib = 64       # with less memory than this to be had, a lighter variant is taken

Paths are relative to the file.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from agent.codec import decode
from agent.errors import SlipwayError, UsageError
from agent.membership import membership_of
from agent.shim import default_state

Confirm = Literal["health", "deadline"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trial:
    """How a release proves itself after it was activated."""

    seconds: float = 3600.0
    """At most so long; an assignment may ask for less."""
    confirm: Confirm = "health"
    """`health`: it is taken back unless the application says that it is well. `deadline`: it is
    kept unless somebody says that it is not."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preflight:
    """What a release may cost before it runs."""

    seconds: float = 900.0
    """Of all variants that are tried, together: each but the last has half of what is left."""
    memory_mib: int | None = None
    """Of one variant's process tree."""
    measure_s: float = 4.0
    """Of measuring, for each of those that are held against each other."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Idle:
    """When the device is at rest."""

    hook: str | None = None
    """A program that ends with 0 where it is: what is assigned waits for that, and so does what can
    wait. Without one nothing waits."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ladder:
    """When a device that is short of memory takes a lighter variant."""

    reserve_mib: int = 64
    """Less memory than this to be had: step down."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """One agent's configuration."""

    state: Path
    """The state folder."""
    repository: str | None = None
    """A folder, or an http address. None: that of the fleet's server, where the device is enrolled;
    else only packages are installed."""
    root: Path | None = None
    """Where the root lies that this device begins with. None: `root.json` in the state folder."""
    group: str | None = None
    """Whose assignments this device takes beside its own."""
    poll_s: float = 60.0
    """Seconds between two looks at the repository."""
    reserve_mib: int = 256
    """Disk space that no update takes."""
    trial: Trial = dataclasses.field(default_factory=Trial)
    """How a release proves itself after it was activated."""
    preflight: Preflight = dataclasses.field(default_factory=Preflight)
    """What a release may cost before it runs."""
    idle: Idle = dataclasses.field(default_factory=Idle)
    """When the device is at rest."""
    ladder: Ladder = dataclasses.field(default_factory=Ladder)
    """When it takes a lighter variant."""
    root_folder: Path = Path("/")
    """Where the machine's own files begin: elsewhere for an agent in a container."""


def read_config(path: Path | None, state: Path | None) -> Config:
    """The configuration in a file, or the defaults where there is none.

    Args:
        path: of the file; by default `agent.toml` in the state folder, if it is there.
        state: the state folder, where it is not the usual one; it comes before the file's own.

    Raises:
        UsageError: a named file cannot be read, or an entry is not known, wrongly typed or out of
            its range; or what enrolment left cannot be read.
    """
    folder = (state or default_state()).absolute()
    place = path or folder / "agent.toml"
    if path is None and not place.exists():
        return _joined(Config(state=folder))
    try:
        told = _loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(
            f"The configuration {place} cannot be read: {error}.",
            cause="The path is wrong, or the file is no TOML.",
            remedy="Correct it; sdk-agent doctor says what is read.",
        ) from error
    _check_known(told, place)
    if state is not None or "state" not in told:
        told["state"] = str(folder)
    try:
        found = decode(Config, told, place.name)
    except SlipwayError as error:
        raise UsageError(
            f"{place}: {error.what}", cause="The entry has another type.", remedy="Correct it."
        ) from error
    _check_ranges(found, place)
    return _joined(_anchored(found, place.absolute().parent))


TABLES: Mapping[str, type] = {
    "trial": Trial,
    "preflight": Preflight,
    "idle": Idle,
    "ladder": Ladder,
}
"""The tables of `agent.toml`."""

_LEAST: Mapping[str, float] = {
    "poll_s": 1.0,
    "reserve_mib": 0,
    "trial.seconds": 1.0,
    "preflight.seconds": 1.0,
    "preflight.memory_mib": 1,
    "preflight.measure_s": 0.1,
    "ladder.reserve_mib": 0,
}
_MOST = 1e7
"""Seconds or MiB: beyond, a number is a mistake, or infinite."""


def _check_ranges(found: Config, place: Path) -> None:
    for name, least in _LEAST.items():
        value: Any = found
        for part in name.split("."):
            value = getattr(value, part)
        if value is not None and not (math.isfinite(value) and least <= value <= _MOST):
            raise UsageError(
                f"{place}: {name} is {value}, and goes from {least:g} to {_MOST:g}.",
                cause="A unit was mixed up: names end in theirs.",
                remedy="Correct it.",
            )


def _anchored(found: Config, folder: Path) -> Config:
    """The same with all paths absolute: a service does not start in the folder of its file."""
    repository = found.repository
    if repository is not None and "://" not in repository:
        repository = str(folder / repository)
    hook = found.idle.hook
    if hook is not None:
        hook = str(folder / hook)
    return dataclasses.replace(
        found,
        state=folder / found.state,
        root=None if found.root is None else folder / found.root,
        repository=repository,
        idle=Idle(hook=hook),
        root_folder=folder / found.root_folder,
    )


def _joined(found: Config) -> Config:
    """The same with the repository of the fleet's server, where no other is named."""
    membership = membership_of(found.state) if found.repository is None else None
    if membership is None:
        return found
    return dataclasses.replace(found, repository=membership.repository_url)


def _loads(text: str) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    return tomllib.loads(text)


def _check_known(told: Mapping[str, Any], place: Path) -> None:
    known: dict[str, Any] = {field.name: None for field in dataclasses.fields(Config)}
    known |= {
        name: {field.name for field in dataclasses.fields(kind)} for name, kind in TABLES.items()
    }
    names = [name for name in told if name not in known]
    for table, entries in told.items():
        if isinstance(entries, Mapping) and known.get(table):
            names += [f"{table}.{name}" for name in entries if name not in known[table]]
    if names:
        raise UsageError(
            f"{place} names {', '.join(names)}, which the agent does not know.",
            cause="The name is misspelt, or belongs into another table.",
            remedy=f"Known are {', '.join(sorted(known))}.",
        )
