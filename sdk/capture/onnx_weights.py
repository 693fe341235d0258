"""The tensors of an ONNX model, wherever they lie: in the file, in a subgraph, in files beside it.

A model may name any file as the place of its weights. What lies outside the model's own folder is
refused before anything opens it, links that lead there included.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agent.errors import CaptureError

_BLOCK_BYTES = 16 << 20


def tensors(model: Any) -> Iterator[Any]:
    """Every TensorProto of a ModelProto: initialisers and attributes, of subgraphs and functions.

    Args:
        model: an `onnx.ModelProto`; external data need not be loaded.
    """
    yield from _of_graph(model.graph)
    for function in model.functions:
        yield from _of_nodes(function.node)


def check_external_data(model: Any, path: Path) -> None:
    """Hold every place that the model names for its weights against its own folder.

    Args:
        model: loaded without external data.
        path: the model's file.

    Raises:
        CaptureError: a place lies outside the folder, is missing or is too short.
    """
    folder = path.parent.resolve()
    for tensor in tensors(model):
        if not tensor.external_data:
            continue
        told = {entry.key: entry.value for entry in tensor.external_data}
        location = told.get("location", "")
        place = (folder / location).resolve()
        if not location or not place.is_relative_to(folder) or not place.is_file():
            raise CaptureError(
                f"{path.name}: the weights of {tensor.name} lie in {location!r}, which is outside "
                "its folder or missing.",
                cause="The file was moved without its data, or was made to read others'.",
                remedy="Keep the data file beside the model.",
            )
        offset = told.get("offset") or "0"
        length = told.get("length") or str(of_bytes(tensor))
        numbers = offset.isdecimal() and length.isdecimal()
        if not numbers or int(offset) + int(length) > place.stat().st_size:
            raise CaptureError(
                f"{path.name}: the weights of {tensor.name} are {length} bytes from {offset} of "
                f"{location!r}, which has {place.stat().st_size}.",
                cause="The data file was cut short, or belongs to another model.",
                remedy="Copy it again, or export the model again.",
            )


def of_bytes(tensor: Any) -> int:
    """How many bytes a tensor's values take, by its shape and dtype, whether loaded or not."""
    import onnx

    count = math.prod(tensor.dims)
    if tensor.data_type in (
        onnx.TensorProto.INT4,
        onnx.TensorProto.UINT4,
        onnx.TensorProto.FLOAT4E2M1,
    ):
        return int(-(-count // 2))
    try:
        return int(count * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
    except KeyError:  # no dtype of the standard: onnx.checker says so
        return 0


def digest(model: Any, folder: Path) -> str:
    """sha256 over the model and all its external data, which is never held in memory at once.

    Args:
        model: loaded without external data.
        folder: where the external data lies.
    """
    found = hashlib.sha256(model.SerializeToString(deterministic=True))
    for name in sorted(external_files(model)):
        with (folder / name).open("rb") as stream:
            while block := stream.read(_BLOCK_BYTES):
                found.update(block)
    return found.hexdigest()


def external_files(model: Any) -> set[str]:
    """The files, relative to the model's folder, that hold weights."""
    return {
        entry.value
        for tensor in tensors(model)
        for entry in tensor.external_data
        if entry.key == "location"
    }


def _of_graph(graph: Any) -> Iterator[Any]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield sparse.values
        yield sparse.indices
    yield from _of_nodes(graph.node)


def _of_nodes(nodes: Any) -> Iterator[Any]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            sparse = [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []
            for entry in (*sparse, *attribute.sparse_tensors):
                yield entry.values
                yield entry.indices
            graphs = [attribute.g] if attribute.HasField("g") else []
            for graph in (*graphs, *attribute.graphs):
                yield from _of_graph(graph)
