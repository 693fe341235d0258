"""Measurements -> a profile's fitted constants, and how far off they are. Pure.

For each toolchain on each engine, the measured times are taken for sums of the programs' terms
(sdk/estimate/terms.py), with coefficients that are 0 or more (non-negative least squares). Each
row is divided by its time, so that relative errors count, and rows far off the rest weigh less.

How far off a fit is comes from networks it has not seen: they are left out by turns, a fold at a
time, and predicted from the rest. Single operators are easier or harder than networks, so they
have no say in it.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from agent.errors import UsageError
from profiles import Fitted
from sdk.estimate.fitted import kind_of, weighed
from sdk.estimate.terms import terms
from targets.interface import Program, Recipe

FEWEST_ROWS = 20
"""Of one toolchain and engine: from fewer nothing is fitted."""
FEWEST_HELD_OUT = 10
"""Networks' measurements without which no interval can be told."""
FOLDS = 5
COVERAGE = 0.9
_PASSES = 8
_NETWORK = 3.0
"""How many rows of operators a network's row weighs: it is nearer to what will be asked."""
_SHRINKAGE = 0.01
"""How much a term that few rows tell is drawn towards 0, in rows: no spoilt row must make it."""
_SMALLEST_RESIDUAL = 0.1
"""Residuals below this share weigh alike: measurements vary by as much."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One measurement of one program under one recipe."""

    name: str
    """The program's; rows of one program are left out together."""
    program: Program
    recipe: Recipe
    ms: float
    """The median of one request."""
    judges: bool = False
    """A whole network: it is left out by turns, to tell how far off the fit is."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Origin:
    """Where rows come from; kept in the profile."""

    date: str
    device: str
    """The digest of the unit's identity."""
    tools: Mapping[str, str]
    """Distribution -> version."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Prepared:
    name: str
    amounts: Mapping[str, float]
    ms: float
    judges: bool


def fit(rows: Iterable[Row], origin: Origin) -> tuple[Fitted, ...]:
    """What the rows say of each toolchain and engine, in order of their names.

    Toolchains with too few rows are left out.

    Raises:
        UsageError: a time is not above 0, or no toolchain has rows enough.
    """
    groups: dict[tuple[str, str], list[Row]] = collections.defaultdict(list)
    for row in rows:
        if not 0 < row.ms < math.inf:
            raise UsageError(
                f"The measurement of {row.name} under {row.recipe.name} is {row.ms!r} ms.",
                cause="A time is above 0 and finite.",
                remedy="Measure it again, or leave the row out.",
            )
        groups[row.recipe.toolchain, row.recipe.engine].append(row)
    found = [_fitted(*key, groups[key], origin) for key in sorted(groups)]
    fitted = tuple(entry for entry in found if entry is not None)
    if not fitted:
        raise UsageError(
            f"Nothing can be fitted from {sum(map(len, groups.values()))} measurements.",
            cause=f"A toolchain needs {FEWEST_ROWS}, and {FEWEST_HELD_OUT} of them of networks.",
            remedy="Measure more: sdk fit --profile host",
        )
    return fitted


def held_out_ratios(rows: Sequence[Row]) -> list[float]:
    """Measured over predicted of each judging row, while its fold was left out; sorted.

    A row with a term that the rest has not is no row of the list: it would get no such estimate.
    """
    return _ratios(_prepared(rows))


def _ratios(prepared: Sequence[_Prepared]) -> list[float]:
    ratios = []
    for fold in range(FOLDS):
        left = [row for row in prepared if row.judges and _fold(row.name) == fold]
        ms = _coefficients(
            [row for row in prepared if not (row.judges and _fold(row.name) == fold)]
        )
        for row in left:
            predicted = weighed(ms, row.amounts)
            if predicted:
                ratios.append(row.ms / predicted)
    return sorted(ratios)


def interval(ratios: Sequence[float]) -> tuple[float, float]:
    """What nine in ten of the sorted ratios lie between, for one more that is not among them.

    The ranks are those of split conformal prediction: of n ratios, a new one is below the k-th with
    probability k / (n + 1).

    >>> interval([0.5, *[1.0] * 37, 2.0])
    (0.5, 2.0)
    """
    n = len(ratios)
    tail = (1.0 - COVERAGE) / 2
    rank = max(1, math.floor(tail * (n + 1)))
    return ratios[rank - 1], ratios[n - rank]


def _fitted(toolchain: str, engine: str, rows: list[Row], origin: Origin) -> Fitted | None:
    prepared = _prepared(rows)
    if len(rows) < FEWEST_ROWS:
        return None
    ratios = _ratios(prepared)
    if len(ratios) < FEWEST_HELD_OUT:
        return None
    low, high = interval(ratios)
    return Fitted(
        toolchain=toolchain,
        engine=engine,
        ms={name: _rounded(value) for name, value in sorted(_coefficients(prepared).items())},
        kinds=tuple(sorted({kind_of(row.recipe) for row in rows})),
        rows=len(rows),
        held_out=len(ratios),
        error=_rounded(sum(abs(1 / ratio - 1) for ratio in ratios) / len(ratios)),
        low=_rounded(low),
        high=_rounded(high),
        date=origin.date,
        device=origin.device,
        tools=dict(origin.tools),
    )


def _prepared(rows: Iterable[Row]) -> list[_Prepared]:
    return [
        _Prepared(
            name=row.name,
            amounts=terms(row.program, row.recipe),
            ms=row.ms,
            judges=row.judges,
        )
        for row in rows
    ]


def _coefficients(rows: Sequence[_Prepared]) -> dict[str, float]:
    """Non-negative least absolute relative deviations, by reweighted least squares."""
    import numpy as np
    from scipy.optimize import nnls

    names = sorted({name for row in rows for name in row.amounts})
    place = {name: index for index, name in enumerate(names)}
    matrix: Any = np.zeros((len(rows), len(names)))
    for index, row in enumerate(rows):
        for name, amount in row.amounts.items():
            matrix[index, place[name]] = amount / row.ms
    scale = np.maximum(matrix.max(0), 1e-300)  # 1: the term is all of the time somewhere
    matrix /= scale
    shrink = math.sqrt(_SHRINKAGE) * np.eye(len(names))
    importance = np.array([_NETWORK if row.judges else 1.0 for row in rows])
    weights = importance
    found = np.zeros(len(names))
    for _ in range(_PASSES):
        root = np.sqrt(weights / weights.mean())
        weighted = np.vstack([matrix * root[:, None], shrink])
        target = np.concatenate([root, np.zeros(len(names))])
        found, _ = nnls(weighted, target, maxiter=50 * len(names))
        residuals = np.abs(matrix @ found - 1.0)
        weights = importance / np.maximum(residuals, _SMALLEST_RESIDUAL)
    return dict(zip(names, (found / scale).tolist(), strict=True))


def _fold(name: str) -> int:
    return zlib.crc32(name.encode()) % FOLDS


def _rounded(value: float) -> float:
    """Four significant digits: more would claim what no fit knows, and no file needs them."""
    return float(f"{value:.4g}")
