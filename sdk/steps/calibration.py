"""The step after int8 lost too much: whether its calibration samples are to blame.

It explains and decides nothing, so its failure is silence.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from agent.codec import decode
from sdk.cache import key_of
from sdk.calibration import Coverage, told
from sdk.result import Result
from sdk.steps.capture import Captured
from sdk.steps.lower import Lowering
from sdk.steps.runner import Runner, own_code_digest
from sdk.workers import StepFailure

TIME_LIMIT_S = 180.0
_FORMAT = "onnxruntime"  # its f32 file is what every tensor can be read of
_LARGEST = 1 << 30  # bytes of the file: it is held in memory twice, and every tensor beside it


def calibration_note(
    runner: Runner,
    results: Sequence[Result],
    built: Mapping[str, Lowering],
    captured: Captured,
    limits: Mapping[str, float],
) -> tuple[str, ...]:
    """What to know of the calibration, where a calibrated candidate lost too much accuracy."""
    if not any(_lost_too_much(result, limits) for result in results):
        return ()
    plain = next(
        (
            built[result.candidate.recipe.digest]
            for result in results
            if result.status == "built"
            and result.candidate.recipe.format == _FORMAT
            and result.candidate.recipe.precision == "f32"
        ),
        None,
    )
    if plain is None or plain.lowered is None or plain.folder is None:
        return ()
    if plain.size_bytes > _LARGEST:
        return ()
    key = key_of(
        step="coverage", variant=plain.digest, captured=captured.digest, code=own_code_digest()
    )
    entry = runner.find(key)
    if entry is None:
        payload = {
            "model": str(plain.folder / plain.lowered.files[0]),
            "captured": str(captured.folder),
        }
        limit = dataclasses.replace(runner.limits_for(_FORMAT), time_limit_s=TIME_LIMIT_S)
        with runner.workers.busy():
            outcome, folder, _ = runner.run(
                "coverage", payload, limit, "looking at the calibration samples"
            )
        if isinstance(outcome, StepFailure):
            return ()
        entry = runner.commit(key, folder, outcome)
    found = told(decode(Coverage, entry.result))
    return () if found is None else (found,)


def _lost_too_much(result: Result, limits: Mapping[str, float]) -> bool:
    calibrates = bool((result.candidate.recipe.quantisation or {}).get("samples"))
    accuracy, limit = result.accuracy, limits.get("accuracy_drop")
    if not calibrates or accuracy is None or limit is None:
        return False
    drops = [drop for drop in (accuracy.selection, accuracy.final) if drop is not None]
    return any(drop.value > limit for drop in drops)
