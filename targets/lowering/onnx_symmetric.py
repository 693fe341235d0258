"""ONNX graphs with Q/DQ pairs as TensorRT takes them: int8 or FP8, symmetric, zero points 0.

NNCF chooses where to quantise and from what ranges. For activations that are never negative it
takes uint8, which TensorRT does not: such a pair becomes int8 over the same range and its mirror
image, so nothing is clipped and one bit of resolution is lost. Models in, models out.

A recipe's `quantisation` for these is that of `nncf_int8`, and `rest` (`f32`, `f16`: what stays of
the arithmetic).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from agent.errors import ToolchainError
from agent.tensors import Array
from targets.interface import Calibration
from targets.lowering import nncf_int8
from targets.lowering.typed_onnx import constants

CHOICES: Mapping[str, tuple[Any, ...]] = {"rest": ("f32", "f16")}
"""What a recipe may choose beside `nncf_int8.CHOICES`; the first is the default."""

INT8_MOST = 127.0
FP8_MOST = 448.0
"""Of E4M3 without infinities (ONNX operators, FLOAT8E4M3FN)."""

_INFINITE_SCALE = 1e30  # ranges beyond float32's own come from constants that mean infinity
_PAIR = ("QuantizeLinear", "DequantizeLinear")


def quantise(
    model: Any, chosen: Mapping[str, Any], calibration: Calibration
) -> tuple[Any, tuple[str, ...]]:
    """The model with NNCF's Q/DQ pairs, as NNCF leaves them, and notes on how that went.

    Raises:
        ToolchainError: NNCF refuses, finds nothing to quantise, or is to ignore what is not there.
    """
    return nncf_int8.quantise(
        model,
        chosen,
        calibration,
        names=[node.name for node in model.graph.node],
        is_quantised=lambda found: any(node.op_type in _PAIR for node in found.graph.node),
    )


def drop_unusable(model: Any) -> tuple[Any, tuple[str, ...]]:
    """The model without pairs whose scale is no use, and the names of what they quantised.

    An attention mask that adds the lowest float gives an infinite range, a tensor that is always 0
    an empty one: quantised so, the answers are NaN. These tensors stay in floats.
    """
    import numpy as np
    import onnx

    values = constants(model)
    real, dropped = {}, []
    before = list(model.graph.node)
    del model.graph.node[:]
    for node in before:
        scale = values.get(node.input[1]) if node.op_type in _PAIR else None
        good = scale is None or bool(
            (np.isfinite(scale) & (scale > 0) & (scale < _INFINITE_SCALE)).all()
        )
        if node.op_type == "QuantizeLinear" and not good:
            real[node.output[0]] = node.input[0]
            dropped.append(node.input[0])
            continue
        if node.op_type == "DequantizeLinear" and node.input[0] in real:
            kept = onnx.helper.make_node("Identity", [real[node.input[0]]], list(node.output))
            kept.name = node.name
            model.graph.node.append(kept)
            continue
        model.graph.node.append(node)
    return _without_unused(model), tuple(dropped)


def make_symmetric(model: Any) -> Any:
    """Every pair as signed int8 with zero point 0, over all that it could hold before.

    Raises:
        ToolchainError: a scale or a zero point is not a constant.
    """
    import numpy as np

    values = constants(model)
    for node in _pairs(model):
        scale, zero = _constant(node, 1, values), _constant(node, 2, values)
        if zero.dtype == np.uint8:
            low, high = 0.0, 255.0
        elif zero.any():
            low, high = -128.0, 127.0
        else:
            continue
        data = values.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        offset = zero.astype(np.float64)
        widest = np.maximum(high - offset, offset - low) * scale
        wide = (widest / INT8_MOST).astype(scale.dtype)
        if data is not None:  # a weight: it is quantised already
            axis = _axis(node, data, scale)
            real = (data.astype(np.float64) - _along(offset, axis, data)) * _along(
                scale, axis, data
            )
            whole = np.rint(real / _along(wide, axis, data)).clip(-INT8_MOST, INT8_MOST)
            node.input[0] = _add(model, f"{node.input[0]}/symmetric", whole.astype(np.int8))
        node.input[1] = _add(model, f"{node.input[1]}/{node.input[2]}/symmetric", wide)
        node.input[2] = _add(model, f"{node.input[2]}/zero", np.zeros(zero.shape, np.int8))
    _retype(model)
    return model


def weights_as_pairs(model: Any) -> Any:
    """Weights that are stored as int8, as floats with a whole Q/DQ pair.

    TensorRT 8 folds such pairs; of int8 constants its documentation does not speak.
    """
    import numpy as np
    import onnx

    values = constants(model)
    graph = model.graph
    before = list(graph.node)
    del graph.node[:]
    for node in before:
        data = values.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if data is not None and data.dtype == np.int8:
            scale = _constant(node, 1, values)
            axis = _axis(node, data, scale)
            real = (data.astype(np.float64) * _along(scale, axis, data)).astype(scale.dtype)
            name = _add(model, f"{node.input[0]}/float", real)
            made = onnx.helper.make_node(
                "QuantizeLinear",
                [name, *node.input[1:]],
                [f"{node.output[0]}/quantised"],
                name=f"{node.name}/quantise",
            )
            made.attribute.extend(node.attribute)
            graph.node.append(made)
            node.input[0] = made.output[0]
        graph.node.append(node)
    return _without_unused(model)


def to_fp8(model: Any) -> Any:
    """A symmetric int8 graph with FP8 (E4M3) in its place: the same ranges, scales for 448.

    Raises:
        ToolchainError: a scale is not a constant.
    """
    import numpy as np
    import onnx

    values = constants(model)
    for node in _pairs(model):
        scale, zero = _constant(node, 1, values), _constant(node, 2, values)
        narrow = (scale.astype(np.float64) * (INT8_MOST / FP8_MOST)).astype(scale.dtype)
        data = values.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if data is not None:
            whole = data.astype(np.float32) * np.float32(FP8_MOST / INT8_MOST)
            node.input[0] = _add_fp8(model, f"{node.input[0]}/fp8", whole)
        node.input[1] = _add(model, f"{node.input[1]}/fp8", narrow)
        node.input[2] = _add_fp8(model, f"{node.input[2]}/fp8", np.zeros(zero.shape, np.float32))
    _retype(model)
    onnx.checker.check_model(model)
    return model


def violations(model: Any) -> list[str]:
    """What in the graph's Q/DQ pairs TensorRT would refuse; empty if it is as it should be."""
    import numpy as np
    from onnx import TensorProto

    values = constants(model)
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    allowed = (TensorProto.INT8, TensorProto.FLOAT8E4M3FN)
    found = []
    for node in _pairs(model):
        scale = values.get(node.input[1])
        if scale is None:
            found.append(f"{node.name}: its scale is not a constant")
        elif not (np.isfinite(scale).all() and (scale > 0).all()):
            found.append(f"{node.name}: its scale is {scale.min()}, not above 0")
        if len(node.input) < 3:
            found.append(f"{node.name}: it has no zero point, which means uint8")
        elif types.get(node.input[2]) not in allowed:
            name = TensorProto.DataType.Name(types.get(node.input[2], 0))
            found.append(f"{node.name}: its zero point is {name}, not int8 or FP8")
        elif np.any(values[node.input[2]].astype(np.float32) != 0):
            found.append(f"{node.name}: its zero point is not 0")
    readers: dict[str, list[str]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node.op_type)
    alone = {"DequantizeLinear"}
    found += [
        f"{node.name}: {readers.get(node.output[0])} reads it"
        for node in model.graph.node
        if node.op_type == "QuantizeLinear" and set(readers.get(node.output[0], ())) != alone
    ]
    return found


