"""OpenVINO: a program becomes an IR (`model.xml`, `model.bin`) for Intel's CPUs, GPUs and NPUs.

Precision `f32` stores the weights as they are. The others store what is left in floats as f16, the
vendor's default: half the size, and more mantissa than bf16 has. What the arithmetic uses is an
option of the session (`INFERENCE_PRECISION_HINT`); `int8` is NNCF's post-training quantisation, and
with the method `weights`, as `int4` is, its compression of weights alone: there OpenVINO keeps what
is left in floats as it is. All backends share one file; only the session's `device` differs.
"""

from __future__ import annotations

import itertools
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agent.errors import ToolchainError
from agent.manifest import Runtime, Signature, TensorSpec
from agent.sessions.openvino import without_telemetry
from targets.interface import (
    Availability,
    Calibration,
    Lowered,
    Problem,
    Program,
    Recipe,
    Sensitivity,
)
from targets.lowering import nncf_int8, nncf_sensitivity, nncf_weights
from targets.lowering.vendor import availability, vendor_errors, version_of

NAME = "openvino"
EXTRA = "intel"
FORMAT = "openvino"

_BACKENDS = ("CPU", "GPU", "NPU")
_PRECISIONS = ("f32", "bf16", "f16", "int8", "int4")
_RECURRENT_OPSET = 20
_RANKING_SAMPLES = 8  # each is run once for every group of operators
_NUMBERED = re.compile(r"[A-Z][A-Za-z0-9]*_\d+")
"""A name that OpenVINO makes up: `MatMul_2704`."""


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

    model = _converted(openvino, program, out)
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

    with tempfile.TemporaryDirectory() as scratch:
        model = _converted(openvino, program, Path(scratch))
        still = model.clone()
        still.reshape(_opt_shapes(program.signature))
        quantised, _ = _quantise(model, recipe, calibration, folded=False)
        return nncf_sensitivity.sensitivities(
            openvino.Core(),
            model,
            quantised,
            list(itertools.islice(calibration, _RANKING_SAMPLES)),
            nncf_sensitivity.multiply_accumulates(still),
        )


def _converted(openvino: Any, program: Program, out: Path) -> Any:
    """OpenVINO's form of the program, with the signature's names and sizes."""
    with vendor_errors(
        "OpenVINO cannot convert the program",
        cause="An operator has no conversion rule.",
        remedy="Rewrite it with common operators, or use another toolchain.",
    ):
        model = _convert(openvino, program, out)
        _name(model, program)
        _fix_shapes(openvino, model, program.signature)
        _name_operators(model)
    _check(model, program.signature)
    return model


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


def _convert(openvino: Any, program: Program, out: Path) -> Any:
    if program.kind == "onnx":
        return openvino.convert_model(str(program.path))
    from targets.lowering.export import export_onnx, is_recurrent, load_exported

    exported = load_exported(program)
    if not is_recurrent(exported):
        return openvino.convert_model(exported)
    # Converted directly, every time step becomes its own dozen operators; through ONNX a GRU or
    # LSTM stays one operator with a kernel of its own.
    scratch = out / "recurrent.onnx"
    written = export_onnx(exported, program.signature, scratch, opset=_RECURRENT_OPSET)
    model = openvino.convert_model(str(scratch))
    # The weights may still be mapped from these files: on Linux and macOS they live on unnamed.
    for name in written:
        (out / name).unlink()
    return model


def _name(model: Any, program: Program) -> None:
    """Give the ports the signature's names, and take those names from everything else."""
    signature = program.signature
    _part_ends(model)
    inputs = _ports(model.inputs, signature.inputs, by_name=program.kind == "onnx")
    outputs = _ports(model.outputs, signature.outputs, by_name=program.kind == "onnx")
    for operator in model.get_ops():
        for port in operator.outputs():
            port.get_tensor().set_names(set())
    for port, spec in [
        *zip(inputs, signature.inputs, strict=True),
        *zip(outputs, signature.outputs, strict=True),
    ]:
        # Added, not set: two outputs may be one tensor.
        port.get_tensor().add_names({spec.name})


def _name_operators(model: Any) -> None:
    """Number the operators that the converter has no name for, kind by kind, in their order.

    OpenVINO numbers them over all models of the process, so a name that a recipe ignores would be
    another one next time.
    """
    counts: dict[str, int] = {}
    for operator in model.get_ordered_ops():
        kind = operator.get_type_name()
        if _NUMBERED.fullmatch(operator.get_friendly_name()):
            counts[kind] = counts.get(kind, 0) + 1
            operator.set_friendly_name(f"{kind}/{counts[kind]}")


def _part_ends(model: Any) -> None:
    """Put an operator between an input and an output that are one tensor.

    The IR keeps the names of outputs only, so the input of such a pair would come back nameless.
    """
    from openvino import opset16

    for result in model.get_results():
        source = result.input_value(0)
        if source.get_node().get_type_name() == "Parameter":
            result.input(0).replace_source_output(opset16.identity(source).output(0))


def _ports(ports: Any, specs: tuple[TensorSpec, ...], *, by_name: bool) -> list[Any]:
    if len(ports) != len(specs):
        raise ToolchainError(
            f"The converted model has {len(ports)} ports where the signature has "
            f"{[spec.name for spec in specs]}.",
            cause="The converter dropped or added one.",
            remedy="Remove inputs that the model does not use.",
        )
    if not by_name:
        return list(ports)
    named = {name: port for port in ports for name in port.get_names()}
    return [named[spec.name] for spec in specs]


def _fix_shapes(openvino: Any, model: Any, signature: Signature) -> None:
    """Restore the declared sizes: the converter makes every axis of every input dynamic."""

    def size(entry: int | str) -> Any:
        if isinstance(entry, int):
            return openvino.Dimension(entry)
        low, _, high = signature.dims[entry]
        return openvino.Dimension(low, high)

    model.reshape(
        {
            spec.name: openvino.PartialShape([size(entry) for entry in spec.shape])
            for spec in signature.inputs
        }
    )


def _opt_shapes(signature: Signature) -> dict[str, list[int]]:
    return {
        spec.name: [
            entry if isinstance(entry, int) else signature.dims[entry][1] for entry in spec.shape
        ]
        for spec in signature.inputs
    }


def _check(model: Any, signature: Signature) -> None:
    for port, spec in [
        *((model.input(spec.name), spec) for spec in signature.inputs),
        *((model.output(spec.name), spec) for spec in signature.outputs),
    ]:
        found = str(port.get_element_type().to_dtype())
        if found != spec.dtype:
            raise ToolchainError(
                f"{spec.name} is {found} in the converted model, {spec.dtype} in the program.",
                cause="The converter changed the type.",
                remedy="Cast it to float32 or int64 inside the model.",
            )


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
