"""ONNX Runtime: a program becomes an `.onnx` file, plain or quantised by the runtime's own tools.

`int8` has two methods. `static` puts Q/DQ pairs around the operators, with ranges from calibration
data. `dynamic` quantises weights now and activations at run time, for matrix products and
recurrent cells; it needs no data.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent.errors import ToolchainError
from agent.manifest import Runtime
from targets.interface import (
    Availability,
    Calibration,
    Conversion,
    Lowered,
    Problem,
    Program,
    Recipe,
)
from targets.lowering import onnx_files, onnx_quantise
from targets.lowering.export import EXPORT_OPSETS, SINGLE_FILE_BYTES, export_problems
from targets.lowering.onnx_levels import onnxruntime_for
from targets.lowering.vendor import availability, vendor_errors

NAME = "onnxruntime"
EXTRA = "intel"
FORMAT = "onnxruntime"

_FILE = "model.onnx"
_PRECISIONS = ("f32", "int8")
_DEFAULT_OPSET = 20
_BACKENDS = (None, "CPU", "CUDA")
_DEFAULT_IR = 11
"""What ONNX Runtime 1.23 reads, the newest for Python 3.10."""


def available() -> Availability:
    """The installed packages; torch is needed only for programs that come from it."""
    return availability(("onnxruntime", "onnx", "numpy"), ("torch", "onnxscript", "onnx-ir"), EXTRA)


def supports(program: Program, recipe: Recipe) -> list[Problem]:
    """What speaks against lowering this program with this recipe."""
    inputs = {spec.name for spec in program.signature.inputs}
    problems = [
        Problem(what="ONNX Runtime has no such operator without an extension", where=name)
        for name in program.custom_ops
    ]
    problems += [
        Problem(what="an ONNX graph has no input and output of one name", where=spec.name)
        for spec in program.signature.outputs
        if spec.name in inputs
    ]
    if recipe.backend not in _BACKENDS:
        problems.append(Problem(what="known are the backends CPU and CUDA", where=recipe.backend))
    if recipe.opset is not None and recipe.opset not in EXPORT_OPSETS:
        known = f"opsets go from {EXPORT_OPSETS[0]} to {EXPORT_OPSETS[-1]}"
        problems.append(Problem(what=known, where=f"opset {recipe.opset}"))
    if recipe.precision not in _PRECISIONS:
        problems.append(Problem(what=f"known precisions are {_PRECISIONS}", where=recipe.precision))
    elif recipe.precision == "int8":
        problems += onnx_quantise.problems(program, recipe.quantisation or {})
    elif recipe.quantisation is not None:
        problems.append(Problem(what="f32 is not quantised", where="quantisation"))
    problems += export_problems(program)
    return problems


def conversion(program: Program, recipe: Recipe) -> Conversion | None:
    """The plain recipe and all quantised ones begin with the same graph in floats."""
    exported = program.kind == "exported"
    return Conversion(kind="onnx", opset=recipe.opset or _DEFAULT_OPSET) if exported else None


def lower(program: Program, recipe: Recipe, calibration: Calibration | None, out: Path) -> Lowered:
    """Export or copy, and quantise.

    Raises:
        ToolchainError: the exporter or the quantiser refuses, or static int8 has no data.
    """
    notes: tuple[str, ...] = ()
    if recipe.precision == "int8":
        notes = _quantise(program, recipe, calibration, out)
    else:
        _plain(program, recipe, out)
    onnx_files.check_names(out / _FILE, program.signature)
    data = sorted(path.name for path in out.iterdir() if path.name != _FILE)
    return Lowered(files=(_FILE, *data), runtime=_runtime(out / _FILE), placement={}, notes=notes)


def _quantise(
    program: Program, recipe: Recipe, calibration: Calibration | None, out: Path
) -> tuple[str, ...]:
    chosen: Mapping[str, Any] = recipe.quantisation or {}
    static = chosen.get("method") != "dynamic"
    if static and not calibration:
        raise ToolchainError(
            "Static int8 needs calibration data, and there is none.",
            cause="The project has no [data] samples, or its calibration split is empty.",
            remedy="Declare samples in sdk.toml: a few hundred real inputs are enough.",
        )
    external = program.weight_bytes > SINGLE_FILE_BYTES
    with tempfile.TemporaryDirectory(prefix=".float-", dir=out) as scratch:
        source = _plain(program, recipe, Path(scratch))
        with vendor_errors(
            "ONNX Runtime cannot quantise the model",
            cause="The calibration data does not fit the model, or an operator confuses it.",
            remedy="Check the samples, or leave int8 out for this model.",
        ):
            if not static:
                onnx_quantise.quantise_dynamic(source, out / _FILE, chosen, external=external)
                return ("quantised dynamically",)
            assert calibration is not None
            onnx_quantise.quantise_static(
                source, out / _FILE, chosen, calibration, external=external
            )
            count = onnx_quantise.sample_count(chosen, calibration)
    return (f"quantised with {count} samples",)


def _plain(program: Program, recipe: Recipe, folder: Path) -> Path:
    """The program as ONNX in floats: exported, or copied with checks."""
    path = folder / _FILE
    onnx_files.write_float(
        program,
        path,
        opset=recipe.opset or _DEFAULT_OPSET,
        most_opset=recipe.opset,
        ir=recipe.ir_version or _DEFAULT_IR,
    )
    return path


def _runtime(path: Path) -> Runtime:
    """The oldest ONNX Runtime that reads the file, by its opset and IR version."""
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    at_least = onnxruntime_for(onnx_files.opset_of(model), model.ir_version)
    return Runtime(format=FORMAT, at_least=at_least, below=None)
