"""`sdk build`: the main verb."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from agent.errors import UsageError
from sdk.cli.output import err_console, out_console, print_json
from sdk.objective import OBJECTIVES, Objective
from sdk.search.clock import seconds

if TYPE_CHECKING:
    from sdk.options import Options

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
    rig: Annotated[
        str | None, typer.Option("--rig", help="Prove on this rig: sdk hil list.")
    ] = None,
    inventory: Annotated[
        Path | None, typer.Option("--inventory", help="Of the rigs; otherwise hil.toml.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 3 if unproven.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Ignore the cache.")] = False,
    prune: Annotated[
        bool,
        typer.Option("--prune/--no-prune", help="Leave out what cannot meet a limit even at best."),
    ] = True,
    budget: Annotated[
        str | None, typer.Option("--budget", help="Search for a better variant so long: 10m.")
    ] = None,
    objective: Annotated[
        str, typer.Option("--objective", help=f"What is to be least: {', '.join(OBJECTIVES)}.")
    ] = "latency",
    seed: Annotated[int, typer.Option("--seed", help="The same seed, the same plan.")] = 0,
    speed: Annotated[
        bool, typer.Option("--speed", help="Allow a drop of 5 % where sdk.toml sets no limit.")
    ] = False,
    accuracy: Annotated[
        bool, typer.Option("--accuracy", help="Allow a drop of at most 0.5 %.")
    ] = False,
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
    from sdk import api, conductor
    from sdk.options import Options

    if rig is not None:
        from sdk.rigs import asked_of

        target, profile = asked_of(rig, inventory, target, profile)
    budget_s = None if budget is None else seconds(budget)
    least = _objective(objective)
    prefer = _preference(speed=speed, accuracy=accuracy)
    if dry_run:
        options = Options(
            targets=tuple(target or ()),
            profiles=tuple(profile or ()),
            limits=limits,
            out=out,
            objective=least,
            budget_s=budget_s,
        )
        _dry_run(project, options, json=json)
        return
    from sdk.cli.progress import shown

    warnings: list[str] = []
    with shown(err_console(), warnings.append) as on_event:
        summary = api.build(
            project,
            targets=target or (),
            profiles=profile or (),
            limits=limits,
            out=out,
            jobs=jobs,
            fresh=fresh,
            prune=prune,
            budget_s=budget_s,
            objective=least,
            seed=seed,
            prefer=prefer,
            rig=rig,
            inventory=inventory,
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
    for warning in warnings:
        typer.echo(f"warning: {warning}", err=True)
    error = conductor.exit_error(summary, strict=strict)
    if error is not None:
        raise error


def _objective(name: str) -> Objective:
    for known in OBJECTIVES:
        if name == known:
            return known
    raise UsageError(
        f"There is no objective {name!r}; known are {', '.join(OBJECTIVES)}.",
        cause="The name is misspelt.",
        remedy="Use one of the known objectives.",
    )


def _preference(*, speed: bool, accuracy: bool) -> Literal["speed", "accuracy"] | None:
    if speed and accuracy:
        raise UsageError(
            "--speed and --accuracy are both given.",
            cause="One allows more of a drop in accuracy, the other less.",
            remedy="Give one of them, or say it exactly: --limit accuracy_drop=0.01",
        )
    return "speed" if speed else "accuracy" if accuracy else None


def _number(value: str) -> object:
    try:
        return float(value)
    except ValueError:
        return value


def _dry_run(project: Path, options: Options, *, json: bool) -> None:
    from sdk import conductor

    planned = conductor.dry_run(project, options)
    if json:
        print_json([{"identifier": p.candidate.identifier, "refused": p.refusal} for p in planned])
        return
    for entry in planned:
        refused = f"  refused: {entry.refusal}" if entry.refusal else ""
        sys.stdout.write(f"{entry.candidate.identifier}{refused}\n")
    if options.budget_s is not None:
        typer.echo("These are the first heat; what follows depends on what it finds.", err=True)
