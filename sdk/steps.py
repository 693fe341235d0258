"""Each step of a build: its key, its subprocess, its place in the cache.

The conductor says what to do; this module says what each step reads (that is its key), and turns
what it leaves into typed results.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import platform
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agent.bench import Budget, Contestant, Failure, Measurement, contest
from agent.codec import decode, encode
from agent.errors import CaptureError
from agent.files import sha256_of
from agent.manifest import File, Fingerprint
from agent.metrics import metric, paired_drop, samples_needed
from agent.variant import RECORD_NAME, VariantRecord, record_bytes
from profiles import Profile
from sdk import __version__, isolation
from sdk.cache import Cache, Entry, key_of
from sdk.events import Event, OnEvent
from sdk.lowering import read_program
from sdk.project import Project
from sdk.prove import Evaluation, Report, evidence, proves_numerics, runs_here
from sdk.select import Accuracy, Result
from sdk.usercode import Depfile, file_state, folder_state
from sdk.workers import Limits, StepFailure, Workers
from targets import toolchain, toolchain_names
from targets.interface import Availability, Lowered, Program, Recipe

BUDGET = Budget()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Captured:
    """What the capture step left, typed."""

    program: Program
    folder: Path
    samples: dict[str, int]
    metric: dict[str, Any] | None
    original_scores: dict[str, list[float]] | None
    has_evaluation: bool
    digest: str
    """Of the program and all sample files: what later steps read."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lowering:
    """A lowered recipe, or why it failed."""

    folder: Path | None
    record: VariantRecord | None
    lowered: Lowered | None
    failure: str | None
    log: Path | None
    digest: str = ""

    @property
    def size_bytes(self) -> int:
        """All files together."""
        return self.record.size_bytes if self.record else 0


