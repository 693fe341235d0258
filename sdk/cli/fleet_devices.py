"""`sdk fleet devices` and `groups`: who is in the fleet, and what each runs."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from agent.errors import UsageError
from sdk.cli.fleet_common import (
    LOCAL,
    DeviceArgument,
    Json,
    KeyFile,
    Limit,
    Server,
    ago,
    device_id,
    moment,
    opened,
    say,
    table,
)
from sdk.cli.output import print_json

LIST_EXAMPLE = "Example: sdk fleet devices list --standing pending"
SHOW_EXAMPLE = "Example: sdk fleet devices show 8d969eef6ecad3c29a3a629280e686cf"
ACCEPT_EXAMPLE = "Example: sdk fleet devices accept 8d969eef6ecad3c29a3a629280e686cf"
REJECT_EXAMPLE = (
    "Example: sdk fleet devices reject 8d969eef6ecad3c29a3a629280e686cf --why 'not ours'"
)
REMOVE_EXAMPLE = "Example: sdk fleet devices remove 8d969eef6ecad3c29a3a629280e686cf"
MOVE_EXAMPLE = "Example: sdk fleet devices move 8d969eef6ecad3c29a3a629280e686cf --group line-3"
ANNOUNCE_EXAMPLE = f"Example: sdk fleet devices announce {'0c' * 32} --group line-3"
GROUPS_LIST_EXAMPLE = "Example: sdk fleet groups list"
GROUPS_ADD_EXAMPLE = "Example: sdk fleet groups add line-3"
GROUPS_DROP_EXAMPLE = "Example: sdk fleet groups drop line-3"

Devices = Annotated[list[str], typer.Argument(metavar="ID...", help="Devices' ids.")]
GroupName = Annotated[str, typer.Argument(metavar="NAME", help="Of the group.")]

devices_app = typer.Typer(name="devices", help="The fleet's devices.", no_args_is_help=True)
groups_app = typer.Typer(name="groups", help="Groups of devices.", no_args_is_help=True)


@devices_app.command("list", epilog=LIST_EXAMPLE)
def list_devices(
    group: Annotated[str | None, typer.Option("--group", help="Only those in it.")] = None,
    standing: Annotated[
        Literal["accepted", "pending", "rejected", "quarantined"] | None,
        typer.Option("--standing", help="Only those that stand so."),
    ] = None,
    limit: Limit = None,
    server: Server = LOCAL,
    key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """Devices, with what each should run and does run.

    Those that wait for an operator are shown with the fingerprint of their key, to be compared with
    what the device itself shows.
    """
    with opened(server, key_file) as client:
        found = list(client.pages("devices", most=limit, group=group, standing=standing))
    if json:
        print_json(found)
        return
    compare = standing == "pending"
    last = "key" if compare else "models"
    table(
        ("id", "standing", "group", "hardware", "heard", last),
        (
            (
                one["id"], one["standing"], one["group"], one["hardware"], ago(one["heard_s"]),
                one["key_fingerprint"] if compare else ", ".join(map(_runs, one["models"])),
            )
            for one in found
        ),
        "There is no such device.",
    )  # fmt: skip


@devices_app.command("show", epilog=SHOW_EXAMPLE)
def show(
    device: DeviceArgument, server: Server = LOCAL, key_file: KeyFile = None, json: Json = False
) -> None:
    """All that is known of a device."""
    with opened(server, key_file) as client:
        found = client.ask("GET", "devices", device_id(device))
    if json:
        print_json(found)
        return
    why = f" ({found['why']})" if found["why"] else ""
    say(f"{found['id']}  {found['standing']}{why}")
    told = {
        "key": found["key_fingerprint"],
        "group": found["group"],
        "hardware": found["hardware"],
        "heard": f"{ago(found['heard_s'])}, from {found['address'] or 'nowhere'}",
        "agent": found["agent"],
        "enrolled": moment(found["enrolled_s"]),
        "metadata": _metadata(found),
        "reports": f"{found['reports_waiting']} wait there to be sent",
    }
    for name, value in told.items():
        say(f"  {name:<9} {value or '-'}")
    for model in found["models"]:
        say(f"  runs      {_runs(model)}  {model.get('variant') or ''}".rstrip())
    table(
        ("assigned", "model", "release", "rollout", "state", "reason"),
        (
            (
                moment(one["assigned_s"]), one["model"], one["release"], one["rollout_id"],
                one["state"] or one["status"], one["reason"],
            )
            for one in found["actions"]
        ),
        "  nothing was assigned to it yet",
    )  # fmt: skip


@devices_app.command("accept", epilog=ACCEPT_EXAMPLE)
def accept(
    devices: Devices, server: Server = LOCAL, key_file: KeyFile = None, json: Json = False
) -> None:
    """Let devices in that wait, were turned away or are quarantined."""
    names = [device_id(name) for name in devices]
    _each(names, "accept", None, "accepted", server, key_file, json=json)


@devices_app.command("reject", epilog=REJECT_EXAMPLE)
def reject(
    devices: Devices,
    why: Annotated[str, typer.Option("--why", help="For the record; the device is told.")] = "",
    server: Server = LOCAL,
    key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """Turn devices away, until they are accepted again; what they run goes on running there."""
    names = [device_id(name) for name in devices]
    _each(names, "reject", {"why": why}, "rejected", server, key_file, json=json)


@devices_app.command("remove", epilog=REMOVE_EXAMPLE)
def remove(
    device: DeviceArgument, server: Server = LOCAL, key_file: KeyFile = None, json: Json = False
) -> None:
    """Take a device out of the fleet: it is turned away, and its record stays.

    So it does not come back by itself; accepting it lets it in again.
    """
    told = {"why": "it was removed"}
    _each([device_id(device)], "reject", told, "removed", server, key_file, json=json)


@devices_app.command("move", epilog=MOVE_EXAMPLE)
def move(
    device: DeviceArgument,
    group: Annotated[str | None, typer.Option("--group", help="Made if it is not there.")] = None,
    no_group: Annotated[bool, typer.Option("--no-group", help="Into none.")] = False,
    server: Server = LOCAL,
    key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """Put a device into a group; it takes what the others there have finished with."""
    if (group is None) != no_group:
        raise UsageError(
            "A device moves into one group, or into none.",
            cause="Neither or both of --group and --no-group were given.",
            remedy="Give one: --group line-3",
        )
    with opened(server, key_file) as client:
        client.ask("PUT", "devices", device_id(device), "group", body={"group": group})
    if json:
        print_json({"device": device, "group": group})
        return
    say(f"{device} is in {f'the group {group}' if group else 'no group'}")


@devices_app.command("announce", epilog=ANNOUNCE_EXAMPLE)
def announce(
    public_key: Annotated[
        str, typer.Argument(metavar="PUBLICKEY", help="Ed25519, 64 hexadecimal digits.")
    ],
    group: Annotated[str | None, typer.Option("--group", help="The device will be in it.")] = None,
    server: Server = LOCAL,
    key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """Let a device in before it comes, by its public key."""
    body = {"public_key": public_key.lower(), "group": group}
    with opened(server, key_file) as client:
        client.ask("POST", "announced-keys", body=body)
    if json:
        print_json(body)
        return
    say("a device that enrols with this key is accepted")


@groups_app.command("list", epilog=GROUPS_LIST_EXAMPLE)
def list_groups(server: Server = LOCAL, key_file: KeyFile = None, json: Json = False) -> None:
    """Groups, with how many accepted devices are in each."""
    with opened(server, key_file) as client:
        found = client.ask("GET", "groups")["items"]
    if json:
        print_json(found)
        return
    table(
        ("name", "devices", "made"),
        ((one["name"], one["devices"], moment(one["made_s"])) for one in found),
        "There is no group. Make one: sdk fleet groups add NAME",
    )


@groups_app.command("add", epilog=GROUPS_ADD_EXAMPLE)
def add_group(
    group: GroupName, server: Server = LOCAL, key_file: KeyFile = None, json: Json = False
) -> None:
    """Make a group."""
    with opened(server, key_file) as client:
        is_new = client.ask("POST", "groups", body={"name": group})["done"]
    if json:
        print_json({"group": group, "new": is_new})
        return
    say(f"the group {group} is there{'' if is_new else ' already'}")


@groups_app.command("drop", epilog=GROUPS_DROP_EXAMPLE)
def drop_group(
    group: GroupName, server: Server = LOCAL, key_file: KeyFile = None, json: Json = False
) -> None:
    """Remove a group that no rollout is under way to; its devices are in none then."""
    with opened(server, key_file) as client:
        client.ask("DELETE", "groups", group)
    if json:
        print_json({"group": group, "dropped": True})
        return
    say(f"the group {group} is gone")


def _each(
    names: list[str], word: str, body: Any, done: str, server: str, key_file: Any, *, json: bool
) -> None:
    """Do the same to each, and say so of each: what comes before a refusal stays done."""
    with opened(server, key_file) as client:
        for name in names:
            client.ask("POST", "devices", name, word, body=body)
            if not json:
                say(f"{name} is {done}")
    if json:
        print_json([{"device": name, "done": done} for name in names])


def _runs(model: dict[str, Any]) -> str:
    """What a device runs of a model, and what it should.

    >>> _runs({"model": "net", "running": "1.0.0", "desired": "1.1.0", "fell_back": False})
    'net 1.0.0 -> 1.1.0'
    """
    runs, wanted = model.get("running"), model.get("desired")
    told = f"{model['model']} {runs or ('unnamed' if model.get('running_sha256') else 'nothing')}"
    if wanted is not None and model.get("desired_sha256") != model.get("running_sha256", ""):
        told += f" -> {wanted}"
    return f"{told} (fell back)" if model.get("fell_back") else told


def _metadata(found: dict[str, Any]) -> str:
    if found["metadata_version"] is None:
        return "none yet"
    age = found["metadata_age_s"]
    return f"version {found['metadata_version']}" + (f", {age} s old" if age is not None else "")