def _pairs(model: Any) -> Iterator[Any]:
    return (node for node in model.graph.node if node.op_type in _PAIR)


def _constant(node: Any, index: int, values: Mapping[str, Any]) -> Any:
    name = node.input[index] if len(node.input) > index else ""
    if name not in values:
        raise ToolchainError(
            f"{node.name} has no constant {'scale' if index == 1 else 'zero point'}.",
            cause="The model was quantised before, in a way that TensorRT does not take.",
            remedy="Start from the model in floats.",
        )
    return values[name]


def _axis(node: Any, data: Any, scale: Any) -> int:
    found = next((a.i for a in node.attribute if a.name == "axis"), 1)  # ONNX's default
    return int(found) % data.ndim if scale.ndim and data.ndim else 0


def _along(values: Any, axis: int, data: Any) -> Any:
    """Per-channel values in a shape that broadcasts over the data."""
    if not values.ndim:
        return values
    return values.reshape([-1 if index == axis else 1 for index in range(data.ndim)])


def _add(model: Any, name: str, array: Array) -> str:
    """A new initialiser, once per name."""
    from onnx import numpy_helper

    if all(tensor.name != name for tensor in model.graph.initializer):
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return name


def _add_fp8(model: Any, name: str, array: Array) -> str:
    import ml_dtypes
    from onnx import TensorProto

    if all(tensor.name != name for tensor in model.graph.initializer):
        rounded = array.astype(ml_dtypes.float8_e4m3fn)
        model.graph.initializer.append(
            TensorProto(
                name=name,
                data_type=TensorProto.FLOAT8E4M3FN,
                dims=array.shape,
                raw_data=rounded.tobytes(),
            )
        )
    return name


def _retype(model: Any) -> None:
    """Drop the notes on types that are no longer so, and what nothing reads."""
    del model.graph.value_info[:]
    _without_unused(model)


def _without_unused(model: Any) -> Any:
    used = {name for node in model.graph.node for name in node.input}
    used |= {port.name for port in model.graph.output}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    return model
