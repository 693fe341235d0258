"""The file that counts the starts of a trial, as the agent writes it; `agent.shim` is its reader.

The shim has to work without the rest of the agent, so it writes the count by itself. Both do so
under one lock: a shim that has read the file may not write it again once the trial is over.
"""

from __future__ import annotations

import re
from pathlib import Path

from agent import disk
from agent.codec import pretty
from agent.files import storage_errors, write_atomic
from agent.shim import CURRENT, TRIAL, counting, trial_of
from agent.updates.states import MOST_STARTS

_LEFT_BEHIND = re.compile(r"\.(trial\.[0-9]+|current\.[0-9]+\.shim)")
"""What a shim that was killed while it wrote has left."""


def begin_count(model: Path, slot: str, old: str | None) -> None:
    """Count from here on: before the switch, since the application may start right after it."""
    trial = {"slot": slot, "old": old, "starts": 0, "most": MOST_STARTS}
    with storage_errors(model / TRIAL), counting(model):
        write_atomic(model / TRIAL, pretty(trial))


def keep_count(model: Path, slot: str, old: str | None) -> None:
    """Count for a trial that goes on; from the beginning only if the count was lost."""
    trial = trial_of(model)
    if trial is None or trial["slot"] != slot:
        begin_count(model, slot, old)


def end_count(model: Path, slot: str | None = None) -> bool:
    """The trial is over: durably, or a shim that starts before the agent would count on.

    Args:
        model: its folder.
        slot: what has to run at this moment.

    Returns:
        False: another slot runs, since the shim fell back on it; then nothing was done.
    """
    with storage_errors(model / TRIAL), counting(model):
        if slot is not None and not _runs(model, slot):
            return False
        found = [path for path in model.iterdir() if _LEFT_BEHIND.fullmatch(path.name)]
        found += [model / TRIAL] if (model / TRIAL).exists() else []
        for path in found:
            disk.unlink(path)
        if found:
            disk.sync_folder(model)
    return True


def _runs(model: Path, slot: str) -> bool:
    try:
        return (model / CURRENT).readlink().as_posix() == slot
    except FileNotFoundError:
        return False