class Steps:
    """The steps of one build of one project."""

    def __init__(
        self,
        project: Project,
        cache: Cache,
        workers: Workers,
        device: Fingerprint,
        *,
        fresh: bool,
        on_event: OnEvent,
    ) -> None:
        self.project = project
        self._cache = cache
        self._workers = workers
        self._device = device
        self._fresh = fresh
        self._on_event = on_event

    def stop(self) -> None:
        """Kill what runs."""
        self._workers.stop()

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

    def capture(self) -> Captured:
        """Capture the project's model and data, or find that nothing they read has changed.

        Raises:
            CaptureError: the model or the data cannot be used.
        """
        project = self.project
        asked = key_of(
            root=str(project.root),
            model=project.model,
            inputs=project.inputs,
            dims=project.dims,
            data=project.data,
            code=own_code_digest(),
            python=platform.python_version(),
            torch=_version("torch"),
            onnxruntime=_version("onnxruntime"),
        )
        entry = None if self._fresh else self._recall(asked)
        if entry is not None:
            self._say("cached", "capture: nothing it read has changed")
        else:
            entry = self._run_capture(asked)
        return _captured(entry)

    def _recall(self, asked: str) -> Entry | None:
        for note in self._cache.recall_reads(asked):
            if self._unchanged(decode(Depfile, note["reads"])):
                found = self._cache.find(note["key"])
                if found is not None:
                    return found
        return None

    def _unchanged(self, reads: Depfile) -> bool:
        return all(
            self._file_state(Path(path)) == state for path, state in reads.files.items()
        ) and all(folder_state(Path(path)) == state for path, state in reads.folders.items())

    def _file_state(self, path: Path) -> str:
        """The same as `file_state`, from the memo of digests."""
        recorded = file_state.__globals__["HASHED_UP_TO_BYTES"]
        try:
            if path.stat().st_size <= recorded:
                return self._cache.sha256_of(path)
        except OSError:
            return ""
        return file_state(path)

    def _run_capture(self, asked: str) -> Entry:
        outcome, folder, seconds = self._run(
            "capture", {"project": str(self.project.root)}, Limits(), "capturing the model"
        )
        if isinstance(outcome, StepFailure):
            raise outcome.error or CaptureError(
                f"Capturing {self.project.model.name} {outcome.message}.",
                cause="The model or the data crashed the interpreter, or ran out of memory.",
                remedy=f"The log has the whole story: {_keep_log(outcome.log)}",
            )
        reads = outcome.pop("depfile")
        files = {path.name: sha256_of(path) for path in (folder / "out").iterdir()}
        files.pop(outcome["program"]["path"], None)  # its zip holds times; the digest stands for it
        outcome["digest"] = key_of(program=outcome["program"]["digest"], files=files)
        key = key_of(asked=asked, reads=reads)
        if self._fresh:
            self._cache.discard(key)
        entry = self._cache.commit(key, folder, outcome)
        self._cache.remember_reads(asked, key, reads)
        self._say("done", "capture", seconds)
        return entry

    def lower(self, recipe: Recipe, captured: Captured) -> Lowering:
        """Lower the program with a recipe; a vendor's failure is a result."""
        calibrates = bool((recipe.quantisation or {}).get("samples"))
        key = key_of(
            step="lower",
            program=captured.digest if calibrates else captured.program.digest,
            signature=captured.program.signature,
            recipe=recipe,
            versions=self.availability[recipe.toolchain].versions,
            code=own_code_digest(),
            python=platform.python_version(),
        )
        entry = None if self._fresh else self._cache.find(key)
        if entry is not None:
            self._say("cached", f"{recipe.name}: nothing it read has changed")
            return self._lowering(entry)
        settings = self.project.settings_for(recipe.toolchain)
        limits = Limits(
            time_limit_s=settings.time_limit_s,
            memory_limit_mib=settings.memory_limit_mib,
            python=settings.python or sys.executable,
        )
        factory = self.project.model.factory
        payload = {
            "program": encode(captured.program) | {"path": captured.program.path.name},
            "program_folder": str(captured.folder),
            "recipe": encode(recipe),
            "project": str(self.project.root),
            "factory": factory.function if factory else "",
        }
        with self._workers.busy():
            outcome, folder, seconds = self._run(
                "lower", payload, limits, f"lowering {recipe.name}"
            )
        if isinstance(outcome, StepFailure):
            message = (
                f"{outcome.message} [{outcome.kind}]"
                if outcome.kind != "error"
                else outcome.message
            )
            self._say("failed", f"{recipe.name}: {message}", seconds)
            return Lowering(
                folder=None, record=None, lowered=None, failure=message, log=_keep_log(outcome.log)
            )
        lowered = decode(Lowered, outcome)
        record = self._record(recipe, lowered, captured, folder / "out")
        (folder / "out" / RECORD_NAME).write_bytes(record_bytes(record))
        if self._fresh:
            self._cache.discard(key)
        entry = self._cache.commit(key, folder, outcome)
        self._say("done", recipe.name, seconds)
        return self._lowering(entry)

    def _record(
        self, recipe: Recipe, lowered: Lowered, captured: Captured, out: Path
    ) -> VariantRecord:
        files = tuple(
            File(path=name, sha256=sha256_of(out / name), length=(out / name).stat().st_size)
            for name in lowered.files
        )
        return VariantRecord(
            version=1,
            id=f"{self.project.model.name}/any/{recipe.name}",
            model=self.project.model.name,
            target="any",
            profile="any",
            runtime=lowered.runtime,
            options=dict(recipe.options),
            signature=captured.program.signature,
            files=files,
            provenance={
                "recipe": encode(recipe),
                "program": captured.program.digest,
                "tools": self.availability[recipe.toolchain].versions,
                "notes": list(lowered.notes),
            },
        )

    def _lowering(self, entry: Entry) -> Lowering:
        folder = entry.folder / "out"
        record = decode(VariantRecord, json.loads((folder / RECORD_NAME).read_bytes()))
        return Lowering(
            folder=folder,
            record=record,
            lowered=decode(Lowered, entry.result),
            failure=None,
            log=entry.folder / "log.txt",
            digest=key_of(files=record.files, options=record.options),
        )

    def evaluate(
        self, result: Result, lowering: Lowering, captured: Captured, drop_limit: float | None
    ) -> Result:
        """Run a built candidate beside the original's recorded answers, where this machine can."""
        profile, recipe = result.candidate.profile, result.candidate.recipe
        if not runs_here(recipe.backend, profile, self._device):
            return result
        key = key_of(
            step="evaluate",
            variant=lowering.digest,
            captured=captured.digest,
            metric=captured.metric,
            score=self._score_digest(),
            identity=self._device.identity,
            software=self._device.software,
            code=own_code_digest(),
        )
        entry = None if self._fresh else self._cache.find(key)
        if entry is None:
            settings = self.project.settings_for(recipe.toolchain)
            payload = {
                "variant": str(lowering.folder),
                "captured": str(captured.folder),
                "project": str(self.project.root),
                "metric": captured.metric,
            }
            limits = Limits(
                time_limit_s=settings.time_limit_s, memory_limit_mib=settings.memory_limit_mib
            )
            with self._workers.busy():
                outcome, folder, _ = self._run(
                    "evaluate", payload, limits, f"checking {recipe.name}"
                )
            if isinstance(outcome, StepFailure):
                return dataclasses.replace(
                    result, status="failed", step="evaluate", reason=outcome.message
                )
            if self._fresh:
                self._cache.discard(key)
            entry = self._cache.commit(key, folder, outcome)
        return self._judged(result, decode(Evaluation, entry.result), captured, drop_limit)

    def _judged(
        self, result: Result, found: Evaluation, captured: Captured, drop_limit: float | None
    ) -> Result:
        profile = result.candidate.profile
        numerics, speed = evidence(profile, self._device)
        proves = proves_numerics(profile, self._device, numerics)
        report = Report(
            evaluation=found,
            measurement=None,
            numerics_evidence=numerics,
            speed_evidence=speed,
        )
        accuracy = None
        if captured.metric is not None and captured.original_scores and found.scores:
            accuracy = _accuracy(captured, found, report, drop_limit, proves=proves)
        return dataclasses.replace(
            result,
            report=report,
            accuracy=accuracy,
            placement=found.placement or result.placement,
        )

    def measure(
        self,
        profile: Profile,
        results: Sequence[Result],
        built: Mapping[str, Lowering],
        captured: Captured,
    ) -> list[Result]:
        """Speed and memory of all built candidates, in one run with nothing beside it.

        Only a unit that the profile matches is measured: another machine's speed says nothing.
        """
        if evidence(profile, self._device)[1] != "device":
            return list(results)
        contestants = {
            result.candidate.recipe.name: built[result.candidate.recipe.digest]
            for result in results
            if result.status == "built" and result.report is not None
        }
        if not contestants:
            return list(results)
        found = self._contest(contestants, captured)
        return [_with_measurement(r, found.get(r.candidate.recipe.name)) for r in results]

    def _contest(
        self, contestants: Mapping[str, Lowering], captured: Captured
    ) -> dict[str, Measurement | Failure]:
        key = key_of(
            step="contest",
            variants={name: lowering.digest for name, lowering in contestants.items()},
            inputs=sha256_of(captured.folder / "bench.safetensors"),
            device=self._device,
            budget=BUDGET,
            code=own_code_digest(),
        )
        entry = None if self._fresh else self._cache.find(key)
        if entry is None:
            folder = self._cache.work_folder()
            self._say("start", f"measuring {len(contestants)} variants, in turn")
            started = time.monotonic()
            with self._workers.quiet():
                found = contest(
                    [
                        Contestant(name=name, folder=_folder(lowering))
                        for name, lowering in contestants.items()
                    ],
                    inputs=captured.folder / "bench.safetensors",
                    budget=BUDGET,
                    log_folder=folder,
                    time_limit_s=600.0,
                )
            if self._fresh:
                self._cache.discard(key)
            record = {
                name: {"failed": isinstance(item, Failure), "found": encode(item)}
                for name, item in found.items()
            }
            entry = self._cache.commit(key, folder, record)
            self._say("done", "measuring", time.monotonic() - started)
        else:
            self._say("cached", "measuring: the same variants on the same machine")
        return {
            name: decode(Failure, item["found"])
            if item["failed"]
            else decode(Measurement, item["found"])
            for name, item in entry.result.items()
        }

    def _available(self, name: str) -> Availability:
        python = self.project.settings_for(name).python
        if python is None:
            return toolchain(name).available()
        outcome, folder, _ = self._run(
            "available",
            {"toolchain": name},
            Limits(python=python, time_limit_s=60),
            f"asking {python}",
        )
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(outcome, StepFailure):
            return Availability(
                ok=False,
                versions={},
                missing=("slipway-sdk",),
                remedy=f"{python} -m pip install 'slipway-sdk[{toolchain(name).EXTRA}]'",
            )
        return decode(Availability, outcome)

    def _score_digest(self) -> str:
        """The user's score function is code that evaluation reads."""
        data = self.project.data
        if data is None or data.score is None:
            return ""
        return self._cache.sha256_of(self.project.root / data.score.file)

    def _run(
        self, step: str, payload: dict[str, Any], limits: Limits, message: str
    ) -> tuple[dict[str, Any] | StepFailure, Path, float]:
        self._say("start", message)
        folder = self._cache.work_folder()
        started = time.monotonic()
        outcome = self._workers.run(step, payload, folder, limits)
        for name in ("request.json", "result.json"):
            (folder / name).unlink(missing_ok=True)
        return outcome, folder, time.monotonic() - started

    def _say(self, kind: Any, message: str, seconds: float | None = None) -> None:
        self._on_event(Event(kind=kind, message=message, seconds=seconds))


