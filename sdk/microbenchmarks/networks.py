"""Families of whole networks of eight and more layers, none of which is a known one."""

from __future__ import annotations

import random
from collections.abc import Callable

from sdk.microbenchmarks import sizes
from sdk.microbenchmarks.case import Case, Layer, case_of
from sdk.microbenchmarks.operators import block_layers, inverted_layers, residual_layers


def _net_mobile(draw: random.Random) -> Case:
    side, channels = sizes.log(draw, 64, 256, 32), draw.choice((8, 12, 16, 24))
    growth = draw.choice((1.5, 1.75, 2.0))
    layers: list[Layer] = [("conv", channels, 3, 2, 1), ("bn",), ("act", "relu6")]
    for _ in range(draw.randint(3, 4)):
        layers += inverted_layers(draw, channels, stride=2)
        channels = max(8, int(channels * growth) // 8 * 8)
        layers += [("conv", channels, 1, 1, 1), ("bn",)]
        for _ in range(draw.randint(0, 2)):
            layers += inverted_layers(draw, channels)
    layers += [("conv", 4 * channels, 1, 1, 1), ("act", "relu6"), ("mean",), ("linear", 1000)]
    return case_of((1, 3, side, side), *layers)


def _net_residual(draw: random.Random) -> Case:
    side, channels = sizes.log(draw, 64, 256, 16), draw.choice((24, 32, 48, 64, 64))
    layers: list[Layer] = [("conv", channels, draw.choice((3, 7)), 2, 1), ("act", "relu")]
    layers.append(("maxpool",))
    for stage in range(draw.randint(2, 4)):
        if stage:
            channels *= 2
            layers += [("conv", channels, 3, 2, 1), ("bn",), ("act", "relu")]
        for _ in range(draw.randint(1, 3)):
            layers += residual_layers(draw, channels)
    return case_of((1, 3, side, side), *layers, ("mean",), ("linear", 500))


def _net_plain(draw: random.Random) -> Case:
    side, channels = sizes.log(draw, 24, 96, 8), draw.choice((16, 32))
    layers: list[Layer] = []
    for _ in range(draw.randint(2, 4)):
        for _ in range(draw.randint(1, 2)):
            layers += [("conv", channels, 3, 1, 1), ("bn",), ("act", "relu")]
        layers.append(("maxpool",))
        channels *= 2
    head = (("flatten",), ("linear", 256), ("act", "relu"), ("linear", 10))
    return case_of((1, 3, side, side), *layers, *head)


def _net_transformer(draw: random.Random) -> Case:
    heads = draw.choice((2, 3, 4, 6, 8, 12))
    width = heads * draw.choice((32, 64, 64))
    blocks = block_layers(heads, width) * draw.randint(2, 6)
    tail = (("norm",), ("mean_tokens",), ("linear", 100))
    if draw.random() < 0.5:
        words = ("embedding", sizes.log(draw, 1000, 20000), width)
        return case_of((1, sizes.log(draw, 16, 200)), words, *blocks, *tail, integers=True)
    side = draw.choice((96, 128, 160, 224))
    patches = (("conv", width, 16, 16, 1), ("tokens",))
    return case_of((1, 3, side, side), *patches, *blocks, *tail)


def _net_separable(draw: random.Random) -> Case:
    channels = draw.choice((32, 48, 64, 96))
    act = ("act", "relu")
    layers: list[Layer] = [("conv", channels, 5, 2, 1), ("bn",), act]
    for _ in range(draw.randint(3, 6)):
        layers += [("dw", 3, 1), ("bn",), act, ("conv", channels, 1, 1, 1), ("bn",), act]
    return case_of(
        (1, 1, sizes.log(draw, 32, 98), sizes.log(draw, 10, 40)), *layers, ("mean",), ("linear", 12)
    )


def _net_pyramid(draw: random.Random) -> Case:
    """Scales that meet again: concatenation, upsampling, several convolutions on each."""
    side, channels = sizes.log(draw, 96, 320, 32), draw.choice((8, 16, 24, 32))
    layers: list[Layer] = [("conv", channels, 3, 2, 1), ("act", "silu")]
    for _ in range(draw.choice((2, 3))):
        channels *= 2
        branch = (("conv", channels // 2, 3, 1, 1), ("act", "silu"))
        layers += [("conv", channels, 3, 2, 1), ("act", "silu"), ("concat", branch, (*branch,) * 2)]
    down = (("conv", channels, 3, 2, 1), ("act", "silu"), ("upsample",))
    layers += [("concat", (("conv", channels, 1, 1, 1),), down), ("conv", channels, 3, 1, 1)]
    return case_of((1, 3, side, side), *layers, ("act", "silu"), ("conv", 24, 1, 1, 1))


def _net_recurrent(draw: random.Random) -> Case:
    hidden = sizes.log(draw, 32, 192, 8)
    cells = (("gru" if draw.random() < 0.5 else "lstm"), hidden, draw.choice((1, 2)), False)
    ends = (("last",), ("linear", hidden), ("act", "relu"), ("linear", 20))
    return case_of(
        (1, sizes.log(draw, 20, 120), 64), ("linear", hidden), ("act", "relu"), cells, *ends
    )


NETWORKS: dict[str, tuple[int, Callable[[random.Random], Case]]] = {
    "net_mobile": (10, _net_mobile),
    "net_residual": (9, _net_residual),
    "net_plain": (4, _net_plain),
    "net_transformer": (10, _net_transformer),
    "net_separable": (4, _net_separable),
    "net_pyramid": (6, _net_pyramid),
    "net_recurrent": (4, _net_recurrent),
}
"""Family -> how many cases, and how one is drawn."""
