"""Bounds of a median and of a share, though some of the devices lie. Pure.

Every device that reports lies with the probability `liars` at most; those that do know everything
and work together. Of what is reported, then, as much as (1 + liars) / 2 may lie below the median of
the honest ones: half of those by nature, and all that is made up. How many of n reports do is
binomial at worst, so the report of a certain rank lies above that median with the stated
confidence, whatever the distribution: the sign test's bound, widened (Huber's contamination, 1964).
Without liars it is the usual one.

Liars may also be the first to report. So devices that are still to report count as well: as good as
can be for the one bound, as bad as can be for the other. What a bound says before all have reported
it will also say then, whatever comes.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence

_FAR = 12.0
"""Standard deviations beyond which a binomial has no weight that a double would show."""
_HALVINGS = 40
_ROUNDING = 1e-12
"""Of the sums here: half of a symmetric binomial is a half."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    """What some devices say together: a figure, and what it lies between."""

    devices: int
    value: float | None = None
    """The median of what they reported, or the share; None of nobody."""
    low: float | None = None
    """The honest devices' is at least this, with the stated confidence, whatever those tell that
    are still to report; None: too few to say."""
    high: float | None = None
    """And at most this."""


@dataclasses.dataclass(frozen=True)
class Ranks:
    """Which of the sorted reports, from 0, are the median and its bounds; None: none of them."""

    low: int | None
    middle: int
    high: int | None


def fewest(confidence: float, liars: float) -> int:
    """The fewest devices whose median has bounds at all.

    >>> fewest(0.95, 0.0), fewest(0.95, 0.2)
    (5, 6)
    """
    # All of them may lie on one side of it by chance.
    return math.ceil(math.log(1.0 - confidence) / math.log((1.0 + liars) / 2.0) - 1e-9)


@functools.lru_cache(maxsize=4096)
def ranks(devices: int, confidence: float, liars: float) -> tuple[int, int] | None:
    """Which of the sorted reports, from 0, bound the honest devices' median; None of too few.

    >>> ranks(20, 0.95, 0.0), ranks(20, 0.95, 0.2)
    ((5, 14), (3, 16))
    """
    if devices < fewest(confidence, liars):
        return None
    high = _quantile(devices, (1.0 + liars) / 2.0, confidence)
    if high >= devices:
        return None
    return devices - 1 - high, high


def places(devices: int, out: int, confidence: float, liars: float) -> Ranks:
    """Which of the sorted reports are their median and its bounds; None where none can be.

    Args:
        devices: that have reported.
        out: that are still to report.
        confidence: of each bound.
        liars: the probability with which a device is one, at most.

    >>> places(20, 0, 0.95, 0.2)
    Ranks(low=3, middle=10, high=16)
    >>> places(20, 2, 0.95, 0.2)
    Ranks(low=2, middle=10, high=17)
    >>> places(4, 16, 0.95, 0.2)
    Ranks(low=None, middle=2, high=None)
    """
    found = ranks(devices + out, confidence, liars)
    if found is None:
        return Ranks(low=None, middle=devices // 2, high=None)
    low, high = found
    return Ranks(
        low=low - out if low >= out else None,
        middle=devices // 2,
        high=high if high < devices else None,
    )


def median_of(values: Sequence[float], confidence: float, liars: float, out: int = 0) -> Sample:
    """The median of the devices' figures, one each, and the bounds of the honest ones'."""
    ordered = sorted(values)
    found = places(len(ordered), out, confidence, liars)

    def at(place: int | None) -> float | None:
        return ordered[place] if place is not None and ordered else None

    low, value, high = (at(place) for place in (found.low, found.middle, found.high))
    return Sample(devices=len(ordered), value=value, low=low, high=high)


@functools.lru_cache(maxsize=1024)
def share_of(good: int, devices: int, confidence: float, liars: float, out: int = 0) -> Sample:
    """The share of devices that did well, and the bounds of the honest ones' (Clopper-Pearson).

    The arguments are those of `places`.

    >>> found = share_of(40, 40, 0.95, 0.0)
    >>> round(found.low, 3), found.high
    (0.928, 1.0)
    """
    if not devices:
        return Sample(devices=0)
    tail, every, best = 1.0 - confidence, devices + out, good + out
    low = _solved(lambda p: 1.0 - _at_most(good - 1, every, p) < tail) if good else 0.0
    high = _solved(lambda p: _at_most(best, every, p) > tail) if best < every else 1.0
    # Liars may all have said that they did well, or none of them.
    return Sample(
        devices=devices,
        value=good / devices,
        low=max(0.0, (low - liars) / (1.0 - liars)),
        high=min(1.0, high / (1.0 - liars)),
    )


def _solved(is_below: Callable[[float], bool]) -> float:
    """The probability up to which something holds."""
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2.0
        low, high = (middle, high) if is_below(middle) else (low, middle)
    return (low + high) / 2.0


def _quantile(n: int, p: float, confidence: float) -> int:
    """The fewest successes of n that are not exceeded with this confidence."""
    k = _first(n, p)
    weight = total = _weight(k, n, p)
    while total < confidence - _ROUNDING and k < n:
        weight *= (n - k) / (k + 1) * p / (1.0 - p)
        k += 1
        total += weight
    return k


def _at_most(most: int, n: int, p: float) -> float:
    """The probability of so many successes of n, or fewer."""
    if most >= n or p <= 0.0:
        return 1.0
    if p >= 1.0:
        return 0.0
    k = _first(n, p)
    if most < k:
        return 0.0
    weight = total = _weight(k, n, p)
    while k < most:
        weight *= (n - k) / (k + 1) * p / (1.0 - p)
        k += 1
        total += weight
    return min(1.0, total)


def _first(n: int, p: float) -> int:
    """Below so many successes there is no weight."""
    return max(0, math.floor(n * p - _FAR * math.sqrt(n * p * (1.0 - p)) - _FAR))


def _weight(k: int, n: int, p: float) -> float:
    chosen = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return math.exp(chosen + k * math.log(p) + (n - k) * math.log1p(-p))
