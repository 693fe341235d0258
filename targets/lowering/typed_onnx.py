"""ONNX graphs that hold their own types: f16.

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
- `If`, `Loop` and `Scan` with all that is inside and all that it reads from outside;
- what ONNX defines for f32 alone, and what draws random numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

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
_F32, _F16 = 1, 10  # TensorProto.FLOAT, TensorProto.FLOAT16
_F32_INPUTS = {"Resize": (1, 2), "Upsample": (1,)}
"""What ONNX defines in f32 whatever the data is: regions and scales."""
F16_SCALES_OPSET = 19
"""The first in which a Q/DQ pair may scale in f16, and the first with FP8."""
_F32_ONLY = frozenset(
    {"If", "Loop", "Scan", "Range", "NonMaxSuppression", "RoiAlign", "Multinomial", "DFT", "STFT"}
    | {"Constant", "EyeLike", "RandomNormal", "RandomNormalLike", "RandomUniform", "Bernoulli"}
    | {"RandomUniformLike", "CastLike"}
    | {
        "MelWeightMatrix",
        "HannWindow",
        "HammingWindow",
        "BlackmanWindow",
        "MeanVarianceNormalization",
    }
)


def to_f16(
    model: Any,
    dims: Mapping[str, tuple[int, int, int]],
    maxima: Mapping[str, float] | None = None,
) -> tuple[Any, tuple[str, ...]]:
    """The model in f16, with its inputs and outputs in their declared types.

    ONNX Runtime's own converter is no help: where two operators that stay in f32 read one tensor
    it writes an invalid graph, and what passes between two of them it rounds to f16 (1.31).

    Args:
        model: in f32, perhaps with Q/DQ pairs.
        dims: the bounds of dynamic dims, for the lengths of sums.
        maxima: tensor -> the largest absolute value seen on real inputs.

    Returns:
        The model, and the names of operators that stay in f32.

    Raises:
        ToolchainError: a type cannot be inferred, or an operator has no f16 form.
    """
    import onnx

    with vendor_errors(
        "the graph cannot be converted to f16",
        cause="An operator has no f16 form, or its types cannot be inferred.",
        remedy="Leave f16 out for this model.",
    ):
        _name_nodes(model)
        _constants_as_weights(model)
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
        kept = set(_delicate(inferred, dims)) | set(_too_large(inferred, maxima))
        made = _Halving(inferred, kept).run()
        onnx.checker.check_model(made, full_check=True)
    return made, tuple(sorted(kept))


class _Halving:
    """One walk over the operators: each reads its floats in its own type, by casts made once."""

    def __init__(self, model: Any, kept: set[str]) -> None:
        self._model = model
        self._kept = kept
        self._floats = _floats(model)
        self._weights = {tensor.name: tensor for tensor in model.graph.initializer}
        self._outputs = {port.name for port in model.graph.output}
        # Tensor -> what holds it in f16 and in f32.
        self._half: dict[str, str] = {}
        self._full: dict[str, str] = {name: name for name in self._weights}
        self._full |= {port.name: port.name for port in model.graph.input}
        self._nodes: list[Any] = []

    def run(self) -> Any:
        """The rewritten model."""
        for node in list(self._model.graph.node):
            if node.name in self._kept:
                self._keep(node)
            else:
                self._halve(node)
        graph = self._model.graph
        del graph.node[:]
        graph.node.extend(self._nodes)
        used = {name for node in nodes(graph) for name in node.input} | self._outputs
        weights = [tensor for tensor in graph.initializer if tensor.name in used]
        del graph.initializer[:]
        graph.initializer.extend(weights)
        del graph.value_info[:]  # notes on types that are no longer so
        return self._model

    def _keep(self, node: Any) -> None:
        for index, name in enumerate(node.input):
            if name in self._floats:
                node.input[index] = self._in_f32(name)
        self._full |= {name: name for name in node.output}
        self._nodes.append(node)

    def _halve(self, node: Any) -> None:
        for index, name in enumerate(node.input):
            if name in self._floats:
                fixed = index in _F32_INPUTS.get(node.op_type, ())
                node.input[index] = self._in_f32(name) if fixed else self._in_f16(name)
        _halve_attributes(node)
        self._nodes.append(node)
        for index, name in enumerate(node.output):
            if name in self._floats and name in self._outputs:
                node.output[index] = self._half[name] = f"{name}/f16"
                self._cast(self._half[name], name, to=_F32)
                self._full[name] = name
            elif name in self._floats:
                self._half[name] = name

    def _in_f32(self, name: str) -> str:
        if name not in self._full:
            self._full[name] = self._cast(self._half[name], f"{name}/f32", to=_F32)
        return self._full[name]

    def _in_f16(self, name: str) -> str:
        if name not in self._half:
            self._half[name] = f"{name}/f16"
            if name in self._weights:
                self._model.graph.initializer.append(_halved(self._weights[name], f"{name}/f16"))
            else:
                self._cast(self._full[name], f"{name}/f16", to=_F16)
        return self._half[name]

    def _cast(self, source: str, name: str, *, to: int) -> str:
        import onnx

        node = onnx.helper.make_node("Cast", [source], [name], name=f"{name}/cast", to=to)
        self._nodes.append(node)
        return name


def _halve_attributes(node: Any) -> None:
    """An operator that makes floats of something else makes f16 of it."""
    import onnx

    if node.op_type == "Cast":
        for attribute in node.attribute:
            if attribute.name == "to" and attribute.i == _F32:
                attribute.i = _F16
    if node.op_type == "ConstantOfShape":
        values = [attribute for attribute in node.attribute if attribute.name == "value"]
        for attribute in values:
            if attribute.t.data_type == _F32:
                attribute.t.CopyFrom(_halved(attribute.t, attribute.t.name))
        if not values:  # the default is an f32 zero
            zero = onnx.helper.make_tensor("value", _F16, [1], [0.0])
            node.attribute.append(onnx.helper.make_attribute("value", zero))


def _halved(tensor: Any, name: str) -> Any:
    """In f16, finite where it was: what stands for infinity becomes the largest number."""
    import numpy as np
    from onnx import numpy_helper

    array = numpy_helper.to_array(tensor)
    bounded = np.where(np.isfinite(array), array.clip(-F16_MOST, F16_MOST), array)
    return numpy_helper.from_array(bounded.astype(np.float16), name)


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
    captured = _captured(model)
    f16_pairs = opset_of(model) >= F16_SCALES_OPSET
    for node in model.graph.node:
        if not floats & {*node.input, *node.output}:
            continue
        pair = node.op_type in ("QuantizeLinear", "DequantizeLinear")
        if (
            node.op_type in _RANGE | _F32_ONLY
            or captured & {*node.output}
            or (pair and not (f16_pairs and _scale_fits(node, values)))
        ):
            yield node.name
        elif node.op_type in _SUMS | _SOFT | _POOLS:
            length = _length(node, shapes, values)
            if length is None or length > LONGEST:
                yield node.name
        elif _overflows(values[name] for name in node.input if name in values):
            yield node.name


def _floats(model: Any) -> set[str]:
    """The tensors that are f32 now."""
    ports = (*model.graph.input, *model.graph.output, *model.graph.value_info)
    found = {value.name for value in ports if value.type.tensor_type.elem_type == _F32}
    return found | {tensor.name for tensor in model.graph.initializer if tensor.data_type == _F32}


def _too_large(model: Any, maxima: Mapping[str, float] | None) -> Iterator[str]:
    bound = F16_MOST / HEADROOM
    for node in model.graph.node:
        touched = (*node.input, *node.output)
        if any((maxima or {}).get(name, 0.0) > bound for name in touched):
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


def _scale_fits(node: Any, values: Mapping[str, Any]) -> bool:
    scale = values.get(node.input[1])
    return scale is not None and bool((scale >= LEAST_F16_SCALE).all())


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


def _constants_as_weights(model: Any) -> None:
    """Float constants as initialisers, so that there is one kind of them."""
    import onnx

    for node in list(model.graph.node):
        if node.op_type != "Constant" or node.output[0] in {p.name for p in model.graph.output}:
            continue
        for attribute in node.attribute:
            if attribute.name == "value" and attribute.t.data_type == _F32:
                tensor = onnx.TensorProto()
                tensor.CopyFrom(attribute.t)
                tensor.name = node.output[0]
                model.graph.initializer.append(tensor)
                model.graph.node.remove(node)


def _captured(model: Any) -> set[str]:
    """Tensors that subgraphs read from outside."""
    found: set[str] = set()
    for node in model.graph.node:
        for attribute in node.attribute:
            for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                found |= {name for inner in nodes(graph) for name in inner.input}
                found |= {port.name for port in graph.output}
    return found
