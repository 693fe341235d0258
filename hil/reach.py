"""Reach a rig of the inventory, and have it: alike for the command line, a build and a test."""

from __future__ import annotations

import contextlib
import dataclasses
import getpass
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

from agent.errors import StorageError
from agent.folders import config_folder
from hil.drivers import opened
from hil.health import told_aside
from hil.inventory import Inventory, RigEntry, inventory_path, read_inventory
from hil.recovery import examine, recovering
from hil.rig import Rig

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
    """Where a rig is, and whom to believe that it is there."""

    entry: RigEntry
    inventory: Inventory
    known_hosts: Path

    @property
    def name(self) -> str:
        """Of the rig."""
        return self.entry.name

    def open(self) -> Rig:
        """Reach it, to look at it; others may have it meanwhile.

        Raises:
            NetworkError: it cannot be reached.
            VerificationError: it shows another key than the known one.
            UsageError: its key is not here, or its Python is too old.
            StorageError: its folder cannot be used.
        """
        line = opened(self.entry, self.inventory, self.known_hosts)
        return Rig(self.name, line, self.entry.folder, is_sent=self.entry.runner is None)

    @contextlib.contextmanager
    def leased(
        self, who: str, say: Say, *, wait_s: float | None = None, repairs: bool = False
    ) -> Iterator[Rig]:
        """Have it, until the end of the block.

        Args:
            who: for others; see `who`.
            say: is told whom it waits for, and what was left there.
            wait_s: for its turn, at most; None for as long as it takes.
            repairs: what failed a check is to be seen to: it is let in for that.

        Raises:
            UsageError: somebody has set it aside.
            StorageError: somebody else has it, and the time is up; or it failed a check, and fails
                it still.
            RunFailedError: a run in the block ended so; see `hil.recovery`.
            SlipwayError: as for `open`.
        """
        with self.open() as rig:
            self.lease(rig, who, say, wait_s=wait_s, repairs=repairs)
            with recovering(self, rig, who, say):
                yield rig

    def lease(
        self, rig: Rig, who: str, say: Say, *, wait_s: float | None, repairs: bool = False
    ) -> None:
        """The same for a rig that is reached; one that was off for a check is looked at again."""
        try:
            removed = rig.lease(who, say, wait_s=wait_s, inspects=repairs)
        except StorageError:
            aside = rig.look_again()["aside"]
            if aside is None or not aside["failed"]:
                raise
            say(f"{self.name} is looked at again: {told_aside(aside)}")
            removed = rig.lease(who, say, wait_s=wait_s, inspects=True)
            examine(rig, who, lambda _: None)
            if rig.look_again()["aside"] is not None:
                rig.release()
                raise
        for told in removed:
            say(f"{self.name}: removed {told}")


def inventory_of(given: Path | None) -> Inventory:
    """The inventory: as given, else `hil.toml` here or above, else the user's own.

    Raises:
        UsageError: it cannot be read.
    """
    return read_inventory(inventory_path(given, config_folder()))


def known_hosts() -> Path:
    """The hosts' keys that were taken by `sdk hil add`; those of ~/.ssh/known_hosts count too."""
    return config_folder() / "known_hosts"


def place_of(name: str, given: Path | None) -> Place:
    """The rig of that name, not yet reached.

    Raises:
        UsageError: there is none.
    """
    inventory = inventory_of(given)
    return Place(entry=inventory.rig(name), inventory=inventory, known_hosts=known_hosts())


def who(what: str) -> str:
    """This user and machine and what they do, as others are told."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "somebody"
    return f"{user}@{socket.gethostname()} {what}".strip()
