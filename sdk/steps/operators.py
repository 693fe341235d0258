"""The step after the contest: where the time of the chosen variant and of the baseline goes.

It explains and decides nothing, so its failure is a note on the candidate.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from agent.codec import decode
from agent.errors import ToolchainError
from agent.sessions import OperatorTime
from sdk.cache import Entry, key_of
from sdk.result import Result
from sdk.select import Selection, find_baseline
from sdk.steps.capture import Captured
from sdk.steps.lower import Lowering
from sdk.steps.runner import Runner, own_code_digest
from sdk.workers import StepFailure
from targets.interface import Recipe

TIME_LIMIT_S = 180.0
"""It only explains: a runtime that takes longer to be profiled is left alone."""


def operators(
    runner: Runner, selection: Selection, built: Mapping[str, Lowering], captured: Captured
) -> Selection:
    """The selection, with per-operator times where the device itself was measured."""
    wanted = {
        result.candidate.identifier
        for result in (selection.chosen, find_baseline(selection.results))
        if result is not None and result.speed is not None
    }
    return dataclasses.replace(
        selection,
        results=tuple(
            _profiled(runner, result, built[result.candidate.recipe.digest], captured)
            if result.candidate.identifier in wanted
            else result
            for result in selection.results
        ),
    )


def _profiled(runner: Runner, result: Result, lowering: Lowering, captured: Captured) -> Result:
    inputs = captured.folder / "bench.safetensors"
    key = key_of(
        step="operators",
        variant=lowering.digest,
        inputs=runner.cache.sha256_of(inputs),
        device=runner.device,
        code=own_code_digest(),
    )
    entry = runner.find(key)
    if entry is None:
        time_them = _here if runner.rig is None else _on_rig
        try:
            entry = time_them(runner, result.candidate.recipe, lowering, inputs, key)
        except ToolchainError as error:
            note = f"its operators could not be timed: {error.what}"
            return dataclasses.replace(result, notes=(*result.notes, note))
    found = decode(tuple[OperatorTime, ...] | None, entry.result["operators"])  # type: ignore[arg-type]
    return dataclasses.replace(result, operators=found)


def _here(runner: Runner, recipe: Recipe, lowering: Lowering, inputs: Path, key: str) -> Entry:
    payload = {"variant": str(lowering.folder), "inputs": str(inputs)}
    limits = runner.limits_for(recipe.toolchain)
    limits = dataclasses.replace(limits, time_limit_s=min(limits.time_limit_s, TIME_LIMIT_S))
    with runner.workers.quiet():
        outcome, folder, _ = runner.run(
            "operators", payload, limits, f"timing the operators of {recipe.name}"
        )
    if isinstance(outcome, StepFailure):
        raise ToolchainError(outcome.summary)
    return runner.commit(key, folder, outcome)


def _on_rig(runner: Runner, recipe: Recipe, lowering: Lowering, inputs: Path, key: str) -> Entry:
    assert runner.rig is not None
    assert lowering.folder is not None
    runner.say("start", f"timing the operators of {recipe.name} on {runner.rig.name}")
    found = runner.rig.operators(lowering.folder, inputs, TIME_LIMIT_S, runner.workers)
    return runner.commit(key, runner.cache.work_folder(), {"operators": found})
