"""`sdk fleet status`, `releases`, `reports`, `export`: what the server knows."""

from __future__ import annotations

import contextlib
import json as json_lines
import os
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, Literal

import typer

from agent.files import storage_errors
from sdk.cli.fleet_common import (
    LOCAL,
    Json,
    KeyFile,
    Most,
    Server,
    device_id,
    moment,
    opened,
    say,
    table,
)
from sdk.cli.fleet_watch import EVERY_S, counts, headline, looks, until_interrupted
from sdk.cli.output import err_console, print_json

if TYPE_CHECKING:
    from sdk.fleet.client import FleetClient

STATUS_EXAMPLE = "Example: sdk fleet status"
RELEASES_EXAMPLE = "Example: sdk fleet releases list minilm"
REPORTS_EXAMPLE = "Example: sdk fleet reports --follow"
EXPORT_EXAMPLE = "Example: sdk fleet export reports --form csv --out reports.csv"

releases_app = typer.Typer(name="releases", help="What the repository holds.", no_args_is_help=True)


def status(server: Server = LOCAL, key_file: KeyFile = None, json: Json = False) -> None:
    """The fleet in numbers, and the rollouts that are not over."""
    with opened(server, key_file) as client:
        found = client.ask("GET", "status")
    if json:
        print_json(found)
        return
    standings = [f"{count} {name}" for name, count in sorted(found["standings"].items())]
    say(f"devices: {', '.join(standings) or 'none yet; let one in: sdk fleet tokens add'}")
    if found["silent"]:
        say(f"  {found['silent']} were not heard of for ten minutes")
    if found["fell_back"]:
        say(f"  {found['fell_back']} run something else than they confirmed last")
    if found["standings"].get("pending"):
        say("  look at those that wait: sdk fleet devices list --standing pending")
    for one in found["rollouts"]:
        say(f"{headline(one)}: {counts(one['progress'])}")
        if one["reason"]:
            say(f"  {one['reason']}")


@releases_app.command("list", epilog=RELEASES_EXAMPLE)
def releases(
    model: Annotated[str | None, typer.Argument(help="Only of this model.")] = None,
    server: Server = LOCAL,
    key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """What can be assigned, the newest of each model first."""
    with opened(server, key_file) as client:
        found = client.ask("GET", "releases", model=model)["items"]
    if json:
        print_json(found)
        return
    table(
        ("model", "release", "number", "manifest", ""),
        (
            (
                one["model"], one["release"], one["release_counter"],
                one["manifest_sha256"][:16], "revoked" if one["revoked"] else " ",
            )
            for one in found
        ),
        "There is no release. Publish one: sdk publish BUILD --release NAME",
    )  # fmt: skip


def reports(
    device: Annotated[str | None, typer.Option("--device", help="Only of this device.")] = None,
    limit: Most = 100,
    follow: Annotated[
        bool, typer.Option("--follow", help="And those that come, until Ctrl-C; JSON by the line.")
    ] = False,
    server: Server = LOCAL,
    key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """The last reports of devices, the newest at the end."""
    named = None if device is None else device_id(device)
    with opened(server, key_file) as client:
        found = client.ask("GET", "reports", device=named, order="newest", limit=min(limit, 1000))
        items = found["items"]
        if follow:
            _follow(client, named, items, json=json)
        elif json:
            print_json(items)
        elif not items:
            say("There is no report.")
        else:
            _print_reports(items, json=False)


def export(
    what: Annotated[
        Literal["devices", "reports", "measurements"],
        typer.Argument(help="All of them; measurements are the times in reports."),
    ],
    form: Annotated[
        Literal["csv", "jsonl"], typer.Option("--form", help="For a spreadsheet, or JSON lines.")
    ] = "jsonl",
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Instead of stdout.")
    ] = None,
    server: Server = LOCAL,
    key_file: KeyFile = None,
    json: Annotated[bool, typer.Option("--json", help="The same as --form jsonl.")] = False,
) -> None:
    """Write all devices, all reports, or what they measured, a line each.

    A file is replaced once all is there: an export that is cut off leaves what was there before.
    """
    form = "jsonl" if json else form
    with opened(server, key_file) as client, _written(out) as stream:
        for chunk in client.stream("export", what, form=form):
            stream.write(chunk)
    if out is not None:
        err_console().print(f"{what} are in {out}", markup=False, soft_wrap=True)


def _follow(
    client: FleetClient, device: str | None, items: list[dict[str, Any]], *, json: bool
) -> None:
    seen = 0

    def more() -> list[dict[str, Any]]:
        return list(client.pages("reports", device=device, after=seen))

    with until_interrupted("the following ends"):
        _print_reports(items, json=json)
        seen = items[-1]["id"] if items else 0
        for found in looks(more, EVERY_S):
            _print_reports(found, json=json)
            seen = found[-1]["id"] if found else seen


def _print_reports(items: list[dict[str, Any]], *, json: bool) -> None:
    for one in items:
        if json:
            sys.stdout.write(json_lines.dumps(one, separators=(",", ":")) + "\n")
            continue
        told = f"{moment(one['received_s'])}  {one['device_id']}  {one['state']:<12}"
        told += f"{one['model']} {one['release'] or ''} {one['variant'] or ''}".rstrip()
        say(told + (f": {one['reason']}" if one["reason"] else ""))
    sys.stdout.flush()


@contextlib.contextmanager
def _written(out: Path | None) -> Iterator[IO[bytes]]:
    """Where an export goes: stdout, or a file that is put in its place when all is there."""
    if out is None:
        yield sys.stdout.buffer
        sys.stdout.flush()
        return
    beside = out.with_name(f".{out.name}.{secrets.token_hex(4)}")
    with storage_errors(out):
        try:
            with beside.open("xb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            beside.replace(out)
        finally:
            beside.unlink(missing_ok=True)
