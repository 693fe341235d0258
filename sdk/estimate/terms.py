"""A program under a recipe as amounts of things that take time: what a fit weighs. Pure.

    t = sum over terms of coefficient x amount, no coefficient below 0

A term is `<class>.<precision>.<quantity>`: the operations of pointwise convolutions in int8, the
bytes that norms touch in f32, how many kernels of a class there are. It is linear on purpose: a
person can read from it where an estimate's time is.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Mapping

from sdk.estimate.precision import ELEMENT_BYTES, computed_in
from targets.interface import OpCost, Program, Recipe, plain_name

LANE = 16
"""Channels that f32 kernels on a CPU with 512-bit registers compute at once; others fill up."""
ALIGNED = 4
"""Channels in multiples of this can be laid out in blocks; others take slower kernels."""
FEW_CHANNELS = 4
"""A first convolution has so few input channels, and kernels of its own."""
NEAR_BYTES = 1 << 20
"""What one kernel touches beyond this leaves the second-level cache of a core."""
FEW_ROWS = 4
"""A product of so few rows reads its weights once for little arithmetic."""
STREAMED_BYTES = (1 << 20, 8 << 20, 32 << 20)
"""Weights of programs above each of these leave one more of a CPU's caches between two runs."""


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_FREE = _names(
    "view reshape flatten unflatten unsqueeze squeeze alias detach identity getitem dropout shape "
    "feature_dropout lift_fresh_copy view_as _assert_tensor_metadata batch_norm expand clone "
    "batchnormalization native_batch_norm _native_batch_norm_legit_no_training expand_as "
    "contiguous to _to_copy cast type_as float _unsafe_view"
)
_CHEAP = _names(
    "relu relu6 hardtanh clamp clamp_min clamp_max clip add sub rsub mul maximum minimum neg abs "
    "where masked_fill leaky_relu leakyrelu square"
)
_NORMS = _names(
    "layer_norm native_layer_norm layernormalization rms_norm group_norm groupnormalization "
    "instance_norm instancenormalization native_group_norm"
)
_MOVES = _names(
    "cat concat embedding gather index_select index gathernd gatherelements upsample_nearest2d "
    "upsample_bilinear2d resize interpolate pad constant_pad_nd stack tile repeat"
)
_IMAGE_AXES = 4
_WINDOWS = ("max_pool", "avg_pool", "maxpool", "averagepool")
_FUNCTIONS = {
    "gelu": "gelu",
    **dict.fromkeys(("hardswish", "hardsigmoid"), "hard"),
    **dict.fromkeys(
        _names("silu sigmoid tanh elu selu mish softplus swish exp log sqrt rsqrt pow erf div"),
        "exponential",
    ),
}
"""Functions that take more than an instruction or two -> what they are fitted as."""


def class_of(cost: OpCost) -> str | None:
    """The class that an operator's time is counted in; None where it takes none of its own."""
    name = plain_name(cost.op)
    if cost.fused:
        if name in _FREE:
            return None
        if name in _CHEAP:
            return "fused"
        return f"fused_{_FUNCTIONS[name]}" if name in _FUNCTIONS else "reordered"
    if cost.kind == "conv":
        return _conv_class(cost)
    if cost.kind == "matmul":
        if name == "scaled_dot_product_attention":
            return "attention"
        if not cost.weight_bytes:
            return "product"
        return "vector" if cost.rows <= FEW_ROWS else "linear"
    if cost.kind == "recurrent":
        return name if name in ("gru", "lstm") else "rnn"
    if name in ("softmax", "_softmax"):
        return "softmax"
    if name in _NORMS:
        return "norm"
    if name in _MOVES:
        return "move"
    if name in _CHEAP:
        return "elementwise"
    if name.startswith(_WINDOWS):
        return "pool"
    return _FUNCTIONS.get(name, "reduction")


def _conv_class(cost: OpCost) -> str:
    inputs, outputs = cost.depth // max(1, cost.taps) * cost.groups, cost.columns * cost.groups
    if cost.depthwise:
        name = "depthwise"
    elif cost.groups == 1 and cost.rows <= FEW_ROWS:
        return "vector"  # on what is left after a mean over the image, as in squeeze-excite
    elif inputs <= FEW_CHANNELS:
        return "stem"
    else:
        name = "grouped" if cost.groups > 1 else "pointwise" if cost.taps == 1 else "conv"
    return f"{name}_odd" if inputs % ALIGNED or outputs % ALIGNED else name


def terms(program: Program, recipe: Recipe) -> Mapping[str, float]:
    """Term -> amount: GFLOP, MB (10^6 bytes), or a count. All are 0 or more."""
    found: dict[str, float] = collections.defaultdict(float)
    found["request"] = 1.0
    weights = program.weight_bytes * ELEMENT_BYTES[recipe.precision] / 4
    for cost in program.costs:
        name = class_of(cost)
        if name is None:
            continue
        precision = computed_in(recipe, cost)
        size = ELEMENT_BYTES[precision] / 4 / 1e6
        on_the_fly = precision == "int8" and (recipe.quantisation or {}).get("method") == "dynamic"
        label = "int8_dynamic" if on_the_fly else precision
        key = f"{name}.{label}"
        found[f"{key}.kernels"] += 1.0
        found[f"{key}.mb"] += (cost.input_bytes + cost.output_bytes) * size
        found["far.mb"] += max(0.0, cost.bytes * size - NEAR_BYTES / 1e6)
        if cost.kind == "other":
            continue
        found[f"{key}.gflop"] += cost.flops / 1e9
        found[f"{key}.padded_gflop"] += _padded(cost) / 1e9
        found[f"{key}.weights_mb"] += cost.weight_bytes * size
        for limit in STREAMED_BYTES:
            if weights > limit:
                found[f"streamed.over_{limit >> 20}_mib.mb"] += cost.weight_bytes * size
        if name == "attention":
            found[f"{key}.scores_mb"] += cost.groups * cost.rows * cost.columns * 4 * size
        elif cost.kind == "recurrent":
            found[f"{key}.cell_steps"] += cost.rows * cost.groups
    for name, amount in _borders(program).items():
        found[f"{name}.{recipe.precision}.mb"] += amount
    return {name: amount for name, amount in found.items() if amount > 0}


def _borders(program: Program) -> Mapping[str, float]:
    """MB that go in and out, 4 bytes a number: copied, laid out in blocks, quantised, and back.

    Images are laid out anew, rows of features only copied.
    """
    signature, found = program.signature, dict[str, float]()
    for spec in (*signature.inputs, *signature.outputs):
        sizes = [signature.dims[s][1] if s in signature.dims else s for s in spec.shape]
        numbers = [size for size in sizes if isinstance(size, int)]
        name = "border_image" if len(sizes) == _IMAGE_AXES else "border"
        found[name] = found.get(name, 0.0) + 4 * math.prod(numbers) / 1e6
    return found


def _padded(cost: OpCost) -> float:
    """Operations on lanes that are filled up, beside those that count."""
    if not cost.columns or not cost.rows:
        return 0.0
    lanes = -(-cost.columns // LANE) * LANE
    return cost.flops * (lanes / cost.columns - 1.0)
