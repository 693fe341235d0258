"""`sdk hil`: bench devices that are reached over SSH."""

from __future__ import annotations

import concurrent.futures
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from agent.errors import NetworkError, SlipwayError, UsageError
from sdk.cli.fleet_common import say, table
from sdk.cli.hil_add import ADD_EXAMPLE, add
from sdk.cli.hil_common import InventoryFile, Json, Name, address, note
from sdk.cli.hil_probe import PROBE_EXAMPLE, probe
from sdk.cli.output import err_console, out_console, print_json

if TYPE_CHECKING:
    from hil.inventory import RigEntry

LIST_EXAMPLE = "Example: sdk hil list"
DOCTOR_EXAMPLE = "Example: sdk hil doctor desk-orin"
BENCH_EXAMPLE = "Example: sdk hil bench desk-orin build/digits/jetson-orin-nano-super/chosen"
VERIFY_EXAMPLE = "Example: sdk hil verify desk-orin build/digits/jetson-orin-nano-super/chosen"
POWER_EXAMPLE = "Example: sdk hil power desk-orin cycle"
LOCK_EXAMPLE = "Example: sdk hil lock desk-orin --why 'a new heat sink'"
UNLOCK_EXAMPLE = "Example: sdk hil unlock desk-orin"
RUN_EXAMPLE = "Example: sdk hil run desk-orin -- tegrastats --interval 1000"
INSTALL_EXAMPLE = "Example: sdk hil install desk-orin --wheels wheels numpy onnxruntime"

hil_app = typer.Typer(
    name="hil", help="Bench devices that are reached over SSH (rigs).", no_args_is_help=True
)
Wait = Annotated[
    float | None, typer.Option("--wait", metavar="SECONDS", help="For its turn, at most.")
]
Variant = Annotated[Path, typer.Argument(help="The folder of a variant.")]


hil_app.command("add", epilog=ADD_EXAMPLE)(add)
hil_app.command("probe", epilog=PROBE_EXAMPLE)(probe)


@hil_app.command("list", epilog=LIST_EXAMPLE)
def list_rigs(
    reach: Annotated[
        bool, typer.Option("--reach/--no-reach", help="Ask each whether it is there.")
    ] = True,
    inventory: InventoryFile = None,
    json: Json = False,
) -> None:
    """The rigs of the inventory, and who has them."""
    from hil.reach import inventory_of

    found = inventory_of(inventory)
    entries = list(found.rigs.values())
    with concurrent.futures.ThreadPoolExecutor(max_workers=max(1, len(entries))) as pool:
        states = list(pool.map(lambda entry: _state(entry, inventory, reach=reach), entries))
    if json:
        print_json(
            [
                {"name": one.name, "host": one.host, "port": one.port, "user": one.user,
                 "profile": one.profile, "tags": list(one.tags), **state}
                for one, state in zip(entries, states, strict=True)
            ]
        )  # fmt: skip
        return
    table(
        ("name", "host", "profile", "tags", "state"),
        (
            (one.name, address(one), one.profile, ", ".join(one.tags), state["state"])
            for one, state in zip(entries, states, strict=True)
        ),
        f"There are no rigs in {found.path}: sdk hil add NAME USER@HOST",
    )


@hil_app.command("doctor", epilog=DOCTOR_EXAMPLE)
def doctor(
    name: Name,
    clean: Annotated[
        bool, typer.Option("--clean", help="Let go of all that was pushed there.")
    ] = False,
    inventory: InventoryFile = None,
    json: Json = False,
) -> None:
    """Look for what is wrong with a rig, and say what to do about it.

    A rig on which nothing can be run is off from then on, and this ends with 8. It is back as soon
    as this finds it well.
    """
    from hil.health import checks_without_a_run, unfit
    from hil.reach import place_of, who
    from hil.recovery import examine
    from sdk.rigs import differences_of

    place = place_of(name, inventory)
    me, removed = who("sdk hil doctor"), list[str]()
    with err_console().status(f"looking at {name}"), place.open() as rig:
        aside = rig.hello["aside"]
        if aside is not None and not aside["failed"] and not me.startswith(f"{aside['by']} "):
            told = list(
                checks_without_a_run(rig.hello, now_s=time.time())
            )  # it is somebody's: look, no more
        else:
            removed = rig.lease(me, note, wait_s=None, inspects=True)
            removed += rig.clean(0) if clean else []
            told = examine(rig, me, lambda found: differences_of(place.entry, found.fingerprint))
            now = rig.look_again()["aside"]
            if aside is not None and aside["failed"] and now is None:
                note(f"{name} is back: others may have it again.")
            elif now is not None and now["failed"]:
                note(f"{name} is off until it is well: nobody can have it.")
    gravest = NetworkError.exit_code if unfit(told) else 0
    if json:
        print_json(told)
        raise typer.Exit(gravest)
    for line in removed:
        say(f"removed {line}")
    table(
        ("what", "found", "what to do"),
        ((one.what, one.found, "" if one.is_well else one.remedy.replace("NAME", name))
         for one in told),
        "nothing",
    )  # fmt: skip
    raise typer.Exit(gravest)


@hil_app.command("bench", epilog=BENCH_EXAMPLE)
def bench(
    name: Name,
    variant: Variant,
    seconds: Annotated[float, typer.Option("--seconds", min=0.2, help="To measure for.")] = 3.0,
    wait: Wait = None,
    inventory: InventoryFile = None,
    json: Json = False,
) -> None:
    """Measure a variant's speed and memory on a rig."""
    from sdk.cli.variants import measured
    from sdk.on_rig import bench_on, is_emulated
    from sdk.rigs import reached, timed_folder

    with (
        err_console().status(f"measuring on {name}"),
        reached(name, inventory, note, what="sdk hil bench", wait_s=wait) as rig,
    ):
        found = bench_on(rig, variant, seconds, timed_folder(), note)
        emulated = is_emulated(rig)
    if emulated:
        note(f"{name} is emulated: these figures are the emulator's, and prove no speed")
    if json:
        print_json(found)
        return
    out_console().print("\n".join(measured(found)), markup=False)


