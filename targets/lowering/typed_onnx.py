"""ONNX graphs that hold their own types: opsets held to what a device reads, and f16.

TensorRT takes precision from the graph: from 11 on it knows nothing else. So an f16 variant is a
graph with f16 weights and casts, whose inputs and outputs keep the types of the signature. Pure:
models in, models out.

In f16 stays f32:

- `Exp`, `Pow`, `Log` and their kin: f16 ends at 65504, which `exp` passes at 11.1;
- sums, means, norms and softmax along more than `LONGEST` elements, or of a length that nothing
  tells: f16 counts one by one up to 2048, so what a longer sum adds last is lost, and a mean's sum
  overflows. `LayerNormalization` is none of these: its `stash_type` asks for f32 inside;
- an operator with a weight beyond 65504, unless the weight stands for infinity as in attention
  masks: that is clamped to the largest f16;
- an operator with values beyond a quarter of 65504 on real inputs, where samples were given;
- `If`, `Loop` and `Scan` with all that is inside, and what ONNX defines for f32 alone.
"""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from agent.errors import ToolchainError
from agent.sessions.onnxruntime import import_runtime
from targets.lowering.onnx_files import opset_of
from targets.lowering.vendor import vendor_errors

F16_MOST = 65504.0
LONGEST = 1024
"""Half of where f16 stops counting."""
HEADROOM = 4.0
"""Values may be this much larger on inputs that nobody has seen yet."""

_INFINITE = 1e30  # finite constants beyond it stand for infinity: masks hold the lowest float32

