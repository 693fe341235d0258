"""A variant's answers to all samples, from a rig: sent once, run there, kept like every result."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from agent.calls import calls_of
from agent.errors import ToolchainError
from agent.tensors import Array
from agent.variant import VariantRecord, read_record
from hil.outcome import FAILED_AS
from sdk.cache import Entry, key_of
from sdk.prove import as_called
from sdk.recorded import write_questions
from sdk.samples import StoredSamples
from sdk.steps.capture import Captured
from sdk.steps.lower import Lowering
from sdk.steps.runner import Runner, own_code_digest
from sdk.workers import StepFailure
from targets.interface import Recipe


def on_rig(
    runner: Runner,
    recipe: Recipe,
    lowering: Lowering,
    check_as: str | None,
    captured: Captured,
    splits: Sequence[str],
) -> dict[str, Any] | StepFailure:
    """What the variant answers on the rig: {questions, answers: files, placement}.

    Raises:
        NetworkError: the rig is lost; what was answered so far is kept.
    """
    assert lowering.folder is not None
    questions = _questions(runner, read_record(lowering.folder), captured, splits)
    key = key_of(
        step="answers",
        variant=lowering.digest,
        check_as=check_as,
        questions=questions.key,
        identity=runner.device.identity,
        software=runner.device.software,
        code=own_code_digest(("agent",)),
    )
    entry = runner.find(key) or _answered(runner, recipe, lowering, check_as, questions, key)
    if isinstance(entry, StepFailure):
        return entry
    return {
        "questions": str(questions.folder / "questions.safetensors"),
        "answers": str(entry.folder / "answers.safetensors"),
        "placement": entry.result["placement"],
    }


def _answered(
    runner: Runner,
    recipe: Recipe,
    lowering: Lowering,
    check_as: str | None,
    questions: Entry,
    key: str,
) -> Entry | StepFailure:
    from hil.bench import RunFailedError  # with it comes SSH

    assert runner.rig is not None
    assert lowering.folder is not None
    limits = runner.limits_for(recipe.toolchain)
    folder = runner.cache.work_folder()
    runner.say("start", f"running {recipe.name} on {runner.rig.name}")
    started = time.monotonic()
    try:
        found = runner.rig.answers(
            lowering.folder, questions.folder / "questions.safetensors", check_as,
            limits.time_limit_s, limits.memory_limit_mib,
        )  # fmt: skip
    except ToolchainError as error:
        log = folder / "log.txt"
        if not isinstance(error, RunFailedError):
            return StepFailure(kind="error", message=error.what, log=log, error=error)
        log.write_text(error.as_log)
        runner.logs[recipe.name] = log
        return StepFailure(
            kind=FAILED_AS.get(error.outcome, "error"), message=error.what, log=log, error=error
        )
    (folder / "answers.safetensors").write_bytes(found.content)
    runner.say("done", f"{recipe.name} on {runner.rig.name}", time.monotonic() - started)
    return runner.commit(key, folder, {"placement": found.placement, "seconds": found.seconds})


def _questions(
    runner: Runner, record: VariantRecord, captured: Captured, splits: Sequence[str]
) -> Entry:
    """All inputs that its evaluation asks for, each once; alike for all that are called alike."""
    asked = tuple(split for split in splits if captured.metric is not None)
    key = key_of(
        step="questions",
        captured=captured.digest,
        calls=calls_of(record.options).options,
        splits=asked,
        code=own_code_digest(),
    )
    entry = runner.find(key)
    if entry is not None:
        return entry
    folder = runner.cache.work_folder()
    count = write_questions(folder / "questions.safetensors", _inputs(record, captured, asked))
    return runner.commit(key, folder, {"count": count})


def _inputs(
    record: VariantRecord, captured: Captured, splits: Sequence[str]
) -> Iterator[Mapping[str, Array]]:
    for sample in as_called(StoredSamples(captured.folder / "golden.safetensors"), record):
        yield sample.inputs
    for split in splits:
        for sample in StoredSamples(captured.folder / f"{split}.safetensors"):
            yield sample.inputs
