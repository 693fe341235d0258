"""`sdk-agent exec MODEL -- COMMAND`: count starts, and fall back where nobody else can.

An application that keeps failing at its start may do so before the agent has a say, or while the
agent itself cannot start. So this module needs nothing but the standard library: it counts the
starts of a trial in a file, and after the third it points `current` back at the slot that worked.

    models/<name>/trial   {"slot": "B", "old": "A", "starts": 2, "most": 3}, there while on trial

The agent writes the file when a trial begins and removes it when the trial is over. Where that
file cannot be written, since the application runs as another user, nothing is counted.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TRIAL, CURRENT = "trial", "current"
SLOTS = ("A", "B")
VARIABLE = "SLIPWAY_MODEL"
"""In the environment of what `sdk-agent exec` becomes: the folder of the release that runs."""
_SYSTEM = Path("/var/lib/slipway")
_WAITS_S = 2.0


def default_state() -> Path:
    """`$SLIPWAY_STATE`, else the user's own state folder, else that of the whole device."""
    told = os.environ.get("SLIPWAY_STATE")
    if told:
        return Path(told).absolute()
    base = os.environ.get("XDG_STATE_HOME")
    own = (Path(base) if base else Path.home() / ".local" / "state") / "slipway"
    # Whoever is not root asks for the agent of the device, unless there is one of their own.
    return _SYSTEM if os.geteuid() == 0 or (_SYSTEM.is_dir() and not own.is_dir()) else own


def count_start(model: Path) -> str | None:
    """Count one start of a model's application; what was done about it, in words, if anything was.

    Args:
        model: its folder, `models/<name>`.
    """
    try:
        with counting(model):
            trial = trial_of(model)
            if trial is None or _current(model) != trial["slot"]:
                return None  # no trial, or the switch has not been made
            starts, most, old = trial["starts"] + 1, trial["most"], trial["old"]
            _write(model / TRIAL, {**trial, "starts": starts})
            if starts <= most or old is None or not (model / old / "manifest.json").is_file():
                return None
            _point(model / CURRENT, old)
    except OSError:
        return None
    return f"{most} starts and no good word: back to slot {old}"


def forget_starts(model: Path) -> None:
    """The application runs well so far: only starts without a good run count."""
    with contextlib.suppress(OSError), counting(model):
        trial = trial_of(model)
        if trial is not None and trial["starts"] and _current(model) == trial["slot"]:
            _write(model / TRIAL, {**trial, "starts": 0})


def is_on_trial(model: Path) -> bool:
    """Whether what runs is on trial, as far as the file tells."""
    trial = trial_of(model)
    return trial is not None and _current(model) == trial["slot"]


def starts_of(model: Path) -> int:
    """How often the application was started in this trial without a good run."""
    trial = trial_of(model)
    return 0 if trial is None else int(trial["starts"])


@contextlib.contextmanager
def counting(model: Path) -> Iterator[None]:
    """One at a time: two that start at once count twice, and none counts what the agent has ended.

    Nobody waits for long: an application has to start, whoever holds the lock and hangs.

    Raises:
        OSError: the folder is not there, or may not be read.
    """
    descriptor = os.open(model, os.O_RDONLY | os.O_CLOEXEC)
    try:
        until = time.monotonic() + _WAITS_S
        while not _taken(descriptor) and time.monotonic() < until:
            time.sleep(0.005)
        yield
    finally:
        os.close(descriptor)


def main(state: Path, model: str, command: list[str]) -> None:
    """Count, then become the command; `SLIPWAY_MODEL` in its environment is what runs.

    Args:
        state: the state folder.
        model: its name.
        command: the program and its arguments.
    """
    folder = (state / "models" / model).absolute()
    done = count_start(folder)
    if done:
        print(f"sdk-agent: {model}: {done}", file=sys.stderr)
    environment = {**os.environ, VARIABLE: str(folder / CURRENT)}
    try:
        os.execvpe(command[0], command, environment)  # noqa: S606  it is to become that
    except OSError as error:
        print(f"sdk-agent: {command[0]}: {error.strerror}", file=sys.stderr)
        sys.exit(127 if isinstance(error, FileNotFoundError) else 126)  # as a shell says it


def trial_of(model: Path) -> dict[str, Any] | None:
    """The trial's file; None where there is none, or it says nothing that makes sense."""
    try:
        told = json.loads((model / TRIAL).read_bytes())
        old = told["old"]
        if told["slot"] not in SLOTS or old not in (*SLOTS, None):
            return None
        return {
            **told,
            "starts": int(told["starts"]),
            "most": int(told["most"]),
        }
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EAGAIN, errno.EACCES)  # a file system without locks
    return True


def _current(model: Path) -> str | None:
    try:
        return (model / CURRENT).readlink().as_posix()
    except OSError:
        return None


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
