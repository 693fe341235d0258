"""From an exported program to an ONNX file that is named as the signature says.

Names in a `.pt2` mean nothing and the exporter's own would collide with the signature's (an
output called `embedding` and an operator of that name make an invalid file), so names are given
here, by position, after the export.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from agent.manifest import Signature
from targets.interface import Problem, Program
from targets.lowering.vendor import vendor_errors, version_of

SINGLE_FILE_BYTES = 1_900_000_000
"""Weights above this go beside the model: a protobuf message ends at 2 GiB."""

EXPORT_OPSETS = range(18, 24)
"""What the exporter writes and the runtimes on devices read (ONNX Runtime 1.23: opset 23)."""

RECURRENT = ("aten.gru", "aten.lstm", "aten.rnn_")
"""Operators that are one node in ONNX and hundreds once torch has decomposed them."""


def export_problems(program: Program) -> Iterator[Problem]:
    """What is missing here to write the program as ONNX; nothing for one that is ONNX already."""
    if program.kind == "exported":
        for name in ("torch", "onnxscript"):
            if version_of(name) is None:
                what = "the program comes from torch, and this is not installed"
                yield Problem(what=what, where=name)


def load_exported(program: Program) -> Any:
    """The `torch.export.ExportedProgram` of a program of that kind.

    Raises:
        ToolchainError: torch cannot read it.
    """
    with vendor_errors(
        f"torch cannot load {program.path.name}",
        cause="It was changed after capture, or an operator of its own is not registered.",
        remedy="Build again with --fresh.",
    ):
        import torch

        return torch.export.load(program.path)


def dynamic_shapes(signature: Signature) -> tuple[dict[int, Any], ...]:
    """What `torch.export.export` is told of the axes that vary, one mapping per input."""
    import torch

    dims = {
        name: torch.export.Dim(name, min=low, max=high)
        for name, (low, _, high) in signature.dims.items()
        if low < high
    }
    return tuple(
        {axis: dims[size] for axis, size in enumerate(spec.shape) if size in dims}
        for spec in signature.inputs
    )


def is_recurrent(exported: Any) -> bool:
    """Does it hold a GRU, LSTM or RNN as one operator?"""
    return any(str(node.target).startswith(RECURRENT) for node in exported.graph.nodes)


def export_onnx(
    exported: Any,
    signature: Signature,
    path: Path,
    *,
    opset: int,
    single_file_bytes: int = SINGLE_FILE_BYTES,
) -> tuple[str, ...]:
    """Write `path`, and `<path>.data` where the weights are too many for one file.

    Returns:
        The names of the files written, the model first.

    Raises:
        ToolchainError: the exporter refuses the program.
    """
    with vendor_errors(
        "torch.onnx cannot export the program",
        cause="An operator has no ONNX form at this opset.",
        remedy=f"Try another opset ({EXPORT_OPSETS[0]} to {EXPORT_OPSETS[-1]}), or rewrite it.",
    ):
        import torch

        result = torch.onnx.export(
            exported, (), None, dynamo=True, opset_version=opset, verbose=False
        )
        _name(result.model, signature)
        weights = sum(tensor.nbytes for tensor in exported.state_dict.values())
        external = weights > single_file_bytes
        result.save(path, external_data=external)
    return (path.name, f"{path.name}.data") if external else (path.name,)


def _name(model: Any, signature: Signature) -> None:
    """Give inputs, outputs and dims the signature's names; whoever holds one of them gives way."""
    graph = model.graph
    ports = [*graph.inputs, *graph.outputs]
    specs = [*signature.inputs, *signature.outputs]
    reserved = {spec.name for spec in specs}
    for value in _values(model):
        if value.name in reserved:
            value.name = f"{value.name}/inner"
    symbols: dict[str, str] = {}
    for value, spec in zip(ports, specs, strict=True):
        value.name = spec.name
    for value, spec in zip(graph.inputs, signature.inputs, strict=True):
        for found, size in zip(value.shape or (), spec.shape, strict=True):
            if isinstance(size, str) and not isinstance(found, int) and found.value:
                symbols[str(found.value)] = size
    for value in _values(model):
        _name_dims(value, symbols)


def _name_dims(value: Any, symbols: Mapping[str, str]) -> None:
    if value.shape is None or value.shape.frozen:
        return
    for axis, size in enumerate(value.shape):
        if not isinstance(size, int) and size.value:
            value.shape[axis] = re.sub(
                r"\w+", lambda match: symbols.get(match[0], match[0]), str(size.value)
            )


def _values(model: Any) -> Iterator[Any]:
    """Every value of the model once, those of subgraphs too."""
    import onnx_ir

    seen: set[int] = set()
    for graph in model.graphs():
        own = [*graph.inputs, *graph.initializers.values()]
        made = [
            value
            for node in onnx_ir.traversal.RecursiveGraphIterator(graph)
            for value in node.outputs
        ]
        for value in (*own, *made):
            if id(value) not in seen:
                seen.add(id(value))
                yield value