_RANGE = frozenset({"Exp", "Pow", "Log", "Softplus", "ReduceLogSumExp", "ReduceProd", "CumSum"})
_SUMS = frozenset(
    {"ReduceSum", "ReduceMean", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceSumSquare"}
)
_POOLS = frozenset({"GlobalAveragePool", "GlobalLpPool"})
_SOFT = frozenset({"Softmax", "LogSoftmax", "LpNormalization"})
_F32_ONLY = frozenset(
    {"If", "Loop", "Scan", "Range", "NonMaxSuppression", "RoiAlign", "Multinomial", "DFT", "STFT"}
    | {
        "MelWeightMatrix",
        "HannWindow",
        "HammingWindow",
        "BlackmanWindow",
        "MeanVarianceNormalization",
    }
)


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


def to_f16(
    model: Any,
    dims: Mapping[str, tuple[int, int, int]],
    maxima: Mapping[str, float] | None = None,
) -> tuple[Any, tuple[str, ...]]:
    """The model in f16, with its inputs and outputs in their declared types.

    Args:
        model: in f32, perhaps with Q/DQ pairs.
        dims: the bounds of dynamic dims, for the lengths of sums.
        maxima: tensor -> the largest absolute value seen on real inputs.

    Returns:
        The model, and the names of operators that stay in f32.

    Raises:
        ToolchainError: the converter refuses.
    """
    import onnx

    _name_nodes(model)
    with vendor_errors(
        "the graph cannot be converted to f16",
        cause="An operator has no f16 form, or its types cannot be inferred.",
        remedy="Leave f16 out for this model.",
    ):
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
        kept = tuple(sorted(set(_delicate(inferred, dims)) | set(_too_large(inferred, maxima))))
        with _ort_float16() as convert:
            made = convert(
                inferred,
                keep_io_types=True,
                disable_shape_infer=True,
                op_block_list=[],
                node_block_list=list(kept),
            )
        _sort(made)
        _drop_inner_types(made)
        onnx.checker.check_model(made, full_check=True)
    return made, kept


def constants(model: Any) -> dict[str, Any]:
    """Every initialiser and constant of the main graph, as arrays by name."""
    from onnx import numpy_helper

    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value":
                    found[node.output[0]] = numpy_helper.to_array(attribute.t)
    return found


def interface(model: Any) -> list[tuple[str, int, list[int | str]]]:
    """Name, element type and shape of each input and output that is no weight."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return [
        (
            port.name,
            port.type.tensor_type.elem_type,
            [dim.dim_param or dim.dim_value for dim in port.type.tensor_type.shape.dim],
        )
        for port in (*model.graph.input, *model.graph.output)
        if port.name not in weights
    ]


def nodes(graph: Any) -> Iterator[Any]:
    """Every operator of a graph, those of its subgraphs too."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from nodes(inner)


def _delicate(model: Any, dims: Mapping[str, tuple[int, int, int]]) -> Iterator[str]:
    shapes = _shapes(model, dims)
    values = constants(model)
    floats = _floats(model)
    for node in model.graph.node:
        if not floats & {*node.input, *node.output}:
            continue
        if node.op_type in _RANGE | _F32_ONLY:
            yield node.name
        elif node.op_type in _SUMS | _SOFT | _POOLS:
            length = _length(node, shapes, values)
            if length is None or length > LONGEST:
                yield node.name
        elif _overflows(values[name] for name in node.input if name in values) or (
            _scale_underflows(node, values)
        ):
            yield node.name


def _floats(model: Any) -> set[str]:
    """The tensors that are f32 now."""
    f32 = 1  # TensorProto.FLOAT
    ports = (*model.graph.input, *model.graph.output, *model.graph.value_info)
    found = {value.name for value in ports if value.type.tensor_type.elem_type == f32}
    return found | {tensor.name for tensor in model.graph.initializer if tensor.data_type == f32}


def _too_large(model: Any, maxima: Mapping[str, float] | None) -> Iterator[str]:
    bound = F16_MOST / HEADROOM
    for node in model.graph.node:
        touched = (*node.input, *node.output)
        if any(not (maxima or {}).get(name, 0.0) <= bound for name in touched):
            yield node.name


def _overflows(values: Iterable[Any]) -> bool:
    import numpy as np

    for value in values:
        if value.dtype == np.float32 and value.size:
            size = np.abs(value[np.isfinite(value)])
            if ((size > F16_MOST) & (size < _INFINITE)).any():
                return True
    return False


LEAST_F16_SCALE = 2.0**-17
"""Below it a scale in f16 has fewer bits left than int8 itself: such a pair stays in f32."""


def _scale_underflows(node: Any, values: Mapping[str, Any]) -> bool:
    if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
        return False
    scale = values.get(node.input[1])
    return scale is None or bool((scale < LEAST_F16_SCALE).any())


def _length(
    node: Any, shapes: Mapping[str, list[int | None]], values: Mapping[str, Any]
) -> int | None:
    """How many elements one sum of the operator runs over; None if nothing tells."""
    shape = shapes.get(node.input[0])
    if shape is None:
        return None
    attributes = {attribute.name: attribute for attribute in node.attribute}
    if node.op_type in _POOLS:
        axes = list(range(2, len(shape)))
    elif node.op_type in _SOFT:
        axes = [attributes["axis"].i if "axis" in attributes else -1]
    elif len(node.input) > 1 and node.input[1]:
        if node.input[1] not in values:
            return None
        axes = [int(axis) for axis in values[node.input[1]].ravel()]
    else:
        axes = list(attributes["axes"].ints) if "axes" in attributes else list(range(len(shape)))
    sizes = [shape[axis] for axis in axes]
    known = [size for size in sizes if size is not None]
    return math.prod(known) if len(known) == len(sizes) else None


def _shapes(model: Any, dims: Mapping[str, tuple[int, int, int]]) -> dict[str, list[int | None]]:
    """Tensor -> its largest shape, None for an axis that nothing bounds."""

    def size(dim: Any) -> int | None:
        if dim.dim_param:
            return dims[dim.dim_param][2] if dim.dim_param in dims else None
        return int(dim.dim_value) if dim.HasField("dim_value") else None

    found: dict[str, list[int | None]] = {}
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        if value.type.tensor_type.HasField("shape"):
            found[value.name] = [size(dim) for dim in value.type.tensor_type.shape.dim]
    for tensor in model.graph.initializer:
        found[tensor.name] = list(tensor.dims)
    return found


def _name_nodes(model: Any) -> None:
    """The converter knows operators by name, and some exporters leave names out."""
    seen: set[str] = set()
    for index, node in enumerate(model.graph.node):
        if not node.name or node.name in seen:
            node.name = f"{node.op_type}_{index}_of_graph"
        seen.add(node.name)


def _axes_alone(model: Any) -> None:
    """Drop a default that reductions got with opset 18: the converter leaves it behind."""
    for node in model.graph.node:
        for attribute in list(node.attribute):
            if attribute.name == "noop_with_empty_axes" and attribute.i == 0:
                node.attribute.remove(attribute)


def _sort(model: Any) -> None:
    """Operators in the order of their data: the converter appends its casts at the end."""
    graph = model.graph
    known = {tensor.name for tensor in graph.initializer} | {port.name for port in graph.input}
    waiting = list(graph.node)
    ordered: list[Any] = []
    while waiting:
        ready = []
        rest = []
        for node in waiting:
            if all(not name or name in known for name in _needs(node)):
                ready.append(node)
                known.update(node.output)
            else:
                rest.append(node)
        if not ready:
            raise ToolchainError(
                f"{waiting[0].name} reads {list(waiting[0].input)}, which nothing makes.",
                cause="The converter lost a connection.",
                remedy="Leave f16 out for this model.",
            )
        ordered += ready
        waiting = rest
    del graph.node[:]
    graph.node.extend(ordered)


def _needs(node: Any) -> Iterator[str]:
    """What an operator reads, its subgraphs' reads from outside included."""
    yield from node.input
    for attribute in node.attribute:
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            inside = {tensor.name for tensor in graph.initializer}
            inside |= {port.name for port in graph.input}
            inside |= {name for inner in graph.node for name in inner.output}
            for inner in graph.node:
                yield from (name for name in _needs(inner) if name not in inside)


def _drop_inner_types(model: Any) -> None:
    """Forget the notes on inner tensors: the checker infers them anew, and holds all against it."""
    del model.graph.value_info[:]


@contextlib.contextmanager
def _ort_float16() -> Iterator[Any]:
    """ONNX Runtime's converter, without the folder that its package adds to the path.

    That folder holds modules called `models` and `metrics`, which a user's code may look for.
    """
    import_runtime()
    before = list(sys.path)
    try:
        from onnxruntime.transformers.float16 import convert_float_to_float16

        yield convert_float_to_float16
    finally:
        sys.path[:] = before
