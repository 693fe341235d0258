"""`sdk-agent exec MODEL -- COMMAND`: count starts, and fall back where nobody else can.

An application that keeps failing at its start may do so before the agent has a say, or while the
agent itself cannot start. So this module needs nothing but the standard library: it counts the
starts of a trial in a file, and after the third it points `current` back at the slot that worked.

    models/<name>/trial   {"slot": "B", "old": "A", "starts": 2, "most": 3}, there while on trial

The agent writes the file when a trial begins and removes it when the trial is over.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path

TRIAL, CURRENT = "trial", "current"


def count_start(model: Path) -> str | None:
    """Count one start of a model's application; what was done about it, in words, if anything was.

    Args:
        model: its folder, `models/<name>`.
    """
    path = model / TRIAL
    try:
        trial = json.loads(path.read_bytes())
        slot, old = str(trial["slot"]), trial["old"]
        starts, most = int(trial["starts"]) + 1, int(trial["most"])
    except (OSError, ValueError, KeyError, TypeError):
        return None  # no trial, or a file that says nothing: what runs goes on running
    _write(path, {**trial, "starts": starts})
    if starts <= most or old not in ("A", "B") or not (model / old / "manifest.json").is_file():
        return None
    with contextlib.suppress(OSError):
        if (model / CURRENT).readlink().as_posix() != slot:
            return None
    _point(model / CURRENT, str(old))
    return f"{most} starts and no good word: back to slot {old}"


def starts_of(model: Path) -> int:
    """How often the application was started in this trial."""
    try:
        return int(json.loads((model / TRIAL).read_bytes())["starts"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def main(state: Path, model: str, command: list[str]) -> None:
    """Count, then become the command; `SLIPWAY_MODEL` in its environment is what runs."""
    folder = state / "models" / model
    done = count_start(folder)
    if done:
        print(f"sdk-agent: {model}: {done}", file=sys.stderr)
    environment = {**os.environ, "SLIPWAY_MODEL": str(folder / CURRENT)}
    os.execvpe(command[0], command, environment)


def _write(path: Path, value: object) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        os.write(descriptor, json.dumps(value).encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    beside.replace(path)
    _sync(path.parent)


def _point(link: Path, target: str) -> None:
    beside = link.with_name(f".{link.name}.{os.getpid()}.shim")
    with contextlib.suppress(FileNotFoundError):
        beside.unlink()
    beside.symlink_to(target)
    beside.replace(link)
    _sync(link.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
