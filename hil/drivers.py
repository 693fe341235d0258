"""How a rig is reached: by SSH, through adb, or by any command of this machine.

A driver opens a line of bytes to a program on the device. That is either a Python, which is sent
our runner, or an executable runner that is there already and speaks the protocol by itself
(docs/reference/protocol/rig.md): a device without Python, such as an Android phone, has that.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from agent.errors import UsageError
from hil.inventory import Inventory, RigEntry
from hil.line import Line, LocalLine
from hil.link import READ, open_line


def opened(entry: RigEntry, inventory: Inventory, known_hosts: Path) -> Line:
    """A line to the program that a rig runs for its client.

    Raises:
        UsageError: the command that reaches it is not here; or as `hil.link.open_line`.
        NetworkError: as `hil.link.open_line`.
        VerificationError: as `hil.link.open_line`.
    """
    if entry.driver == "ssh":
        return open_line(entry, inventory, known_hosts)
    command = local_command(entry)
    try:
        return LocalLine(command)
    except OSError as error:
        raise UsageError(
            f"The rig {entry.name} is reached by {command[0]!r}, which cannot be started: "
            f"{error.strerror}.",
            cause="It is not installed on this machine, or not in PATH.",
            remedy="Install it, or correct `command` in hil.toml.",
        ) from error


def local_command(entry: RigEntry) -> list[str]:
    """The words that are run on this machine to reach a rig; no shell here reads them.

    >>> local_command(RigEntry(name="phone", driver="adb", serial="R5CT", runner="/data/runner"))
    ['adb', '-s', 'R5CT', 'shell', '-T', '/data/runner']
    """
    there = [entry.runner] if entry.runner else [entry.python, "-u", "-c", READ]
    if entry.driver == "command":
        return [*entry.command, *there]
    # adb hands one line to the device's shell; -T: no terminal, which would change the bytes.
    serial = ["-s", entry.serial] if entry.serial else []
    return ["adb", *serial, "shell", "-T", shlex.join(there)]
