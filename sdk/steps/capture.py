"""The capture step: the model and the data, read anew only if something they read has changed."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import platform
from pathlib import Path
from typing import Any

from agent.codec import decode
from agent.errors import CaptureError
from agent.files import sha256_of
from sdk.cache import Entry, key_of
from sdk.lowering import read_program
from sdk.steps.runner import Runner, own_code_digest
from sdk.usercode import Depfile, file_state, folder_state
from sdk.workers import Limits, StepFailure
from targets.interface import Program


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


def capture(runner: Runner) -> Captured:
    """Capture the project's model and data, or find that nothing they read has changed.

    Raises:
        CaptureError: the model or the data cannot be used.
    """
    project = runner.project
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
    entry = None if runner.fresh else _recall(runner, asked)
    if entry is not None:
        runner.say("cached", "capture: nothing it read has changed")
    else:
        entry = _run(runner, asked)
    return _captured(entry)


def _recall(runner: Runner, asked: str) -> Entry | None:
    for note in runner.cache.recall_reads(asked):
        if _unchanged(runner, decode(Depfile, note["reads"])):
            found = runner.cache.find(note["key"])
            if found is not None:
                return found
    return None


def _unchanged(runner: Runner, reads: Depfile) -> bool:
    digest = runner.cache.sha256_of
    return all(
        file_state(Path(path), digest) == state for path, state in reads.files.items()
    ) and all(folder_state(Path(path)) == state for path, state in reads.folders.items())


def _run(runner: Runner, asked: str) -> Entry:
    payload = {"project": str(runner.project.root)}
    with runner.workers.busy():
        outcome, folder, seconds = runner.run("capture", payload, Limits(), "capturing the model")
    if isinstance(outcome, StepFailure):
        raise outcome.error or CaptureError(
            f"Capturing {runner.project.model.name} {outcome.message}.",
            cause="The model or the data crashed the interpreter, or ran out of memory.",
            remedy=f"The log has the whole story: {outcome.log}",
        )
    reads = outcome.pop("depfile")
    files = {path.name: sha256_of(path) for path in (folder / "out").iterdir()}
    files.pop(outcome["program"]["path"], None)  # its zip holds times; the digest stands for it
    outcome["digest"] = key_of(program=outcome["program"]["digest"], files=files)
    key = key_of(asked=asked, reads=reads)
    entry = runner.commit(key, folder, outcome)
    runner.cache.remember_reads(asked, key, reads)
    runner.say("done", "capture", seconds)
    return entry


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


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""
