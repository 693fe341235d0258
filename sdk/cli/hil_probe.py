"""`sdk hil probe`: what a rig is, and which profile fits it, or a draft of one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agent.errors import UsageError
from sdk.cli.fleet_common import say, table
from sdk.cli.hil_common import InventoryFile, Json, Name, note
from sdk.cli.output import err_console, print_json

if TYPE_CHECKING:
    from hil.bench import Probe

PROBE_EXAMPLE = "Example: sdk hil probe desk-orin"


def probe(
    name: Name,
    draft: Annotated[
        bool, typer.Option("--draft", help="Where no profile fits, write one of what it tells.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Of the draft; otherwise your own profiles."),
    ] = None,
    target: Annotated[
        str | None, typer.Option("--target", help="Of the draft; otherwise by what it is.")
    ] = None,
    inventory: InventoryFile = None,
    json: Json = False,
) -> None:
    """What a rig is, which runtimes work there, and which profile fits it."""
    from hil import bench
    from hil.reach import inventory_of
    from sdk.rigs import closest, reached

    entry = inventory_of(inventory).rig(name)
    with (
        err_console().status(f"looking at {name}"),
        reached(name, inventory, note, what="sdk hil probe", repairs=True) as rig,
    ):
        hello, found = rig.hello, bench.probe(rig)
    fits = closest(found.fingerprint)
    drafted = None
    if draft and all(one["differs"] for one in fits):
        drafted = _drafted(out, name, target, hello, found)
    if json:
        print_json(
            {"hello": hello, "probe": found, "profiles": fits,
             "draft": None if drafted is None else str(drafted)}
        )  # fmt: skip
        return
    identity, software = found.fingerprint.identity, found.fingerprint.software
    conditions = found.conditions
    lines = [
        *_facts(identity), *_facts(software), *_facts(found.fingerprint.conditions),
        ("Python", f"{'.'.join(map(str, hello['python']))} at {hello['executable']}"),
        ("free on its disk", f"{hello['free_bytes'] / 2**30:.1f} GiB"),
        ("temperatures", ", ".join(
            f"{zone} {value:.0f} °C" for zone, value in conditions["temperatures_c"].items()
        ) or "nothing tells"),
    ]  # fmt: skip
    for runtime, state in found.runtimes.items():
        told = state["version"] or "works"
        if state["error"]:
            told = f"{state['error']['what']} {state['error']['remedy']}".strip()
        lines.append((runtime, told))
    table(("what", "found"), lines, "nothing")
    _say_profiles(name, entry.profile, fits)
    if drafted is not None:
        say(f"{drafted} has what it tells. Look it over; then, in hil.toml: "
            f'profile = "{drafted.stem}"')  # fmt: skip
    elif fits and all(one["differs"] for one in fits):
        say(f"A draft of one: sdk hil probe {name} --draft")


def _drafted(
    out: Path | None, name: str, target: str | None, hello: Mapping[str, Any], found: Probe
) -> Path:
    """Write a profile of what a rig told; the file."""
    import datetime as dt

    from agent.files import write_atomic
    from agent.folders import config_folder
    from sdk.detect import profile_toml
    from sdk.draft import draft

    path = out or config_folder() / "profiles" / f"{name}.toml"
    if path.exists():
        raise UsageError(
            f"{path} is there already.",
            cause="It was drafted before, and does not fit this rig.",
            remedy="Correct its [match], or name another file: --out FILE",
        )
    profile = draft(
        path.stem, found.fingerprint, target=target,
        python=".".join(map(str, hello["python"][:2])),
        date=dt.datetime.now(tz=dt.timezone.utc).date().isoformat(),
    )  # fmt: skip
    write_atomic(path, profile_toml(profile).encode())
    return path


def _say_profiles(name: str, own: str | None, fits: list[dict[str, Any]]) -> None:
    exact = [one["profile"] for one in fits if not one["differs"]]
    if own is not None and own not in exact:
        say(f"The inventory says that {name} is {own}; what it shows does not fit that.")
    if exact:
        say(f"It is: {', '.join(exact)}")
        return
    say("No profile fits it. The closest are:")
    for one in fits[:3]:
        say(f"  {one['profile']}: {'; '.join(one['differs'])}")


def _facts(part: Any) -> list[tuple[str, str]]:
    return [
        (name, ", ".join(map(str, value)) if isinstance(value, list) else str(value))
        for name, value in part.items()
        if value not in (None, [], {}, False) and name != "runtimes"
    ]
