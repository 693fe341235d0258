"""`sdk fleet watch`: a rollout, or the fleet, as it changes."""

from __future__ import annotations

import contextlib
import json as json_lines
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from agent.errors import LimitError, NetworkError
from sdk.cli.fleet_common import LOCAL, Json, KeyFile, Server, moment, opened, plain, say
from sdk.cli.fleet_gates import gate_table
from sdk.cli.output import err_console, out_console

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

    from sdk.fleet.client import FleetClient

T = TypeVar("T")
Shows = Callable[[dict[str, Any]], None]

EXAMPLE = "Example: sdk fleet watch r0c9d61f2a3b4"
EVERY_S = 2.0
PATIENCE_S = 600.0
"""A server that answered before is waited for so long: it may be restarted meanwhile."""
OVER = ("finished", "halted", "reverted", "cancelled", "revoked")
_INTERRUPTED = 130
_MARKS: Mapping[str, tuple[str, str]] = {
    "confirmed": ("█", "green"),
    "trying": ("▓", "yellow"),
    "failed": ("x", "red"),
    "rejected": ("x", "red"),
    "rolled_back": ("x", "red"),
    "timed_out": ("x", "red"),
    "assigned": ("░", "dim"),
    "absent": ("·", "dim"),
}
"""How each outcome looks in a bar, with and without colours."""
_BAR = 32


