"""One step in one subprocess, with a limit on time and memory, and a log.

A crash, a hang and a hunger for memory are typed results of the step, not of the build. A pool of
these runs side by side; measuring runs alone: lowering holds a machine-wide lock shared, measuring
holds it whole, so no two builds of this machine spoil each other's figures.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from agent.errors import SlipwayError, StorageError, UsageError, from_record
from agent.files import storage_errors
from agent.memory_group import MemoryGroup, memory_group
from agent.processes import tree_memory

_POLL_S = 0.05
FailureKind = Literal["error", "crashed", "hung", "out_of_memory"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """What one step may use."""

    time_limit_s: float = 1800.0
    memory_limit_mib: int | None = None
    python: str = sys.executable

    def under(self, python: str) -> Limits:
        """The same limits under another interpreter."""
        return dataclasses.replace(self, python=python)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepFailure:
    """Why a step left no result. The candidate failed; the build goes on."""

    kind: FailureKind
    message: str
    log: Path
    error: SlipwayError | None = None
    """The typed error, where the step itself could say what is wrong."""

    @property
    def summary(self) -> str:
        """One line for a table."""
        return self.message if self.kind == "error" else f"{self.message} [{self.kind}]"


class StepBugError(RuntimeError):
    """A step failed in a way that no vendor or user can be blamed for; carries its traceback."""

    def __init__(self, step: str, trace: str) -> None:
        super().__init__(f"the step {step} failed: {trace.strip().splitlines()[-1]}\n{trace}")


class Workers:
    """Runs steps; knows all its processes, so that Ctrl-C leaves none behind."""

    def __init__(self, lock_folder: Path) -> None:
        self._running: set[subprocess.Popen[bytes]] = set()
        self._guard = threading.Lock()
        self._stopped = False
        self._lock_file = lock_folder / "machine.lock"

    def run(
        self, step: str, payload: dict[str, Any], folder: Path, limits: Limits
    ) -> dict[str, Any] | StepFailure:
        """Run one step in `folder` (which gets `out/`, `log.txt` and more).

        Raises:
            UsageError: the configured interpreter cannot be started.
            StorageError: the disk is full.
        """
        log = folder / "log.txt"
        with storage_errors(folder):
            (folder / "out").mkdir(exist_ok=True)
            (folder / "request.json").write_text(
                json.dumps({"step": step, "parent": os.getpid(), "payload": payload})
            )
        command = [limits.python, "-P", "-m", "sdk.step", str(folder)]
        limit = limits.memory_limit_mib
        with (
            log.open("ab") as stream,
            memory_group(limit and limit << 20) as group,
            self._spawned(command, folder, stream) as process,
        ):
            group.add(process.pid)
            end = _watch(process, limits, group)
            if group.has_killed():
                end = "out_of_memory"
        return self._outcome(step, folder, process.returncode, end, log)

    def stop(self) -> None:
        """Kill everything that runs; no further step starts."""
        with self._guard:
            self._stopped = True
            running = list(self._running)
        for process in running:
            _kill(process)

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        """While inside, this machine's other builds may work too, but not measure."""
        with self._locked(fcntl.LOCK_SH):
            yield

    @contextlib.contextmanager
    def quiet(self) -> Iterator[None]:
        """While inside, no build of this machine works or measures but this."""
        with self._locked(fcntl.LOCK_EX):
            yield

    @contextlib.contextmanager
    def _locked(self, kind: int) -> Iterator[None]:
        with storage_errors(self._lock_file):
            descriptor = os.open(self._lock_file, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, kind)
            yield
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def _spawned(
        self, command: list[str], folder: Path, stream: Any
    ) -> Iterator[subprocess.Popen[bytes]]:
        with self._guard:
            if self._stopped:
                raise KeyboardInterrupt
            try:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=stream,
                    stderr=subprocess.STDOUT,
                    cwd=folder,
                    start_new_session=True,
                    env={**os.environ, "PYTHONUNBUFFERED": "1"},
                )
            except OSError as error:
                raise UsageError(
                    f"The interpreter {command[0]} cannot be started: {error.strerror}.",
                    cause="[toolchain.NAME] python names a program that is not there.",
                    remedy="Correct the path in sdk.toml.",
                ) from error
            self._running.add(process)
        try:
            yield process
        finally:
            _kill(process)
            with self._guard:
                self._running.discard(process)

    def _outcome(
        self, step: str, folder: Path, code: int | None, end: FailureKind | None, log: Path
    ) -> dict[str, Any] | StepFailure:
        if self._stopped:
            raise KeyboardInterrupt
        if end == "hung":
            return StepFailure(kind="hung", message="ran past its time limit", log=log)
        if end == "out_of_memory":
            return StepFailure(
                kind="out_of_memory", message="used more memory than allowed", log=log
            )
        result = folder / "result.json"
        if not result.is_file():
            if shutil.disk_usage(folder).free < _FULL_DISK_BYTES:
                raise StorageError(
                    f"No space left in {folder} while the step {step} ran.",
                    cause="The disk or the quota is full.",
                    remedy="Free some space and run the same command again: it resumes.",
                )
            return StepFailure(kind="crashed", message=_death(code, log), log=log)
        answer = json.loads(result.read_bytes())
        if "bug" in answer:
            raise StepBugError(step, answer["bug"])
        if "error" in answer:
            error = from_record(answer["error"])
            if isinstance(error, StorageError):
                raise error
            return StepFailure(kind="error", message=error.what, log=log, error=error)
        found: dict[str, Any] = answer["result"]
        return found


_FULL_DISK_BYTES = 1 << 20


def _watch(
    process: subprocess.Popen[bytes], limits: Limits, group: MemoryGroup
) -> FailureKind | None:
    """Wait for the end; kill at a limit. Address-space limits would break arena allocators.

    The kernel may end only a grandchild, whose parent would then wait for it without hope.
    """
    deadline = time.monotonic() + limits.time_limit_s
    pause = 0.005
    while process.poll() is None:
        if time.monotonic() > deadline:
            _kill(process)
            return "hung"
        if limits.memory_limit_mib and (
            tree_memory(process.pid) > limits.memory_limit_mib << 20 or group.has_killed()
        ):
            _kill(process)
            return "out_of_memory"
        time.sleep(pause)
        pause = min(pause * 1.5, _POLL_S)
    return None


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End the step's whole process group at once; its folder is thrown away anyway."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _death(code: int | None, log: Path) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        hint = " (the kernel kills so when memory is out)" if name == "SIGKILL" else ""
        return f"died of {name}{hint}"
    lines = log.read_text(errors="replace").strip().splitlines()
    return f"ended with code {code}: {lines[-1][:300] if lines else 'no output'}"
