"""The user's torch model, loaded: a factory's module with its weights, or a `.pt2` program."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent.errors import CaptureError
from agent.manifest import TensorSpec
from sdk.capture.graph import symbol_size
from sdk.project import Project
from sdk.usercode import load_function, user_error


def load_module(project: Project) -> Any:
    """The module that the project's factory makes, with its checkpoint's weights, in eval mode.

    Raises:
        CaptureError: the factory raises or returns no module; the weights cannot be read, or fit
            another model.
    """
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


def load_program(
    project: Project,
) -> tuple[Any, tuple[TensorSpec, ...], dict[str, tuple[int, int, int]]]:
    """A `.pt2` program as a module that takes its tensors by position; its inputs and dims.

    Raises:
        CaptureError: the file cannot be loaded, has a dim without an upper bound, or takes other
            inputs than sdk.toml declares.
    """
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
    # Its train() and eval() only raise. What they would switch is fixed since the export; the
    # module's own flag means nothing to it, and whoever wraps it may set that.
    for name in ("train", "eval"):
        vars(module).pop(name, None)
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


def size_name(size: Any, names: Mapping[str, str]) -> int | str:
    """A traced size as the signature writes it: a number, or an expression of the dims' names."""
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
            shape=tuple(size_name(size, names) for size in value.shape),
        )
        for name, value in zip(program.graph_signature.user_inputs, values, strict=True)
    )
    return inputs, dims
