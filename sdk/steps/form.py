"""The step before lowering: the program in the form that a toolchain's recipes begin with.

Converting takes longer than most of what follows, and gives every recipe of a toolchain the same.
So it is made once and kept; a recipe that cannot share it is lowered from the captured program.
"""

from __future__ import annotations

import dataclasses
import platform
from pathlib import Path
from typing import Any

from agent.codec import encode
from sdk.cache import key_of
from sdk.lowering import read_program
from sdk.steps.capture import Captured
from sdk.steps.runner import Runner, own_code_digest
from sdk.workers import StepFailure
from targets import toolchain
from targets.interface import Form, Forming, Program, Recipe

_VERBS = {
    "form": "converting the model for",
    "lower": "lowering",
    "rank": "ranking the operators of",
}


def formed(
    runner: Runner, recipe: Recipe, captured: Captured, within_s: float | None
) -> Program | StepFailure:
    """What the recipe is lowered from; a converter's failure is a result.

    Args:
        runner: runs the step.
        recipe: what begins with it.
        captured: the program as it was captured.
        within_s: the longest it may take, where that is less than the project file allows.
    """
    chosen = toolchain(recipe.toolchain)
    wanted = chosen.form(captured.program, recipe) if isinstance(chosen, Forming) else None
    if wanted is None:
        return captured.program
    key = key_of(
        step="form",
        program=captured.program.digest,
        signature=captured.program.signature,
        form=wanted,
        versions=runner.availability[recipe.toolchain].versions,
        code=own_code_digest(),
        python=platform.python_version(),
    )
    return runner.once(key, lambda: _formed(runner, recipe, captured, wanted, key, within_s))


def run_vendor(
    runner: Runner,
    step: str,
    recipe: Recipe,
    program: Program,
    captured: Captured,
    within_s: float | None,
    **more: Any,
) -> tuple[dict[str, Any] | StepFailure, Path, float]:
    """A toolchain's step in a process of its own: its outcome, its folder, and its seconds."""
    python = runner.project.settings_for(recipe.toolchain).python
    limits = runner.limits_for(recipe.toolchain, python)
    if within_s is not None:
        limits = dataclasses.replace(limits, time_limit_s=min(limits.time_limit_s, within_s))
    factory = runner.project.model.factory
    payload = {
        "program": encode(program) | {"path": str(program.path)},
        "data_folder": str(captured.folder),
        "recipe": encode(recipe),
        "project": str(runner.project.root),
        "factory": factory.function if factory else "",
        **more,
    }
    name = recipe.toolchain if step == "form" else recipe.name
    with runner.workers.busy():
        return runner.run(step, payload, limits, f"{_VERBS[step]} {name}")


def _formed(
    runner: Runner,
    recipe: Recipe,
    captured: Captured,
    wanted: Form,
    key: str,
    within_s: float | None,
) -> Program | StepFailure:
    entry = runner.find(key)
    if entry is None:
        outcome, folder, seconds = run_vendor(
            runner, "form", recipe, captured.program, captured, within_s, form=encode(wanted)
        )
        if isinstance(outcome, StepFailure):
            return outcome
        outcome["path"] = Path(outcome["path"]).name  # the folder moves into the cache
        entry = runner.commit(key, folder, outcome)
        runner.say("done", f"converted the model for {recipe.toolchain}", seconds)
    return read_program(entry.result, entry.folder / "out")
