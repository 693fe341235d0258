"""How sizes are drawn: evenly on a logarithmic scale, and so that no program takes too long."""

from __future__ import annotations

import random

ACTIVATIONS = ("relu", "relu6", "hardswish", "silu", "gelu", "sigmoid", "tanh", "hardsigmoid")
_MOST_GFLOP = 1.2
"""Of one case: some 10 to 50 ms on a small CPU."""


def log(draw: random.Random, low: float, high: float, step: int = 1) -> int:
    """A whole number between, evenly on a logarithmic scale, a multiple of `step`."""
    value: float = low * (high / low) ** draw.random()
    return max(step, round(value / step) * step)


def channels(draw: random.Random, low: int = 8, high: int = 512) -> int:
    """Most networks have multiples of 8, and of 16; some have neither."""
    return log(draw, low, high, draw.choice((8, 8, 16, 16, 4, 1)))


def image(draw: random.Random, channels: int, most: float = 0.4) -> tuple[int, ...]:
    """Of that many channels, and at most so many million numbers."""
    side = log(draw, 6, 112)
    while channels * side * side > most * 1e6:
        side = max(4, side * 2 // 3)
    return (1, channels, side, side)


def fitting(draw: random.Random, channels: int, outputs: int, per_place: float) -> tuple[int, ...]:
    """An image on which a layer of `per_place` multiply-adds for each place is not too long."""
    shape = image(draw, max(channels, outputs))
    side = shape[2]
    while 2 * per_place * side * side > _MOST_GFLOP * 1e9 and side > 4:
        side -= 1
    return (1, channels, side, side)


def tokens(draw: random.Random, width: int, most: float = 0.4) -> tuple[int, ...]:
    """A sequence of vectors of that width, of at most so many million numbers."""
    count = log(draw, 8, 400)
    while count * width > most * 1e6:
        count = count * 2 // 3
    return (1, count, width)
