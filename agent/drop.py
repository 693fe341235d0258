"""How much worse is the variant? The relative drop of a mean score, with bounds, and its verdict.

The comparison is paired: the same samples, scored by the original and by the variant. The mean of
the differences is bounded by `agent.mean_bound`, which assumes that the samples are independent
and that scores lie within the metric's bounds, nothing else. The original's mean, which the drop
is relative to, is taken as these samples give it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from agent.errors import UsageError
from agent.mean_bound import LEAST_CONFIDENCE, Floats, mean_exceeds, mean_upper_bound
from agent.tensors import Array

SAMPLES_NEEDED_CEILING = 10**9
"""Beyond so many samples the answer is that no number would do."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drop:
    """By what fraction of the original's mean score the variant is worse; below 0 it is better."""

    value: float
    low: float
    """The drop is at least this, with the stated confidence."""
    high: float
    """The drop is at most this, with the stated confidence."""
    n: int
    original_mean: float
    variant_mean: float


def paired_drop(
    original: Array | Sequence[float],
    variant: Array | Sequence[float],
    *,
    higher_is_better: bool,
    bounds: tuple[float, float] | None,
    confidence: float = 0.95,
) -> Drop:
    """The drop, with a one-sided bound on either side.

    Args:
        original: one score per sample.
        variant: the scores of the same samples in the same order.
        higher_is_better: False for errors.
        bounds: the least and the greatest score there can be. None: the range of all these scores
            and zero stands in, and the bounds then only hold as far as no worse score exists.
        confidence: of each bound.

    Raises:
        UsageError: no samples, different numbers of them, a score that is not finite or not
            within the bounds, or an original whose mean is 0, to which no drop is relative.
    """
    pairs = _Pairs(original, variant, higher_is_better, bounds, confidence)
    differences, scale = pairs.differences, abs(pairs.original_mean)
    upper = mean_upper_bound(differences, top=pairs.most, confidence=confidence)
    lower = -mean_upper_bound(-differences, top=-pairs.least, confidence=confidence)
    return Drop(
        value=float(differences.mean()) / scale,
        low=lower / scale,
        high=upper / scale,
        n=len(differences),
        original_mean=pairs.original_mean,
        variant_mean=pairs.variant_mean,
    )


def judge_drop(drop: Drop, limit: float) -> Literal["met", "unmet", "unproven"]:
    """Does the drop hold the limit? Proven either way only by the bound on that side."""
    if drop.high <= limit:
        return "met"
    return "unmet" if drop.low > limit else "unproven"


def samples_needed(
    original: Array | Sequence[float],
    variant: Array | Sequence[float],
    *,
    limit: float,
    higher_is_better: bool,
    bounds: tuple[float, float] | None,
    confidence: float = 0.95,
) -> int | None:
    """About how many samples would prove the limit, if more of them had the same proportions.

    Exact where all differences are equal: with no regression at all, and an original that scores
    1, a limit of 2 % needs 149. None where the observed drop itself does not hold the limit.

    Raises:
        UsageError: as for `paired_drop`.
    """
    pairs = _Pairs(original, variant, higher_is_better, bounds, confidence)
    differences = pairs.differences
    threshold = limit * abs(pairs.original_mean)
    alpha = 1.0 - confidence
    if float(differences.mean()) >= threshold:
        return None
    if threshold >= pairs.most:
        return 1
    first = float(differences[0])
    if (differences == first).all():
        room = (threshold - first) / (pairs.most - first)
        return max(1, math.ceil(math.log(alpha) / math.log1p(-room)))

    def proven(count: int) -> bool:
        repeat = count / len(differences)
        return mean_exceeds(differences, threshold, top=pairs.most, repeat=repeat) <= alpha

    high = 1
    while not proven(high):
        high *= 2
        if high > SAMPLES_NEEDED_CEILING:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if proven(middle) else (middle, high)
    return high


class _Pairs:
    """The checked scores as differences, positive where the variant is worse, and their range."""

    def __init__(
        self,
        original: Any,
        variant: Any,
        higher_is_better: bool,  # noqa: FBT001  positional inside this module only
        bounds: tuple[float, float] | None,
        confidence: float,
    ) -> None:
        if not LEAST_CONFIDENCE <= confidence < 1.0:
            raise UsageError(
                f"The confidence is {confidence}, not from {LEAST_CONFIDENCE} to below 1.",
                remedy="Use 0.95.",
            )
        before, after = _scores("original", original), _scores("variant", variant)
        if len(before) != len(after) or not len(before):
            raise UsageError(
                f"The original has {len(before)} scores, the variant {len(after)}.",
                cause="A comparison pairs the same samples, and needs at least one.",
                remedy="Score both on the same split, and give it samples.",
            )
        low, high = bounds or _observed_range(before, after)
        for name, scores in (("original", before), ("variant", after)):
            if scores.min() < low or scores.max() > high:
                raise UsageError(
                    f"The {name}'s scores go from {scores.min():g} to {scores.max():g}, the metric "
                    f"from {low:g} to {high:g}.",
                    cause="The metric's bounds are not what it returns.",
                    remedy="State wider bounds, or none.",
                )
        self.original_mean = float(before.mean())
        self.variant_mean = float(after.mean())
        if self.original_mean == 0.0:
            raise UsageError(
                f"The original's mean score over {len(before)} samples is 0, and a drop is "
                "relative to it.",
                cause="The labels do not fit the model, or the metric does not fit the task.",
                remedy="Check the labels and the metric in [data].",
            )
        self.differences: Floats = before - after if higher_is_better else after - before
        # A variant cannot beat an original that is perfect throughout.
        perfect = high if higher_is_better else low
        self.least = 0.0 if bounds and (before == perfect).all() else low - high
        self.most = high - low


def _scores(name: str, values: Any) -> Floats:
    scores = np.asarray(values, np.float64).ravel()
    if not np.isfinite(scores).all():
        index = int(np.flatnonzero(~np.isfinite(scores))[0])
        raise UsageError(
            f"The {name}'s score of sample {index} is {scores[index]}.",
            cause="The outputs hold NaN or infinity, or the score divides by zero.",
            remedy="Look at that sample's outputs; a score is a finite number.",
        )
    return scores


def _observed_range(before: Floats, after: Floats) -> tuple[float, float]:
    """Zero belongs to it, so that even equal scores leave room for a sample that was not seen."""
    return (
        min(0.0, float(before.min()), float(after.min())),
        max(0.0, float(before.max()), float(after.max())),
    )
