"""OpenVINO: a program becomes an IR (`model.xml`, `model.bin`) for Intel's CPUs, GPUs and NPUs.

Precision `f32` stores the weights as they are. The others store what is left in floats as f16, the
vendor's default: half the size, and more mantissa than bf16 has. What the arithmetic uses is an
option of the session (`INFERENCE_PRECISION_HINT`); `int8` is NNCF's post-training quantisation.
All backends share one file; only the session's `device` differs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from agent.errors import ToolchainError
from agent.manifest import Runtime, Signature, TensorSpec
from agent.sessions.openvino import without_telemetry
from agent.tensors import Array
from targets.interface import Availability, Calibration, Lowered, Problem, Program, Recipe
from targets.lowering.vendor import availability, vendor_errors, version_of

NAME = "openvino"
EXTRA = "intel"
FORMAT = "openvino"

_BACKENDS = ("CPU", "GPU", "NPU")
_PRECISIONS = ("f32", "bf16", "f16", "int8")
_QUANTISATION: Mapping[str, tuple[Any, ...]] = {
    "method": ("nncf",),
    "preset": ("performance", "mixed"),
    "model_type": (None, "transformer"),
    "bias_correction": ("fast", "accurate", "off"),
}
"""What a recipe's `quantisation` may choose beside `samples`; the first is the default."""
_RECURRENT_OPSET = 20


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
    problems += _quantisation_problems(recipe)
    if program.kind == "exported" and version_of("torch") is None:
        problems.append(Problem(what="it comes from torch, which is not installed", where="torch"))
    return problems


def lower(program: Program, recipe: Recipe, calibration: Calibration | None, out: Path) -> Lowered:
    """Convert, name, quantise and save.

    Raises:
        ToolchainError: OpenVINO or NNCF refuses, or int8 has no calibration data.
    """
    if recipe.precision == "int8" and not calibration:
        raise ToolchainError(
            "int8 by NNCF needs calibration data, and there is none.",
            cause="The project has no [data] samples, or its calibration split is empty.",
            remedy="Declare samples in sdk.toml: a few hundred real inputs are enough.",
        )
    with without_telemetry():
        import openvino

    with vendor_errors(
        "OpenVINO cannot convert the program",
        cause="An operator has no conversion rule.",
        remedy="Rewrite it with common operators, or use another toolchain.",
    ):
        model = _convert(openvino, program, out)
        _name(model, program)
        _fix_shapes(openvino, model, program.signature)
    _check(model, program.signature)
    notes = []
    if calibration and recipe.precision == "int8":
        model = _quantise(model, recipe, calibration)
        notes.append(f"quantised with {_sample_count(recipe, calibration)} samples")
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


def _quantisation_problems(recipe: Recipe) -> Iterator[Problem]:
    if recipe.precision != "int8":
        if recipe.quantisation is not None:
            yield Problem(what=f"{recipe.precision} is not quantised", where="quantisation")
        return
    chosen = recipe.quantisation or {}
    if "method" not in chosen:
        yield Problem(what=f"it must say one of {_QUANTISATION['method']}", where="method")
    for name, value in chosen.items():
        if name in _QUANTISATION and value not in _QUANTISATION[name]:
            yield Problem(what=f"known are {_QUANTISATION[name]}", where=f"{name} {value!r}")
        elif name not in _QUANTISATION and name != "samples":
            yield Problem(what=f"known are {(*_QUANTISATION, 'samples')}", where=name)


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


def _sample_count(recipe: Recipe, calibration: Calibration) -> int:
    return min(int((recipe.quantisation or {}).get("samples", 300)), len(calibration))


def _quantise(model: Any, recipe: Recipe, calibration: Calibration) -> Any:
    chosen: Mapping[str, Any] = recipe.quantisation or {}
    with vendor_errors(
        "NNCF cannot quantise the model",
        cause="The calibration data does not fit the model, or an operator confuses NNCF.",
        remedy="Check the samples, or leave int8 out for this model.",
    ):
        with without_telemetry():
            import nncf
        presets = {
            "performance": nncf.QuantizationPreset.PERFORMANCE,
            "mixed": nncf.QuantizationPreset.MIXED,
        }
        preset = chosen.get("preset", _QUANTISATION["preset"][0])
        transformer = chosen.get("model_type") == "transformer"
        correction = chosen.get("bias_correction", _QUANTISATION["bias_correction"][0])
        quantised = nncf.quantize(
            model,
            nncf.Dataset(_Samples(calibration)),
            preset=presets[preset],
            target_device=nncf.TargetDevice[recipe.backend or "CPU"],
            subset_size=_sample_count(recipe, calibration),
            fast_bias_correction=correction != "accurate",
            model_type=nncf.ModelType.TRANSFORMER if transformer else None,
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                disable_bias_correction=correction == "off"
            ),
        )
    if not any(op.get_type_name() == "FakeQuantize" for op in quantised.get_ops()):
        raise ToolchainError(
            "NNCF found no operator to quantise.",
            cause="The model has no convolutions or matrix products that int8 would speed up.",
            remedy="Leave int8 out for this model.",
        )
    return quantised


class _Samples:
    """What NNCF takes for a dataset: iterable again and again, and of known length."""

    def __init__(self, calibration: Calibration) -> None:
        self._calibration = calibration

    def __iter__(self) -> Iterator[dict[str, Array]]:
        for inputs in self._calibration:
            yield dict(inputs)

    def __len__(self) -> int:
        return len(self._calibration)
