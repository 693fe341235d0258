"""Measurements -> a profile's fitted constants, and how far off they are. Pure.

For each toolchain on each engine, the measured times are taken for sums of the programs' terms
(sdk/estimate/terms.py), with coefficients that are 0 or more (non-negative least squares). Each
row is divided by its time, so that relative errors count, and rows far off the rest weigh less.

How far off a fit is comes from networks it has not seen: they are left out by turns, a fold at a
a time, and predicted from the rest. Single operators are easier or harder than networks, so they
have no say in it. Whether a fit is any better than what it would replace is judged elsewhere
(sdk/fit_judgement.py).
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
class HeldOut:
    """One network's measurement, and what a fit said of it that had not seen the network."""

    row: Row
    predicted: float
    """Milliseconds."""

    @property
    def ratio(self) -> float:
        """Measured over predicted."""
        return self.row.ms / self.predicted


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fit:
    """What the rows of one toolchain on one engine say."""

    toolchain: str
    engine: str
    rows: int
    held_out: tuple[HeldOut, ...]
    block: Fitted | None
    """None where rows are too few. Its numbers are not finite where no constants were found."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Prepared:
    row: Row
    amounts: Mapping[str, float]


def fit(rows: Iterable[Row], origin: Origin) -> tuple[Fit, ...]:
    """What the rows say of each toolchain and engine, in order of their names.

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
    found = tuple(_fit(*key, groups[key], origin) for key in sorted(groups))
    if all(entry.block is None for entry in found):
        raise UsageError(
            f"Nothing can be fitted from {sum(map(len, groups.values()))} measurements.",
            cause=f"A toolchain needs {FEWEST_ROWS}, and {FEWEST_HELD_OUT} of them of networks.",
            remedy="Measure more: sdk fit --profile host",
        )
    return found


def held_out(rows: Sequence[Row]) -> tuple[HeldOut, ...]:
    """Each judging row with what is predicted while its fold is left out.

    A row with a term that the rest has not is no row of the answer: it would get no such estimate.
    """
    return _held_out(_prepared(rows))


def _held_out(prepared: Sequence[_Prepared]) -> tuple[HeldOut, ...]:
    found = []
    for fold in range(FOLDS):
        left = [p for p in prepared if p.row.judges and fold_of(p.row.name) == fold]
        if not left:
            continue
        ms = _coefficients(
            [p for p in prepared if not (p.row.judges and fold_of(p.row.name) == fold)]
        )
        for entry in left:
            predicted = weighed(ms, entry.amounts)
            if predicted:
                found.append(HeldOut(row=entry.row, predicted=predicted))
    return tuple(found)


def fold_of(name: str) -> int:
    """The turn in which a network is left out."""
    return zlib.crc32(name.encode()) % FOLDS


def mean_error(pairs: Iterable[tuple[float, float]]) -> float:
    """The mean of |predicted - measured| / measured.

    >>> mean_error([(1.5, 1.0), (1.0, 2.0)])
    0.5
    """
    errors = [abs(predicted / measured - 1.0) for predicted, measured in pairs]
    return math.fsum(errors) / len(errors)


def interval(ratios: Sequence[float]) -> tuple[float, float]:
    """What nine in ten of the sorted ratios lie between, for one more that is not among them.

    The ranks are those of split conformal prediction: of n ratios, a new one is below the k-th with
    probability k / (n + 1).

    >>> interval([0.5, *[1.0] * 37, 2.0])
    (0.5, 2.0)
    """
    n = len(ratios)
    rank = _rank(n)
    return ratios[rank - 1], ratios[n - rank]


def promised(n: int) -> float:
    """How probably one more ratio lies in the interval of so many: fewer than 19 cannot tell 0.9.

    >>> promised(39), promised(9)
    (0.9, 0.8)
    """
    return min(COVERAGE, 1.0 - 2 * _rank(n) / (n + 1))


def _rank(n: int) -> int:
    return max(1, math.floor((1.0 - COVERAGE) / 2 * (n + 1)))


def _fit(toolchain: str, engine: str, rows: list[Row], origin: Origin) -> Fit:
    prepared = _prepared(rows)
    judged = _held_out(prepared) if len(rows) >= FEWEST_ROWS else ()
    enough = len(judged) >= FEWEST_HELD_OUT
    return Fit(
        toolchain=toolchain,
        engine=engine,
        rows=len(rows),
        held_out=judged,
        block=_block(toolchain, engine, prepared, judged, origin) if enough else None,
    )


def _block(
    toolchain: str,
    engine: str,
    prepared: Sequence[_Prepared],
    judged: Sequence[HeldOut],
    origin: Origin,
) -> Fitted:
    low, high = interval(sorted(entry.ratio for entry in judged))
    return Fitted(
        toolchain=toolchain,
        engine=engine,
        ms={name: _rounded(value) for name, value in sorted(_coefficients(prepared).items())},
        kinds=tuple(sorted({kind_of(entry.row.recipe) for entry in prepared})),
        rows=len(prepared),
        held_out=len(judged),
        error=_rounded(mean_error((entry.predicted, entry.row.ms) for entry in judged)),
        low=_rounded(low),
        high=_rounded(high),
        date=origin.date,
        device=origin.device,
        tools=dict(origin.tools),
    )


def _prepared(rows: Iterable[Row]) -> list[_Prepared]:
    return [_Prepared(row=row, amounts=terms(row.program, row.recipe)) for row in rows]


def _coefficients(rows: Sequence[_Prepared]) -> dict[str, float]:
    """Non-negative least absolute relative deviations, by reweighted least squares.

    Not a number where the rows are beyond what can be computed with.
    """
    import numpy as np
    from scipy.optimize import nnls

    names = sorted({name for entry in rows for name in entry.amounts})
    place = {name: index for index, name in enumerate(names)}
    matrix: Any = np.zeros((len(rows), len(names)))
    for index, entry in enumerate(rows):
        for name, amount in entry.amounts.items():
            matrix[index, place[name]] = amount / entry.row.ms
    if not np.isfinite(matrix).all():
        return dict.fromkeys(names, math.nan)
    scale = np.maximum(matrix.max(0), 1e-300)  # 1: the term is all of the time somewhere
    matrix /= scale
    shrink = math.sqrt(_SHRINKAGE) * np.eye(len(names))
    importance = np.array([_NETWORK if entry.row.judges else 1.0 for entry in rows])
    weights = importance
    found = np.zeros(len(names))
    for _ in range(_PASSES):
        root = np.sqrt(weights / weights.mean())
        weighted = np.vstack([matrix * root[:, None], shrink])
        target = np.concatenate([root, np.zeros(len(names))])
        try:
            found, _ = nnls(weighted, target, maxiter=50 * len(names))
        except RuntimeError:  # it did not settle within so many steps
            return dict.fromkeys(names, math.nan)
        residuals = np.abs(matrix @ found - 1.0)
        weights = importance / np.maximum(residuals, _SMALLEST_RESIDUAL)
    return dict(zip(names, (found / scale).tolist(), strict=True))


def _rounded(value: float) -> float:
    """Four significant digits: more would claim what no fit knows, and no file needs them."""
    return float(f"{value:.4g}")
