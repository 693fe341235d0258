"""The lowering step: a recipe becomes a variant's files, or a reason why not."""

from __future__ import annotations

import dataclasses
import json
import platform
import time
from pathlib import Path
from typing import Any

from agent.codec import decode, encode
from agent.files import link_or_copy, sha256_of, storage_errors
from agent.manifest import File
from agent.variant import RECORD_NAME, VariantRecord, record_bytes
from sdk.cache import Entry, key_of
from sdk.steps.capture import Captured
from sdk.steps.convert import converted
from sdk.steps.runner import Runner, own_code_digest
from sdk.steps.vendor import run_vendor
from sdk.workers import StepFailure
from targets.interface import Lowered, Recipe, Sensitivity

_LEAST_S = 1.0  # a step gets so long where its conversion took nearly all the time


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lowering:
    """A lowered recipe, or why it failed."""

    name: str
    """The recipe's."""
    folder: Path | None
    record: VariantRecord | None
    lowered: Lowered | None
    failure: str | None
    log: Path | None
    """What the vendor printed; gone with the next build, unless the output keeps it."""
    digest: str = ""
    hung: bool = False
    """It was ended at its time limit."""

    @property
    def size_bytes(self) -> int:
        """All files together."""
        return self.record.size_bytes if self.record else 0


def lower(
    runner: Runner, recipe: Recipe, captured: Captured, within_s: float | None = None
) -> Lowering:
    """Lower the program with a recipe; a vendor's failure is a result.

    Args:
        runner: runs the step.
        recipe: what to do.
        captured: what to do it to.
        within_s: the longest it may take, where that is less than the project file allows.
    """
    key = _key(runner, "lower", recipe, captured)
    entry = runner.find(key)
    if entry is not None:
        runner.say("cached", f"{recipe.name}: nothing it read has changed")
        return _lowering(recipe, entry)
    outcome, folder, seconds = _run(runner, "lower", recipe, captured, within_s)
    if isinstance(outcome, StepFailure):
        runner.say("failed", f"{recipe.name}: {outcome.summary}", seconds)
        return Lowering(
            name=recipe.name,
            folder=None,
            record=None,
            lowered=None,
            failure=outcome.summary,
            log=outcome.log,
            hung=outcome.kind == "hung",
        )
    record = _record(runner, recipe, decode(Lowered, outcome), captured, folder / "out")
    (folder / "out" / RECORD_NAME).write_bytes(record_bytes(record))
    entry = runner.commit(key, folder, outcome)
    runner.say("done", recipe.name, seconds)
    return _lowering(recipe, entry)


def tuned(runner: Runner, recipe: Recipe, parent: Lowering) -> Lowering:
    """The files of another recipe with the session options of this one."""
    assert parent.folder is not None
    assert parent.record is not None
    assert parent.lowered is not None
    key = key_of(step="tuned", parent=parent.digest, recipe=recipe, code=own_code_digest())
    entry = runner.find(key)
    if entry is None:
        folder = runner.cache.work_folder()
        out = folder / "out"
        with storage_errors(out):
            for file in parent.record.files:
                (out / file.path).parent.mkdir(parents=True, exist_ok=True)
                link_or_copy(parent.folder / file.path, out / file.path)
            record = dataclasses.replace(
                parent.record,
                id=f"{parent.record.model}/any/{recipe.name}",
                options=dict(recipe.options),
                provenance={**parent.record.provenance, "recipe": encode(recipe)},
            )
            (out / RECORD_NAME).write_bytes(record_bytes(record))
        entry = runner.commit(key, folder, encode(parent.lowered))
    return _lowering(recipe, entry)


def sensitivities(
    runner: Runner, recipe: Recipe, captured: Captured, within_s: float
) -> tuple[Sensitivity, ...]:
    """What quantising each group of operators costs; empty where the toolchain cannot tell."""
    key = _key(runner, "rank", recipe, captured)
    entry = runner.find(key)
    if entry is None:
        outcome, folder, seconds = _run(runner, "rank", recipe, captured, within_s)
        if isinstance(outcome, StepFailure):
            runner.say("failed", f"ranking the operators of {recipe.name}: {outcome.summary}")
            return ()
        entry = runner.commit(key, folder, outcome)
        runner.say("done", f"ranked the operators of {recipe.name}", seconds)
    return tuple(decode(Sensitivity, group) for group in entry.result["groups"])


def _key(runner: Runner, step: str, recipe: Recipe, captured: Captured) -> str:
    calibrates = bool((recipe.quantisation or {}).get("samples"))
    return key_of(
        step=step,
        program=captured.digest if calibrates else captured.program.digest,
        signature=captured.program.signature,
        recipe=recipe,
        versions=runner.availability[recipe.toolchain].versions,
        code=own_code_digest(),
        python=platform.python_version(),
    )


def _run(
    runner: Runner, step: str, recipe: Recipe, captured: Captured, within_s: float | None
) -> tuple[dict[str, Any] | StepFailure, Path, float]:
    """The step after its conversion, both within the time."""
    began = time.monotonic()
    program = converted(runner, recipe, captured, within_s)
    if isinstance(program, StepFailure):
        return program, program.log.parent, time.monotonic() - began
    if within_s is not None:
        within_s = max(_LEAST_S, within_s - (time.monotonic() - began))
    return run_vendor(runner, step, recipe, program, captured, within_s)


def _record(
    runner: Runner, recipe: Recipe, lowered: Lowered, captured: Captured, out: Path
) -> VariantRecord:
    files = tuple(
        File(path=name, sha256=sha256_of(out / name), length=(out / name).stat().st_size)
        for name in lowered.files
    )
    return VariantRecord(
        version=1,
        id=f"{runner.project.model.name}/any/{recipe.name}",
        model=runner.project.model.name,
        target="any",
        profile="any",
        runtime=lowered.runtime,
        options=dict(recipe.options),
        signature=captured.program.signature,
        files=files,
        provenance={
            "recipe": encode(recipe),
            "program": captured.program.digest,
            "tools": runner.availability[recipe.toolchain].versions,
            "notes": list(lowered.notes),
        },
    )


def _lowering(recipe: Recipe, entry: Entry) -> Lowering:
    folder = entry.folder / "out"
    record = decode(VariantRecord, json.loads((folder / RECORD_NAME).read_bytes()))
    return Lowering(
        name=recipe.name,
        folder=folder,
        record=record,
        lowered=decode(Lowered, entry.result),
        failure=None,
        log=entry.folder / "log.txt",
        digest=key_of(files=record.files, options=record.options),
    )
