"""The file that counts the starts of a trial, as the agent writes it; `agent.shim` is its reader.

The shim has to work without the rest of the agent, so it writes the count by itself.
"""

from __future__ import annotations

from pathlib import Path

from agent import disk
from agent.codec import pretty
from agent.files import storage_errors, write_atomic
from agent.shim import TRIAL
from agent.updates.states import MOST_STARTS


def begin_count(model: Path, slot: str, old: str | None) -> None:
    """Count from here on: before the switch, since the application may start right after it."""
    trial = {"slot": slot, "old": old, "starts": 0, "most": MOST_STARTS}
    write_atomic(model / TRIAL, pretty(trial))


def end_count(model: Path) -> None:
    """The trial is over."""
    with storage_errors(model / TRIAL):
        disk.unlink(model / TRIAL)
