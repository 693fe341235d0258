"""`sdk build`: the main verb."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from agent.errors import UsageError
from sdk.cli.output import err_console, out_console, print_json

EXAMPLE = "Example: sdk build docs/examples/digits --target intel --profile host --out build"


def build(
    project: Annotated[Path, typer.Argument(help="The folder with sdk.toml.")] = Path(),
    target: Annotated[
        list[str] | None, typer.Option("--target", "-t", help="A hardware family; repeat for more.")
    ] = None,
    profile: Annotated[
        list[str] | None,
        typer.Option("--profile", "-p", help="[TARGET=]NAME; `host` is this machine."),
    ] = None,
    limit: Annotated[
        list[str] | None, typer.Option("--limit", help="NAME=VALUE, over sdk.toml's.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where MODEL/PROFILE/ goes.")] = Path(
        "build"
    ),
    jobs: Annotated[
        int, typer.Option("--jobs", "-j", min=1, help="Lowerings side by side; measuring is alone.")
    ] = 1,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 3 if unproven.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Ignore the cache.")] = False,
    prune: Annotated[
        bool,
        typer.Option("--prune/--no-prune", help="Leave out what cannot meet a limit even at best."),
    ] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print the candidates.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print summary.json's content.")] = False,
) -> None:
    """Turn one model into a variant for each kind of device, proven to fit its limits."""
    from sdk.limits import check_limit

    limits = {}
    for entry in limit or ():
        name, separator, value = entry.partition("=")
        if not separator:
            raise UsageError(
                f"--limit {entry} has no value.",
                cause="A limit is NAME=VALUE.",
                remedy=f"Write, for example, --limit {name}=10",
            )
        limits[name] = check_limit(name, _number(value), "--limit")
    if dry_run:
        _dry_run(project, target or [], profile or [], limits, out, json=json)
        return
    from sdk import api, conductor
    from sdk.cli.progress import shown

    with shown(err_console()) as on_event:
        summary = api.build(
            project,
            targets=target or (),
            profiles=profile or (),
            limits=limits,
            out=out,
            jobs=jobs,
            fresh=fresh,
            prune=prune,
            on_event=on_event,
        )
    if json:
        print_json(summary)
    else:
        from sdk.report.terminal import print_summary

        print_summary(summary, out_console())
        written = out / summary.model
        told = f"\nwritten to {written}; the page is {written / 'report.html'}"
        out_console().print(told, style="dim", soft_wrap=True, markup=False)
    error = conductor.exit_error(summary, strict=strict)
    if error is not None:
        raise error


def _number(value: str) -> object:
    try:
        return float(value)
    except ValueError:
        return value


def _dry_run(
    project: Path,
    target: list[str],
    profile: list[str],
    limits: dict[str, float],
    out: Path,
    *,
    json: bool,
) -> None:
    from sdk import conductor

    options = conductor.Options(
        targets=tuple(target), profiles=tuple(profile), limits=limits, out=out
    )
    planned = conductor.dry_run(project, options)
    if json:
        print_json([{"identifier": p.candidate.identifier, "refused": p.refusal} for p in planned])
        return
    for entry in planned:
        refused = f"  refused: {entry.refusal}" if entry.refusal else ""
        sys.stdout.write(f"{entry.candidate.identifier}{refused}\n")
