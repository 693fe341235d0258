"""What each operator of a program costs: operations and bytes at the dims' `opt` values. Pure.

Matmul, convolution and recurrent layers count 2 per multiply-accumulate, everything else one
operation per output element. The estimate needs no more than that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from targets.interface import OpCost

Kind = Literal["matmul", "conv", "recurrent", "other"]
Shape = tuple[int, ...]

_KINDS: dict[str, Kind] = {
    "linear": "matmul",
    "matmul": "matmul",
    "mm": "matmul",
    "bmm": "matmul",
    "addmm": "matmul",
    "baddbmm": "matmul",
    "gemm": "matmul",
    "scaled_dot_product_attention": "matmul",
    "conv": "conv",
    "conv1d": "conv",
    "conv2d": "conv",
    "conv3d": "conv",
    "conv_transpose1d": "conv",
    "conv_transpose2d": "conv",
    "convtranspose": "conv",
    "convolution": "conv",
    "lstm": "recurrent",
    "gru": "recurrent",
    "rnn": "recurrent",
    "rnn_tanh": "recurrent",
}


def operator_cost(
    op: str, inputs: Sequence[Shape], outputs: Sequence[Shape], element_bytes: int
) -> OpCost:
    """The cost of one operator by its name and the shapes it touches.

    >>> operator_cost("aten.linear.default", [(8, 64), (32, 64)], [(8, 32)], 4).flops
    32768
    """
    name = op.removeprefix("aten.").split(".")[0].lower()
    kind: Kind = _KINDS.get(name, "other")
    written = sum(math.prod(shape) for shape in outputs)
    touched = written + sum(math.prod(shape) for shape in inputs)
    flops = _FLOPS[kind](name, inputs, outputs) if inputs and outputs else written
    return OpCost(op=op, kind=kind, flops=int(flops), bytes=int(touched * element_bytes))


def _matmul(name: str, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    if name == "scaled_dot_product_attention":
        query, key = inputs[0], inputs[1]
        # scores and the weighted sum: two products of (length x length x head size)
        return 4 * math.prod(query) * key[-2]
    # addmm and baddbmm have the bias first
    left = inputs[1] if name in ("addmm", "baddbmm") and len(inputs) > 2 else inputs[0]
    return 2 * math.prod(outputs[0]) * (left[-1] if left else 1)


def _conv(name: str, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    weight = inputs[1] if len(inputs) > 1 else (1, 1)
    per_element = math.prod(weight) // max(weight[0], 1)
    elements = inputs[0] if "transpose" in name else outputs[0]
    return 2 * math.prod(elements) * per_element


def _recurrent(name: str, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    del name, outputs
    # Every weight matrix is applied once per time step and sequence; the first input is
    # (time, batch, features) or (batch, time, features): their product is the same.
    matrices = sum(math.prod(shape) for shape in inputs[1:] if len(shape) == 2)
    return 2 * math.prod(inputs[0][:-1]) * matrices


def _other(name: str, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    del name, inputs
    return sum(math.prod(shape) for shape in outputs)


_FLOPS: dict[Kind, Callable[[str, Sequence[Shape], Sequence[Shape]], int]] = {
    "matmul": _matmul,
    "conv": _conv,
    "recurrent": _recurrent,
    "other": _other,
}


def exported_costs(program: Any, sizes: Mapping[str, int]) -> tuple[OpCost, ...]:
    """The costs of a torch ExportedProgram; `sizes` gives each symbol its `opt` value."""
    costs = []
    for node in program.graph.nodes:
        if node.op != "call_function" or "val" not in node.meta:
            continue
        tensors = [argument.meta.get("val") for argument in node.all_input_nodes]
        inputs = [_shape(tensor, sizes) for tensor in tensors if hasattr(tensor, "shape")]
        value = node.meta["val"]
        values = value if isinstance(value, (tuple, list)) else [value]
        outputs = [_shape(tensor, sizes) for tensor in values if hasattr(tensor, "shape")]
        if outputs:
            costs.append(operator_cost(str(node.target), inputs, outputs, 4))
    return tuple(costs)


def _shape(tensor: Any, sizes: Mapping[str, int]) -> Shape:
    return tuple(symbol_size(size, sizes) for size in tensor.shape)


def symbol_size(size: Any, sizes: Mapping[str, int]) -> int:
    """A size as a number: a symbol or an expression of symbols takes their values."""
    if isinstance(size, int):
        return size
    expression = size.node.expr
    known = {s: sizes[str(s)] for s in expression.free_symbols if str(s) in sizes}
    found = expression.subs(known)
    return int(found) if found.is_number else 1


def onnx_costs(model: Any, opt: Mapping[str, int]) -> tuple[OpCost, ...]:
    """The costs of an ONNX model; shape inference fills in what the file leaves out."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(model).graph
    shapes: dict[str, Shape] = {i.name: tuple(i.dims) for i in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        dims = value.type.tensor_type.shape.dim
        shapes[value.name] = tuple(d.dim_value or opt.get(d.dim_param, 1) for d in dims)
    return tuple(
        operator_cost(
            node.op_type,
            [shapes[name] for name in node.input if name in shapes],
            [shapes[name] for name in node.output if name in shapes],
            4,
        )
        for node in graph.node
        if node.op_type != "Constant"
    )
