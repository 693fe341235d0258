"""Groups of operators and what quantising them costs: the rules that all rankings share. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

import numpy as np

from agent.tensors import Array
from targets.interface import Sensitivity

MOST_GROUPS = 40
"""Each costs runs of the model: where there are more, neighbours are taken together."""

_Item = TypeVar("_Item")


def chunks(items: Sequence[_Item], most: int = MOST_GROUPS) -> list[Sequence[_Item]]:
    """Neighbours together, so that there are at most so many.

    >>> chunks("abcde", most=2)
    ['abc', 'de']
    """
    size = -(-len(items) // most) or 1
    return [items[start : start + size] for start in range(0, len(items), size)]


def squares(answers: Sequence[Array], reference: Sequence[Array]) -> Array:
    """The squared error and the squared signal of each output, (outputs, 2); sums add up."""
    found = [
        (np.square(answer - expected).sum(), np.square(expected).sum())
        for answer, expected in (
            (np.asarray(a, np.float64), np.asarray(r, np.float64))
            for a, r in zip(answers, reference, strict=True)
        )
    ]
    return np.array(found).reshape(-1, 2)


def worst_error(sums: Array) -> float:
    """Squared error over squared signal, of the worst output; one without any signal has none.

    Args:
        sums: of `squares`, over all samples.
    """
    return max((float(noise / signal) for noise, signal in sums if signal), default=0.0)


def ranked(found: Iterable[tuple[tuple[str, ...], float, float]]) -> tuple[Sensitivity, ...]:
    """Groups with their shares of all multiply-accumulates.

    Args:
        found: (operators, error, multiply-accumulates).
    """
    groups = list(found)
    total = sum(own for _, _, own in groups) or 1.0
    return tuple(
        Sensitivity(operators=operators, error=error, work=own / total)
        for operators, error, own in groups
    )
