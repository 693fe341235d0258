"""What the verbs that ask a fleet server share: their options, their numbers, their tables."""

from __future__ import annotations

import datetime as dt
import os
import re
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agent.errors import UsageError
from sdk.cli.output import out_console

if TYPE_CHECKING:
    from rich.table import Table

    from sdk.fleet.client import FleetClient

API_KEY = "SLIPWAY_API_KEY"
KEY_FILE = Path("default.key")
"""Where `sdk fleet serve` puts the first key."""
LOCAL = "http://127.0.0.1:8000"

Server = Annotated[
    str,
    typer.Option("--server", envvar="SLIPWAY_SERVER", metavar="URL", help="The fleet server."),
]
KeyFile = Annotated[
    Path | None,
    typer.Option(
        "--key-file",
        metavar="FILE",
        help=f"Holds the API key; otherwise ${API_KEY}, or ./{KEY_FILE}.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DeviceArgument = Annotated[str, typer.Argument(metavar="ID", help="A device's id.")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="So many at most; else all.")]
Most = Annotated[int, typer.Option("--limit", min=1, help="So many at most.")]

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)([smhd])")
_SHARE = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,6})?)%|([01]\.[0-9]{1,6})")
_COUNT = re.compile(r"[0-9]{1,9}")
_DEVICE = re.compile(r"[0-9a-f]{32}")


def opened(server: str, key_file: Path | None) -> FleetClient:
    """The server, to be asked with the operator's key.

    Raises:
        UsageError: there is no key, or the address is none.
    """
    from sdk.fleet.client import FleetClient

    return FleetClient(server, _key(key_file))


def seconds(text: str, option: str) -> float:
    """A duration.

    >>> seconds("10m", "--soak"), seconds("1.5h", "--soak")
    (600.0, 5400.0)
    """
    found = _DURATION.fullmatch(text)
    if found is None:
        raise UsageError(
            f"{option} cannot be {text!r}.",
            cause="A duration is a number and a unit: s, m, h or d.",
            remedy=f"Such as {option} 90s, 10m, 24h or 7d.",
        )
    return float(found[1]) * _UNITS[found[2]]


def share_or_count(text: str, option: str) -> float | int:
    """A share of devices as a float, or how many of them as an int.

    >>> share_or_count("10%", "--stages"), share_or_count("0.1", "--stages")
    (0.1, 0.1)
    >>> share_or_count("1", "--stages")
    1
    """
    if _COUNT.fullmatch(text):
        return int(text)
    return share(text, option)


def share(text: str, option: str) -> float:
    """A share, as a part of 1; `100%` or `1.0` is all."""
    found = _SHARE.fullmatch(text)
    if found is None:
        raise UsageError(
            f"{option} cannot be {text!r}.",
            cause="A share ends in %, or is written with a point.",
            remedy=f"Such as {option} 10%, or 0.1.",
        )
    return float(found[1]) / 100.0 if found[1] else float(found[2])


def device_id(text: str) -> str:
    """A device's id, which is what it says it is.

    Raises:
        UsageError: it is not.
    """
    if not _DEVICE.fullmatch(text):
        raise UsageError(
            f"{text!r} is no device's id.",
            cause="It has 32 hexadecimal digits.",
            remedy="Copy it: sdk fleet devices list",
        )
    return text


def table(heads: Sequence[str], rows: Iterable[Sequence[Any]], nothing: str) -> None:
    """Print rows, or that there are none."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(*heads, box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for row in rows:
        made.add_row(*(Text(plain(cell)) for cell in row))
    if not made.row_count:
        say(nothing)
        return
    show_table(made)


def show_table(made: Table) -> None:
    """Print a table."""
    console = out_console()
    if not console.is_terminal:  # a log has no width: nothing is cut for it
        console.width = 1000
    console.print(made)


def say(line: str) -> None:
    """A line of the result."""
    out_console().print(plain(line), markup=False, soft_wrap=True)


def plain(value: Any) -> str:
    r"""Text without what would steer a terminal: some of it comes from devices.

    >>> plain("\x1b[2J"), plain(None)
    ('\\x1b[2J', '-')
    """
    if value is None or value == "":
        return "-"
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in str(value)
    )


def moment(at_s: float | None) -> str:
    """Seconds since 1970 as a person reads them.

    >>> moment(0.0)
    '1970-01-01 00:00:00Z'
    """
    if at_s is None:
        return "-"
    return dt.datetime.fromtimestamp(at_s, tz=dt.timezone.utc).strftime("%Y-%m-%d %H:%M:%SZ")


def ago(at_s: float | None) -> str:
    """How long ago that was, by the clock here."""
    if at_s is None:
        return "never"
    passed = max(0.0, time.time() - at_s)
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("m", 60.0)):
        if passed >= 2 * size:
            return f"{passed / size:.0f} {unit} ago"
    return f"{passed:.0f} s ago"


def _key(key_file: Path | None) -> str:
    if key_file is None:
        told = os.environ.get(API_KEY, "").strip()
        if told:
            return told
        if not KEY_FILE.exists():
            raise UsageError(
                "There is no API key.",
                cause=f"${API_KEY} is not set, and there is no ./{KEY_FILE}, which sdk fleet serve "
                "writes at its first start.",
                remedy="Set it, or name a file: --key-file FILE",
            )
    path = key_file or KEY_FILE
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        raise UsageError(
            f"The API key cannot be read from {path}: {error}.",
            cause="The path is wrong, or the file is another user's or no key.",
            remedy=f"Correct it, or set ${API_KEY}.",
        ) from error