@hil_app.command("verify", epilog=VERIFY_EXAMPLE)
def verify(
    name: Name,
    variant: Variant,
    wait: Wait = None,
    inventory: InventoryFile = None,
    json: Json = False,
) -> None:
    """Check a variant's answers on a rig against the golden data."""
    from sdk.cli.variants import show_check
    from sdk.on_rig import verify_on
    from sdk.rigs import reached, timed_folder

    with (
        err_console().status(f"checking on {name}"),
        reached(name, inventory, note, what="sdk hil verify", wait_s=wait) as rig,
    ):
        found = verify_on(rig, variant, timed_folder(), note)
    if json:
        print_json(found)
        return
    show_check(found)


@hil_app.command("install", epilog=INSTALL_EXAMPLE)
def install(
    name: Name,
    packages: Annotated[list[str], typer.Argument(metavar="PACKAGE...", help="To install.")],
    wheels: Annotated[
        Path, typer.Option("--wheels", metavar="DIR", help="Holds them: pip download -d DIR.")
    ],
    inventory: InventoryFile = None,
) -> None:
    """Install packages from a folder of wheels into a rig's own environment, without internet."""
    from hil import bench
    from sdk.rigs import reached

    with (
        err_console().status(f"installing on {name}"),
        reached(name, inventory, note, what="sdk hil install", repairs=True) as rig,
    ):
        found = bench.install(rig, wheels, packages)
    say("\n".join(found))


@hil_app.command("run", epilog=RUN_EXAMPLE)
def run(
    name: Name,
    program: Annotated[
        list[str], typer.Argument(metavar="-- PROGRAM [ARGS]...", help="Of the rig.")
    ],
    send: Annotated[
        list[Path] | None,
        typer.Option("--send", metavar="FILE", help="Into its folder there; repeat for more."),
    ] = None,
    alone: Annotated[
        bool, typer.Option("--alone", help="While nothing else measures on that machine.")
    ] = False,
    limit: Annotated[
        float, typer.Option("--limit", metavar="SECONDS", min=1, help="It is ended after this.")
    ] = 3600.0,
    wait: Wait = None,
    inventory: InventoryFile = None,
) -> None:
    """Run a program on a rig that this client alone has; prints what it prints.

    It ends with the program's own exit status. No shell reads its words. Whatever ends this command
    ends the program there, with all that it has started.
    """
    from hil import bench
    from sdk.rigs import reached

    files = {path.name: path for path in send or []}
    if len(files) < len(send or []):
        raise UsageError("Two files to be sent have the same name.", remedy="Rename one.")
    for path in files.values():
        if not path.is_file():
            raise UsageError(f"{path} is no file.", remedy="--send takes files, not folders.")
    with reached(name, inventory, note, what=f"sdk hil run {program[0]}", wait_s=wait) as rig:
        status = bench.command(
            rig, program, files=files, time_limit_s=limit, alone=alone, on_output=_show,
            on_wait=note,
        )  # fmt: skip
    raise typer.Exit(status)


def _show(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


@hil_app.command("lock", epilog=LOCK_EXAMPLE)
def lock(
    name: Name,
    why: Annotated[str, typer.Option("--why", help="For others.")] = "",
    inventory: InventoryFile = None,
) -> None:
    """Set a rig aside: nobody else's runs begin there until it is unlocked."""
    from hil.reach import place_of, who

    with place_of(name, inventory).open() as rig:
        rig.set_aside(who(""), why)
    say(f"{name} is {who('')}'s until: sdk hil unlock {name}")


@hil_app.command("unlock", epilog=UNLOCK_EXAMPLE)
def unlock(name: Name, inventory: InventoryFile = None) -> None:
    """Give a rig back that was set aside, by whomever."""
    from hil.reach import place_of

    with place_of(name, inventory).open() as rig:
        was = rig.give_back()
    say(f"{name} is free." if was else f"{name} was not set aside.")


@hil_app.command("power", epilog=POWER_EXAMPLE)
def power(
    name: Name,
    what: Annotated[
        Literal["on", "off", "cycle", "get"], typer.Argument(metavar="on|off|cycle|get")
    ],
    inventory: InventoryFile = None,
) -> None:
    """Switch a rig on or off, off and on again, or ask its switch."""
    from hil import power as switches
    from hil.reach import inventory_of

    entry = inventory_of(inventory).rig(name)
    if what == "cycle":
        switches.cycle(entry)
    elif what != "get":
        switches.switch(entry, on=what == "on")
    state = switches.is_on(entry)
    told = {True: "is on", False: "is off", None: "has a switch that cannot tell"}[state]
    say(f"{name} {told}.")


def _state(entry: RigEntry, inventory: Path | None, *, reach: bool) -> dict[str, Any]:
    from hil.health import told_aside
    from hil.reach import place_of

    if not reach:
        return {"state": "not asked", "holder": None}
    try:
        with place_of(entry.name, inventory).open() as rig:
            hello = rig.hello
    except SlipwayError as error:
        return {"state": error.what, "holder": None}
    aside, holder = hello["aside"], hello["holder"]
    if aside is not None:
        return {"state": told_aside(aside), "holder": holder}
    return {"state": f"{holder} has it" if holder else "free", "holder": holder}
