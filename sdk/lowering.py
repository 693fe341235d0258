"""A program and a recipe for a toolchain, in this process: converted, lowered, or ranked."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agent.codec import decode
from agent.errors import ToolchainError
from sdk.isolation import user_imports
from sdk.samples import CalibrationInputs, StoredSamples
from sdk.usercode import load_function
from targets import toolchain
from targets.interface import (
    Calibration,
    Conversion,
    Lowered,
    Program,
    Ranking,
    Recipe,
    Sensitivity,
    Toolchain,
)


def convert(payload: dict[str, Any], out: Path) -> Program:
    """Convert: the program becomes what a recipe begins with.

    Args:
        payload: as for `lower`, and {conversion}.
        out: an empty folder for its files.
    """
    from targets.lowering import conversions

    with _opened(payload) as (_, program, _, _):
        return conversions.convert(program, decode(Conversion, payload["conversion"]), out)


def lower(payload: dict[str, Any], out: Path) -> Lowered:
    """Lower: the program becomes the files of a variant.

    Args:
        payload: {program, data_folder, recipe, project, factory}; the folder has the samples.
        out: an empty folder for the variant's files.
    """
    with _opened(payload) as (chosen, program, recipe, calibration):
        return chosen.lower(program, recipe, calibration, out)


def rank(payload: dict[str, Any]) -> tuple[Sensitivity, ...]:
    """Tell what quantising each group of operators costs; `payload` as for `lower`.

    Raises:
        ToolchainError: the toolchain cannot tell, or has no samples to tell it from.
    """
    with _opened(payload) as (chosen, program, recipe, calibration):
        if not isinstance(chosen, Ranking) or calibration is None:
            raise ToolchainError(
                f"{recipe.toolchain} cannot tell which operators lose what.",
                cause="It has no such function, or there are no samples to calibrate with.",
                remedy="Nothing depends on it but the search for mixed precision.",
            )
        return chosen.sensitivities(program, recipe, calibration)


@contextlib.contextmanager
def _opened(
    payload: dict[str, Any],
) -> Iterator[tuple[Toolchain, Program, Recipe, Calibration | None]]:
    folder = Path(payload["data_folder"])
    program = read_program(payload["program"], folder)
    recipe = decode(Recipe, payload["recipe"], "recipe")
    count = int((recipe.quantisation or {}).get("samples", 0))
    calibration = None
    if count and (folder / "calibration.safetensors").is_file():
        samples = StoredSamples(folder / "calibration.safetensors", count)
        calibration = CalibrationInputs(samples) if len(samples) else None
    with contextlib.ExitStack() as stack:
        if program.source:
            # A program with custom operators loads only where they are registered: in the user's
            # file.
            root = Path(payload["project"])
            stack.enter_context(user_imports(root))
            load_function(root, program.source, payload["factory"], "model.source")
        yield toolchain(recipe.toolchain), program, recipe, calibration


def read_program(record: dict[str, Any], folder: Path) -> Program:
    """The Program that capture described, with its path in the capture step's folder."""
    return decode(Program, {**record, "path": str(folder / record["path"])}, "program")
