"""What one operator costs by its name and shapes: operations and bytes. Pure.

Matmul, convolution and recurrent layers count 2 per multiply-accumulate, everything else one
operation per output element. The estimate needs no more than that. A whole program's table is made
by sdk/capture/graph.py.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

from targets.interface import OpCost, plain_name

Kind = Literal["matmul", "conv", "recurrent", "other"]
Shape = tuple[int, ...]

_KINDS: dict[str, Kind] = {
    "linear": "matmul",
    "matmul": "matmul",
    "mm": "matmul",
    "bmm": "matmul",
    "addmm": "matmul",
    "baddbmm": "matmul",
    "einsum": "matmul",
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
    "rnn_relu": "recurrent",
}
_GATHERS = frozenset(("embedding", "gather", "index_select", "index", "gathernd", "gatherelements"))


def operator_cost(
    op: str,
    inputs: Sequence[Shape],
    outputs: Sequence[Shape],
    element_bytes: int,
    weight_elements: int = 0,
) -> OpCost:
    """The cost of one operator by its name and the shapes it touches.

    Args:
        op: as the program has it: `aten.linear.default`, `Conv`.
        inputs: weights among them, in the operator's order.
        outputs: all of them.
        element_bytes: of one element, whatever its type.
        weight_elements: of the inputs' elements, those that are constants.

    >>> operator_cost("aten.linear.default", [(8, 64), (32, 64)], [(8, 32)], 4).flops
    32768
    """
    name = plain_name(op)
    kind: Kind = _KINDS.get(name, "other")
    written = sum(math.prod(shape) for shape in outputs)
    read = sum(math.prod(shape) for shape in inputs)
    if name in _GATHERS:  # as many rows as come out, not the whole table
        read = min(read, written)
        weight_elements = min(weight_elements, read)
    flops = _FLOPS[kind](op, inputs, outputs) if inputs and outputs else written
    cost = OpCost(
        op=op,
        kind=kind,
        flops=int(flops),
        bytes=int((written + read) * element_bytes),
        weight_bytes=int(weight_elements * element_bytes),
        output_bytes=int(written * element_bytes),
        depthwise=kind == "conv" and _is_depthwise(name, inputs),
    )
    return dataclasses.replace(cost, **_product(kind, name, inputs, outputs))


def _product(
    kind: Kind, name: str, inputs: Sequence[Shape], outputs: Sequence[Shape]
) -> dict[str, Any]:
    """The sizes of the operator as `groups` matrix products; nothing where it is none."""
    if len(inputs) < 2 or not outputs or not outputs[0]:
        return {}
    if kind == "conv" and min(len(inputs[0]), len(inputs[1])) >= 3:
        return _conv_product(name, inputs, outputs)
    if kind == "recurrent":
        if not inputs[0] or not inputs[1]:
            return {}
        # Torch's second input is the state of each layer and direction, ONNX's their weights.
        return {
            "rows": math.prod(inputs[0][:-1]), "depth": inputs[0][-1], "groups": inputs[1][0],
        }  # fmt: skip
    if kind != "matmul" or not inputs[0]:
        return {}
    if name == "scaled_dot_product_attention":
        query, key = inputs[0], inputs[1]
        groups = math.prod(query[:-2])
        return {"rows": query[-2], "columns": key[-2], "depth": query[-1], "groups": groups}
    left, right = _factors(name, inputs)
    written = outputs[0]
    sizes = {"columns": written[-1], "depth": left[-1] if left else 1}
    if len(right) <= 2:
        return sizes | {"rows": math.prod(written[:-1])}
    return sizes | {"rows": math.prod(written[-2:-1]), "groups": math.prod(written[:-2])}


def _conv_product(name: str, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> dict[str, int]:
    weight, taps = inputs[1], math.prod(inputs[1][2:])
    if "transpose" in name:  # weights are (in, out / groups, ...), and each input place is spread
        groups = max(1, outputs[0][1] // max(1, weight[1]))
        rows = math.prod(inputs[0]) // max(1, inputs[0][1])
        depth = inputs[0][1] // groups
        return {"rows": rows, "columns": weight[1] * taps, "depth": depth, "groups": groups}
    groups = max(1, inputs[0][1] // max(1, weight[1]))
    return {
        "rows": math.prod(outputs[0]) // max(1, outputs[0][1]),
        "columns": weight[0] // groups,
        "depth": weight[1] * taps,
        "groups": groups,
        "taps": taps,
    }


def _factors(name: str, inputs: Sequence[Shape]) -> tuple[Shape, Shape]:
    """The two factors of a product: addmm and baddbmm have the bias first."""
    first = 1 if name in ("addmm", "baddbmm") and len(inputs) > 2 else 0
    return inputs[first], inputs[first + 1]


def _is_depthwise(name: str, inputs: Sequence[Shape]) -> bool:
    """Each channel has a filter of its own; weights are (out, in / groups, ...)."""
    if len(inputs) < 2 or "transpose" in name or min(len(inputs[0]), len(inputs[1])) < 3:
        return False
    return inputs[1][1] == 1 and inputs[0][1] > 1


def _matmul(op: str, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    name = plain_name(op)
    if name == "scaled_dot_product_attention":
        query, key = inputs[0], inputs[1]
        # scores and the weighted sum: two products of (length x length x head size)
        return 4 * math.prod(query) * key[-2]
    left = _factors(name, inputs)[0] if len(inputs) > 1 else inputs[0]
    return 2 * math.prod(outputs[0]) * (left[-1] if left else 1)


def _conv(op: str, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    weight = inputs[1] if len(inputs) > 1 else (1, 1)
    per_element = math.prod(weight) // max(weight[0], 1)
    elements = inputs[0] if "transpose" in plain_name(op) else outputs[0]
    return 2 * math.prod(elements) * per_element


def _recurrent(op: str, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    del outputs
    if op.startswith("aten."):  # the states, then matrices and biases of each layer and direction
        states = 2 if plain_name(op) == "lstm" else 1
        matrices: list[Shape] = [shape for shape in inputs[1 + states :] if len(shape) == 2]
    else:  # ONNX: two tensors, each with the matrices of all directions
        matrices = list(inputs[1:3])
    # Every matrix is applied once per time step and sequence; the first input is
    # (time, batch, features) or (batch, time, features): their product is the same.
    return 2 * math.prod(inputs[0][:-1]) * sum(map(math.prod, matrices))


def _other(op: str, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    del op, inputs
    return sum(math.prod(shape) for shape in outputs)


_FLOPS: dict[Kind, Callable[[str, Sequence[Shape], Sequence[Shape]], int]] = {
    "matmul": _matmul,
    "conv": _conv,
    "recurrent": _recurrent,
    "other": _other,
}
