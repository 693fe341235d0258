"""Quantiles of a series of measurements, with bounds by order statistics.

How many of n independent samples lie below the true quantile is binomial, so two of the sorted
samples bracket it, whatever the distribution. One rule says whether a quantile is reported at all:
the greatest sample must exceed the true quantile with 99 % probability, q ** n <= 0.01. That takes
7 samples for the median, 44 for p90, 90 for p95 and 459 for p99.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence

import numpy as np

from agent.tensors import Array

REPORTING_CONFIDENCE = 0.99


@dataclasses.dataclass(frozen=True, kw_only=True)
class Interval:
    """A figure and what it lies between, at the confidence of the function that made it."""

    value: float
    low: float
    high: float


def samples_for(q: float) -> int:
    """The fewest samples from which the quantile is reported.

    >>> samples_for(0.99)
    459
    """
    return math.ceil(math.log(1.0 - REPORTING_CONFIDENCE) / math.log(q))


def quantile_bounds(
    samples: Sequence[float] | Array, q: float, confidence: float = 0.95
) -> Interval | None:
    """The quantile with a two-sided interval; None from too few samples (`samples_for`)."""
    ordered = np.sort(np.asarray(samples, np.float64))
    n = len(ordered)
    if n < samples_for(q):
        return None
    low, high = _ranks(n, q, (1.0 - confidence) / 2.0)
    return Interval(
        value=float(np.quantile(ordered, q)),
        low=float(ordered[low]),
        high=float(ordered[high]),
    )


def median_interval(samples: Sequence[float] | Array, confidence: float = 0.95) -> Interval:
    """The median and its interval: the sign test's, or of under 6 samples all that was seen."""
    ordered = np.sort(np.asarray(samples, np.float64))
    low, high = _ranks(len(ordered), 0.5, (1.0 - confidence) / 2.0)
    return Interval(
        value=float(np.median(ordered)), low=float(ordered[low]), high=float(ordered[high])
    )


def is_stable(medians: Sequence[float], *, tolerance: float, last: int) -> bool:
    """Have the windows' medians settled?

    The latest `last` of them agree within the tolerance, and so do the two halves of the whole
    series, which a slow drift would part.
    """
    if len(medians) < max(last, 2):
        return False
    recent = np.asarray(medians[-last:], np.float64)
    middle = float(np.median(recent))
    if float(np.abs(recent - middle).max()) > tolerance * middle:
        return False
    half = len(medians) // 2
    first, second = float(np.median(medians[:half])), float(np.median(medians[half:]))
    return abs(first - second) <= tolerance * min(first, second)


@functools.lru_cache(maxsize=256)
def _ranks(n: int, q: float, tail: float) -> tuple[int, int]:
    """Indices of the sorted samples that the quantile lies below and above with at most `tail`.

    The first and the last sample where n is too small to do better.
    """
    counts = np.arange(n + 1)
    logs = np.array([math.lgamma(k + 1) for k in range(n + 1)])
    log_probabilities = (
        logs[n] - logs - logs[::-1] + counts * math.log(q) + (n - counts) * math.log1p(-q)
    )
    cumulative = np.minimum(1.0, np.cumsum(np.exp(log_probabilities)))
    # cumulative[k]: at most k samples lie below the quantile, so sample k (from 0) is above it.
    low = int(np.searchsorted(cumulative, tail, side="right")) - 1
    high = int(np.searchsorted(cumulative, 1.0 - tail, side="left"))
    return max(low, 0), min(high, n - 1)