def watch(
    rollout: Annotated[
        str | None, typer.Argument(metavar="[ROLLOUT]", help="One of them; otherwise the fleet.")
    ] = None,
    server: Server = LOCAL,
    key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """Show a rollout until it is over, or the whole fleet until Ctrl-C.

    A live table in a terminal; in a log, a line for each change. It ends with 0 if the rollout is
    finished, and with 3 if it was halted, reverted, cancelled or revoked. Ctrl-C ends the watching
    alone.
    """
    with opened(server, key_file) as client:
        follow(client, rollout, json=json)


def follow(
    client: FleetClient, rollout: str | None, *, json: bool = False, every_s: float = EVERY_S
) -> None:
    """Show a rollout until it is over, or the fleet until Ctrl-C.

    Raises:
        LimitError: the rollout is over and was not finished.
        NetworkError: the server is away for long.
    """
    path = ("status",) if rollout is None else ("rollouts", rollout)
    ending = "the watching ends; nothing was changed"
    if rollout is not None:
        ending = f"the rollout goes on; look again: sdk fleet watch {rollout}"
    with until_interrupted(ending), _screen(json=json) as show:
        for found in looks(lambda: client.ask("GET", *path), every_s):
            show(found)
            if rollout is not None and found["state"] in OVER:
                break
    if found["state"] != "finished":
        raise LimitError(
            f"The rollout {rollout} is {found['state']}: {plain(found['reason'])}.",
            cause="Its own rules stopped it, or an operator did.",
            remedy=f"Look at why: sdk fleet rollouts show {rollout}",
        )


def looks(ask: Callable[[], T], every_s: float) -> Iterator[T]:
    """Ask again and again; a server that has answered before may be away for a while.

    Raises:
        NetworkError: it never answered, or is away for `PATIENCE_S`.
    """
    answered_s: float | None = None
    is_away = False
    while True:
        try:
            found = ask()
        except NetworkError as error:
            if answered_s is None or time.monotonic() - answered_s > PATIENCE_S:
                raise
            if not is_away:
                err_console().print(f"{error.what} Waiting for it.", markup=False, soft_wrap=True)
            is_away = True
        else:
            answered_s, is_away = time.monotonic(), False
            yield found
        time.sleep(every_s)


@contextlib.contextmanager
def until_interrupted(told: str) -> Iterator[None]:
    """Ctrl-C ends what is inside, and this is said then."""
    try:
        yield
    except KeyboardInterrupt:
        err_console().print(told, markup=False, soft_wrap=True)
        # No typer.Exit: of that code it would be said that the next run resumes.
        raise SystemExit(_INTERRUPTED) from None


def counts(found: Mapping[str, int]) -> str:
    """Outcomes in words, in the order of a rollout.

    >>> counts({"assigned": 3, "timed_out": 1, "confirmed": 2})
    'confirmed 2, timed out 1, assigned 3'
    """
    told = [f"{name.replace('_', ' ')} {found[name]}" for name in _MARKS if found.get(name)]
    return ", ".join(told) or "nobody yet"


def whom(found: Mapping[str, Any]) -> str:
    """The devices that a rollout is for."""
    return str(found["group_name"] or found["device_id"] or ", ".join(found["groups"]) or "all")


def headline(found: Mapping[str, Any]) -> str:
    """Where a rollout stands, in a line."""
    told = f"{found['id']}  {found['model']} {found['release']} to {whom(found)}: {found['state']}"
    if "stages" in found:
        told += f", stage {found['stage'] + 1} of {found['stages']}"
    return told


def bar(found: Mapping[str, int], width: int = _BAR) -> list[tuple[str, int]]:
    """Outcomes as stretches of a bar.

    >>> bar({"assigned": 1, "confirmed": 2, "failed": 1}, 8)
    [('confirmed', 4), ('failed', 2), ('assigned', 2)]
    """
    total = sum(found.values())
    stretches, before, begin = [], 0, 0
    for name in _MARKS:
        before += found.get(name, 0)
        end = round(width * before / total) if total else 0
        if end > begin:
            stretches.append((name, end - begin))
        begin = end
    return stretches


def picture(found: dict[str, Any]) -> RenderableType:
    """A rollout, or the fleet, as a terminal shows it."""
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = []
    if "standings" in found:
        parts.append(Text(_fleet(found)))
    for one in found.get("rollouts", [found]):
        parts += [Text(plain(headline(one)), style="bold"), _bars(one)]
        if one["judged"]:
            parts.append(gate_table(one["judged"]))
        if one["reason"]:
            parts.append(Text(plain(one["reason"]), style="dim"))
    return Group(*parts)


@contextlib.contextmanager
def _screen(*, json: bool) -> Iterator[Shows]:
    """What shows a state: a live picture in a terminal, lines for what changed elsewhere."""
    console = out_console()
    if json or not console.is_terminal:
        yield _lines(_json_line if json else _log_line)
        return
    from rich.live import Live

    with Live(console=console, auto_refresh=False) as live:
        yield lambda found: live.update(picture(found), refresh=True)


def _lines(show: Shows) -> Shows:
    last: list[Any] = []

    def on_look(found: dict[str, Any]) -> None:
        state = _state(found)
        if state not in last:
            last[:] = [state]
            show(found)
            sys.stdout.flush()

    return on_look


def _json_line(found: dict[str, Any]) -> None:
    sys.stdout.write(json_lines.dumps(found, separators=(",", ":")) + "\n")


def _log_line(found: dict[str, Any]) -> None:
    at = moment(time.time())
    if "standings" in found:
        say(f"{at} {_fleet(found)}")
    for one in found.get("rollouts", [found]):
        reason = f" ({one['reason']})" if one["reason"] else ""
        say(f"{at} {headline(one)}: {counts(one['progress'])}{reason}")
        for judged in one["judged"]:
            say(f"{at}   {judged['words']}")


def _state(found: dict[str, Any]) -> Any:
    """What counts as a change; how long a stage soaks on does not."""
    if "standings" in found:
        own = (found["standings"], found["silent"], found["fell_back"])
        return (own, [_state(one) for one in found["rollouts"]])
    names = ("id", "state", "stage", "progress", "by_hardware")
    verdicts = [(one["gate"], one["hardware"], one["verdict"]) for one in found["judged"]]
    return (*(found[name] for name in names), verdicts)


def _fleet(found: dict[str, Any]) -> str:
    told = [f"{count} {name}" for name, count in sorted(found["standings"].items())]
    told += [f"{found['silent']} silent", f"{found['fell_back']} fell back"]
    return f"devices: {', '.join(told)}"


def _bars(found: dict[str, Any]) -> RenderableType:
    from rich.table import Table

    rows = found["by_hardware"] if len(found["by_hardware"]) > 1 else {}
    rows = {**rows, **found["by_group"]}
    made = Table(box=None, show_header=False, pad_edge=False)
    for name, one in {"all": found["progress"], **rows}.items():
        made.add_row(plain(name), _drawn(one), counts(one))
    return made


def _drawn(found: dict[str, int]) -> Text:
    from rich.text import Text

    drawn = Text()
    for name, width in bar(found):
        mark, style = _MARKS[name]
        drawn.append(mark * width, style=style)
    return drawn
