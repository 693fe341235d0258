"""Capture of a torch module or a `.pt2` program: run and export.

The module is wrapped so that what gets exported takes its tensors by position and returns a flat
tuple, in the order of the signature. Every toolchain then sees the same simple form, and names
are the toolchain's to give.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agent.errors import CaptureError
from agent.manifest import Signature, TensorSpec
from agent.tensors import Array
from sdk.capture.golden import resized
from sdk.capture.graph import activation_bytes, costs, exported_graph
from sdk.capture.torch_errors import export_error
from sdk.capture.torch_loading import load_module, load_program, size_name
from sdk.project import Project
from sdk.usercode import user_error
from targets.interface import Program
from targets.lowering.export import dynamic_shapes

_STANDARD_NAMESPACES = ("aten", "prim", "prims", "higher_order")


class TorchOriginal:
    """The user's model in eager mode, and its export."""

    def __init__(self, project: Project) -> None:
        self._project = project
        if project.model.kind == "pt2":
            self._module, self.inputs, self.dims = load_program(project)
            self._names: list[str] | None = None
        else:
            self._module = load_module(project)
            self.inputs, self.dims = project.inputs, project.dims
            self._names = _names_to_pass(self._module, self.inputs)
        self.output_names: tuple[str, ...] = ()

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run the original on numpy arrays.

        Raises:
            CaptureError: the model raises, or returns something that is not tensors.
        """
        import torch

        tensors = [torch.from_numpy(np.array(inputs[spec.name])) for spec in self.inputs]
        try:
            with torch.inference_mode():
                answer = _call(self._module, self._names, tensors)
        except Exception as error:
            raise user_error(
                "Running the model raised",
                error,
                self._project.root,
                remedy="Check that the declared inputs fit what forward() expects.",
            ) from error
        named = dict(_named_outputs(answer))
        self.output_names = tuple(named)
        return {name: _to_numpy(name, tensor) for name, tensor in named.items()}

    def export(self, example: Mapping[str, Array], out: Path) -> Program:
        """Export with the declared dims to `out/program.pt2`.

        Raises:
            CaptureError: the model cannot be exported; the message names the user's line.
        """
        import torch

        sizes = {name: _export_size(bounds) for name, bounds in self.dims.items()}
        arrays = resized(example, self.inputs, sizes)
        tensors = tuple(torch.from_numpy(arrays[spec.name]) for spec in self.inputs)
        shapes = dynamic_shapes(Signature(inputs=self.inputs, outputs=(), dims=self.dims))
        flat = _flat_module(self._module, self._names)
        try:
            with torch.no_grad():
                program = torch.export.export(flat, tensors, dynamic_shapes=(shapes,))
        except Exception as error:
            raise export_error(error, self._project.root) from error
        path = out / "program.pt2"
        torch.export.save(program, path)
        return self._describe(program, path)

    def _describe(self, program: Any, path: Path) -> Program:
        signature = Signature(inputs=self.inputs, outputs=(), dims=self.dims)
        described = described_program(program, path, signature, self.output_names)
        factory = self._project.model.factory
        source = factory.file if factory and described.custom_ops else None
        return dataclasses.replace(described, source=source)


def described_program(
    program: Any, path: Path, given: Signature, output_names: Sequence[str]
) -> Program:
    """What capture says of an ExportedProgram that was saved to `path`.

    Args:
        program: exported from a module that takes and returns tensors by position.
        path: the `.pt2` file.
        given: the inputs and dims it was exported with; outputs are read off the program.
        output_names: in the program's order.
    """
    nodes = {node.name: node for node in program.graph.nodes}
    placeholders = [nodes[name] for name in program.graph_signature.user_inputs]
    names = {
        str(size): dim
        for spec, node in zip(given.inputs, placeholders, strict=True)
        for dim, size in zip(spec.shape, node.meta["val"].shape, strict=True)
        if isinstance(dim, str) and not isinstance(size, int)
    }
    at_opt, at_max = (
        exported_graph(program, {symbol: given.dims[dim][place] for symbol, dim in names.items()})
        for place in (1, 2)
    )
    outputs = tuple(
        TensorSpec(
            name=name,
            dtype=str(nodes[output].meta["val"].dtype).removeprefix("torch."),
            shape=tuple(size_name(size, names) for size in nodes[output].meta["val"].shape),
        )
        for name, output in zip(output_names, program.graph_signature.user_outputs, strict=True)
    )
    operators = {node.target for node in program.graph.nodes if node.op == "call_function"}
    custom = sorted(
        f"{operator.namespace}::{operator._schema.name.split('::')[-1]}"  # noqa: SLF001
        for operator in operators
        if getattr(operator, "namespace", "aten") not in _STANDARD_NAMESPACES
        and hasattr(operator, "_schema")
    )
    return Program(
        kind="exported",
        path=path,
        signature=dataclasses.replace(given, outputs=outputs),
        digest=_digest(program),
        costs=costs(at_opt),
        weight_bytes=_weight_bytes(program),
        activation_bytes=activation_bytes(at_opt),
        activation_bytes_at_max=activation_bytes(at_max),
        custom_ops=tuple(custom),
    )


def _weight_bytes(program: Any) -> int:
    """Of the weights that the graph reads; tensors that share memory count once."""
    signature = program.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    known = {**program.state_dict, **program.constants}
    used = [
        known[names[node.name]]
        for node in program.graph.nodes
        if node.op == "placeholder" and node.users and names.get(node.name) in known
    ]
    storages = {tensor.untyped_storage().data_ptr(): 0 for tensor in used}
    for tensor in used:
        place = tensor.untyped_storage().data_ptr()
        storages[place] = max(storages[place], tensor.numel() * tensor.element_size())
    return sum(storages.values())


def _names_to_pass(module: Any, inputs: tuple[TensorSpec, ...]) -> list[str] | None:
    """The names to pass by keyword, where forward() has parameters of all these names."""
    import inspect

    parameters = inspect.signature(module.forward).parameters
    names = [spec.name for spec in inputs]
    return names if all(name in parameters for name in names) else None


def _call(module: Any, names: list[str] | None, tensors: Any) -> Any:
    if names is None:
        return module(*tensors)
    return module(**dict(zip(names, tensors, strict=True)))


def _flat_module(module: Any, names: list[str] | None) -> Any:
    import torch

    class Flat(torch.nn.Module):  # type: ignore[misc]  # torch is untyped here
        """Takes tensors by position, returns a tuple of tensors."""

        def __init__(self) -> None:
            super().__init__()
            self.model = module

        def forward(self, *tensors: Any) -> Any:
            return tuple(tensor for _, tensor in _named_outputs(_call(self.model, names, tensors)))

    return Flat().eval()


def _named_outputs(answer: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The tensors of an answer with their names: dict keys, fields, or positions."""
    import torch

    if isinstance(answer, torch.Tensor):
        yield prefix or "output", answer
        return
    parts: list[tuple[str, Any]]
    if isinstance(answer, Mapping):
        parts = [(str(key), value) for key, value in answer.items()]
    elif dataclasses.is_dataclass(answer) and not isinstance(answer, type):
        parts = [(f.name, getattr(answer, f.name)) for f in dataclasses.fields(answer)]
    elif isinstance(answer, tuple) and hasattr(answer, "_fields"):
        parts = list(zip(answer._fields, answer, strict=True))
    elif isinstance(answer, (tuple, list)):
        parts = [(str(index) if prefix else f"output_{index}", v) for index, v in enumerate(answer)]
    elif answer is None:
        return
    else:
        raise CaptureError(
            f"The model returns {type(answer).__name__} at {prefix or 'the top'}, not tensors.",
            cause="Numbers, strings and own classes cannot cross to a device.",
            remedy="Return a tensor, or a tuple or dict of tensors.",
        )
    for name, value in parts:
        yield from _named_outputs(value, f"{prefix}_{name}" if prefix else name)


def _to_numpy(name: str, tensor: Any) -> Array:
    import torch

    if tensor.dtype == torch.bfloat16:
        raise CaptureError(
            f"Output {name} is bfloat16, which numpy and devices do not share.",
            remedy="Cast it to float32 at the end of forward().",
        )
    return np.array(tensor.detach().cpu().numpy())


def _export_size(bounds: tuple[int, int, int]) -> int:
    """The size to export with: the greatest.

    An axis of size 1 would be taken for a fixed one. And compilers decide by the size they see
    (ExecuTorch plans its buffers so): what was traced small may refuse what is large.
    """
    return bounds[2]


def _digest(program: Any) -> str:
    digest = hashlib.sha256(str(program.graph).encode())
    digest.update(str(program.graph_signature).encode())
    for name, tensor in sorted((program.state_dict | program.constants).items()):
        digest.update(
            f"{name} {getattr(tensor, 'dtype', '')} {getattr(tensor, 'shape', '')}".encode()
        )
        if hasattr(tensor, "detach"):
            content = tensor.detach().contiguous().cpu()
            digest.update(memoryview(content.reshape(-1).view(_bytes_dtype()).numpy()))
    return digest.hexdigest()


def _bytes_dtype() -> Any:
    import torch

    return torch.uint8
