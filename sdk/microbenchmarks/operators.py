"""Families of one operator, or of a chain of two to six: fusion and layouts show only in chains."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from sdk.microbenchmarks import sizes
from sdk.microbenchmarks.case import Case, Layer, case_of


def _conv(kernels: tuple[int, ...], strides: tuple[int, ...], *, grouped: bool = False) -> Any:
    def draw_one(draw: random.Random) -> Case:
        inputs, outputs = sizes.channels(draw), sizes.channels(draw)
        groups = draw.choice((2, 4, 8)) if grouped else 1
        if grouped:
            inputs, outputs = (max(groups, c // groups * groups) for c in (inputs, outputs))
        kernel, stride = draw.choice(kernels), draw.choice(strides)
        work = inputs * outputs * kernel * kernel / groups
        shape = sizes.fitting(draw, inputs, outputs, work)
        layers: list[Layer] = [("conv", outputs, kernel, stride, groups)]
        if draw.random() < 0.5:
            layers += [("bn",), ("act", draw.choice(sizes.ACTIVATIONS))]
        return case_of(shape, *layers, dynamic=draw.random() < 0.15)

    return draw_one


def _stem(draw: random.Random) -> Case:
    side, kernel = sizes.log(draw, 48, 256, 8), draw.choice((3, 3, 5, 7))
    conv = ("conv", sizes.channels(draw, 8, 64), kernel, draw.choice((1, 2, 2)), 1)
    return case_of((1, draw.choice((1, 3, 3)), side, side), conv, ("bn",), ("act", "relu"))


def _sequence_conv(draw: random.Random) -> Case:
    inputs, outputs = sizes.channels(draw, 16, 256), sizes.channels(draw, 16, 256)
    conv = ("conv1d", outputs, draw.choice((1, 3, 5, 9)), draw.choice((1, 2)))
    return case_of((1, inputs, sizes.log(draw, 16, 800)), conv, ("act", "relu"))


def _depthwise(draw: random.Random) -> Case:
    channels = sizes.channels(draw, 16, 1024)
    layers: list[Layer] = [("dw", draw.choice((3, 3, 5, 7)), draw.choice((1, 1, 2)))]
    if draw.random() < 0.6:
        layers += [("bn",), ("act", draw.choice(sizes.ACTIVATIONS[:4]))]
    return case_of(sizes.image(draw, channels), *layers)


def _separable(draw: random.Random) -> Case:
    channels, outputs = sizes.channels(draw, 16, 512), sizes.channels(draw, 16, 512)
    act = ("act", draw.choice(sizes.ACTIVATIONS[:4]))
    one = (("dw", draw.choice((3, 5)), 1), ("bn",), act, ("conv", outputs, 1, 1, 1), ("bn",), act)
    layers = one * draw.choice((1, 2))
    return case_of(sizes.fitting(draw, channels, outputs, 2.0 * channels * outputs), *layers)


def _inverted(draw: random.Random) -> Case:
    channels = sizes.log(draw, 16, 160, 8)
    side = sizes.image(draw, channels * 4)[2]
    return case_of((1, channels, side, side), *inverted_layers(draw, channels))


def _residual(draw: random.Random) -> Case:
    channels = sizes.log(draw, 16, 320, 16)
    shape = sizes.fitting(draw, channels, channels, 18.0 * channels * channels)
    return case_of(shape, *residual_layers(draw, channels))


def _conv_chain(draw: random.Random) -> Case:
    channels = sizes.channels(draw, 16, 256)
    layers: list[Layer] = []
    act = draw.choice(sizes.ACTIVATIONS)
    for _ in range(draw.randint(2, 4)):
        kernel = draw.choice((1, 3))
        layers += [("conv", channels, kernel, 1, 1), ("bn",), ("act", act)]
    return case_of(sizes.fitting(draw, channels, channels, 27.0 * channels**2), *layers)


def _linear(draw: random.Random) -> Case:
    inputs, outputs = sizes.log(draw, 32, 2048, 8), sizes.log(draw, 16, 2048, 8)
    layers: list[Layer] = [("linear", outputs)]
    if draw.random() < 0.5:
        layers.append(("act", draw.choice(sizes.ACTIVATIONS)))
    return case_of((1, inputs), *layers)


def _wide_head(draw: random.Random) -> Case:
    """Weights that leave the caches at a batch of one."""
    width = sizes.log(draw, 512, 4096, 64)
    layers = [("linear", sizes.log(draw, 512, 4096, 64)), ("act", "relu")]
    return case_of((1, width), *layers, ("linear", sizes.log(draw, 512, 4096, 64)))


def _sequence_linear(draw: random.Random) -> Case:
    inputs, outputs = sizes.log(draw, 32, 1024, 8), sizes.log(draw, 32, 2048, 8)
    shape = sizes.tokens(draw, max(inputs, outputs))
    layers: list[Layer] = [("linear", outputs)]
    if draw.random() < 0.5:
        layers += [("act", draw.choice(("gelu", "relu", "silu"))), ("linear", inputs)]
    return case_of((1, shape[1], inputs), *layers, dynamic=draw.random() < 0.15)


def _attention(draw: random.Random) -> Case:
    heads = draw.choice((2, 3, 4, 8, 12))
    width = heads * draw.choice((16, 32, 64))
    return case_of(sizes.tokens(draw, width, 0.15), ("attention", heads))


def _block(draw: random.Random) -> Case:
    heads = draw.choice((2, 3, 4, 6))
    width = heads * draw.choice((32, 48, 64))
    return case_of(sizes.tokens(draw, width, 0.06), *block_layers(heads, width))


def _mlp(draw: random.Random) -> Case:
    width = sizes.log(draw, 32, 768, 16)
    body = (("norm",), ("linear", 4 * width), ("act", "gelu"), ("linear", width))
    return case_of(sizes.tokens(draw, width, 0.1), ("residual", body))


def _norm(draw: random.Random) -> Case:
    if draw.random() < 0.3:
        channels = sizes.log(draw, 16, 256, 16)
        return case_of(sizes.image(draw, channels), ("groupnorm", 8), ("act", "silu"))
    return case_of(sizes.tokens(draw, sizes.log(draw, 32, 1024, 8)), ("norm",))


def _softmax(draw: random.Random) -> Case:
    length = sizes.log(draw, 10, 1000)
    return case_of((1, draw.choice((1, 3, 8)), sizes.log(draw, 1, 200), length), ("softmax",))


def _pool(draw: random.Random) -> Case:
    shape = sizes.image(draw, sizes.channels(draw, 16, 512))
    return case_of(shape, draw.choice((("maxpool",), ("avgpool",), ("mean",))))


def _elementwise(draw: random.Random) -> Case:
    """On the program's own input nothing can be fused with what made it."""
    shape = sizes.image(draw, sizes.channels(draw), 0.8)
    first = ("act", draw.choice(sizes.ACTIVATIONS))
    return case_of(shape, first, ("residual", (("act", draw.choice(sizes.ACTIVATIONS)),)))


