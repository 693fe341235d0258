"""Verbs that only look: `doctor`, `targets`, `profiles`, `history`."""

from __future__ import annotations

import dataclasses
import platform
from pathlib import Path
from typing import Annotated

import typer

from sdk.cli.output import err_console, out_console, print_json

DOCTOR_EXAMPLE = "Example: sdk doctor"
TARGETS_EXAMPLE = "Example: sdk targets"
HISTORY_EXAMPLE = "Example: sdk history --model digits --limit 5"
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ProjectFolder = Annotated[Path, typer.Option("--project", help="Its own profiles come first.")]

profiles_app = typer.Typer(
    help="Device types: list them, show one, detect this machine's.",
    no_args_is_help=True,
    rich_markup_mode=None,
    epilog="Example: sdk profiles show core-ultra-155h",
)


def doctor(json: Json = False) -> None:
    """Which toolchains are here, in which versions, and how to install what is missing."""
    from targets import toolchain, toolchain_names

    found = {name: toolchain(name).available() for name in toolchain_names()}
    if json:
        print_json({"python": platform.python_version(), "toolchains": found})
        return
    console = out_console()
    console.print(f"Python {platform.python_version()} on {platform.machine()}", markup=False)
    for name, available in found.items():
        versions = ", ".join(f"{key} {value}" for key, value in available.versions.items())
        console.print(f"{name}: {'ok' if available.ok else 'MISSING'}  {versions}", markup=False)
        if not available.ok:
            console.print(f"  missing {', '.join(available.missing)}", markup=False)
            console.print(f"  install: {available.remedy}", markup=False)


def targets(json: Json = False) -> None:
    """The hardware families that --target takes."""
    from targets import target, target_names

    rows = [
        {"name": name, "title": target(name).TITLE, "profile": target(name).DEFAULT_PROFILE}
        for name in target_names()
    ]
    if json:
        print_json(rows)
        return
    for row in rows:
        out_console().print(
            f"{row['name']:12} {row['title']} (default profile {row['profile']})", markup=False
        )


@profiles_app.command("list", epilog="Example: sdk profiles list")
def list_profiles(project: ProjectFolder = Path(), json: Json = False) -> None:
    """All profiles: the project's, the user's, the package's."""
    from profiles import all_profiles
    from sdk.project import profile_folders

    found = all_profiles(profile_folders(project))
    if json:
        print_json([{"name": p.name, "target": p.target, "title": p.title} for p in found.values()])
        return
    for entry in sorted(found.values(), key=lambda profile: (profile.target, profile.name)):
        out_console().print(f"{entry.target:12} {entry.name:24} {entry.title}", markup=False)


@profiles_app.command("show", epilog="Example: sdk profiles show core-ultra-155h")
def show_profile(
    name: Annotated[str, typer.Argument(help="A profile's name, or `host`.")],
    project: ProjectFolder = Path(),
    json: Json = False,
) -> None:
    """One profile: its engines, memory and rates, each figure with its source."""
    from sdk.conductor import find_profile
    from sdk.detect import profile_toml
    from sdk.folders import cache_folder

    target = name.removesuffix("-host") if name.endswith("-host") else "intel"
    profile = find_profile(target, name, project, cache_folder())
    if json:
        print_json(profile)
    else:
        out_console().print(profile_toml(profile), markup=False, soft_wrap=True, end="")


@profiles_app.command("detect", epilog="Example: sdk profiles detect --out profiles/mine.toml")
def detect_profile(
    target: Annotated[str, typer.Option("--target", "-t")] = "intel",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write it there; stdout otherwise.")
    ] = None,
    json: Json = False,
) -> None:
    """This machine as a profile: CPU, ISA flags, cores, memory, measured bandwidth and peak."""
    from agent.files import write_atomic
    from sdk.detect import detect, profile_toml
    from sdk.folders import cache_folder

    with err_console().status("measuring bandwidth and peak"):
        profile = detect(target, cache_folder())
    if json:
        print_json(profile)
    elif out is None:
        out_console().print(profile_toml(profile), markup=False, soft_wrap=True, end="")
    else:
        named = dataclasses.replace(profile, name=out.stem)  # a file is called as its profile is
        write_atomic(out, profile_toml(named).encode())
        err_console().print(f"written to {out}", markup=False)


def history(
    model: Annotated[str | None, typer.Option("--model", help="Only this model.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1)] = 20,
    json: Json = False,
) -> None:
    """What was built when, from which model, with which result."""
    from sdk import api

    builds = api.history(model, limit=limit)
    if json:
        print_json(builds)
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("when (UTC)", "model", "digest", "profile", "verdict", "selected", "p50 ms"):
        table.add_column(column)
    for entry in builds:
        table.add_row(
            entry.when[:19].replace("T", " "),
            entry.model,
            entry.program_digest[:12],
            entry.profile,
            entry.verdict,
            (entry.selected or "-").rsplit("/", 1)[-1],
            "-" if entry.p50_ms is None else f"{entry.p50_ms:.3g}",
        )
    out_console().print(table if builds else "Nothing was built on this machine yet.")
