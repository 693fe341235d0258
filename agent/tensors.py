"""Named arrays in one file: safetensors, read and written with numpy alone.

Golden data and evaluation packs use it: no code runs on reading, lengths are checked before any
byte is believed, and arrays are mapped, not copied. Format:
https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.disk import sync_folder
from agent.errors import VerificationError
from agent.files import storage_errors

Array = NDArray[Any]

_DTYPES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "I16": "int16",
    "U16": "uint16",
    "I32": "int32",
    "U32": "uint32",
    "I64": "int64",
    "U64": "uint64",
    "F16": "float16",
    "F32": "float32",
    "F64": "float64",
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
DTYPES = tuple(_NAMES)
"""The dtypes a tensor at a model's border may have, as numpy names them."""

MAX_HEADER_BYTES = 100_000_000  # the limit of the format's reference reader


class TensorWriter:
    """Write named arrays one by one, holding none of them in memory.

    A context manager: the file appears, whole, when the block ends without an error.

    Raises:
        StorageError: the disk is full, or the folder cannot be written.
        VerificationError: an array has a dtype the format here does not carry.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._header: dict[str, Any] = {}
        self._offset = 0

    def __enter__(self) -> TensorWriter:
        with storage_errors(self._path):
            self._body = tempfile.TemporaryFile(dir=self._path.parent)
        return self

    def add(self, name: str, array: Array) -> None:
        """Append one array."""
        if str(array.dtype) not in _NAMES:
            raise VerificationError(
                f"Array {name} has dtype {array.dtype}; known are {', '.join(_NAMES)}.",
                cause="The model's inputs or outputs have a type that devices do not share.",
                remedy="Cast it inside the model, for example to float32.",
            )
        content = np.ascontiguousarray(array).tobytes()
        self._header[name] = {
            "dtype": _NAMES[str(array.dtype)],
            "shape": list(array.shape),
            "data_offsets": [self._offset, self._offset + len(content)],
        }
        with storage_errors(self._path):
            self._body.write(content)
        self._offset += len(content)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._body, storage_errors(self._path):
            if kind is None:
                self._finish()

    def _finish(self) -> None:
        self._body.seek(0)
        encoded = json.dumps(self._header, separators=(",", ":")).encode()
        encoded += b" " * (-len(encoded) % 8)
        beside = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        with beside.open("wb") as stream:
            stream.write(len(encoded).to_bytes(8, "little") + encoded)
            shutil.copyfileobj(self._body, stream)
            stream.flush()
            os.fsync(stream.fileno())
        beside.replace(self._path)
        sync_folder(self._path.parent)


def write_tensors(path: Path, tensors: Iterable[tuple[str, Array]]) -> None:
    """Write named arrays, as `TensorWriter` does, from any iterable."""
    with TensorWriter(path) as writer:
        for name, array in tensors:
            writer.add(name, array)


def read_tensors(path: Path) -> dict[str, Array]:
    """Map the arrays of a file, read-only, in the order they were written.

    Raises:
        VerificationError: the file is not what its header says.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
            raise _broken(path, f"its header claims {length} bytes of a file of {size}")
        try:
            header = json.loads(stream.read(length))
        except (ValueError, RecursionError) as error:
            raise _broken(path, f"its header is not JSON ({error})") from error
    if not isinstance(header, dict):
        raise _broken(path, "its header is not an object")
    header.pop("__metadata__", None)
    start = 8 + length
    content = (
        np.memmap(path, dtype=np.uint8, mode="r", offset=start)
        if size > start
        else np.empty(0, np.uint8)
    )
    tensors: dict[str, Array] = {}
    end = 0
    for name, entry in header.items():
        tensors[name], end = _view(path, name, entry, content, end)
    if end != size - start:
        raise _broken(path, f"{size - start - end} bytes belong to no array")
    return tensors


def by_sample(tensors: Mapping[str, Array], kind: str) -> dict[str, dict[str, Array]]:
    """Keys `<nnnnn>/<kind>/<name>` -> `<nnnnn>` -> name -> array; other kinds are left out.

    >>> by_sample({"00000/in/x": np.zeros(1), "00000/label": np.zeros(1)}, "in").keys()
    dict_keys(['00000'])
    """
    found: dict[str, dict[str, Array]] = {}
    for key, array in tensors.items():
        index, _, rest = key.partition("/")
        if rest.startswith(f"{kind}/"):
            found.setdefault(index, {})[rest[len(kind) + 1 :]] = array
    return found


def _view(path: Path, name: str, entry: Any, content: Array, expected: int) -> tuple[Array, int]:
    try:
        dtype = np.dtype(_DTYPES[entry["dtype"]])
        shape = tuple(int(size) for size in entry["shape"])
        begin, end = (int(offset) for offset in entry["data_offsets"])
    except (KeyError, TypeError, ValueError) as error:
        raise _broken(path, f"the entry of {name} is malformed") from error
    if begin != expected or any(size < 0 for size in shape):
        raise _broken(path, f"{name} starts at {begin}, expected {expected}")
    if end - begin != math.prod(shape) * dtype.itemsize or end > len(content):
        raise _broken(path, f"{name} has {end - begin} bytes, its shape {shape} says otherwise")
    return content[begin:end].view(dtype).reshape(shape), end


def _broken(path: Path, detail: str) -> VerificationError:
    return VerificationError(
        f"{path} is not a readable safetensors file: {detail}.",
        cause="It was cut short or changed after it was written.",
        remedy="Build or fetch it again.",
    )
