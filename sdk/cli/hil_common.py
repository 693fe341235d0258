"""What the verbs of `sdk hil` share: their arguments, and how a rig's address is told."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sdk.cli.output import err_console

if TYPE_CHECKING:
    from hil.inventory import RigEntry

Name = Annotated[str, typer.Argument(metavar="NAME", help="Of the rig.")]
InventoryFile = Annotated[
    Path | None,
    typer.Option("--inventory", metavar="FILE", help="Otherwise hil.toml here or above."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def address(entry: RigEntry) -> str:
    """Where a rig is, as `sdk hil add` takes it."""
    if entry.driver != "ssh":
        where = " ".join(entry.command) or entry.serial or entry.runner or ""
        return f"{entry.driver}: {where}".rstrip(": ")
    user = f"{entry.user}@" if entry.user else ""
    return f"{user}{entry.host}" + (f":{entry.port}" if entry.port != 22 else "")


def note(line: str) -> None:
    """A line for the person who waits."""
    err_console().print(line, style="dim", markup=False)
