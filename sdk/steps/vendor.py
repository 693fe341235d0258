"""A toolchain's step in a process of its own: what it is given, and how long it may take."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from agent.codec import encode
from sdk.steps.capture import Captured
from sdk.steps.runner import Runner
from sdk.workers import StepFailure
from targets.interface import Program, Recipe

_VERBS = {
    "convert": "converting the model for",
    "lower": "lowering",
    "rank": "ranking the operators of",
}


def run_vendor(
    runner: Runner,
    step: str,
    recipe: Recipe,
    program: Program,
    captured: Captured,
    within_s: float | None,
    **more: Any,
) -> tuple[dict[str, Any] | StepFailure, Path, float]:
    """Run one: its outcome, its folder, and its seconds.

    Args:
        runner: runs the step.
        step: `convert`, `lower` or `rank`.
        recipe: names the toolchain.
        program: what it works on.
        captured: where the samples lie.
        within_s: the longest it may take, where that is less than the project file allows.
        more: what else the step reads.
    """
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
    name = recipe.toolchain if step == "convert" else recipe.name
    with runner.workers.busy():
        return runner.run(step, payload, limits, f"{_VERBS[step]} {name}")
