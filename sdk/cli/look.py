"""Small verbs: `doctor`, `targets`, `history`, `accept`."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Annotated

import typer

from sdk.cli.output import out_console, print_json

DOCTOR_EXAMPLE = "Example: sdk doctor"
TARGETS_EXAMPLE = "Example: sdk targets"
ACCEPT_EXAMPLE = "Example: sdk accept build/digits"
HISTORY_EXAMPLE = "Example: sdk history --model digits --limit 5"
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def doctor(json: Json = False) -> None:
    """Which toolchains are here, in which versions, and how to install what is missing."""
    from targets import extras, toolchain, toolchain_names

    found = {name: toolchain(name).available() for name in toolchain_names()}
    if json:
        print_json({"python": platform.python_version(), "toolchains": found})
        return
    console = out_console()
    console.print(f"Python {platform.python_version()} on {platform.machine()}", markup=False)
    for name, available in found.items():
        versions = ", ".join(f"{key} {value}" for key, value in available.versions.items())
        console.print(f"{name}: {'ok' if available.ok else 'MISSING'}  {versions}", markup=False)
        if available.note:
            console.print(f"  {available.note}", markup=False)
        if not available.ok:
            console.print(f"  missing {', '.join(available.missing)}", markup=False)
            console.print(f"  install: {available.remedy}", markup=False)
    if not all(available.ok for available in found.values()):
        console.print(
            "The extra of the target that you build for brings all that it lowers with: "
            f"{', '.join(extras())}.",
            markup=False,
        )


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


def accept(
    folder: Annotated[Path, typer.Argument(help="A model's build folder, or its summary.json.")],
    json: Json = False,
) -> None:
    """Hold later builds of this model against this one: they tell what got worse."""
    from sdk import api

    profiles = api.accept(folder)
    if json:
        print_json({"accepted": profiles})
        return
    out_console().print(f"accepted for {', '.join(profiles)}", markup=False)


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