def _excite(draw: random.Random) -> Case:
    channels = sizes.channels(draw, 16, 512)
    shape = sizes.image(draw, channels)
    return case_of(shape, ("dw", 3, 1), ("act", "relu"), ("se", max(8, channels // 4), "sigmoid"))


def _concat(draw: random.Random) -> Case:
    channels, outputs = sizes.channels(draw, 8, 192), sizes.channels(draw, 8, 128)
    branch = (("conv", outputs, draw.choice((1, 3)), 1, 1), ("act", "relu"))
    other = (("conv", outputs, 1, 1, 1), ("act", "silu"))
    shape = sizes.fitting(draw, channels, 2 * outputs, 13.0 * channels * outputs)
    return case_of(shape, ("concat", branch, other), ("conv", outputs, 1, 1, 1))


def _upsample(draw: random.Random) -> Case:
    channels = sizes.channels(draw, 16, 192)
    shape = sizes.fitting(draw, channels, 4 * channels, 5.0 * channels * channels)
    return case_of(shape, ("conv", channels, 1, 1, 1), ("upsample",), ("conv", channels, 1, 1, 1))


def _embedding(draw: random.Random) -> Case:
    width = sizes.log(draw, 32, 768, 16)
    shape = (1, sizes.log(draw, 4, 300))
    body: tuple[Layer, ...] = (("norm",),) if draw.random() < 0.5 else (("linear", width),)
    return case_of(shape, ("embedding", sizes.log(draw, 200, 20000), width), *body, integers=True)


def _recurrent(draw: random.Random) -> Case:
    kind, hidden = draw.choice(("gru", "lstm")), sizes.log(draw, 16, 320, 8)
    cell = (kind, hidden, draw.choice((1, 1, 2)), draw.random() < 0.3)
    return case_of(
        (1, sizes.log(draw, 4, 160), sizes.log(draw, 8, 256, 8)), cell, ("last",), ("linear", 20)
    )


def inverted_layers(draw: random.Random, channels: int, *, stride: int = 1) -> tuple[Layer, ...]:
    """Widened, convolved channel by channel, narrowed; with a residual where the size stays."""
    wide, kernel = channels * draw.choice((2, 3, 4, 6)), draw.choice((3, 3, 5))
    act = ("act", draw.choice(("relu", "relu6", "hardswish", "silu")))
    gate = draw.choice(("hardsigmoid", "sigmoid"))
    excite: tuple[Layer, ...] = (("se", max(8, wide // 8), gate),) if draw.random() < 0.5 else ()
    body = (
        *(("conv", wide, 1, 1, 1), ("bn",), act, ("dw", kernel, stride), ("bn",), act),
        *excite,
        *(("conv", channels, 1, 1, 1), ("bn",)),
    )
    return (("residual", body),) if stride == 1 else body


def residual_layers(draw: random.Random, channels: int) -> tuple[Layer, ...]:
    """Two convolutions, or three with a bottleneck, around which the input goes."""
    act: Layer = ("act", "relu")
    inner: tuple[Layer, ...]
    if draw.random() < 0.5:
        inner = (("conv", channels, 3, 1, 1), ("bn",), act, ("conv", channels, 3, 1, 1))
    else:
        narrow = max(8, channels // 4)
        inner = (
            *(("conv", narrow, 1, 1, 1), ("bn",), act),
            *(("conv", narrow, 3, 1, 1), ("bn",), act),
            ("conv", channels, 1, 1, 1),
        )
    return (("residual", (*inner, ("bn",))), act)


def block_layers(heads: int, width: int, *, wide: int = 4, act: str = "gelu") -> tuple[Layer, ...]:
    """Of a transformer: attention, then two products."""
    return (
        ("residual", (("norm",), ("attention", heads))),
        ("residual", (("norm",), ("linear", wide * width), ("act", act), ("linear", width))),
    )


OPERATORS: dict[str, tuple[int, Callable[[random.Random], Case]]] = {
    "pointwise": (18, _conv((1,), (1,))),
    "conv": (20, _conv((3,), (1,))),
    "strided": (10, _conv((1, 3, 3), (2,))),
    "large_kernel": (8, _conv((5, 7), (1, 2))),
    "grouped": (6, _conv((1, 3), (1,), grouped=True)),
    "stem": (8, _stem),
    "conv1d": (6, _sequence_conv),
    "depthwise": (18, _depthwise),
    "separable": (10, _separable),
    "inverted": (14, _inverted),
    "residual": (10, _residual),
    "conv_chain": (10, _conv_chain),
    "linear": (10, _linear),
    "wide_head": (5, _wide_head),
    "sequence_linear": (14, _sequence_linear),
    "attention": (8, _attention),
    "block": (8, _block),
    "mlp": (6, _mlp),
    "norm": (6, _norm),
    "softmax": (5, _softmax),
    "pool": (8, _pool),
    "elementwise": (8, _elementwise),
    "excite": (6, _excite),
    "concat": (8, _concat),
    "upsample": (6, _upsample),
    "embedding": (5, _embedding),
    "recurrent": (20, _recurrent),
}
"""Family -> how many cases, and how one is drawn."""
