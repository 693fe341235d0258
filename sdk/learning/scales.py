"""Reports of whole models -> factors on what is estimated for a profile. Pure.

A whole model's time is one number, and the linear fit (sdk/fit.py) has dozens of constants. So
only this is learnt, of each toolchain on each engine and each kind of recipe that was measured:

    t = fixed x (what a request and its kernels cost) + work x (all else)

with both parts as they are estimated without. Where the models are few, or two factors predict
models that were left out no better than one, both are the same.

**Who counts how much.** Of a device's reports on one variant the median counts, over devices the
median again: whoever reports often has no more weight, and less than half of the devices can lie
about a variant without moving it beyond what the honest ones said (breakdown point 1/2: Huber and
Ronchetti, Robust Statistics, 2nd ed., section 1.4). A kind's factor is the median over its models.

**Shrinkage.** What was learnt is drawn towards the profile's own word, 1, the more the fewer models
there are and the less they agree: the posterior mean of a normal mean with known variances (Gelman
et al., Bayesian Data Analysis, 3rd ed., eq. 2.12), on logarithms.

**Interval.** Models are left out by turns. With e the mean square of the logarithm of measured over
predicted, and m models, nine in ten of new ones lie within exp(+-t sqrt(e + d)), where t is the
95th percentile of Student's t with m - 1 degrees of freedom (the prediction interval of a normal
sample) and d the variance between devices; never narrower than sdk/fit.py's conformal ranks.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from profiles import Profile, Scale
from sdk.estimate import estimate
from sdk.estimate.constants import DEFAULT
from sdk.estimate.fitted import kind_of
from sdk.estimate.parts import Parts, base_digest, parts
from sdk.estimate.scaled import BETWEEN_MODELS
from sdk.fit import COVERAGE, interval, mean_error
from targets.interface import Program, Recipe

FEWEST_MODELS = 3
"""Of one toolchain and engine: with fewer no interval can be told, and it stays as it was."""
FEWEST_FOR_TWO = 6
"""And with fewer than that, one factor is all that is looked for."""
_GAIN = 0.9
"""Two factors have to err at most so much of what one does, on models that were left out."""
_PRIOR = math.log(4.0) / 1.645
"""How far off a profile is thought to be before anything is measured: the data sheet's own spread
of 4 either way (sdk/estimate/constants.py), as the 90 % interval of a normal's logarithm."""
_LEAST = 0.05
"""They differ by no less than measurements do."""
_SMALLEST_RESIDUAL = 0.1
_DRAW = 0.05
"""How much two factors are drawn towards one, in models; models that are left out judge it."""
_PASSES = 8
_MAD = 1.4826
"""A normal's standard deviation over its median absolute deviation."""

