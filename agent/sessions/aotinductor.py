"""Sessions of AOTInductor packages: machine code that torch compiled for this kind of machine."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent.errors import ToolchainError
from agent.manifest import Signature
from agent.tensors import Array

FORMAT = "aotinductor"
PACKAGE = "torch"


def import_runtime() -> Any:
    """Import torch with the loader of packages; by name, for the rules keep torch out of agent/."""
    torch = importlib.import_module("torch")
    importlib.import_module("torch._inductor")
    return torch


def load(path: Path, options: Mapping[str, Any], signature: Signature) -> _Session:
    """Load `model.pt2`.

    Args:
        path: the package.
        options: `threads` for the CPU; torch's own choice without it.
        signature: inputs and outputs by position.

    Raises:
        ToolchainError: the package is spoilt, or was compiled for another machine or torch.
        ImportError: torch is not installed.
    """
    torch = import_runtime()
    if "threads" in options:
        torch.set_num_threads(int(options["threads"]))
    try:
        compiled = torch._inductor.aoti_load_package(str(path))  # noqa: SLF001  its documented home
    except Exception as error:
        raise ToolchainError(
            f"torch {torch.__version__} cannot load {path.name}: {error}",
            cause="It was compiled by another torch, for another CPU or GPU, or was cut short.",
            remedy="Build it again on this kind of machine, or choose another variant.",
        ) from error
    _check_counts(compiled, signature, path)
    return _Session(torch, compiled, signature)


def _check_counts(compiled: Any, signature: Signature, path: Path) -> None:
    """Names are lost in a package; how many tensors go in and out is not."""
    pytree = importlib.import_module("torch.utils._pytree")
    told = [pytree.treespec_loads(text).num_leaves for text in compiled.loader.get_call_spec()]
    expected = [len(signature.inputs), len(signature.outputs)]
    if told != expected:
        raise ToolchainError(
            f"{path.name} takes {told[0]} tensors and returns {told[1]}, its record says "
            f"{expected[0]} and {expected[1]}.",
            cause="The file and its record come from different builds.",
            remedy="Copy the variant's folder whole, or build it again.",
        )


class _Session:
    def __init__(self, torch: Any, compiled: Any, signature: Signature) -> None:
        self._torch = torch
        self._compiled = compiled
        self._inputs = tuple(spec.name for spec in signature.inputs)
        self._outputs = tuple(spec.name for spec in signature.outputs)
        device = compiled.get_metadata().get("AOTI_DEVICE_KEY", "cpu")
        self._device = str(device)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        tensors = [self._tensor(inputs[name]) for name in self._inputs]
        try:
            with self._torch.inference_mode():
                answers = self._compiled(*tensors)
        except RuntimeError as error:
            raise ToolchainError(
                f"The compiled program failed while running: {error}",
                cause="An operator does not take these sizes, or memory ran out.",
                remedy="Check the model at these sizes, or build again with narrower dims.",
            ) from error
        # Copying to the host waits for the GPU, so a run's time is all of it.
        return {
            name: answer.cpu().numpy() for name, answer in zip(self._outputs, answers, strict=True)
        }

    def reset(self) -> None:
        """Nothing to forget: packages are made of programs without state."""

    def close(self) -> None:
        self._compiled = None

    def placement(self) -> dict[str, float]:
        """All of it is compiled for one device."""
        return {self._device: 1.0}

    def _tensor(self, array: Array) -> Any:
        # torch warns of a read-only array, such as one mapped from golden data: copy that one.
        tensor = self._torch.from_numpy(array if array.flags.writeable else array.copy())
        return tensor if self._device == "cpu" else tensor.to(self._device)
