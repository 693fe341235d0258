"""Run `.pte` files with ExecuTorch's Python runtime.

Options: `threads`, the size of XNNPACK's thread pool, which is one per process; the others are for
the lowering and mean nothing here. The runtime has XNNPACK and the portable kernels: a Vulkan or
Core ML program is refused.

The runtime's own door, `executorch.runtime`, imports the whole compiler for one warning class,
which takes several times as long and hundreds of MiB; the native module behind it needs torch only.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from agent.errors import ToolchainError, UsageError
from agent.manifest import Signature
from agent.sessions import Session
from agent.tensors import Array

FORMAT = "executorch"
PACKAGE = "executorch"

_METHOD = "forward"


def load(path: Path, options: Mapping[str, Any], signature: Signature) -> Session:
    """Load a `.pte` file.

    Raises:
        UsageError: `threads` is not a number of threads.
        ToolchainError: the runtime refuses the file, or lacks its backend.
    """
    torch, native = import_runtime()
    if "threads" in options:
        _set_threads(native, options["threads"])
    method = _load_method(native, path)
    _check_counts(path, method.method_meta(), signature)
    return _Session(torch, native, method, path, signature)


def import_runtime() -> tuple[Any, Any]:
    """Import torch and ExecuTorch's native module.

    By name, because the import rules keep torch out of agent/; the executorch wheel needs it: it
    links torch's libraries, and its inputs and outputs are torch's tensors.
    """
    torch = importlib.import_module("torch")
    native = importlib.import_module("executorch.extension.pybindings._portable_lib")
    # Registers the kernels of (de)quantisation that no delegate took; absent on some platforms.
    importlib.import_module("executorch.kernels.quantized")
    return torch, native


def _load_method(native: Any, path: Path) -> Any:
    try:
        program = native._load_program(  # noqa: SLF001  here and below: all its names are private
            str(path), program_verification=native.Verification.InternalConsistency
        )
        return program.load_method(_METHOD)
    except RuntimeError as error:
        known = ", ".join(sorted(native._get_registered_backend_names()))  # noqa: SLF001
        raise ToolchainError(
            f"ExecuTorch cannot load {path.name}: {error}",
            cause=_cause(str(error), known),
            remedy="Run it on the device it was made for, copy it again, or update executorch.",
        ) from error


def _cause(message: str, known: str) -> str:
    """The runtime's codes (its `runtime/core/error.h`), as far as they tell something."""
    if message.endswith("0x:14"):
        return "It calls an operator that this runtime has no kernel for."
    if message.endswith("0x:20"):
        return f"It is missing, or needs a backend that this runtime lacks: it has {known}."
    return "It is cut short, damaged, or newer than this runtime."


def _set_threads(native: Any, wanted: Any) -> None:
    if not isinstance(wanted, int) or isinstance(wanted, bool) or wanted < 1:
        raise UsageError(
            f"The option threads is {wanted!r}; it should be a number of threads, 1 or more.",
            cause="The variant's record was edited.",
            remedy="Leave it out for the runtime's own choice.",
        )
    if native._threadpool_get_thread_count() != wanted:  # noqa: SLF001
        native._unsafe_reset_threadpool(wanted)  # noqa: SLF001


def _check_counts(path: Path, meta: Any, signature: Signature) -> None:
    found = (meta.num_inputs(), meta.num_outputs())
    expected = (len(signature.inputs), len(signature.outputs))
    if found != expected:
        raise ToolchainError(
            f"{path.name} has {found[0]} inputs and {found[1]} outputs, its record says "
            f"{expected[0]} and {expected[1]}.",
            cause="The file and its record come from different builds.",
            remedy="Copy the variant's folder whole, or build it again.",
        )


class _Session:
    def __init__(
        self, torch: Any, native: Any, method: Any, path: Path, signature: Signature
    ) -> None:
        self._torch = torch
        self._native = native
        self._method = method
        self._path = path
        self._inputs = tuple(spec.name for spec in signature.inputs)
        self._outputs = tuple(spec.name for spec in signature.outputs)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        tensors = [self._tensor(inputs[name]) for name in self._inputs]
        try:
            answers = self._method.call(tensors, clone_outputs=False)
        except RuntimeError as error:
            raise ToolchainError(
                f"ExecuTorch failed while running: {error}",
                cause="An operator does not take these sizes, or memory ran out; the runtime "
                "says more on the standard error output.",
                remedy="Check the model at these sizes, or build again with narrower dims.",
            ) from error
        return {
            name: np.asarray(_View(answer.numpy(), (self._method, tensors)))
            for name, answer in zip(self._outputs, answers, strict=True)
        }

    def reset(self) -> None:
        # Buffers that the model writes to are its attributes. They belong to the loaded program:
        # a second method of it would go on where this one is.
        if self._method.method_meta().num_attributes():
            self._method = _load_method(self._native, self._path)

    def close(self) -> None:
        self._method = None

    def placement(self) -> dict[str, float]:
        """Empty: the compiler knows the shares and the build records them; the runtime does not."""
        return {}

    def _tensor(self, array: Array) -> Any:
        # torch warns of a read-only array, such as one mapped from golden data: copy that one.
        return self._torch.from_numpy(array if array.flags.writeable else array.copy())


class _View:
    """An output in the method's own memory, which stays alive as long as the array does."""

    def __init__(self, array: Array, owner: Any) -> None:
        self.__array_interface__ = array.__array_interface__
        self._owner = owner
