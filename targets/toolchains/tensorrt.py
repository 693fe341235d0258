"""TensorRT: a program becomes an ONNX file that holds its own types; the device builds the engine.

No TensorRT is needed here. The file is in an opset that the device's oldest TensorRT reads: in f32,
with f16 weights and casts, or with symmetric Q/DQ pairs of int8 or FP8. ONNX Runtime runs it on any
CPU as a check of the graph and of the rounded weights. It computes f16 in f32 there, so only the
device shows an overflow in between; nor does it say how fast anything is.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from agent.engine_plan import BELOW, DLA_GAP, generation_of
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
from targets.lowering import (
    nncf_int8,
    onnx_files,
    onnx_ranges,
    onnx_symmetric,
    tensorrt_support,
    typed_onnx,
)
from targets.lowering.export import EXPORT_OPSETS, SINGLE_FILE_BYTES, export_problems
from targets.lowering.onnx_levels import TENSORRT_IR, tensorrt_for, tensorrt_reads
from targets.lowering.typed_onnx import F16_SCALES_OPSET
from targets.lowering.vendor import availability, version_of

NAME = "tensorrt"
EXTRA = "jetson"
FORMAT = "tensorrt"

_ELSEWHERE = "lowers here; engines are built and run on a device that has TensorRT"
_FILE = "model.onnx"
_BACKENDS = ("GPU", "DLA")
_PRECISIONS = ("f32", "f16", "int8", "fp8")
_QUANTISED = ("int8", "fp8")
PER_CHANNEL_OPSET = 13
RANGE_SAMPLES = 16
"""The most that are run for f16: each keeps every intermediate result."""


def available() -> Availability:
    """What lowering needs; TensorRT itself is needed on the device alone."""
    found = availability(
        ("onnx", "onnxruntime", "numpy"), ("nncf", "torch", "onnxscript", "onnx-ir"), EXTRA
    )
    if not found.ok or version_of("tensorrt") is not None:
        return found
    return dataclasses.replace(found, note=_ELSEWHERE)


def supports(program: Program, recipe: Recipe) -> list[Problem]:
    """What speaks against lowering this program with this recipe."""
    problems = [*_recipe_problems(recipe), *tensorrt_support.precision_problems(recipe)]
    if problems:
        return problems  # the rest would speak of a device that nobody meant
    release = str(recipe.options["release"])
    inputs = {spec.name for spec in program.signature.inputs}
    problems += tensorrt_support.program_problems(program, release)
    problems += [
        Problem(what="an ONNX graph has no input and output of one name", where=spec.name)
        for spec in program.signature.outputs
        if spec.name in inputs
    ]
    if recipe.backend == "DLA":
        problems += tensorrt_support.dla_problems(program, recipe, release)
    if recipe.precision != "f32" and program.weight_bytes > SINGLE_FILE_BYTES:
        what = "graphs of more than 1.9 GB are not rewritten, and so are f32 only"
        problems.append(Problem(what=what, where=recipe.precision))
    problems += export_problems(program)
    return problems


def conversion(program: Program, recipe: Recipe) -> Conversion | None:
    """All precisions begin with the same graph in floats."""
    exported = program.kind == "exported"
    return Conversion(kind="onnx", opset=_written_opset(recipe)) if exported else None


def lower(program: Program, recipe: Recipe, calibration: Calibration | None, out: Path) -> Lowered:
    """Export or copy, move to the device's opset, give every tensor its type.

    Raises:
        ToolchainError: the exporter, a converter or the quantiser refuses, an operator is not known
            to the device's TensorRT, or int8 has no data.
    """
    assert recipe.opset is not None  # supports() has seen to it
    if recipe.precision in _QUANTISED and not calibration:
        raise ToolchainError(
            f"{recipe.precision} needs calibration data, and there is none.",
            cause="The project has no [data] samples, or its calibration split is empty.",
            remedy="Declare samples in sdk.toml: a few hundred real inputs are enough.",
        )
    model = _float_model(program, recipe, out)
    model = onnx_files.at_opset(model, most=recipe.opset, least=_least_opset(recipe))
    _check_operators(model, str(recipe.options["release"]))
    notes: tuple[str, ...] = ()
    halved = "f16" in (recipe.precision, _rest(recipe))
    maxima = None
    if halved and calibration:
        count = min(RANGE_SAMPLES, len(calibration))
        maxima = onnx_ranges.observed_maxima(model, calibration, count)
    if recipe.precision in _QUANTISED:
        model, notes = _quantised(model, recipe, calibration)
    if halved:
        model, kept = typed_onnx.to_f16(model, program.signature.dims, maxima)
        notes += _kept_note(kept)
    _check_pairs(model)
    model.ir_version = min(model.ir_version, recipe.ir_version or TENSORRT_IR)
    path = out / _FILE
    onnx_files.save(model, path, external=program.weight_bytes > SINGLE_FILE_BYTES)
    onnx_files.check_names(path, program.signature)
    data = sorted(file.name for file in out.iterdir() if file.name != _FILE)
    runtime = _runtime(onnx_files.opset_of(model), recipe)
    return Lowered(files=(_FILE, *data), runtime=runtime, placement={}, notes=notes)


def _recipe_problems(recipe: Recipe) -> Iterator[Problem]:
    if recipe.backend not in _BACKENDS:
        yield Problem(what=f"known are the backends {_BACKENDS}", where=str(recipe.backend))
    if recipe.precision == "fp4":
        what = "nothing here writes FP4 yet: its scales go by blocks, which NNCF does not choose"
        yield Problem(what=what, where="fp4")
    elif recipe.precision not in _PRECISIONS:
        yield Problem(what=f"known precisions are {_PRECISIONS}", where=recipe.precision)
    elif recipe.precision in _QUANTISED:
        yield from nncf_int8.problems(recipe.quantisation or {}, onnx_symmetric.CHOICES)
        yield from (
            Problem(what="the package that quantises is not installed", where=name)
            for name in ("nncf",)
            if version_of(name) is None
        )
    elif recipe.quantisation is not None and (
        recipe.precision != "f16" or recipe.quantisation.get("method") != "ranges"
    ):
        yield Problem(what=f"{recipe.precision} is not quantised", where="quantisation")
    release = str(recipe.options.get("release", ""))
    try:
        generation_of(release)
    except ToolchainError as error:
        yield Problem(what=error.what, where="release")
        return
    most = tensorrt_reads(release)
    if recipe.opset is None or not EXPORT_OPSETS[0] - 1 <= recipe.opset <= most:
        what = f"TensorRT {release} reads opsets up to {most}, and files are written from 17 on"
        yield Problem(what=what, where=f"opset {recipe.opset}")
    elif recipe.opset < _least_opset(recipe):
        what = (
            f"Q/DQ pairs with FP8 or f16 scales came with opset {F16_SCALES_OPSET}, TensorRT "
            f"{release} reads {most}"
        )
        yield Problem(what=what, where=f"opset {recipe.opset}")


def _rest(recipe: Recipe) -> str:
    return str((recipe.quantisation or {}).get("rest", "f32"))


def _least_opset(recipe: Recipe) -> int:
    if recipe.precision == "fp8" or (recipe.precision == "int8" and _rest(recipe) == "f16"):
        return F16_SCALES_OPSET
    return PER_CHANNEL_OPSET if recipe.precision == "int8" else 1


def _quantised(
    model: Any, recipe: Recipe, calibration: Calibration | None
) -> tuple[Any, tuple[str, ...]]:
    assert calibration is not None
    chosen: Mapping[str, Any] = recipe.quantisation or {}
    model, notes = onnx_symmetric.quantise(model, chosen, calibration)
    model, dropped = onnx_symmetric.drop_unusable(model)
    model = onnx_symmetric.make_symmetric(model)
    if recipe.precision == "fp8":
        model = onnx_symmetric.to_fp8(model)
    elif generation_of(str(recipe.options["release"])) == 8:
        model = onnx_symmetric.weights_as_pairs(model)
    if dropped:
        shown = ", ".join(dropped[:3])
        notes += (f"not quantised, for want of a finite range: {len(dropped)} tensors: {shown}",)
    return model, notes


def _check_pairs(model: Any) -> None:
    found = onnx_symmetric.violations(model)
    if found:
        raise ToolchainError(
            f"TensorRT takes no such Q/DQ pairs: {'; '.join(found[:3])}.",
            cause="The model was quantised before, or a tensor is always 0.",
            remedy="Start from the model in floats, or leave int8 out for this model.",
        )


def _written_opset(recipe: Recipe) -> int:
    return max(recipe.opset or 0, EXPORT_OPSETS[0])  # the exporter writes nothing older


def _float_model(program: Program, recipe: Recipe, out: Path) -> Any:
    import onnx

    with tempfile.TemporaryDirectory(prefix=".float-", dir=out) as scratch:
        path = Path(scratch) / _FILE
        ir = recipe.ir_version or TENSORRT_IR
        onnx_files.write_float(program, path, opset=_written_opset(recipe), most_opset=None, ir=ir)
        model = onnx.load(str(path))
    return onnx.inliner.inline_local_functions(model) if model.functions else model


def _check_operators(model: Any, release: str) -> None:
    found = {(node.domain, node.op_type) for node in typed_onnx.nodes(model.graph)}
    problems = list(tensorrt_support.operator_problems(found, release))
    if problems:
        raise ToolchainError(
            f"TensorRT {release} takes no {', '.join(problem.where for problem in problems)}.",
            cause="The model's operators have that form in ONNX.",
            remedy="Rewrite the model without them, or use another toolchain.",
        )


def _kept_note(kept: tuple[str, ...]) -> tuple[str, ...]:
    return (f"in f32 stay {len(kept)} operators: {', '.join(kept[:5])}",) if kept else ()


def _runtime(opset: int, recipe: Recipe) -> Runtime:
    """The TensorRT releases that read the file and build what the recipe wants."""
    at_least, below = tensorrt_for(opset), BELOW
    if recipe.backend == "DLA":
        gap_from, gap_to = DLA_GAP
        if generation_of(str(recipe.options["release"])) == 11:
            at_least = gap_to
        else:
            below = gap_from
    return Runtime(format=FORMAT, at_least=at_least, below=below)
