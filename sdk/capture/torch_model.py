"""Capture of a torch module or a `.pt2` program: load, run, export.

The module is wrapped so that what gets exported takes its tensors by position and returns a flat
tuple, in the order of the signature. Every toolchain then sees the same simple form, and names
are the toolchain's to give.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from agent.errors import CaptureError
from agent.manifest import Signature, TensorSpec
from agent.tensors import Array
from sdk.capture.cost import exported_costs, symbol_size
from sdk.capture.golden import resized
from sdk.project import Project
from sdk.usercode import load_function, user_error, user_line
from targets.interface import Program

_STANDARD_NAMESPACES = ("aten", "prim", "prims", "higher_order")


class TorchOriginal:
    """The user's model in eager mode, and its export."""

    def __init__(self, project: Project) -> None:
        self._project = project
        if project.model.kind == "pt2":
            self._module, self.inputs, self.dims = _load_program(project)
            self._names: list[str] | None = None
        else:
            self._module = _load_module(project)
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
        dims = {
            name: torch.export.Dim(name, min=low, max=high)
            for name, (low, _, high) in self.dims.items()
            if low < high
        }
        shapes = tuple(
            {axis: dims[size] for axis, size in enumerate(spec.shape) if size in dims}
            for spec in self.inputs
        )
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
        nodes = {node.name: node for node in program.graph.nodes}
        placeholders = [nodes[name] for name in program.graph_signature.user_inputs]
        names = {
            str(size): dim
            for spec, node in zip(self.inputs, placeholders, strict=True)
            for dim, size in zip(spec.shape, node.meta["val"].shape, strict=True)
            if isinstance(dim, str) and not isinstance(size, int)
        }
        opt = {symbol: self.dims[dim][1] for symbol, dim in names.items()}
        outputs = tuple(
            TensorSpec(
                name=name,
                dtype=str(nodes[output].meta["val"].dtype).removeprefix("torch."),
                shape=tuple(_size_name(size, names) for size in nodes[output].meta["val"].shape),
            )
            for name, output in zip(
                self.output_names, program.graph_signature.user_outputs, strict=True
            )
        )
        operators = {node.target for node in program.graph.nodes if node.op == "call_function"}
        custom = sorted(
            f"{operator.namespace}::{operator._schema.name.split('::')[-1]}"  # noqa: SLF001
            for operator in operators
            if getattr(operator, "namespace", "aten") not in _STANDARD_NAMESPACES
            and hasattr(operator, "_schema")
        )
        factory = self._project.model.factory
        return Program(
            kind="exported",
            path=path,
            signature=Signature(inputs=self.inputs, outputs=outputs, dims=self.dims),
            digest=_digest(program),
            costs=exported_costs(program, opt),
            weight_bytes=sum(
                tensor.numel() * tensor.element_size() for tensor in program.state_dict.values()
            ),
            custom_ops=tuple(custom),
            source=factory.file if factory and custom else None,
        )


def export_error(error: BaseException, project_root: Path) -> CaptureError:
    """Why torch.export failed, at the user's own line, with what to change there."""
    text = f"{type(error).__name__}: {error}"
    causes = [
        (cause, remedy)
        for patterns, cause, remedy in _EXPORT_CAUSES
        if any(pattern in text for pattern in patterns)
    ]
    cause, remedy = causes[0] if causes else ("", "Change that line so that torch.export takes it.")
    place = user_line(error, project_root)
    raised = user_error(
        f"The model cannot be exported{f' because of {place}' if place else ''}:",
        error,
        project_root,
        remedy=remedy,
    )
    return CaptureError(
        raised.what, cause=" ".join(part for part in (raised.cause, cause) if part), remedy=remedy
    )


_EXPORT_CAUSES = (
    (
        ("GuardOnDataDependent", "data-dependent", "Could not guard on data", "u0"),
        "It branches on a value that is known only when the model runs.",
        "Compute both sides and choose with torch.where, or use torch.cond.",
    ),
    (
        ("ConstraintViolation", "Constraints violated", "specialized"),
        "The code fixes an axis that sdk.toml declares as dynamic, or relates two dims.",
        "Make the axis a fixed size in [[inputs]], or mend the bounds in [dims].",
    ),
    (
        (
            "no fake impl",
            "register_fake",
            "Meta",
            "meta kernel",
            "FakeTensor",
            "numpy",
            "data pointer",
            "data_ptr",
        ),
        "The call leaves torch, or uses an operator that torch.export does not know.",
        "Write it with torch operators, or register it: torch.library.custom_op + register_fake.",
    ),
)