@functools.cache
def own_code_digest() -> str:
    """The digest of our own code: a result made by other code is another result."""
    root = isolation.ROOT
    files = sorted(
        path
        for package in ("agent", "profiles", "sdk", "targets")
        for path in (root / package).rglob("*.py")
        if path.parts[-2] not in ("cli", "report", "fleet")
    )
    return key_of(files={str(path.relative_to(root)): sha256_of(path) for path in files})


def _captured(entry: Entry) -> Captured:
    result = entry.result
    folder = entry.folder / "out"
    return Captured(
        program=read_program(result["program"], folder),
        folder=folder,
        samples=result["samples"],
        metric=result["metric"],
        original_scores=result["original_scores"],
        has_evaluation=result["evaluation"],
        digest=result["digest"],
    )


def _accuracy(
    captured: Captured,
    found: Evaluation,
    report: Report,
    drop_limit: float | None,
    *,
    proves: bool,
) -> Accuracy:
    assert captured.metric is not None
    assert captured.original_scores is not None
    assert found.scores is not None
    original = captured.original_scores
    by_name = not captured.metric["by_function"]
    rules: Any = {
        "higher_is_better": captured.metric["higher_is_better"],
        "bounds": metric(captured.metric["name"]).bounds if by_name else None,
    }
    drops = {
        split: paired_drop(original[split], scores, **rules)
        for split, scores in found.scores.items()
        if scores
    }
    final, needed = drops.get("final"), None
    if final is not None and drop_limit is not None and final.high > drop_limit:
        needed = samples_needed(original["final"], found.scores["final"], limit=drop_limit, **rules)
    return Accuracy(
        metric=captured.metric["name"],
        final=final,
        selection=drops.get("selection"),
        evidence=report.numerics_evidence,
        proves=proves,
        samples_needed=needed,
    )


def _with_measurement(result: Result, found: Measurement | Failure | None) -> Result:
    if found is None or result.report is None:
        return result
    if isinstance(found, Failure):
        return dataclasses.replace(
            result, status="failed", step="measure", reason=f"{found.kind}: {found.message}"
        )
    report = dataclasses.replace(result.report, measurement=found)
    return dataclasses.replace(result, report=report)


def _folder(lowering: Lowering) -> Path:
    assert lowering.folder is not None
    return lowering.folder


def _keep_log(log: Path) -> Path:
    """The log stays in the work folder until the next build sweeps it."""
    return log


def _version(distribution: str) -> str:
    import importlib.metadata

    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""
