"""The step after the contest: where the time of the chosen variant and of the baseline goes.

It explains and decides nothing, so its failure is a note on the candidate.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from agent.codec import decode
from agent.sessions import OperatorTime
from sdk.cache import key_of
from sdk.result import Result
from sdk.select import Selection, find_baseline
from sdk.steps.capture import Captured
from sdk.steps.lower import Lowering
from sdk.steps.runner import Runner, own_code_digest
from sdk.workers import StepFailure

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
    if runner.rig is not None:  # this machine's operators are not the rig's
        return result
    inputs = captured.folder / "bench.safetensors"
    recipe = result.candidate.recipe
    key = key_of(
        step="operators",
        variant=lowering.digest,
        inputs=runner.cache.sha256_of(inputs),
        device=runner.device,
        code=own_code_digest(),
    )
    entry = runner.find(key)
    if entry is None:
        payload = {"variant": str(lowering.folder), "inputs": str(inputs)}
        limits = runner.limits_for(recipe.toolchain)
        limits = dataclasses.replace(limits, time_limit_s=min(limits.time_limit_s, TIME_LIMIT_S))
        with runner.workers.quiet():
            outcome, folder, _ = runner.run(
                "operators", payload, limits, f"timing the operators of {recipe.name}"
            )
        if isinstance(outcome, StepFailure):
            note = f"its operators could not be timed: {outcome.summary}"
            return dataclasses.replace(result, notes=(*result.notes, note))
        entry = runner.commit(key, folder, outcome)
    found = decode(tuple[OperatorTime, ...] | None, entry.result["operators"])  # type: ignore[arg-type]
    return dataclasses.replace(result, operators=found)
