"""The few calls of the CUDA runtime that running an engine takes, through ctypes.

A JetPack device certainly has `libcudart.so` and may have no Python package for it.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from agent.errors import ToolchainError
from agent.tensors import Array

_NAMES = ("libcudart.so", "libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0")
_TO_DEVICE, _TO_HOST = 1, 2  # cudaMemcpyKind in driver_types.h


class Cuda:
    """The CUDA runtime, with its error codes turned into ToolchainErrors."""

    def __init__(self, library: Any) -> None:
        self._library = library
        library.cudaGetErrorString.restype = ctypes.c_char_p

    def stream(self) -> int:
        """A new stream's handle."""
        handle = ctypes.c_void_p()
        self._call("cudaStreamCreate", ctypes.byref(handle))
        return int(handle.value or 0)

    def synchronise(self, stream: int) -> None:
        """Wait until all that was queued is done."""
        self._call("cudaStreamSynchronize", ctypes.c_void_p(stream))

    def end_stream(self, stream: int) -> None:
        """Give a stream back."""
        self._call("cudaStreamDestroy", ctypes.c_void_p(stream))

    def allocate(self, size: int) -> int:
        """Device memory of at least one byte; its address."""
        address = ctypes.c_void_p()
        self._call("cudaMalloc", ctypes.byref(address), ctypes.c_size_t(max(size, 1)))
        return int(address.value or 0)

    def free(self, address: int) -> None:
        """Give device memory back."""
        self._call("cudaFree", ctypes.c_void_p(address))

    def upload(self, address: int, array: Array, stream: int) -> None:
        """Queue a copy of a contiguous array to the device."""
        self._copy(address, array.ctypes.data, array.nbytes, _TO_DEVICE, stream)

    def download(self, array: Array, address: int, stream: int) -> None:
        """Queue a copy from the device into a contiguous array."""
        self._copy(array.ctypes.data, address, array.nbytes, _TO_HOST, stream)

    def _copy(self, to: int, source: int, size: int, kind: int, stream: int) -> None:
        self._call(
            "cudaMemcpyAsync",
            ctypes.c_void_p(to),
            ctypes.c_void_p(source),
            ctypes.c_size_t(size),
            ctypes.c_int(kind),
            ctypes.c_void_p(stream),
        )

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._library, name)(*arguments)
        if status:
            told = self._library.cudaGetErrorString(status).decode(errors="replace")
            raise ToolchainError(
                f"{name} failed with {status}: {told}.",
                cause="There is no GPU that CUDA can use, its memory is full, or it hung.",
                remedy="Look at nvidia-smi or tegrastats, and at the kernel's log.",
            )


def load_cuda() -> Cuda:
    """The CUDA runtime of this machine.

    Raises:
        ToolchainError: it has none.
    """
    tried = []
    for name in _candidates():
        try:
            return Cuda(ctypes.CDLL(name))
        except OSError as error:
            tried.append(f"{name}: {error}")
    raise ToolchainError(
        f"The CUDA runtime cannot be loaded: {'; '.join(tried)[:300]}.",
        cause="CUDA is not installed, or its libraries are not where the loader looks.",
        remedy="Install CUDA's runtime (JetPack and TensorRT bring it), or set LD_LIBRARY_PATH.",
    )


def _candidates() -> Iterator[str]:
    """What the loader finds, then JetPack's folder, then the wheels' folders."""
    yield from _NAMES
    yield "/usr/local/cuda/lib64/libcudart.so"
    with contextlib.suppress(ImportError):
        import nvidia  # the wheels' common folder: no code of its own

        for folder in nvidia.__path__:
            yield from map(str, sorted(Path(folder).glob("*/lib/libcudart.so.*")))


def room_for(shape: tuple[int, ...], dtype: Any) -> int:
    """Bytes of an array."""
    return int(np.prod(shape, dtype=np.int64)) * int(np.dtype(dtype).itemsize)
