"""Programs as ONNX files in floats, in the opset that was asked for, and held against the names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agent.errors import ToolchainError
from agent.manifest import Signature
from targets.interface import Program
from targets.lowering.export import SINGLE_FILE_BYTES, export_onnx, load_exported
from targets.lowering.vendor import vendor_errors


def write_float(
    program: Program, path: Path, *, opset: int, most_opset: int | None, ir: int
) -> None:
    """The program as ONNX in floats: exported, or copied with checks.

    Args:
        program: of either kind.
        path: the file to write; large weights lie beside it.
        opset: to export in.
        most_opset: what a copied file may have at most; None for any.
        ir: the greatest IR version of a copied file.

    Raises:
        ToolchainError: the exporter refuses, or the file does not fit.
    """
    if program.kind == "onnx":
        _copy(program, path, most_opset, ir)
    else:
        export_onnx(load_exported(program), program.signature, path, opset=opset)


def check_names(path: Path, signature: Signature) -> None:
    """Hold the file against the signature: names are what a session finds its tensors by.

    Raises:
        ToolchainError: an input or output is missing, or there is one too many.
    """
    import onnx

    graph = onnx.load(str(path), load_external_data=False).graph
    weights = {tensor.name for tensor in graph.initializer}
    for ports, specs in ((graph.input, signature.inputs), (graph.output, signature.outputs)):
        found = [port.name for port in ports if port.name not in weights]
        expected = [spec.name for spec in specs]
        if sorted(found) != sorted(expected):
            raise ToolchainError(
                f"The ONNX file has {found}, the signature {expected}.",
                cause="The exporter or the quantiser dropped or renamed one.",
                remedy="Rename it in sdk.toml, or use another toolchain.",
            )


def opset_of(model: Any) -> int:
    """The opset of ONNX's own operators."""
    return int(next((e.version for e in model.opset_import if e.domain in ("", "ai.onnx")), 1))


def at_opset(model: Any, *, most: int, least: int = 1) -> Any:
    """The model in an opset from `least` to `most`, and as it is where it already is.

    Raises:
        ToolchainError: an operator has no form in that opset.
    """
    import onnx

    found = opset_of(model)
    wanted = min(max(found, least), most)
    if wanted == found:
        return model
    with vendor_errors(
        f"the graph cannot be moved from opset {found} to {wanted}",
        cause="An operator has no form there, which the device's runtime would need.",
        remedy=f"Export the model with opset_version={wanted}, or leave the old runtime out of "
        "the profile.",
    ):
        if wanted < 18 <= found:
            _axes_alone(model)
        moved = onnx.version_converter.convert_version(model, wanted)
        onnx.checker.check_model(moved, full_check=True)
    return moved


def save(model: Any, path: Path, *, external: bool) -> None:
    """Write a model that was read whole, its weights beside it if they are many, and check it.

    Raises:
        ToolchainError: the disk is full, or the model is not valid.
    """
    with vendor_errors(
        f"{path.name} cannot be written",
        cause="The disk is full, or the model needs an IR version that devices do not read.",
        remedy="Make room, or export the model again with an older onnx.",
    ):
        import onnx

        onnx.save(model, str(path), save_as_external_data=external, location=f"{path.name}.data")
        onnx.checker.check_model(str(path))


def _copy(program: Program, path: Path, most_opset: int | None, most_ir: int) -> None:
    source = program.path
    with vendor_errors(
        f"{source.name} cannot be read as ONNX",
        cause="It was changed after capture.",
        remedy="Build again with --fresh.",
    ):
        import onnx

        model = onnx.load(str(source))
    found = opset_of(model)
    if most_opset is not None and found > most_opset:
        raise ToolchainError(
            f"{source.name} uses opset {found}, the device's runtime takes {most_opset} at most.",
            cause="It was exported for a newer runtime.",
            remedy=f"Export it again with opset_version={most_opset}.",
        )
    # Newer IR versions only add types and annotations; the checker finds those that are in use.
    model.ir_version = min(model.ir_version, most_ir)
    save(model, path, external=program.weight_bytes > SINGLE_FILE_BYTES)


def _axes_alone(model: Any) -> None:
    """Drop a default that reductions got with opset 18: the converter leaves it behind."""
    for node in model.graph.node:
        for attribute in list(node.attribute):
            if attribute.name == "noop_with_empty_axes" and attribute.i == 0:
                node.attribute.remove(attribute)
