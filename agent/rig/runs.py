"""What runs on a rig for the client that has it: each in a process of its own, with a typed end.

A run that is over is ended with all that it started. A session stays between its questions, one at
a time, until it is shut, breaks, or its client goes.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from agent.boot import uptime_s
from agent.bootstrap import own_command
from agent.errors import UsageError, VerificationError
from agent.files import remove_tree
from agent.processes import Child, ChildError
from agent.rig.job import own_python
from agent.rig.machine import MachineLock
from agent.rig.quiet import wait_for_quiet
from agent.rig.store import Store

Tell = Callable[[Mapping[str, Any]], None]
Outcome = Literal["ok", "crashed", "timeout", "hang", "out_of_memory", "error"]
"""`timeout`: it was ended in time. `hang`: not even the kernel can end it."""
INPUTS, OUTPUTS = "inputs.safetensors", "outputs.safetensors"
_STEP_S = 0.2


class Runs:
    """The runs of one client."""

    def __init__(self, home: Path, store: Store, check: Callable[[int], None]) -> None:
        """Nothing runs yet.

        Args:
            home: the rig's folder.
            store: where what was pushed lies.
            check: raises once the client of a token has lost the rig.
        """
        self._home, self._store, self._check = home, store, check
        self._over = threading.Event()
        self._beginning = threading.Lock()
        self._child: Child | None = None
        self._session: tuple[Child, Path] | None = None
        self._left: list[Path] = []

    def carry_out(
        self,
        tell: Tell,
        token: int,
        kind: str,
        time_limit_s: float,
        memory_limit_mib: int | None = None,
        **asked: Any,
    ) -> dict[str, Any]:
        """One run: {outcome, run, found, notes, began_s, ended_s}, or {outcome, run, message}.

        `began_s` and `ended_s` are the machine's uptime: two runs on it can be held against each
        other, whatever rigs they were on.

        Raises:
            SlipwayError: it is not begun: the lease is over, or nothing there is of that name.
        """
        self._check(token)
        if kind == "shut":
            self.shut()
            return {"outcome": "ok", "found": {}, "notes": [], "run": ""}
        folder = self._store.run_folder()
        self._left.append(folder)
        arguments = self._arguments(kind, folder, memory_limit_mib, asked)
        lock = MachineLock(lambda line: tell({"event": "waiting", "message": line}))
        with contextlib.ExitStack() as ending:
            notes = []
            if kind == "contest" or asked.get("alone"):
                ending.callback(lock.release)
                lock.take(self._pause)
            if kind == "contest":
                restless = wait_for_quiet(lambda _: self._pause(3.0))
                notes = [restless] if restless else []
            child = self._begun(kind, folder, memory_limit_mib)
            ending.callback(self._forget)
            began_s = uptime_s()
            end = self._asked(child, folder, {"verb": kind, **arguments}, time_limit_s, tell)
            end |= {"notes": notes, "began_s": began_s, "ended_s": uptime_s()}
            if kind == "open" and end["outcome"] == "ok":
                self.shut()
                self._session = (child, folder)
            else:
                _end(child, end)
        self._check(token)
        return end

    def ask(
        self, tell: Tell, token: int, time_limit_s: float, *, reset: bool
    ) -> tuple[dict[str, Any], bytes]:
        """A question to the session, whose inputs lie in its folder: the run's end, and outputs.

        Raises:
            SlipwayError: the lease is over.
            UsageError: no session is open.
        """
        self._check(token)
        child, folder = self._opened()
        question = {
            "verb": "ask", "inputs": str(folder / INPUTS), "out": str(folder / OUTPUTS),
            "reset": reset,
        }  # fmt: skip
        end = self._asked(child, folder, question, time_limit_s, tell)
        content = b""
        if end["outcome"] == "ok":
            content = (folder / OUTPUTS).read_bytes()
        elif end["outcome"] != "error":  # that one goes on
            self._session = None
            _end(child, end)
        self._check(token)
        return end, content

    def inputs_file(self, token: int) -> Path:
        """Where the inputs of the next question go; raises as `ask` does."""
        self._check(token)
        return self._opened()[1] / INPUTS

    def shut(self) -> None:
        """End the session, if one is open."""
        session, self._session = self._session, None
        if session is not None:
            session[0].end()

    def end(self) -> None:
        """End whatever runs; what has not begun does not begin any more."""
        self._over.set()
        with self._beginning:
            child = self._child
        if child is not None:
            with contextlib.suppress(OSError):
                child.end()
        self.shut()

    def clear(self, *, remove: bool) -> None:
        """Forget the runs; with their folders, unless these are another client's by now."""
        self.shut()
        for folder in self._left if remove else ():
            remove_tree(folder)
        self._left.clear()

    def _begun(self, kind: str, folder: Path, memory_limit_mib: int | None) -> Child:
        """The process of a run; `end` knows of it, or it is not begun."""
        limit = None if kind == "contest" or memory_limit_mib is None else memory_limit_mib << 20
        with self._beginning:
            self._pause(0)
            self._child = Child(
                own_command("agent.rig.job", python=self._python(kind)),
                log=folder / "log.txt", folder=folder, memory_limit_bytes=limit,
            )  # fmt: skip
            return self._child

    def _asked(
        self,
        child: Child,
        folder: Path,
        question: Mapping[str, Any],
        time_limit_s: float,
        tell: Tell,
    ) -> dict[str, Any]:
        try:
            found = child.ask(question, time_limit_s=time_limit_s, on_event=tell)
        except ChildError as error:
            return {
                "outcome": "timeout" if error.kind == "hung" else error.kind,
                "message": str(error),
                "error": error.error,
                "run": folder.name,
            }
        return {"outcome": "ok", "found": found, "run": folder.name}

    def _opened(self) -> tuple[Child, Path]:
        if self._session is None:
            raise UsageError(
                "No session is open on this rig.",
                cause="It was shut, or its variant crashed.",
                remedy="Open it again.",
            )
        return self._session

    def _arguments(
        self, kind: str, folder: Path, memory_limit_mib: int | None, asked: Mapping[str, Any]
    ) -> dict[str, Any]:
        """What the job is asked, with the folders here that its names stand for."""
        if kind in ("answer", "open"):
            variant = {
                "variant": str(self._store.staged(asked["variant"])),
                "check_as": asked.get("check_as"),
            }
            if kind == "open":
                return variant
            return {
                **variant,
                "questions": str(self._one_file(asked["questions"])),
                "out": str(folder / "answers.safetensors"),
            }
        if kind in ("engine", "prepare", "operators"):
            variant = {"variant": str(self._store.staged(asked["variant"]))}
            if kind == "engine":
                return variant
            if kind == "operators":
                return {**variant, "inputs": str(self._one_file(asked["inputs"]))}
            timing = asked.get("timing")
            return {
                **variant,
                "timing": None if timing is None else str(self._one_file(timing)),
                "out": str(folder),
            }
        if kind == "contest":
            return {
                "contestants": {
                    name: str(self._store.staged(staged))
                    for name, staged in asked["contestants"].items()
                },
                "inputs": str(self._one_file(asked["inputs"])),
                "logs": str(folder),
                "budget": asked["budget"],
                "race": asked.get("race"),
                "time_limit_s": asked["turn_limit_s"],
                "memory_limit_mib": memory_limit_mib,
            }
        if kind == "command":
            files = asked.get("files")
            return {
                "program": [str(word) for word in asked["program"]],
                "folder": str(folder),
                "files": None if files is None else str(self._store.staged(files)),
            }
        if kind in ("look", "probe"):
            return {}
        if kind == "install":
            wheels = str(self._store.staged(asked["wheels"]))
            return {"wheels": wheels, "home": str(self._home), "packages": asked["packages"]}
        raise UsageError(
            f"This rig knows no run of the kind {kind[:80]!r}.",
            cause="It was sent by a newer Slipway.",
            remedy="Update Slipway.",
        )

    def _python(self, kind: str) -> str:
        """The environment that was installed here has the runtimes, where there is one."""
        own = own_python(self._home)
        return str(own) if own.is_file() and kind != "install" else sys.executable

    def _one_file(self, staged: str) -> Path:
        return next(path for path in self._store.staged(staged).iterdir() if path.is_file())

    def _pause(self, seconds: float = _STEP_S) -> None:
        if self._over.wait(seconds):
            raise UsageError("The run was called off.")

    def _forget(self) -> None:
        """The run's child is ended, unless it became the session."""
        child, self._child = self._child, None
        if child is not None and (self._session is None or self._session[0] is not child):
            child.end()


