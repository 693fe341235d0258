"""`sdk report`: what a build found, again; or what changed between two builds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agent.errors import UsageError
from sdk.cli.output import err_console, out_console, print_json

EXAMPLE = "Example: sdk report build/digits --html digits.html"


def report(
    folders: Annotated[
        list[Path], typer.Argument(help="A model's build folder, or its summary.json.")
    ],
    html: Annotated[
        Path | None, typer.Option("--html", help="Write the page there as well.")
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Tell what changed from the first to the second.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """What a build found and what would prove the rest; or what changed between two builds."""
    if len(folders) != 1 + compare:
        raise UsageError(
            f"{len(folders)} folders are named, and it takes {1 + compare}.",
            cause="A report is of one build; with --compare, of an older and a newer one.",
            remedy="sdk report DIR, or sdk report --compare OLD NEW",
        )
    if compare:
        _compare(folders[0], folders[1], html, json=json)
        return
    from sdk import api

    summary = api.read_summary(folders[0])
    if html is not None:
        api.write_page(summary, html)
        err_console().print(f"written to {html}", markup=False, soft_wrap=True)
    if json:
        print_json(summary)
    else:
        from sdk.report.terminal import print_summary

        print_summary(summary, out_console())


def _compare(old: Path, new: Path, html: Path | None, *, json: bool) -> None:
    from sdk import api

    if html is not None:
        raise UsageError(
            "--html and --compare do not go together.",
            cause="The page is of one build.",
            remedy="Leave one of them out; --compare prints text, or JSON with --json.",
        )
    found = api.compare_builds(old, new)
    if json:
        print_json(found)
    else:
        from sdk.report.changes import print_comparison

        print_comparison(found, out_console())