Reason = Literal["better", "no better", "no models"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Observation:
    """One measurement of one program under one recipe, by a device of the profile."""

    device: str
    fingerprint: str
    """The digest of what it is and runs."""
    program: Program
    recipe: Recipe
    ms: float
    """The median of one request."""
    runtime: str = ""
    """The version of what ran it."""
    stable: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """What all devices together say of one model under one kind of recipe."""

    model: str
    """The program's digest."""
    kind: str
    parts: Parts
    """What is estimated without what reports taught."""
    now: float
    """What is estimated as the profile is, in milliseconds."""
    ms: float
    deviations: Mapping[str, float]
    """Device -> the logarithm of its time over `ms`."""

    @property
    def ratio(self) -> float:
        """Measured over estimated."""
        return self.ms / self.parts.total


@dataclasses.dataclass(frozen=True, kw_only=True)
class Learnt:
    """What the reports of one toolchain on one engine say."""

    toolchain: str
    engine: str
    reason: Reason
    reports: int
    models: int
    devices: int
    missing: int
    """Models without which no interval can be told; 0 where there are enough."""
    old: Scale | None
    new: Scale | None
    """What was found, used or not."""
    error_now: float | None
    """The mean of |predicted - measured| / measured as the profile is."""

    @property
    def used(self) -> bool:
        """Whether the profile gets it.

        It has to be nearer to models that were left out than estimates without any, and be made of
        more reports than what it would replace, or be nearer to these.
        """
        return self.reason == "better" and self.new is not None


def learn(observations: Iterable[Observation], profile: Profile, date: str) -> tuple[Learnt, ...]:
    """What reports say of each toolchain and engine, in order of their names; of none, nothing.

    Args:
        observations: of devices that the profile matches; their order is of no account.
        profile: as it is.
        date: of today.
    """
    groups: dict[tuple[str, str], list[Observation]] = collections.defaultdict(list)
    for entry in observations:
        groups[entry.recipe.toolchain, entry.recipe.engine].append(entry)
    return tuple(_learnt(*key, groups[key], profile, date) for key in sorted(groups))


def scales_of(learnt: Iterable[Learnt], old: Sequence[Scale]) -> tuple[Scale, ...]:
    """What the profile has from now on: the new ones that are used, and of the old the others."""
    found = {(entry.toolchain, entry.engine): entry for entry in old}
    for entry in learnt:
        if entry.used and entry.new is not None:
            found[entry.toolchain, entry.engine] = entry.new
    return tuple(found[key] for key in sorted(found))


def cells(observations: Iterable[Observation], profile: Profile) -> list[Cell]:
    """Medians of each device, then over devices; in order of models and kinds.

    A program that nothing at all can be estimated for is left out.
    """
    groups: dict[tuple[str, str], list[Observation]] = collections.defaultdict(list)
    for entry in observations:
        groups[entry.program.digest, kind_of(entry.recipe)].append(entry)
    found = []
    for (model, kind), own in sorted(groups.items()):
        one = min(own, key=lambda entry: entry.recipe.digest)
        known = parts(one.program, profile, one.recipe, DEFAULT)
        now = estimate(one.program, profile, one.recipe).latency_ms
        if known is None or now is None or not known.total:
            continue
        times: dict[str, list[float]] = collections.defaultdict(list)
        for entry in own:
            times[entry.device].append(entry.ms)
        by_device = {name: statistics.median(ms) for name, ms in sorted(times.items())}
        ms = statistics.median(by_device.values())
        deviations = {name: math.log(one_ms / ms) for name, one_ms in by_device.items()}
        found.append(
            Cell(model=model, kind=kind, parts=known, now=now.value, ms=ms, deviations=deviations)
        )
    return found


def _learnt(
    toolchain: str, engine: str, own: list[Observation], profile: Profile, date: str
) -> Learnt:
    found = cells(own, profile)
    models = sorted({cell.model for cell in found})
    old = next((s for s in profile.scales if (s.toolchain, s.engine) == (toolchain, engine)), None)
    told = Learnt(
        toolchain=toolchain,
        engine=engine,
        reason="no models",
        reports=len(own),
        models=len(models),
        devices=len({entry.device for entry in own}),
        missing=max(0, FEWEST_MODELS - len(models)),
        old=old,
        new=None,
        error_now=None,
    )
    if not found:
        return told
    two = _wants_two(found, models)
    left = _left_out(found, models, two=two)
    now = mean_error((cell.now, cell.ms) for cell in found)
    error = mean_error((predicted, cell.ms) for cell, predicted in left) if left else None
    low, high = _interval(left, found) if len(models) >= FEWEST_MODELS else (None, None)
    without = mean_error((cell.parts.total, cell.ms) for cell in found)
    factors = {kind: _rounded(f) for kind, f in _factors(found, two=two).items()}
    new = Scale(
        toolchain=toolchain,
        engine=engine,
        factors=factors,
        base=base_digest(profile, toolchain, engine, DEFAULT),
        reports=len(own),
        unstable=sum(not entry.stable for entry in own),
        models=len(models),
        devices=told.devices,
        fingerprints=tuple(sorted({entry.fingerprint for entry in own})),
        date=date,
        tools={toolchain: ", ".join(sorted({entry.runtime or "unknown" for entry in own}))},
        error_before=_digits(without),
        error=_optional(error),
        low=_optional(low),
        high=_optional(high),
    )
    # What is there already may have seen these models, so it gives way to what was made of more;
    # of as many, to what is nearer.
    fits = _apart((_predicted(cell, factors[cell.kind]), cell.ms) for cell in found)
    is_nearer = fits < _apart((cell.now, cell.ms) for cell in found)
    generalises = not left or _apart((predicted, cell.ms) for cell, predicted in left) < _apart(
        (cell.parts.total, cell.ms) for cell, _ in left
    )
    has_more = old is not None and old.models <= len(models) and old.reports < len(own)
    is_better = generalises and (is_nearer or has_more)
    return dataclasses.replace(
        told, reason="better" if is_better else "no better", new=new, error_now=now
    )


def _factors(found: Sequence[Cell], *, two: bool) -> dict[str, dict[str, float]]:
    """Kind -> its factors, drawn towards 1."""
    kinds: dict[str, list[Cell]] = collections.defaultdict(list)
    for cell in found:
        kinds[cell.kind].append(cell)
    return {kind: _of_kind(kinds[kind], two=two) for kind in sorted(kinds)}


def _of_kind(own: Sequence[Cell], *, two: bool) -> dict[str, float]:
    logs = [math.log(cell.ratio) for cell in own]
    middle = statistics.median(logs)
    spread = BETWEEN_MODELS
    if len(own) >= FEWEST_MODELS:
        spread = max(_LEAST, _MAD * statistics.median(abs(log - middle) for log in logs))
    certainty = _PRIOR**2 / (_PRIOR**2 + spread**2 / len(own))
    common = math.exp(middle)
    shape = _shape(own, common) if two and len(own) >= FEWEST_FOR_TWO else (1.0, 1.0)
    drawn = math.exp(certainty * middle)
    return {"fixed": drawn * shape[0], "work": drawn * shape[1]}


def _shape(own: Sequence[Cell], common: float) -> tuple[float, float]:
    """How the two parts differ from the common factor: least absolute relative deviations.

    By reweighted non-negative least squares, as sdk/fit.py does, drawn towards (1, 1) so that a
    part that no model shows stays what it was.
    """
    import numpy as np
    from scipy.optimize import nnls

    matrix: Any = np.array([[c.parts.fixed, c.parts.work] for c in own]) * common
    matrix /= np.array([[cell.ms] for cell in own])
    found, weights, draw = np.ones(2), np.ones(len(own)), math.sqrt(_DRAW)
    for _ in range(_PASSES):
        root = np.sqrt(weights / weights.max())
        stacked = np.vstack([matrix * root[:, None], draw * np.eye(2)])
        found, _ = nnls(stacked, np.concatenate([root, draw * np.ones(2)]))
        residuals = np.abs(matrix @ found - 1.0)
        weights = 1.0 / np.maximum(residuals, _SMALLEST_RESIDUAL)
    return float(found[0]), float(found[1])


def _wants_two(found: Sequence[Cell], models: Sequence[str]) -> bool:
    """Whether two factors predict models that were left out clearly better than one."""
    if len(models) < FEWEST_FOR_TWO + 1:
        return False
    errors = [
        mean_error((predicted, cell.ms) for cell, predicted in _left_out(found, models, two=two))
        for two in (False, True)
    ]
    return errors[1] < _GAIN * errors[0]


def _left_out(
    found: Sequence[Cell], models: Sequence[str], *, two: bool
) -> list[tuple[Cell, float]]:
    """Each model's cells with what is predicted while the model is left out.

    A kind that no other model has is no part of the answer.
    """
    told = []
    for model in models:
        factors = _factors([cell for cell in found if cell.model != model], two=two)
        for cell in found:
            if cell.model == model and cell.kind in factors:
                predicted = _predicted(cell, factors[cell.kind])
                if predicted:
                    told.append((cell, predicted))
    return told


def _apart(pairs: Iterable[tuple[float, float]]) -> float:
    """The mean of |log(predicted / measured)|: what the median of logarithms makes least."""
    logs = [abs(math.log(max(predicted, 1e-300) / measured)) for predicted, measured in pairs]
    return math.fsum(logs) / len(logs)


def _predicted(cell: Cell, factors: Mapping[str, float]) -> float:
    return factors["fixed"] * cell.parts.fixed + factors["work"] * cell.parts.work


def _interval(
    left: Sequence[tuple[Cell, float]], found: Sequence[Cell]
) -> tuple[float | None, float | None]:
    """Measured over predicted, nine in ten."""
    from scipy.stats import t

    by_model: dict[str, list[float]] = collections.defaultdict(list)
    for cell, predicted in left:
        by_model[cell.model].append(math.log(cell.ms / predicted))
    if len(by_model) < FEWEST_MODELS:
        return None, None
    # A model's recipes are off together: each model counts once.
    squares = [math.fsum(x * x for x in logs) / len(logs) for logs in by_model.values()]
    variance = math.fsum(squares) / len(squares) + _between_devices(found) ** 2
    quantile = float(t.ppf(1.0 - (1.0 - COVERAGE) / 2, len(by_model) - 1))
    half = quantile * math.sqrt(variance)
    low, high = interval(sorted(cell.ms / predicted for cell, predicted in left))
    return min(low, math.exp(-half)), max(high, math.exp(half))


def _between_devices(found: Sequence[Cell]) -> float:
    """The standard deviation of the logarithm of a device's time; 0 where there is but one."""
    own: dict[str, list[float]] = collections.defaultdict(list)
    for cell in found:
        if len(cell.deviations) > 1:
            for device, deviation in cell.deviations.items():
                own[device].append(deviation)
    if len(own) < 2:
        return 0.0
    middles = [statistics.median(deviations) for _, deviations in sorted(own.items())]
    return _MAD * statistics.median(abs(one - statistics.median(middles)) for one in middles)


def _rounded(factors: Mapping[str, float]) -> dict[str, float]:
    return {name: _digits(value) for name, value in factors.items()}


def _optional(value: float | None) -> float | None:
    return None if value is None else _digits(value)


def _digits(value: float) -> float:
    """Four significant digits: more would claim what no fit knows."""
    return float(f"{value:.4g}")