def tail(home: Path, run: str, name: str, last_bytes: int | None) -> bytes:
    """A file that a run left, or the end of it.

    Raises:
        VerificationError: there is none.
    """
    folder = home / "runs" / run
    path = folder / name
    if not run.isdigit() or path.parent != folder or not path.is_file():
        raise VerificationError(
            f"The run {run[:20]!r} left no {name[:80]!r}.",
            cause="It was cleaned up: another client had the rig since.",
            remedy="Run it again.",
        )
    with path.open("rb") as stream:
        if last_bytes is not None:
            stream.seek(max(0, path.stat().st_size - last_bytes))
        return stream.read()


def end_strays(home: Path) -> list[str]:
    """End processes that work in the folder of a run; called by who has the rig alone.

    A runner that was killed takes its job along, and not what the job's programs had started.

    Returns:
        What was ended, for a person.
    """
    runs = str((home / "runs").resolve())
    found = []
    for entry in Path("/proc").glob("[0-9]*/cwd"):
        with contextlib.suppress(OSError):
            if str(entry.readlink()).startswith(f"{runs}/"):
                os.kill(int(entry.parent.name), signal.SIGKILL)
                found.append(entry.parent.name)
    return [f"{len(found)} processes of runs that were cut off"] if found else []


def _end(child: Child, end: dict[str, Any]) -> None:
    """End a run's process; what cannot be ended hangs, however the run ended."""
    if child.end():
        words = end.get("message", "It answered.")
        end |= {
            "outcome": "hang",
            "message": f"{words} Its process cannot be ended.",
            "error": None,
        }
