"""The lowering step: a program and a recipe become the files of a variant, in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agent.codec import decode
from sdk.isolation import user_imports
from sdk.samples import CalibrationInputs, StoredSamples
from sdk.usercode import load_function
from targets import toolchain
from targets.interface import Lowered, Program, Recipe


def lower(payload: dict[str, Any], out: Path) -> Lowered:
    """Lower.

    Args:
        payload: {program, program_folder, recipe, project}.
        out: an empty folder for the variant's files.
    """
    folder = Path(payload["program_folder"])
    program = read_program(payload["program"], folder)
    recipe = decode(Recipe, payload["recipe"], "recipe")
    count = int((recipe.quantisation or {}).get("samples", 0))
    calibration = None
    if count and (folder / "calibration.safetensors").is_file():
        samples = StoredSamples(folder / "calibration.safetensors", count)
        calibration = CalibrationInputs(samples) if len(samples) else None
    chosen = toolchain(recipe.toolchain)
    if program.source:
        # A program with custom operators loads only where they are registered: in the user's file.
        root = Path(payload["project"])
        with user_imports(root):
            load_function(root, program.source, payload["factory"], "model.source")
            return chosen.lower(program, recipe, calibration, out)
    return chosen.lower(program, recipe, calibration, out)


def read_program(record: dict[str, Any], folder: Path) -> Program:
    """The Program that capture described, with its path in the capture step's folder."""
    return decode(Program, {**record, "path": str(folder / record["path"])}, "program")
