"""Axes: where a value lies between 0 and 100 %, and which ticks a person wants to see. Pure."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence

_LOG_FROM = 12.0  # greatest over least value: below this a linear axis still shows all of them
_STEPS = (1.0, 2.0, 5.0, 10.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tick:
    """A mark on an axis."""

    position: float
    """In percent of the axis."""
    label: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scale:
    """An axis from `low` to `high`."""

    low: float
    high: float
    is_log: bool = False

    def position(self, value: float) -> float:
        """Where a value lies, in percent; what is beyond an end lies on it.

        >>> Scale(low=0, high=4).position(1)
        25.0
        """
        clamped = min(max(value, self.low), self.high)
        if self.is_log:
            share = math.log(clamped / self.low) / math.log(self.high / self.low)
        else:
            share = (clamped - self.low) / (self.high - self.low)
        return round(100 * share, 2)

    def ticks(self, count: int = 5) -> tuple[Tick, ...]:
        """About `count` round values.

        >>> [tick.label for tick in Scale(low=0, high=10).ticks()]
        ['0', '2', '4', '6', '8', '10']
        """
        values = self._log_values(count) if self.is_log else self._linear_values(count)
        return tuple(Tick(position=self.position(v), label=f"{v:.4g}") for v in values)

    def _linear_values(self, count: int) -> list[float]:
        step = _round_step((self.high - self.low) / count)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [float(f"{index * step:.12g}") for index in range(first, last + 1)]

    def _log_values(self, count: int) -> list[float]:
        found = []
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for mantissas in ((1.0, 2.0, 5.0), (1.0, 3.0), (1.0,)):
            found = [
                mantissa * 10.0**decade
                for decade in decades
                for mantissa in mantissas
                if self.low <= mantissa * 10.0**decade <= self.high
            ]
            if len(found) <= count + 1:
                break
        if len(found) > count + 1:
            found = found[:: math.ceil(len(found) / count)]
        return found


def linear(values: Iterable[float], *, steps: int = 5) -> Scale:
    """From 0 (or below, if a value is) to the round number above the greatest value."""
    known = [value for value in values if math.isfinite(value)]
    top, bottom = max((0.0, *known)), min((0.0, *known))
    if top == bottom:
        top = bottom + 1.0
    step = _round_step((top - bottom) / steps)
    return Scale(
        low=math.floor(bottom / step + 1e-9) * step, high=math.ceil(top / step - 1e-9) * step
    )


def logarithmic(values: Sequence[float]) -> Scale:
    """A little beyond the least and the greatest, which must be above 0."""
    return Scale(low=min(values) / 1.25, high=max(values) * 1.25, is_log=True)


def fitting(values: Iterable[float]) -> Scale:
    """Linear from 0, or logarithmic where the values differ so much that most would be 0."""
    known = [value for value in values if math.isfinite(value)]
    above = [value for value in known if value > 0]
    if len(above) == len(known) and above and max(above) / min(above) > _LOG_FROM:
        return logarithmic(above)
    return linear(known)


def _round_step(step: float) -> float:
    """The next of 1, 2, 5 times a power of ten that is not smaller."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in _STEPS if factor * power >= step * (1 - 1e-9))
