"""`sdk fit`: measure this machine, or learn from reports, so that estimates know a device."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agent.errors import LimitError, UsageError
from sdk.cli.output import err_console, out_console, print_json

if TYPE_CHECKING:
    from sdk.fit_judgement import Judged

EXAMPLE = "Example: sdk fit --profile host"


def fit(
    profile: Annotated[
        str, typer.Option("--profile", "-p", help="`host`, or a profile that this machine meets.")
    ] = "host",
    target: Annotated[str, typer.Option("--target", "-t", help="Whose `host`.")] = "intel",
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The profile with its fitted block goes there."),
    ] = None,
    project: Annotated[Path, typer.Option("--project", help="Its own profiles first.")] = Path(),
    toolchain: Annotated[
        list[str] | None, typer.Option("--toolchain", help="Only this; repeat for more.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A quarter of the programs: coarser, 4 times sooner.")
    ] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure all anew.")] = False,
    reports: Annotated[
        list[str] | None,
        typer.Option(
            "--reports",
            help="Measure nothing, and learn from these: a build's folder or reports.json, a "
            "fleet's export, `catalog` for all that was built here; repeat for more.",
        ),
    ] = None,
    unstable: Annotated[
        bool,
        typer.Option("--unstable", help="Count also reports of machines that were busy."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --reports: only say what would be learnt.")
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print each fit as JSON: its error, used or not, why.")
    ] = False,
) -> None:
    """Run micro-benchmarks here and fit a profile's constants to them: about 15 minutes.

    It can be stopped at any time; the next run goes on. Sourced facts of the profile stay as they
    are. A fit is used only if it is nearer than what it would replace, on networks that neither has
    seen; exit code 3 where none is. With --reports, what rigs and fleets measured of whole models
    is held against the estimates instead, and the profile gets factors on them.
    """
    if reports:
        _learn(
            *(profile, target, reports, project),
            out=out,
            unstable=unstable,
            dry_run=dry_run,
            json=json,
        )
        return
    from agent.files import write_atomic
    from agent.folders import cache_folder
    from sdk import detect
    from sdk.assign import find_profile
    from sdk.cache import Cache
    from sdk.cli.progress import shown
    from sdk.fit_judgement import used_blocks
    from sdk.report.profiles import fitted_lines
    from sdk.steps.fit import fit_profile
    from sdk.workers import Workers

    is_host = profile in ("host", f"{target}-host")
    if not is_host and out is None:
        raise UsageError(
            f"--profile {profile} needs --out FILE.",
            cause="A profile that is a file is not changed; a copy with the block is written.",
            remedy=f"Add, for example, --out profiles/{profile}.toml",
        )
    found = find_profile(target, profile, project, cache_folder())
    cache, workers = Cache(cache_folder()), Workers(cache_folder())
    cache.sweep()
    warnings: list[str] = []
    try:
        with shown(err_console(), warnings.append) as on_event:
            judged = fit_profile(
                found,
                cache,
                workers,
                quick=quick,
                fresh=fresh,
                toolchains=toolchain or (),
                on_event=on_event,
            )
    finally:
        workers.stop()
    for warning in warnings:
        err_console().print(f"warning: {warning}", markup=False, soft_wrap=True)
    again = _again(profile, target, project, out)
    _tell(judged, again)
    fitted = used_blocks(judged)
    if not fitted:
        if json:
            print_json(judged)
        raise LimitError(
            f"None of {len(judged)} new fits is used: nothing is written.",
            cause="None is better than what it would replace; the reason of each is above.",
            remedy=f"Run it again on an idle machine: {again}",
        )
    if is_host:
        written = detect.keep_fit(found, fitted)
        err_console().print(f"kept in {written}", markup=False, soft_wrap=True)
    if out is not None:
        merged = detect.merged(found.fitted, fitted)
        named = dataclasses.replace(found, name=out.stem, fitted=merged)
        write_atomic(out, detect.profile_toml(named).encode())
        err_console().print(f"written to {out}", markup=False, soft_wrap=True)
    if json:
        print_json(judged)
        return
    for line in fitted_lines(fitted):
        out_console().print(line, markup=False, soft_wrap=True)


def _learn(
    profile: str,
    target: str,
    reports: list[str],
    project: Path,
    *,
    out: Path | None,
    unstable: bool,
    dry_run: bool,
    json: bool,
) -> None:
    from agent.folders import data_folder
    from sdk.catalog import Catalog
    from sdk.cli.refit import learn_from, profile_named
    from sdk.learning.sources import Sources

    found = profile_named(profile, target, project)
    sightings = Sources(Catalog(data_folder())).read(reports)
    learn_from(sightings, found, project, out=out, unstable=unstable, dry_run=dry_run, json=json)


def _tell(judged: Sequence[Judged], again: str) -> None:
    """Which fits are used, and which are not and why."""
    from sdk.report.fits import accepted, refusal

    for entry in judged:
        lines = [accepted(entry)]
        if not entry.used:
            what, cause, remedy = refusal(entry, f"{again} --toolchain {entry.toolchain}")
            lines = [f"warning: {what}", f"         {cause}", f"         {remedy}"]
        for line in lines:
            err_console().print(line, markup=False, soft_wrap=True)


def _again(profile: str, target: str, project: Path, out: Path | None) -> str:
    """The command that measures anew: without --fresh the same times would be fitted again."""
    words = ["sdk", "fit", "--profile", profile]
    words += ["--target", target] if target != "intel" else []
    words += ["--project", str(project)] if project != Path() else []
    words += ["--out", str(out)] if out is not None else []
    return shlex.join([*words, "--fresh"])
