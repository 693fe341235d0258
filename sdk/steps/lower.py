"""The lowering step: a recipe becomes a variant's files, or a reason why not."""

from __future__ import annotations

import dataclasses
import json
import platform
from pathlib import Path

from agent.codec import decode, encode
from agent.files import sha256_of
from agent.manifest import File
from agent.variant import RECORD_NAME, VariantRecord, record_bytes
from sdk.cache import Entry, key_of
from sdk.steps.capture import Captured
from sdk.steps.runner import Runner, own_code_digest
from sdk.workers import StepFailure
from targets.interface import Lowered, Recipe


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

    @property
    def size_bytes(self) -> int:
        """All files together."""
        return self.record.size_bytes if self.record else 0


def lower(runner: Runner, recipe: Recipe, captured: Captured) -> Lowering:
    """Lower the program with a recipe; a vendor's failure is a result."""
    calibrates = bool((recipe.quantisation or {}).get("samples"))
    key = key_of(
        step="lower",
        program=captured.digest if calibrates else captured.program.digest,
        signature=captured.program.signature,
        recipe=recipe,
        versions=runner.availability[recipe.toolchain].versions,
        code=own_code_digest(),
        python=platform.python_version(),
    )
    entry = runner.find(key)
    if entry is not None:
        runner.say("cached", f"{recipe.name}: nothing it read has changed")
        return _lowering(recipe, entry)
    python = runner.project.settings_for(recipe.toolchain).python
    factory = runner.project.model.factory
    payload = {
        "program": encode(captured.program) | {"path": captured.program.path.name},
        "program_folder": str(captured.folder),
        "recipe": encode(recipe),
        "project": str(runner.project.root),
        "factory": factory.function if factory else "",
    }
    with runner.workers.busy():
        outcome, folder, seconds = runner.run(
            "lower", payload, runner.limits_for(recipe.toolchain, python), f"lowering {recipe.name}"
        )
    if isinstance(outcome, StepFailure):
        runner.say("failed", f"{recipe.name}: {outcome.summary}", seconds)
        return Lowering(
            name=recipe.name,
            folder=None,
            record=None,
            lowered=None,
            failure=outcome.summary,
            log=outcome.log,
        )
    record = _record(runner, recipe, decode(Lowered, outcome), captured, folder / "out")
    (folder / "out" / RECORD_NAME).write_bytes(record_bytes(record))
    entry = runner.commit(key, folder, outcome)
    runner.say("done", recipe.name, seconds)
    return _lowering(recipe, entry)


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
