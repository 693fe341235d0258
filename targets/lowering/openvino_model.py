"""A program as OpenVINO's model in floats, with the signature's names, sizes and order.

Converting takes torch and seconds; once written as an IR, it is read in no time.
"""

from __future__ import annotations

import dataclasses
import re
import tempfile
from pathlib import Path
from typing import Any

from agent.errors import ToolchainError
from agent.manifest import Signature, TensorSpec
from agent.sessions.openvino import without_telemetry
from targets.interface import Program
from targets.lowering.vendor import vendor_errors

_RECURRENT_OPSET = 20
_NUMBERED = re.compile(r"[A-Z][A-Za-z0-9]*_\d+")
"""A name that OpenVINO makes up: `MatMul_2704`."""


def write_ir(program: Program, out: Path) -> Program:
    """The program as `program.xml` and `program.bin`, whose floats are as they were.

    Raises:
        ToolchainError: OpenVINO cannot convert it.
    """
    with without_telemetry():
        import openvino

    path = out / "program.xml"
    model = openvino_model(program)
    with vendor_errors(
        "OpenVINO cannot write the IR",
        cause="The disk is full or the folder cannot be written.",
        remedy="Make room, then build again.",
    ):
        openvino.save_model(model, path, compress_to_fp16=False)
    return dataclasses.replace(program, kind="openvino", path=path, source=None)


def openvino_model(program: Program) -> Any:
    """The program as an `openvino.Model`: read, if it is an IR, else converted.

    Raises:
        ToolchainError: OpenVINO cannot convert it.
    """
    with without_telemetry():
        import openvino

    with vendor_errors(
        "OpenVINO cannot convert the program",
        cause="An operator has no conversion rule.",
        remedy="Rewrite it with common operators, or use another toolchain.",
    ):
        if program.kind == "openvino":
            return openvino.Core().read_model(program.path)
        with tempfile.TemporaryDirectory() as scratch:
            model = _convert(openvino, program, Path(scratch))
        _name(model, program)
        _fix_shapes(openvino, model, program.signature)
        _name_operators(model)
    _check(model, program.signature)
    return model


def opt_shapes(signature: Signature) -> dict[str, list[int]]:
    """The inputs' shapes at the dims' opt values."""
    return {
        spec.name: [
            entry if isinstance(entry, int) else signature.dims[entry][1] for entry in spec.shape
        ]
        for spec in signature.inputs
    }


def _convert(openvino: Any, program: Program, scratch: Path) -> Any:
    if program.kind == "onnx":
        return openvino.convert_model(str(program.path))
    from targets.lowering.export import export_onnx, is_recurrent, load_exported

    exported = load_exported(program)
    if not is_recurrent(exported):
        return openvino.convert_model(exported)
    # Converted directly, every time step becomes its own dozen operators; through ONNX a GRU or
    # LSTM stays one operator with a kernel of its own.
    path = scratch / "recurrent.onnx"
    export_onnx(exported, program.signature, path, opset=_RECURRENT_OPSET)
    # The weights may still be mapped from the file: on Linux and macOS they live on unnamed.
    return openvino.convert_model(str(path))


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
