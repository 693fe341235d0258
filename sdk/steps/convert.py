"""The step before lowering: the program converted to what a toolchain's recipes begin with.

Converting takes longer than most of what follows, and gives every recipe of a toolchain the same.
So it is made once and kept; a recipe that cannot share it is lowered from the captured program.
"""

from __future__ import annotations

import platform
from pathlib import Path

from agent.codec import encode
from sdk.cache import key_of
from sdk.lowering import read_program
from sdk.steps.capture import Captured
from sdk.steps.runner import Runner, own_code_digest
from sdk.steps.vendor import run_vendor
from sdk.workers import StepFailure
from targets import toolchain
from targets.interface import Conversion, Converting, Program, Recipe


def converted(
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
    wanted = chosen.conversion(captured.program, recipe) if isinstance(chosen, Converting) else None
    if wanted is None:
        return captured.program
    key = key_of(
        step="convert",
        program=captured.program.digest,
        signature=captured.program.signature,
        conversion=wanted,
        versions=runner.availability[recipe.toolchain].versions,
        code=own_code_digest(),
        python=platform.python_version(),
    )
    return runner.once(key, lambda: _converted(runner, recipe, captured, wanted, key, within_s))


def _converted(
    runner: Runner,
    recipe: Recipe,
    captured: Captured,
    wanted: Conversion,
    key: str,
    within_s: float | None,
) -> Program | StepFailure:
    entry = runner.find(key)
    if entry is None:
        outcome, folder, seconds = run_vendor(
            runner,
            "convert",
            recipe,
            captured.program,
            captured,
            within_s,
            conversion=encode(wanted),
        )
        if isinstance(outcome, StepFailure):
            return outcome
        outcome["path"] = Path(outcome["path"]).name  # the folder moves into the cache
        entry = runner.commit(key, folder, outcome)
        runner.say("done", f"converted the model for {recipe.toolchain}", seconds)
    return read_program(entry.result, entry.folder / "out")
