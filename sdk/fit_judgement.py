"""Is a new fit any better than what it would replace? Pure.

A fit is judged on measurements of networks that it has not seen (sdk/fit.py leaves them out by
turns), and so is what estimates would say without it, on the same ones: the data sheet's estimate,
and where the profile has a fit of that toolchain and engine already, that one. Whoever has the
smallest mean error stays. A fit that cannot be judged, or whose numbers are no numbers, or whose
interval does not hold what it claims, is not used either.

All of them are held against one run's measurements. So a machine that was slow from the first
program to the last is learnt as slow: only times that contradict each other show here.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Literal

from profiles import Fitted, Profile
from sdk.estimate import Interval, bounds, estimate
from sdk.fit import FEWEST_HELD_OUT, Fit, HeldOut, fold_of, interval, mean_error
from sdk.fit import promised as promised_by
from targets.interface import Program, Recipe

Reason = Literal["better", "too few", "not finite", "no better", "interval"]
Rival = Literal["data sheet", "earlier fit"]

TAIL = 0.01
"""An interval is refused where one that keeps its promise would hold so few by a chance below
this. Refusing a good fit costs a run; this way few of a hundred are."""

_FINEST = 0.01
"""An interval's end is not told finer: where every prediction is that near, nothing is wrong."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Coverage:
    """How much of what it has not seen an interval held."""

    share: float
    """Of the measurements, each within the interval of the other folds."""
    promised: float
    """What the intervals' ranks promise: 0.9, less where measurements are few."""
    least: float
    """A share below this is refused."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judged:
    """What became of one toolchain's new fit on one engine."""

    toolchain: str
    engine: str
    used: bool
    reason: Reason
    rows: int
    held_out: int
    """Measurements that all were judged on."""
    error: float | None = None
    """The new fit's mean of |predicted - measured| / measured; None where there is none."""
    error_before: float | None = None
    """The same of the best of what it is held against; None where nothing else estimates."""
    before: Rival | None = None
    """Which one that is."""
    errors_before: dict[Rival, float] = dataclasses.field(default_factory=dict)
    """Of each that it is held against."""
    coverage: Coverage | None = None
    kept: Rival = "data sheet"
    """What estimates go on by where the new fit is not used."""
    block: Fitted | None = None
    """The new constants, where they are used."""


def judge(fits: Iterable[Fit], profile: Profile) -> tuple[Judged, ...]:
    """Hold each new fit against what estimates for the profile would say without it."""
    return tuple(_judged(fit, profile) for fit in fits)


def used_blocks(judged: Iterable[Judged]) -> tuple[Fitted, ...]:
    """The blocks that a profile gets."""
    return tuple(entry.block for entry in judged if entry.used and entry.block is not None)


def _judged(fit: Fit, profile: Profile) -> Judged:
    earlier = _earlier(fit, profile)
    found = Judged(
        toolchain=fit.toolchain,
        engine=fit.engine,
        used=False,
        reason="too few",
        rows=fit.rows,
        held_out=len(fit.held_out),
        kept="earlier fit" if earlier else "data sheet",
    )
    if fit.block is None:
        return found
    if not is_finite(fit.block):
        return dataclasses.replace(found, reason="not finite")
    judged, errors = errors_before(fit.held_out, profile, has_earlier=earlier is not None)
    if len(judged) < FEWEST_HELD_OUT:
        return dataclasses.replace(found, held_out=len(judged))
    held = coverage(fit.held_out)
    if held is None:
        return found
    error = mean_error((entry.predicted, entry.row.ms) for entry in judged)
    before = min(errors, key=lambda name: errors[name], default=None)
    reason = _reason(error, errors[before] if before else None, held)
    return dataclasses.replace(
        found,
        used=reason == "better",
        reason=reason,
        held_out=len(judged),
        error=error,
        error_before=errors[before] if before else None,
        before=before,
        errors_before=errors,
        coverage=held,
        block=fit.block if reason == "better" else None,
    )


def _reason(error: float, before: float | None, held: Coverage) -> Reason:
    if before is not None and not error < before:
        return "no better"
    return "interval" if held.share < held.least else "better"


def is_finite(block: Fitted) -> bool:
    """Are all of a block's constants numbers that a profile can hold?"""
    numbers = (*block.ms.values(), block.error, block.low, block.high)
    return all(0 <= number < math.inf for number in numbers) and 0 < block.low <= block.high


def errors_before(
    held_out: Sequence[HeldOut], profile: Profile, *, has_earlier: bool
) -> tuple[list[HeldOut], dict[Rival, float]]:
    """The mean errors of what estimates without the new fit, and the measurements they are of.

    Where the earlier fit does not cover a recipe or an operator, an estimate with it falls back on
    the data sheet's, and is judged so. Measurements that one of the rivals says nothing of are left
    out for all; a rival that says something of fewer than 10 is none.
    """
    said: dict[Rival, list[float | None]] = {
        "data sheet": [_value(bounds(*_of(entry, profile)).latency_ms) for entry in held_out]
    }
    if has_earlier:
        said["earlier fit"] = [
            _value(estimate(*_of(entry, profile)).latency_ms) for entry in held_out
        ]
    rivals = {
        name: values
        for name, values in said.items()
        if sum(value is not None for value in values) >= FEWEST_HELD_OUT
    }
    common = [
        index
        for index in range(len(held_out))
        if all(values[index] is not None for values in rivals.values())
    ]
    errors = {
        name: mean_error((values[i] or 0.0, held_out[i].row.ms) for i in common)
        for name, values in rivals.items()
        if common
    }
    return [held_out[i] for i in common], errors


def coverage(held_out: Sequence[HeldOut]) -> Coverage | None:
    """How many ratios lie in the interval of the other folds; None where there is but one fold.

    The bound is the lowest share that a binomial count with the promised probability reaches with
    a chance above `TAIL`. It counts networks, not measurements: a network's recipes are off
    together, so that ten of them tell hardly more than one.
    """
    folds: dict[int, list[float]] = collections.defaultdict(list)
    for entry in held_out:
        folds[fold_of(entry.row.name)].append(entry.ratio)
    if len(folds) < 2:
        return None
    inside, promised = 0, 0.0
    for fold, ratios in folds.items():
        others = sorted(r for other, own in folds.items() if other != fold for r in own)
        low, high = interval(others)
        low, high = low * (1 - _FINEST), high * (1 + _FINEST)
        inside += sum(low <= ratio <= high for ratio in ratios)
        promised += len(ratios) * promised_by(len(others))
    total = len(held_out)
    networks = len({entry.row.name for entry in held_out})
    return Coverage(
        share=inside / total,
        promised=promised / total,
        least=least_count(networks, promised / total) / networks,
    )


def least_count(n: int, probability: float) -> int:
    """The lowest count of n independent ones that is not in the lower `TAIL` of the binomial.

    >>> least_count(47, 0.9), least_count(10, 0.8)
    (37, 5)
    """
    below = 0.0
    for count in range(n + 1):
        below += math.comb(n, count) * probability**count * (1 - probability) ** (n - count)
        if below > TAIL:
            return count
    return n


def _earlier(fit: Fit, profile: Profile) -> Fitted | None:
    key = (fit.toolchain, fit.engine)
    return next((e for e in profile.fitted if (e.toolchain, e.engine) == key), None)


def _of(entry: HeldOut, profile: Profile) -> tuple[Program, Profile, Recipe]:
    return entry.row.program, profile, entry.row.recipe


def _value(found: Interval | None) -> float | None:
    return None if found is None else found.value
