"""The small programs that a profile's constants are fitted on: generated, seeded, described.

A case is a list of layers on an input: one operator, or a chain of two to six, because fusion and
changes of layout show only in chains. The families `net_*` are whole networks of eight and more
layers; how far a fit is off on them, unseen, is what its interval is made of.

Sizes are drawn evenly on a logarithmic scale. Nothing here is taken from a known network.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterator
from typing import Any

Layer = tuple[Any, ...]
"""A layer's word and its sizes: ("conv", 64, 3, 1, 1). `sdk/microbenchmark_nets.py` builds it."""

QUICK = 4
"""Every so many of the cases are taken where time is short."""
_MOST_GFLOP = 1.2
"""Of one case: some 10 to 50 ms on a small CPU."""
_NETWORK = "net_"
_ACTIVATIONS = ("relu", "relu6", "hardswish", "silu", "gelu", "sigmoid", "tanh", "hardsigmoid")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One program to be timed."""

    name: str
    """`<family>-<number>`, and for a network the draw that it is of."""
    shape: tuple[int, ...]
    """Of the input, with the batch of 1."""
    layers: tuple[Layer, ...]
    integers: bool = False
    """The input holds indices, not floats."""
    dynamic: bool = False
    """The batch may vary from 1 to 4."""

    @property
    def family(self) -> str:
        """What its layers have in common."""
        return self.name.rpartition("-")[0]

    @property
    def is_net(self) -> bool:
        """A whole network, which intervals are calibrated on."""
        return self.family.startswith(_NETWORK)


def cases(*, quick: bool = False, networks: str = "") -> tuple[Case, ...]:
    """All cases, always the same ones; with `quick` a quarter of each family.

    `networks` names another draw of the whole networks. A fit is judged on them beside the one
    before it, and neither may have seen them (but for one or two that are drawn alike).
    """
    found = []
    for family, (count, draw) in _FAMILIES.items():
        tag = networks if family.startswith(_NETWORK) else ""
        for index in range(0, count, QUICK if quick else 1):
            name = f"{family}-{index:02d}{tag}"
            # Seeded by name, so that another count of one family changes no other case.
            found.append(dataclasses.replace(draw(random.Random(name)), name=name))  # noqa: S311
    return tuple(found)


def _log(draw: random.Random, low: float, high: float, step: int = 1) -> int:
    """A whole number between, evenly on a logarithmic scale, a multiple of `step`."""
    value: float = low * (high / low) ** draw.random()
    return max(step, round(value / step) * step)


def _channels(draw: random.Random, low: int = 8, high: int = 512) -> int:
    """Most networks have multiples of 8, and of 16; some have neither."""
    return _log(draw, low, high, draw.choice((8, 8, 16, 16, 4, 1)))


def _image(draw: random.Random, channels: int, most: float = 0.4) -> tuple[int, ...]:
    """Of that many channels, and at most so many million numbers."""
    side = _log(draw, 6, 112)
    while channels * side * side > most * 1e6:
        side = max(4, side * 2 // 3)
    return (1, channels, side, side)


def _case(shape: tuple[int, ...], *layers: Layer, **rest: bool) -> Case:
    return Case(name="", shape=shape, layers=layers, **rest)


def _fitting(draw: random.Random, channels: int, outputs: int, per_place: float) -> tuple[int, ...]:
    """An image on which a layer of `per_place` multiply-adds for each place is not too long."""
    shape = _image(draw, max(channels, outputs))
    side = shape[2]
    while 2 * per_place * side * side > _MOST_GFLOP * 1e9 and side > 4:
        side -= 1
    return (1, channels, side, side)


def _conv(kernels: tuple[int, ...], strides: tuple[int, ...], *, grouped: bool = False) -> Any:
    def draw_one(draw: random.Random) -> Case:
        inputs, outputs = _channels(draw), _channels(draw)
        groups = draw.choice((2, 4, 8)) if grouped else 1
        if grouped:
            inputs, outputs = (max(groups, c // groups * groups) for c in (inputs, outputs))
        kernel, stride = draw.choice(kernels), draw.choice(strides)
        work = inputs * outputs * kernel * kernel / groups
        shape = _fitting(draw, inputs, outputs, work)
        layers: list[Layer] = [("conv", outputs, kernel, stride, groups)]
        if draw.random() < 0.5:
            layers += [("bn",), ("act", draw.choice(_ACTIVATIONS))]
        return _case(shape, *layers, dynamic=draw.random() < 0.15)

    return draw_one


def _stem(draw: random.Random) -> Case:
    side, kernel = _log(draw, 48, 256, 8), draw.choice((3, 3, 5, 7))
    conv = ("conv", _channels(draw, 8, 64), kernel, draw.choice((1, 2, 2)), 1)
    return _case((1, draw.choice((1, 3, 3)), side, side), conv, ("bn",), ("act", "relu"))


def _sequence_conv(draw: random.Random) -> Case:
    inputs, outputs = _channels(draw, 16, 256), _channels(draw, 16, 256)
    conv = ("conv1d", outputs, draw.choice((1, 3, 5, 9)), draw.choice((1, 2)))
    return _case((1, inputs, _log(draw, 16, 800)), conv, ("act", "relu"))


def _depthwise(draw: random.Random) -> Case:
    channels = _channels(draw, 16, 1024)
    layers: list[Layer] = [("dw", draw.choice((3, 3, 5, 7)), draw.choice((1, 1, 2)))]
    if draw.random() < 0.6:
        layers += [("bn",), ("act", draw.choice(_ACTIVATIONS[:4]))]
    return _case(_image(draw, channels), *layers)


def _separable(draw: random.Random) -> Case:
    channels, outputs = _channels(draw, 16, 512), _channels(draw, 16, 512)
    act = ("act", draw.choice(_ACTIVATIONS[:4]))
    one = (("dw", draw.choice((3, 5)), 1), ("bn",), act, ("conv", outputs, 1, 1, 1), ("bn",), act)
    layers = one * draw.choice((1, 2))
    return _case(_fitting(draw, channels, outputs, 2.0 * channels * outputs), *layers)


def _inverted_layers(draw: random.Random, channels: int, *, stride: int = 1) -> tuple[Layer, ...]:
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


def _inverted(draw: random.Random) -> Case:
    channels = _log(draw, 16, 160, 8)
    side = _image(draw, channels * 4)[2]
    return _case((1, channels, side, side), *_inverted_layers(draw, channels))


def _residual_layers(draw: random.Random, channels: int) -> tuple[Layer, ...]:
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


def _residual(draw: random.Random) -> Case:
    channels = _log(draw, 16, 320, 16)
    shape = _fitting(draw, channels, channels, 18.0 * channels * channels)
    return _case(shape, *_residual_layers(draw, channels))


def _conv_chain(draw: random.Random) -> Case:
    channels = _channels(draw, 16, 256)
    layers: list[Layer] = []
    act = draw.choice(_ACTIVATIONS)
    for _ in range(draw.randint(2, 4)):
        kernel = draw.choice((1, 3))
        layers += [("conv", channels, kernel, 1, 1), ("bn",), ("act", act)]
    return _case(_fitting(draw, channels, channels, 27.0 * channels**2), *layers)


def _linear(draw: random.Random) -> Case:
    inputs, outputs = _log(draw, 32, 2048, 8), _log(draw, 16, 2048, 8)
    layers: list[Layer] = [("linear", outputs)]
    if draw.random() < 0.5:
        layers.append(("act", draw.choice(_ACTIVATIONS)))
    return _case((1, inputs), *layers)


def _wide_head(draw: random.Random) -> Case:
    """Weights that leave the caches at a batch of one."""
    width = _log(draw, 512, 4096, 64)
    layers = [("linear", _log(draw, 512, 4096, 64)), ("act", "relu")]
    return _case((1, width), *layers, ("linear", _log(draw, 512, 4096, 64)))


def _tokens(draw: random.Random, width: int, most: float = 0.4) -> tuple[int, ...]:
    count = _log(draw, 8, 400)
    while count * width > most * 1e6:
        count = count * 2 // 3
    return (1, count, width)


def _sequence_linear(draw: random.Random) -> Case:
    inputs, outputs = _log(draw, 32, 1024, 8), _log(draw, 32, 2048, 8)
    shape = _tokens(draw, max(inputs, outputs))
    layers: list[Layer] = [("linear", outputs)]
    if draw.random() < 0.5:
        layers += [("act", draw.choice(("gelu", "relu", "silu"))), ("linear", inputs)]
    return _case((1, shape[1], inputs), *layers, dynamic=draw.random() < 0.15)


def _attention(draw: random.Random) -> Case:
    heads = draw.choice((2, 3, 4, 8, 12))
    width = heads * draw.choice((16, 32, 64))
    return _case(_tokens(draw, width, 0.15), ("attention", heads))


def _block_layers(heads: int, width: int, *, wide: int = 4, act: str = "gelu") -> tuple[Layer, ...]:
    return (
        ("residual", (("norm",), ("attention", heads))),
        ("residual", (("norm",), ("linear", wide * width), ("act", act), ("linear", width))),
    )


def _block(draw: random.Random) -> Case:
    heads = draw.choice((2, 3, 4, 6))
    width = heads * draw.choice((32, 48, 64))
    return _case(_tokens(draw, width, 0.06), *_block_layers(heads, width))


def _mlp(draw: random.Random) -> Case:
    width = _log(draw, 32, 768, 16)
    body = (("norm",), ("linear", 4 * width), ("act", "gelu"), ("linear", width))
    return _case(_tokens(draw, width, 0.1), ("residual", body))


def _norm(draw: random.Random) -> Case:
    if draw.random() < 0.3:
        channels = _log(draw, 16, 256, 16)
        return _case(_image(draw, channels), ("groupnorm", 8), ("act", "silu"))
    return _case(_tokens(draw, _log(draw, 32, 1024, 8)), ("norm",))


def _softmax(draw: random.Random) -> Case:
    length = _log(draw, 10, 1000)
    return _case((1, draw.choice((1, 3, 8)), _log(draw, 1, 200), length), ("softmax",))


def _pool(draw: random.Random) -> Case:
    shape = _image(draw, _channels(draw, 16, 512))
    return _case(shape, draw.choice((("maxpool",), ("avgpool",), ("mean",))))


def _elementwise(draw: random.Random) -> Case:
    """On the program's own input nothing can be fused with what made it."""
    shape = _image(draw, _channels(draw), 0.8)
    first = ("act", draw.choice(_ACTIVATIONS))
    return _case(shape, first, ("residual", (("act", draw.choice(_ACTIVATIONS)),)))


