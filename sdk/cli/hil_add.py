"""`sdk hil add`: a rig comes into the inventory once its host key was compared."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from agent.errors import UsageError, VerificationError
from sdk.cli.fleet_common import say
from sdk.cli.hil_common import InventoryFile, Name, address

if TYPE_CHECKING:
    from hil.inventory import RigEntry

ADD_EXAMPLE = "Example: sdk hil add desk-orin nvidia@10.0.0.7 --profile jetson-orin-nano-super"


def add(
    name: Name,
    place: Annotated[
        str | None, typer.Argument(metavar="[USER@]HOST[:PORT]", help="Where it is.")
    ] = None,
    key: Annotated[
        str | None, typer.Option("--key", metavar="FILE", help="Otherwise the SSH agent's.")
    ] = None,
    jump: Annotated[str | None, typer.Option("--jump", help="A rig that it is behind.")] = None,
    profile: Annotated[str | None, typer.Option("--profile", help="What it is.")] = None,
    python: Annotated[str, typer.Option("--python", help="Of the rig.")] = "python3",
    folder: Annotated[
        str, typer.Option("--folder", help="Of the rig, for what is pushed.")
    ] = "~/.cache/slipway-rig",
    tag: Annotated[list[str] | None, typer.Option("--tag", help="Repeat for more.")] = None,
    fingerprint: Annotated[
        str | None,
        typer.Option("--fingerprint", metavar="SHA256:...", help="Of its key, to be held against."),
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="It is in the inventory: take its key anew.")
    ] = False,
    inventory: InventoryFile = None,
) -> None:
    """Add a rig to the inventory, and take its host key once it was compared.

    The key is shown, and asked about; a script names it with --fingerprint.
    """
    from agent.folders import config_folder
    from hil.inventory import RigEntry, add_rig, inventory_path
    from hil.link import host_key, key_name, trust
    from hil.reach import inventory_of, known_hosts

    found = inventory_of(inventory)
    if again:
        entry = found.rig(name)
    elif place is None:
        raise UsageError("No address is given.", remedy=ADD_EXAMPLE)
    else:
        user, host, port = _parts(place)
        entry = RigEntry(
            name=name, host=host, port=port, user=user, key=key, jump=jump, profile=profile,
            python=python, folder=folder, tags=tuple(tag or ()),
        )  # fmt: skip
        found.check_new(entry.name)
    shown = host_key(entry, found, known_hosts())
    _compare(entry, key_name(shown), fingerprint)
    if not again:
        found = add_rig(inventory_path(inventory, config_folder()), entry)
    trust(entry, shown, known_hosts())
    say(f"{name} is in {found.path}. Next: sdk hil probe {name}")


def _parts(address: str) -> tuple[str | None, str, int]:
    user, _, place = address.rpartition("@")
    host, colon, port = place.rpartition(":")
    if not colon or host.count(":"):  # none, or an IPv6 address
        host, port = place, "22"
    if not port.isdigit():
        raise UsageError(f"{address!r} has no port after its colon.", remedy=ADD_EXAMPLE)
    return user or None, host.strip("[]"), int(port)


def _compare(entry: RigEntry, shown: str, given: str | None) -> None:
    if given is not None:
        if given != shown:
            raise VerificationError(
                f"{address(entry)} shows the key {shown}; given is {given}.",
                cause="Another machine answers there, or the fingerprint is of another key's kind.",
                remedy="On the rig: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub",
            )
        return
    typer.echo(f"{address(entry)} shows the key {shown}", err=True)
    if not sys.stdin.isatty():
        raise UsageError(
            "Nobody is here to compare the key.",
            cause="The command runs in a script.",
            remedy=f"If it is the rig's: --fingerprint {shown}",
        )
    if not typer.confirm("Is that what the rig itself shows?", err=True):
        raise VerificationError("The key was not taken.", remedy="Nothing was changed.")
