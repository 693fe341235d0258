"""The rigs of this user: where their inventory lies, and what a build takes of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agent.manifest import Fingerprint
from hil.inventory import Inventory, RigEntry, inventory_path, read_inventory
from hil.link import open_line
from hil.rig import Rig
from profiles import all_profiles, find
from sdk.folders import config_folder, data_folder
from sdk.project import profile_folders
from sdk.rig_bench import RigBench, Say, differences, who


def inventory_of(given: Path | None) -> Inventory:
    """The inventory: as given, else `hil.toml` here or above, else the user's own.

    Raises:
        UsageError: it cannot be read.
    """
    return read_inventory(inventory_path(given, config_folder()))


def known_hosts() -> Path:
    """The hosts' keys that were taken by `sdk hil add`; those of ~/.ssh/known_hosts count too."""
    return config_folder() / "known_hosts"


def bench_for(name: str, given: Path | None, say: Say) -> RigBench:
    """The rig of that name, not yet reached.

    Raises:
        UsageError: there is none.
    """
    inventory = inventory_of(given)
    return RigBench(inventory.rig(name), inventory, known_hosts(), say, data_folder() / "machines")


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
    name: str, given: Path | None, say: Say, *, what: str, wait_s: float | None = None
) -> Iterator[Rig]:
    """The rig of that name, leased for this client until the end of the block.

    Args:
        name: of the rig.
        given: the inventory.
        say: is told whom it waits for, and what was left there.
        what: this client does, for those who wait.
        wait_s: for its turn, at most; None for as long as it takes.

    Raises:
        UsageError: there is no such rig, or somebody has set it aside.
        NetworkError: it cannot be reached.
        VerificationError: it shows another key than the known one.
        StorageError: somebody else has it, and the time is up.
    """
    with touched(name, given) as rig:
        for told in rig.lease(f"{who()} {what}", say, wait_s=wait_s):
            say(f"{name}: removed {told}")
        yield rig


@contextlib.contextmanager
def touched(name: str, given: Path | None) -> Iterator[Rig]:
    """The rig of that name, to be looked at without a lease; raises as `reached` does."""
    inventory = inventory_of(given)
    entry = inventory.rig(name)
    with Rig(entry.name, open_line(entry, inventory, known_hosts()), entry.folder) as rig:
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
