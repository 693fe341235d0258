"""What all steps share: the cache, the workers, the device, and who is told."""

from __future__ import annotations

import functools
import platform
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from agent.codec import decode
from agent.files import sha256_of
from agent.manifest import Fingerprint
from sdk import __version__, isolation
from sdk.cache import Cache, Entry, key_of
from sdk.events import Event, OnEvent
from sdk.project import Project
from sdk.workers import Limits, StepFailure, Workers
from targets import toolchain, toolchain_names
from targets.interface import Availability

if TYPE_CHECKING:
    from sdk.rig_bench import RigBench

Made = TypeVar("Made")


class Runner:
    """The steps of one build of one project run through this."""

    def __init__(
        self,
        project: Project,
        cache: Cache,
        workers: Workers,
        device: Fingerprint,
        *,
        fresh: bool,
        on_event: OnEvent,
        rig: RigBench | None = None,
    ) -> None:
        """`device` is what runs variants: this machine, or the rig where there is one."""
        self.rig = rig
        self.project = project
        self.cache = cache
        self.workers = workers
        self.device = device
        self.fresh = fresh
        self.logs: dict[str, Path] = {}
        """Of what failed where it was to run: candidate -> what it printed there, the end of it."""
        self._on_event = on_event
        self._guard = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}
        self._made: dict[str, Any] = {}

    @functools.cached_property
    def availability(self) -> dict[str, Availability]:
        """What each toolchain says of itself, under the interpreter configured for it."""
        return {name: self._available(name) for name in toolchain_names()}

    @property
    def tool_versions(self) -> dict[str, str]:
        """Distribution -> version of everything that shapes a result."""
        found = {"python": platform.python_version(), "slipway-sdk": __version__}
        for available in self.availability.values():
            found.update(available.versions)
        return dict(sorted(found.items()))

    def find(self, key: str) -> Entry | None:
        """An earlier result, unless `--fresh` asks for none."""
        return None if self.fresh else self.cache.find(key)

    def commit(self, key: str, folder: Path, result: dict[str, Any]) -> Entry:
        """Keep a result, in place of an earlier one."""
        if self.fresh:
            self.cache.discard(key)
        return self.cache.commit(key, folder, result)

    def remember(self, key: str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The result of a computation that takes long enough to be worth a place in the cache."""
        entry = self.find(key) or self.commit(key, self.cache.work_folder(), compute())
        return entry.result

    def once(self, key: str, make: Callable[[], Made]) -> Made:
        """What a computation gives, also where several threads ask at a time, and if it failed."""
        with self._guard:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            if key not in self._made:
                self._made[key] = make()
            found: Made = self._made[key]
            return found

    def run(
        self, step: str, payload: dict[str, Any], limits: Limits, message: str
    ) -> tuple[dict[str, Any] | StepFailure, Path, float]:
        """Run a step in a new work folder: its outcome, the folder, and the seconds it took."""
        self.say("start", message)
        folder = self.cache.work_folder()
        started = time.monotonic()
        outcome = self.workers.run(step, payload, folder, limits)
        for name in ("request.json", "result.json"):
            (folder / name).unlink(missing_ok=True)
        return outcome, folder, time.monotonic() - started

    def limits_for(self, toolchain_name: str, python: str | None = None) -> Limits:
        """What the project file allows the subprocesses of one toolchain."""
        settings = self.project.settings_for(toolchain_name)
        limits = Limits(
            time_limit_s=settings.time_limit_s, memory_limit_mib=settings.memory_limit_mib
        )
        return limits.under(python) if python else limits

    def say(self, kind: Any, message: str, seconds: float | None = None) -> None:
        """Tell whoever watches the build."""
        self._on_event(Event(kind=kind, message=message, seconds=seconds))

    def _available(self, name: str) -> Availability:
        python = self.project.settings_for(name).python
        if python is None:
            return toolchain(name).available()
        limits = Limits(python=python, time_limit_s=60)
        outcome, folder, _ = self.run("available", {"toolchain": name}, limits, f"asking {python}")
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(outcome, StepFailure):
            return Availability(
                ok=False,
                versions={},
                missing=("slipway-sdk",),
                remedy=f"{python} -m pip install 'slipway-sdk[{toolchain(name).EXTRA}]'",
            )
        return decode(Availability, outcome)


@functools.cache
def own_code_digest(parts: tuple[str, ...] = ("agent", "profiles", "sdk", "targets")) -> str:
    """The digest of our own code: a result made by other code is another result.

    Args:
        parts: packages and files that a step runs, where it runs less than all.
    """
    root = isolation.ROOT
    found = [root / part for part in parts]
    files = sorted(
        path
        for part in found
        for path in ([part] if part.is_file() else part.rglob("*.py"))
        if path.parts[-2] not in ("cli", "report", "fleet")
    )
    return key_of(files={str(path.relative_to(root)): sha256_of(path) for path in files})
