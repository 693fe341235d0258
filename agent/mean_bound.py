"""How bad can the true mean be? Gaffke's upper bound, exact and without random numbers.

Weigh the observed values in every way that is as likely as any other (a Dirichlet draw, as the
Bayesian bootstrap does), with one more value added that is as bad as a value can be. The bound is
the quantile of those weighted means. Nothing is assumed of the distribution but its greatest
value: with n values at the bottom the bound is `1 - alpha ** (1 / n)` of the way to the top, and
for values of 0 and 1 it is Clopper and Pearson's.

Gaffke, "Three test statistics for a nonparametric one-sided hypothesis on the mean of a
nonnegative variable" (2005); Learned-Miller and Thomas, arXiv:1905.06208; Phan, Thomas and
Learned-Miller, "Towards practical mean bounds for small samples" (ICML 2021).

The share of the simplex in which a weighted mean exceeds a threshold is a spline of the values;
Varsi's recursion ("The multidimensional content of the frustum of the simplex", 1973) gives it
from positive terms alone, so rounding does not hurt. It costs (values above) x (values below);
beyond `EXACT_CELLS` Lugannani and Rice's saddlepoint formula (1980) takes over, whose error there
is some hundredths of alpha: a confidence of 95 % is one of 95.0 +- 0.2 %.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

EXACT_CELLS = 8_000_000  # a second or two for the bound of some thousand distinct values
LEAST_CONFIDENCE = 0.65
"""Below it the search would start on the wrong side: the weighted mean exceeds its own mean with a
probability of at least 1/e (Gruenbaum's inequality)."""


def mean_upper_bound(values: Floats, *, top: float, confidence: float) -> float:
    """The greatest mean that the values do not rule out at this confidence.

    Args:
        values: independent observations, at least one, none above `top`.
        top: the greatest value there can be.
        confidence: of the bound, one-sided; from `LEAST_CONFIDENCE` to below 1.

    >>> round(mean_upper_bound(np.zeros(149), top=1.0, confidence=0.95), 5)
    0.0199
    """
    atoms, counts = np.unique(values, return_counts=True)
    alpha = 1.0 - confidence
    bottom = float(atoms[0])
    width = top - bottom
    if width <= 0:
        return top
    if len(atoms) == 1:
        return bottom + width * (1.0 - math.exp(math.log(alpha) / len(values)))
    scaled = (atoms - bottom) / width
    return bottom + width * _quantile(scaled, counts.astype(np.float64), alpha)


def mean_exceeds(values: Floats, threshold: float, *, top: float, repeat: float) -> float:
    """The probability, by the same weighing, that the mean exceeds `threshold`.

    Args:
        values: as for `mean_upper_bound`.
        threshold: below `top`.
        top: the greatest value there can be.
        repeat: how often each value counts; as if the sample were that many times larger, with
            its proportions kept.
    """
    atoms, counts = np.unique(values, return_counts=True)
    bottom = float(atoms[0])
    scaled = (atoms - bottom) / (top - bottom)
    return _saddlepoint(
        scaled, np.asarray(counts * repeat, np.float64), (threshold - bottom) / (top - bottom)
    )


def _quantile(atoms: Floats, counts: Floats, alpha: float) -> float:
    """The 1 - alpha quantile of the weighted mean, by the Illinois variant of regula falsi."""
    n = float(counts.sum())
    mean = float(counts @ atoms + 1.0) / (n + 1.0)
    variance = float(counts @ np.square(atoms - mean) + (1.0 - mean) ** 2) / (n + 1.0)
    spread = math.sqrt(variance / (n + 2.0))

    def excess(threshold: float) -> float:
        return math.log(max(_exceeds(atoms, counts, threshold), 1e-300) / alpha)

    low, at_low = mean, math.log(max(1.0 / math.e, alpha) / alpha)
    high = min(1.0, mean + 2.0 * spread)
    while high < 1.0 and (at_high := excess(high)) > 0.0:
        low, at_low = high, at_high
        high = min(1.0, high + spread)
    if high >= 1.0:
        high, at_high = 1.0, math.log(1e-300 / alpha)
    side = 0
    for _ in range(100):
        if high - low <= 1e-9 * spread:
            break
        middle = float((low * at_high - high * at_low) / (at_high - at_low))
        value = excess(middle)
        if value > 0.0:
            low, at_low = middle, value
            at_high = at_high / 2.0 if side > 0 else at_high
            side = 1
        else:
            high, at_high = middle, value
            at_low = at_low / 2.0 if side < 0 else at_low
            side = -1
        if abs(value) < 1e-11:
            return middle
    return high


def _exceeds(atoms: Floats, counts: Floats, threshold: float) -> float:
    """P(weighted mean > threshold), for values scaled to [0, 1] and one more value at 1."""
    above = float(counts[atoms > threshold].sum()) + 1.0
    below = float(counts.sum()) + 1.0 - above
    if above * below > EXACT_CELLS:
        return _saddlepoint(atoms, counts, threshold)
    distances = np.repeat(atoms - threshold, counts.astype(np.int64))
    over = np.append(distances[distances > 0.0], 1.0 - threshold)
    under = np.maximum(-distances[distances <= 0.0], 1e-300)  # so that nothing divides 0 by 0
    # share(h, k), with h values under and k over, is a mean of share(h - 1, k) and
    # share(h, k - 1); share(0, k) = 1 and share(h, 0) = 0. Diagonal by diagonal of that table:
    if len(over) <= len(under):
        return _walk(over, under, border=0.0)
    return _walk(under, over, border=1.0)


def _walk(short: Floats, long: Floats, *, border: float) -> float:
    """The last cell of Varsi's table; one numpy step per diagonal, along the shorter side."""
    size = len(short)
    padding = np.zeros(size)  # weight zero keeps a cell at its border value until it is reached
    padded = np.concatenate([padding, long, padding])
    weights = short[::-1]
    cells = np.full(size + 1, 1.0 - border)
    cells[-1] = border
    for diagonal in range(size + len(long)):
        other = padded[diagonal : diagonal + size]
        cells[:-1] = (weights * cells[:-1] + other * cells[1:]) / (weights + other)
    return float(cells[0])


def _saddlepoint(atoms: Floats, counts: Floats, threshold: float) -> float:
    """The same probability by Lugannani and Rice: the sum of gammas, weighted by distance, > 0."""
    distances = np.append(atoms - threshold, 1.0 - threshold)
    shapes = np.append(counts, 1.0)
    low, high, point = 1.0 / float(distances.min()), 1.0 / float(distances.max()), 0.0
    for _ in range(100):  # Newton's method for where the slope is 0, held inside its bracket
        scaled = distances / (1.0 - distances * point)
        slope = float(shapes @ scaled)
        low, high = (point, high) if slope < 0.0 else (low, point)
        step = slope / float(shapes @ np.square(scaled))
        if abs(step) <= 1e-12 * (high - low):
            break
        point = point - step if low < point - step < high else (low + high) / 2.0
    scaled = distances / (1.0 - distances * point)
    curvature = float(shapes @ np.square(scaled))
    signed = math.copysign(
        math.sqrt(max(0.0, 2.0 * float(shapes @ np.log1p(-distances * point)))), point
    )
    if abs(signed) < 1e-4:  # both terms grow without bound there; their difference does not
        skewness = 2.0 * float(shapes @ scaled**3) / curvature**1.5
        return float(0.5 - skewness / (6.0 * math.sqrt(2.0 * math.pi)))
    density = math.exp(-signed * signed / 2.0) / math.sqrt(2.0 * math.pi)
    tail = math.erfc(signed / math.sqrt(2.0)) / 2.0
    return float(tail + density * (1.0 / (point * math.sqrt(curvature)) - 1.0 / signed))