def _load_module(project: Project) -> Any:
    import torch

    factory = project.model.factory
    assert factory is not None
    make = load_function(project.root, factory.file, factory.function, "model.source")
    try:
        module = make()
    except Exception as error:
        raise user_error(
            f"{factory} raised",
            error,
            project.root,
            remedy="Correct that line; it takes no arguments.",
        ) from error
    if not isinstance(module, torch.nn.Module):
        raise CaptureError(
            f"{factory} returned {type(module).__name__}, not a torch.nn.Module.",
            cause="It returns a state dict, a tuple, or nothing.",
            remedy="Return the module itself.",
        )
    if project.model.checkpoint:
        _load_weights(module, project.root / project.model.checkpoint)
    return module.eval().requires_grad_(requires_grad=False)


def _load_weights(module: Any, path: Path) -> None:
    import safetensors
    import safetensors.torch

    try:
        weights = safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise CaptureError(
            f"{path} cannot be read as safetensors: {error}.",
            cause="It was cut short, or is another format under this name.",
            remedy="Save it again: safetensors.torch.save_file(model.state_dict(), FILE)",
        ) from error
    try:
        missing, unexpected = module.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:4]]
        raise CaptureError(
            f"The weights in {path.name} do not fit the model: {' '.join(lines)}",
            cause="The model was built with other sizes than the checkpoint.",
            remedy="Use the checkpoint of this very model, or build the model with its sizes.",
        ) from error
    # Tied weights are stored once, so a missing name may share memory with one that was loaded.
    missing = [name for name in missing if not _is_tied(module, name, weights)]
    if missing or unexpected:
        raise CaptureError(
            f"The weights in {path.name} do not fit the model: missing {_some(missing)}, "
            f"not known to the model {_some(unexpected)}.",
            cause="The checkpoint is another model's, or its names carry a prefix.",
            remedy="Use the checkpoint of this very model, or rename its keys.",
        )


def _is_tied(module: Any, name: str, weights: Mapping[str, Any]) -> bool:
    state = module.state_dict()
    pointer = state[name].data_ptr()
    return any(key in weights and state[key].data_ptr() == pointer for key in state if key != name)


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:3]) or "none"
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown


def _load_program(
    project: Project,
) -> tuple[Any, tuple[TensorSpec, ...], dict[str, tuple[int, int, int]]]:
    import torch
    from torch.utils import _pytree as pytree

    path = project.root / str(project.model.file)
    try:
        program = torch.export.load(path)
    except Exception as error:
        raise CaptureError(
            f"{path} cannot be loaded as an exported program: {str(error).splitlines()[0]}",
            cause="It was cut short, is not made by torch.export.save, or needs another torch.",
            remedy=f"Save it again with torch {torch.__version__}.",
        ) from error
    nodes = {node.name: node for node in program.graph.nodes}
    values = [nodes[name].meta["val"] for name in program.graph_signature.user_inputs]
    if project.inputs:
        if len(project.inputs) != len(values):
            raise CaptureError(
                f"{path.name} takes {len(values)} inputs, sdk.toml declares {len(project.inputs)}.",
                remedy="Declare exactly the program's inputs, in its order.",
            )
        inputs, dims = project.inputs, project.dims
    else:
        inputs, dims = _read_signature(program, values, path)
    module = program.module()
    spec = program.call_spec.in_spec

    class Unflattened(torch.nn.Module):  # type: ignore[misc]  # torch is untyped here
        """The program with its nested arguments put back together."""

        def __init__(self) -> None:
            super().__init__()
            self.program = module

        def forward(self, *tensors: Any) -> Any:
            arguments, named = pytree.tree_unflatten(list(tensors), spec)
            return self.program(*arguments, **named)

    return Unflattened(), inputs, dims


def _read_signature(
    program: Any, values: list[Any], path: Path
) -> tuple[tuple[TensorSpec, ...], dict[str, tuple[int, int, int]]]:
    dims: dict[str, tuple[int, int, int]] = {}
    names: dict[str, str] = {}
    for symbol, bounds in program.range_constraints.items():
        try:
            low, high = int(bounds.lower), int(bounds.upper)
        except (OverflowError, TypeError, AttributeError) as error:
            raise CaptureError(
                f"{path.name} has a dynamic dim {symbol} without an upper bound.",
                cause="It was exported with Dim.AUTO or without max.",
                remedy="Declare [[inputs]] and [dims] in sdk.toml, or export with Dim(min=, max=).",
            ) from error
        names[str(symbol)] = f"dim{len(dims)}"
        dims[names[str(symbol)]] = (max(low, 1), max(low, 1), high)
    inputs = tuple(
        TensorSpec(
            name=name,
            dtype=str(value.dtype).removeprefix("torch."),
            shape=tuple(_size_name(size, names) for size in value.shape),
        )
        for name, value in zip(program.graph_signature.user_inputs, values, strict=True)
    )
    return inputs, dims


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


def _size_name(size: Any, names: Mapping[str, str]) -> int | str:
    if isinstance(size, int):
        return size
    text = str(size)
    if text in names:
        return names[text]
    free = {str(symbol) for symbol in size.node.expr.free_symbols}
    if not free:
        return symbol_size(size, {})
    for symbol in free:
        text = text.replace(symbol, names.get(symbol, symbol))
    return text


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
