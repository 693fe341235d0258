"""A build's events for a person: a line per finished thing, and what is being done now."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console

from sdk.events import Event, OnEvent


@contextlib.contextmanager
def shown(console: Console, warn: Callable[[str], None]) -> Iterator[OnEvent]:
    """Show events while inside: a live line in a terminal, plain lines in a log.

    Warnings are handed to `warn`, to be said after the result, where they are read.
    """
    started = time.monotonic()
    status = console.status("starting") if console.is_terminal else None

    def on_event(event: Event) -> None:
        if event.kind == "warning":
            warn(event.message)
            return
        elapsed = f"[{time.monotonic() - started:6.1f} s]"
        if event.kind in ("start", "step"):
            if status is not None:
                status.update(event.message)
            else:
                console.print(f"{elapsed} {event.message} ...", markup=False, soft_wrap=True)
            return
        took = f" ({event.seconds:.1f} s)" if event.seconds is not None else ""
        mark = {"failed": "failed: ", "cached": "cached: "}.get(event.kind, "")
        console.print(f"{elapsed} {mark}{event.message}{took}", markup=False, soft_wrap=True)

    with status or contextlib.nullcontext():
        yield on_event
