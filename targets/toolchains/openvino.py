"""OpenVINO: a program becomes an IR (`model.xml`, `model.bin`) for Intel's CPUs, GPUs and NPUs.

Precision `f32` stores the weights as they are. The others store what is left in floats as f16, the
vendor's default: half the size, and more mantissa than bf16 has. What the arithmetic uses is an
option of the session (`INFERENCE_PRECISION_HINT`); `int8` is NNCF's post-training quantisation, and
with the method `weights`, as `int4` is, its compression of weights alone: there OpenVINO keeps what
is left in floats as it is. All backends share one file; only the session's `device` differs.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agent.errors import ToolchainError
from agent.manifest import Runtime
from agent.sessions.openvino import without_telemetry
from targets.interface import (
    Availability,
    Calibration,
    Conversion,
    Lowered,
    Problem,
    Program,
    Recipe,
    Sensitivity,
)
from targets.lowering import nncf_int8, nncf_sensitivity, nncf_weights
from targets.lowering.openvino_model import openvino_model, opt_shapes
from targets.lowering.vendor import availability, vendor_errors, version_of

NAME = "openvino"
EXTRA = "intel"
FORMAT = "openvino"

_BACKENDS = ("CPU", "GPU", "NPU")
_PRECISIONS = ("f32", "bf16", "f16", "int8", "int4")
_RANKING_SAMPLES = 8  # each is run once for every group of operators


def available() -> Availability:
    """The installed packages; torch is needed only for programs that come from it."""
    return availability(("openvino", "nncf", "numpy"), ("torch", "onnx", "onnxscript"), EXTRA)


def supports(program: Program, recipe: Recipe) -> list[Problem]:
    """What speaks against lowering this program with this recipe."""
    backend = recipe.backend or "CPU"
    dynamic = [name for name, (low, _, high) in program.signature.dims.items() if low < high]
    problems = [
        Problem(what="OpenVINO has no such operator without an extension", where=name)
        for name in program.custom_ops
    ]
    if recipe.precision not in _PRECISIONS:
        problems.append(Problem(what=f"known precisions are {_PRECISIONS}", where=recipe.precision))
    if backend not in _BACKENDS:
        problems.append(Problem(what=f"known backends are {_BACKENDS}", where=backend))
    elif recipe.options.get("device", "CPU") != backend:
        problems.append(
            Problem(what=f"the session's option `device` does not say {backend}", where=backend)
        )
    if backend == "NPU":
        problems += [Problem(what="the NPU takes fixed shapes only", where=dim) for dim in dynamic]
    if recipe.opset is not None:
        problems.append(Problem(what="an IR has no ONNX opset", where=f"opset {recipe.opset}"))
    problems += _quantisation_problems(program, recipe)
    if program.kind == "exported" and version_of("torch") is None:
        problems.append(Problem(what="it comes from torch, which is not installed", where="torch"))
    return problems


def conversion(program: Program, recipe: Recipe) -> Conversion | None:
    """Every recipe begins with the same model in floats."""
    del recipe
    return Conversion(kind="openvino") if program.kind == "exported" else None


def lower(program: Program, recipe: Recipe, calibration: Calibration | None, out: Path) -> Lowered:
    """Convert, name, quantise and save.

    Raises:
        ToolchainError: OpenVINO or NNCF refuses, or int8 has no calibration data.
    """
    if recipe.precision == "int8" and not _compresses(recipe) and not calibration:
        raise ToolchainError(
            "int8 by NNCF needs calibration data, and there is none.",
            cause="The project has no [data] samples, or its calibration split is empty.",
            remedy="Declare samples in sdk.toml: a few hundred real inputs are enough.",
        )
    with without_telemetry():
        import openvino

    model = openvino_model(program)
    notes: list[str] = []
    if _compresses(recipe):
        names = _operator_names(model)
        model, found = nncf_weights.compress(model, recipe.quantisation or {}, names=names)
        notes += found
    elif calibration and recipe.precision == "int8":
        model, found = _quantise(model, recipe, calibration)
        notes += found
    with vendor_errors(
        "OpenVINO cannot write the IR",
        cause="The disk is full or the folder cannot be written.",
        remedy="Make room, then build again.",
    ):
        openvino.save_model(model, out / "model.xml", compress_to_fp16=recipe.precision != "f32")
    release = ".".join(str(version_of("openvino")).split(".")[:2])
    return Lowered(
        files=("model.xml", "model.bin"),
        # Newer runtimes read older IR; nobody promises the reverse.
        runtime=Runtime(format=FORMAT, at_least=release, below=None),
        placement={},
        notes=tuple(notes),
    )


def sensitivities(
    program: Program, recipe: Recipe, calibration: Calibration
) -> tuple[Sensitivity, ...]:
    """What quantising each group of operators costs, of those that can be left out together.

    Raises:
        ToolchainError: OpenVINO or NNCF refuses.
    """
    with without_telemetry():
        import openvino

    model = openvino_model(program)
    still = model.clone()
    still.reshape(opt_shapes(program.signature))
    quantised, _ = _quantise(model, recipe, calibration, folded=False)
    return nncf_sensitivity.sensitivities(
        openvino.Core(),
        model,
        quantised,
        list(itertools.islice(calibration, _RANKING_SAMPLES)),
        nncf_sensitivity.multiply_accumulates(still),
    )


def _quantisation_problems(program: Program, recipe: Recipe) -> Iterator[Problem]:
    chosen = recipe.quantisation or {}
    if _compresses(recipe):
        yield from nncf_weights.problems(program, recipe.precision, chosen)
    elif recipe.precision == "int8":
        yield from nncf_int8.problems(chosen)
    elif recipe.precision == "int4":
        yield Problem(what="only weights go to 4 bits: method 'weights'", where="int4")
    elif recipe.quantisation is not None:
        yield Problem(what=f"{recipe.precision} is not quantised", where="quantisation")


def _compresses(recipe: Recipe) -> bool:
    """Are weights alone quantised?"""
    narrow = recipe.precision in ("int8", "int4")
    return narrow and (recipe.quantisation or {}).get("method") == "weights"


def _quantise(
    model: Any, recipe: Recipe, calibration: Calibration, *, folded: bool = True
) -> tuple[Any, tuple[str, ...]]:
    return nncf_int8.quantise(
        model,
        recipe.quantisation or {},
        calibration,
        device=recipe.backend or "CPU",
        names=_operator_names(model),
        is_quantised=lambda found: any(
            operator.get_type_name() == "FakeQuantize" for operator in found.get_ops()
        ),
        folded=folded,
    )


def _operator_names(model: Any) -> list[str]:
    return [operator.get_friendly_name() for operator in model.get_ops()]