def _excite(draw: random.Random) -> Case:
    channels = _channels(draw, 16, 512)
    shape = _image(draw, channels)
    return _case(shape, ("dw", 3, 1), ("act", "relu"), ("se", max(8, channels // 4), "sigmoid"))


def _concat(draw: random.Random) -> Case:
    channels, outputs = _channels(draw, 8, 192), _channels(draw, 8, 128)
    branch = (("conv", outputs, draw.choice((1, 3)), 1, 1), ("act", "relu"))
    other = (("conv", outputs, 1, 1, 1), ("act", "silu"))
    shape = _fitting(draw, channels, 2 * outputs, 13.0 * channels * outputs)
    return _case(shape, ("concat", branch, other), ("conv", outputs, 1, 1, 1))


def _upsample(draw: random.Random) -> Case:
    channels = _channels(draw, 16, 192)
    shape = _fitting(draw, channels, 4 * channels, 5.0 * channels * channels)
    return _case(shape, ("conv", channels, 1, 1, 1), ("upsample",), ("conv", channels, 1, 1, 1))


def _embedding(draw: random.Random) -> Case:
    width = _log(draw, 32, 768, 16)
    shape = (1, _log(draw, 4, 300))
    body: tuple[Layer, ...] = (("norm",),) if draw.random() < 0.5 else (("linear", width),)
    return _case(shape, ("embedding", _log(draw, 200, 20000), width), *body, integers=True)


def _recurrent(draw: random.Random) -> Case:
    kind, hidden = draw.choice(("gru", "lstm")), _log(draw, 16, 320, 8)
    cell = (kind, hidden, draw.choice((1, 1, 2)), draw.random() < 0.3)
    return _case((1, _log(draw, 4, 160), _log(draw, 8, 256, 8)), cell, ("last",), ("linear", 20))


def _net_mobile(draw: random.Random) -> Case:
    side, channels = _log(draw, 64, 256, 32), draw.choice((8, 12, 16, 24))
    growth = draw.choice((1.5, 1.75, 2.0))
    layers: list[Layer] = [("conv", channels, 3, 2, 1), ("bn",), ("act", "relu6")]
    for _ in range(draw.randint(3, 4)):
        layers += _inverted_layers(draw, channels, stride=2)
        channels = max(8, int(channels * growth) // 8 * 8)
        layers += [("conv", channels, 1, 1, 1), ("bn",)]
        for _ in range(draw.randint(0, 2)):
            layers += _inverted_layers(draw, channels)
    layers += [("conv", 4 * channels, 1, 1, 1), ("act", "relu6"), ("mean",), ("linear", 1000)]
    return _case((1, 3, side, side), *layers)


def _net_residual(draw: random.Random) -> Case:
    side, channels = _log(draw, 64, 256, 16), draw.choice((24, 32, 48, 64, 64))
    layers: list[Layer] = [("conv", channels, draw.choice((3, 7)), 2, 1), ("act", "relu")]
    layers.append(("maxpool",))
    for stage in range(draw.randint(2, 4)):
        if stage:
            channels *= 2
            layers += [("conv", channels, 3, 2, 1), ("bn",), ("act", "relu")]
        for _ in range(draw.randint(1, 3)):
            layers += _residual_layers(draw, channels)
    return _case((1, 3, side, side), *layers, ("mean",), ("linear", 500))


def _net_plain(draw: random.Random) -> Case:
    side, channels = _log(draw, 24, 96, 8), draw.choice((16, 32))
    layers: list[Layer] = []
    for _ in range(draw.randint(2, 4)):
        for _ in range(draw.randint(1, 2)):
            layers += [("conv", channels, 3, 1, 1), ("bn",), ("act", "relu")]
        layers.append(("maxpool",))
        channels *= 2
    head = (("flatten",), ("linear", 256), ("act", "relu"), ("linear", 10))
    return _case((1, 3, side, side), *layers, *head)


def _net_transformer(draw: random.Random) -> Case:
    heads = draw.choice((2, 3, 4, 6, 8, 12))
    width = heads * draw.choice((32, 64, 64))
    blocks = _block_layers(heads, width) * draw.randint(2, 6)
    tail = (("norm",), ("mean_tokens",), ("linear", 100))
    if draw.random() < 0.5:
        words = ("embedding", _log(draw, 1000, 20000), width)
        return _case((1, _log(draw, 16, 200)), words, *blocks, *tail, integers=True)
    side = draw.choice((96, 128, 160, 224))
    patches = (("conv", width, 16, 16, 1), ("tokens",))
    return _case((1, 3, side, side), *patches, *blocks, *tail)


def _net_separable(draw: random.Random) -> Case:
    channels = draw.choice((32, 48, 64, 96))
    act = ("act", "relu")
    layers: list[Layer] = [("conv", channels, 5, 2, 1), ("bn",), act]
    for _ in range(draw.randint(3, 6)):
        layers += [("dw", 3, 1), ("bn",), act, ("conv", channels, 1, 1, 1), ("bn",), act]
    return _case((1, 1, _log(draw, 32, 98), _log(draw, 10, 40)), *layers, ("mean",), ("linear", 12))


def _net_pyramid(draw: random.Random) -> Case:
    """Scales that meet again: concatenation, upsampling, several convolutions on each."""
    side, channels = _log(draw, 96, 320, 32), draw.choice((8, 16, 24, 32))
    layers: list[Layer] = [("conv", channels, 3, 2, 1), ("act", "silu")]
    for _ in range(draw.choice((2, 3))):
        channels *= 2
        branch = (("conv", channels // 2, 3, 1, 1), ("act", "silu"))
        layers += [("conv", channels, 3, 2, 1), ("act", "silu"), ("concat", branch, (*branch,) * 2)]
    down = (("conv", channels, 3, 2, 1), ("act", "silu"), ("upsample",))
    layers += [("concat", (("conv", channels, 1, 1, 1),), down), ("conv", channels, 3, 1, 1)]
    return _case((1, 3, side, side), *layers, ("act", "silu"), ("conv", 24, 1, 1, 1))


def _net_recurrent(draw: random.Random) -> Case:
    hidden = _log(draw, 32, 192, 8)
    cells = (("gru" if draw.random() < 0.5 else "lstm"), hidden, draw.choice((1, 2)), False)
    ends = (("last",), ("linear", hidden), ("act", "relu"), ("linear", 20))
    return _case((1, _log(draw, 20, 120), 64), ("linear", hidden), ("act", "relu"), cells, *ends)


_FAMILIES: dict[str, tuple[int, Callable[[random.Random], Case]]] = {
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
    "net_mobile": (10, _net_mobile),
    "net_residual": (9, _net_residual),
    "net_plain": (4, _net_plain),
    "net_transformer": (10, _net_transformer),
    "net_separable": (4, _net_separable),
    "net_pyramid": (6, _net_pyramid),
    "net_recurrent": (4, _net_recurrent),
}
"""Family -> how many cases, and how one is drawn."""


def operators_only() -> Iterator[Case]:
    """The cases that are one operator or a short chain."""
    return (case for case in cases() if not case.is_net)
