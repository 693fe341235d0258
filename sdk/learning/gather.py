"""Which reports count for a profile, and why the others do not. Pure.

Nothing is dropped silently: a device that is another type is refused by name, and what was measured
while a machine was throttled, or by too few devices to outvote one that lies, is set aside and
counted.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from agent.calls import ONE_AT_A_TIME, calls_of
from agent.identity import fingerprint_digest
from agent.manifest import Fingerprint, differences
from profiles import Profile
from sdk.learning.scales import Observation
from targets.interface import Program, Recipe

FEWEST_DEVICES = 3
"""Of a fleet that measured one variant: with fewer, the median is a single device's word."""

Origin = Literal["rig", "fleet"]
Aside = Literal[
    "unstable", "throttled or busy", "no time", "batches", "unknown device", "unknown program",
    "too few devices",
]  # fmt: skip
WHY: Mapping[Aside, str] = {
    "unstable": "their median never settled",
    "throttled or busy": "the machine was throttled or busy",
    "no time": "their time is no time that could be measured",
    "batches": "they are of several callers or batches at a time",
    "unknown device": "the fleet does not know any more what the device was",
    "unknown program": "no build here knows the operators of the program",
    "too few devices": f"fewer than {FEWEST_DEVICES} devices of the fleet measured the variant",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sighting:
    """One report as it came, before anybody asked whether it counts."""

    device: str
    """The rig's name, or the fleet's id of the device."""
    origin: Origin
    variant: str
    fingerprint: Fingerprint | None
    """None: what the device was then is not known any more."""
    program: Program | None
    """None: no build at hand has its operators."""
    recipe: Recipe | None
    ms: float
    stable: bool
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gathered:
    """What counts, and what does not."""

    observations: tuple[Observation, ...]
    refused: Mapping[str, str]
    """Device -> what is another way there than the profile asks."""
    aside: Mapping[Aside, int]
    """Why -> how many reports."""
    total: int


def gather(sightings: Iterable[Sighting], profile: Profile, *, unstable: bool = False) -> Gathered:
    """Sort reports into those that count for a profile and those that do not.

    The same report from two places, such as a file and the catalog, counts once.

    Args:
        sightings: as they came.
        profile: whose devices count.
        unstable: count also what was measured while the machine was busy: better than nothing.
    """
    unique: dict[tuple[object, ...], Sighting] = {}
    for entry in sightings:
        unique.setdefault(_key(entry), entry)
    refused: dict[str, str] = {}
    aside: collections.Counter[Aside] = collections.Counter()
    found: list[tuple[Sighting, Observation]] = []
    for entry in unique.values():
        differs = _differences(profile, entry.fingerprint)
        if differs:
            refused.setdefault(entry.device, "; ".join(differs))
            continue
        kept = _observation(entry, unstable=unstable)
        if isinstance(kept, Observation):
            found.append((entry, kept))
        else:
            aside[kept] += 1
    enough = _outvoted(found)
    aside["too few devices"] += len(found) - len(enough)
    return Gathered(
        observations=tuple(enough),
        refused=refused,
        aside={why: count for why, count in sorted(aside.items()) if count},
        total=len(unique),
    )


def _differences(profile: Profile, device: Fingerprint | None) -> list[str]:
    if device is None:
        return []
    emulated = ["it is emulated"] if device.identity.get("emulated") else []
    return [*differences(profile.match, device), *emulated]


def _key(entry: Sighting) -> tuple[object, ...]:
    program = entry.program.digest if entry.program else None
    recipe = entry.recipe.digest if entry.recipe else None
    return entry.origin, entry.device, entry.variant, program, recipe, entry.ms


def _observation(entry: Sighting, *, unstable: bool) -> Observation | Aside:
    if entry.fingerprint is None:
        return "unknown device"
    if entry.program is None or entry.recipe is None:
        return "unknown program"
    if not 0 < entry.ms < math.inf:
        return "no time"
    is_busy = any("throttled" in note for note in entry.notes)
    if not unstable and (is_busy or not entry.stable):
        return "throttled or busy" if is_busy else "unstable"
    if calls_of(entry.recipe.options) != ONE_AT_A_TIME:
        return "batches"
    runtimes = entry.fingerprint.software.get("runtimes") or {}
    return Observation(
        device=f"{entry.origin}:{entry.device}",
        fingerprint=fingerprint_digest(entry.fingerprint)[:16],
        program=entry.program,
        recipe=entry.recipe,
        ms=entry.ms,
        runtime=str(runtimes.get(entry.recipe.format, "")),
        stable=entry.stable and not is_busy,
    )


def _outvoted(found: Sequence[tuple[Sighting, Observation]]) -> list[Observation]:
    """Rigs are the user's own; of a fleet's devices three have to agree on what was measured."""
    devices: dict[tuple[str, str], set[str]] = collections.defaultdict(set)
    for _, entry in found:
        devices[entry.program.digest, entry.recipe.digest].add(entry.device)
    return [
        entry
        for sighting, entry in found
        if sighting.origin == "rig"
        or len(devices[entry.program.digest, entry.recipe.digest]) >= FEWEST_DEVICES
    ]
