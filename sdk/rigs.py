"""The rigs of this user: where their inventory lies, and what a build takes of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agent.folders import data_folder
from agent.manifest import Fingerprint
from hil.inventory import RigEntry
from hil.reach import Say, inventory_of, place_of, who
from hil.rig import Rig
from profiles import all_profiles, find
from sdk.project import profile_folders
from sdk.prove import evidence
from sdk.rig_bench import RigBench, differences


def bench_for(name: str, given: Path | None, say: Say) -> RigBench:
    """The rig of that name, not yet reached.

    Raises:
        UsageError: there is none.
    """
    return RigBench(place_of(name, given), say, data_folder() / "machines", timed_folder())


def timed_folder() -> Path:
    """What engines' builders have timed on rigs of each kind."""
    return data_folder() / "timed"


def asked_of(
    name: str, given: Path | None, targets: list[str] | None, profiles: list[str] | None
) -> tuple[list[str] | None, list[str] | None]:
    """The target and profile of a build for a rig, where the command line does not name them.

    Raises:
        UsageError: there is no such rig, or no such profile.
    """
    entry = inventory_of(given).rig(name)
    if profiles or entry.profile is None:
        return targets, profiles
    if _is_host(entry.profile):
        return targets, [entry.profile]
    owner = find(entry.profile, profile_folders(Path())).target
    return targets or [owner], [entry.profile]


@contextlib.contextmanager
def reached(
    name: str, given: Path | None, say: Say, *, what: str, wait_s: float | None = None,
    repairs: bool = False,
) -> Iterator[Rig]:  # fmt: skip
    """The rig of that name, leased for this client until the end of the block.

    Args:
        name: of the rig.
        given: the inventory.
        say: is told whom it waits for, and what was left there.
        what: this client does, for those who wait.
        wait_s: for its turn, at most; None for as long as it takes.
        repairs: one that failed a check is let in to.

    Raises:
        UsageError: there is no such rig.
        SlipwayError: as for `hil.reach.Place.leased`.
    """
    with place_of(name, given).leased(who(what), say, wait_s=wait_s, repairs=repairs) as rig:
        yield rig


def closest(device: Fingerprint) -> list[dict[str, Any]]:
    """The profiles, those that fit a device first: {profile, target, differs}.

    `differs` says what is another way there than the profile asks; of the same architecture only.
    """
    found = []
    for profile in all_profiles(profile_folders(Path())).values():
        if profile.arch != device.identity.get("arch"):
            continue
        differs = differences(profile, device)
        if device.identity.get("emulated") and evidence(profile, device)[0] != "emulated":
            differs.append(
                "its instruction set is not the profile's, or the profile leaves it open"
            )
        found.append({"profile": profile.name, "target": profile.target, "differs": differs})
    return sorted(found, key=lambda one: (len(one["differs"]), one["profile"]))


def differences_of(entry: RigEntry, device: Fingerprint) -> list[str] | None:
    """What is another way on a rig than its profile asks; None where the inventory names none.

    Raises:
        UsageError: there is no such profile.
    """
    if entry.profile is None or _is_host(entry.profile):
        return None
    return differences(find(entry.profile, profile_folders(Path())), device)


def _is_host(profile: str) -> bool:
    """Whether it stands for this machine, and not for a file."""
    return profile == "host" or profile.endswith("-host")
