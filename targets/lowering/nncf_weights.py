"""Weights alone in 8 or 4 bits, by NNCF, for OpenVINO's models. It needs no data.

A recipe's `quantisation` for it: `method` (`weights`), `mode`, `ignored` (names of operators that
keep their weights), and for 4 bits `group_size` (how many weights share a scale; -1: all of a
channel), `ratio_percent` (how many of the products' weights get 4 bits, the rest gets 8) and
`all_layers` (embeddings and the last product too, which otherwise get 8). The arithmetic stays in
floating point, unless the session is told to quantise activations as they come
(`DYNAMIC_QUANTIZATION_GROUP_SIZE`).
"""

from __future__ import annotations

import collections
import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from agent.errors import ToolchainError
from agent.sessions.openvino import without_telemetry
from targets.interface import Problem, Program, plain_name
from targets.lowering.ignored import ignored_problems
from targets.lowering.nncf_int8 import ignored_scope, is_whole
from targets.lowering.vendor import vendor_errors

CHOICES: Mapping[str, tuple[Any, ...]] = {
    "method": ("weights",),
    "mode": ("int8_asym", "int8_sym", "int4_sym", "int4_asym"),
    "all_layers": (False, True),
}
"""What a recipe may choose; the first is the default (nncf.CompressWeightsMode)."""

GROUP_SIZE = 128
"""NNCF's own default. A weight that it does not divide gets the largest power of two that does."""

MOST_OF_WIDER = 0.9
"""Weights that take more of the next wider form than this are not worth a variant: f16 for 8 bits,
8 bits for 4. Without the bound a file could be as large as f32 and call itself int4."""

_FOUR_BITS_ONLY = ("group_size", "ratio_percent", "all_layers")
_FREE = ("group_size", "ratio_percent", "ignored")
_EMBEDDINGS = ("embedding", "gather")
_FLOATS = ("f64", "f32", "f16", "bf16")
_WHOLES = ("u8", "i8", "u4", "i4")


def problems(program: Program, precision: str, chosen: Mapping[str, Any]) -> Iterator[Problem]:
    """What speaks against compressing the program's weights so."""
    mode = str(chosen.get("mode", CHOICES["mode"][0]))
    for name, value in chosen.items():
        if name in CHOICES and value not in CHOICES[name]:
            yield Problem(what=f"known are {CHOICES[name]}", where=f"{name} {value!r}")
        elif name not in CHOICES and name not in _FREE:
            yield Problem(what=f"known are {(*CHOICES, *_FREE)}", where=name)
        elif name in _FOUR_BITS_ONLY and not mode.startswith("int4"):
            yield Problem(what=f"{mode} has one scale per channel in all layers", where=name)
    if not mode.startswith(precision):
        yield Problem(what=f"weights of {mode} are not {precision}", where=f"mode {mode!r}")
    group = chosen.get("group_size", GROUP_SIZE)
    if not is_whole(group) or (group < 1 and group != -1):
        what = "it takes a whole number from 1 on, or -1 for one scale per channel"
        yield Problem(what=what, where=f"group_size {group!r}")
    ratio = chosen.get("ratio_percent", 100)
    if not is_whole(ratio) or not 1 <= ratio <= 100:
        yield Problem(
            what="it takes a whole number from 1 to 100", where=f"ratio_percent {ratio!r}"
        )
    yield from ignored_problems(chosen)
    if not _has_weights(program, four_bits=mode.startswith("int4")):
        what = "it compresses the weights of matrix products, and there are none"
        yield Problem(what=what, where="method 'weights'")


def compress(
    model: Any, chosen: Mapping[str, Any], *, names: Collection[str]
) -> tuple[Any, tuple[str, ...]]:
    """OpenVINO's model with narrow weights, and a note on what they take.

    Args:
        model: in floats; it is changed.
        chosen: the recipe's `quantisation`.
        names: of all of the model's operators.

    Raises:
        ToolchainError: NNCF refuses, knows no operator of a name in `ignored`, or leaves weights
            that are hardly smaller than in the next wider form.
    """
    mode = str(chosen.get("mode", CHOICES["mode"][0]))
    elements = _float_elements(model)
    with vendor_errors(
        "NNCF cannot compress the model's weights",
        cause="An operator confuses NNCF.",
        remedy="Leave it out by its name in `ignored`, or leave narrow weights out.",
    ):
        with without_telemetry():
            import nncf
        adjusted = nncf.AdvancedCompressionParameters(
            group_size_fallback_mode=nncf.GroupSizeFallbackMode.ADJUST
        )
        four_bits = {
            "group_size": chosen.get("group_size", GROUP_SIZE),
            "ratio": chosen.get("ratio_percent", 100) / 100,
            "all_layers": chosen.get("all_layers", CHOICES["all_layers"][0]),
            "advanced_parameters": adjusted,
        }
        found = nncf.compress_weights(
            model,
            mode=nncf.CompressWeightsMode(mode),
            ignored_scope=ignored_scope(chosen, names),
            **(four_bits if mode.startswith("int4") else {}),
        )
    stored = _stored_bytes(found)
    wider, wider_bytes = ("int8", elements) if mode.startswith("int4") else ("f16", 2 * elements)
    total = sum(stored.values())
    if total > MOST_OF_WIDER * wider_bytes:
        raise ToolchainError(
            f"The weights take {total} bytes as {mode}, and {wider_bytes} as {wider}.",
            cause="Few of them belong to matrix products or embeddings, or a channel's size has "
            "no group size from 32 on that divides it.",
            remedy=f"Take {wider} weights for this model.",
        )
    return found, (f"weights: {', '.join(f'{b} bytes in {t}' for t, b in sorted(stored.items()))}",)


def _has_weights(program: Program, *, four_bits: bool) -> bool:
    """Is there an operator whose weights become narrow? Unknown costs count as yes."""
    kinds = {"matmul"} if four_bits else {"matmul", "conv"}
    return not program.costs or any(
        cost.kind in kinds or plain_name(cost.op) in _EMBEDDINGS for cost in program.costs
    )


def _constants(model: Any) -> Iterator[tuple[str, Any]]:
    for operator in model.get_ops():
        if operator.get_type_name() == "Constant":
            yield operator.get_element_type().get_type_name(), operator


def _float_elements(model: Any) -> int:
    """How many weights the model has."""
    found = (constant.get_shape() for kind, constant in _constants(model) if kind in _FLOATS)
    return sum(math.prod(shape) for shape in found)


def _stored_bytes(model: Any) -> dict[str, int]:
    """Bytes of weights, scales and zero points by their type."""
    stored: collections.Counter[str] = collections.Counter()
    for kind, constant in _constants(model):
        if kind in (*_FLOATS, *_WHOLES):
            stored[kind] += constant.get_byte_size()
    return dict(stored)
