"""A heat's race: the new candidates against the leader so far, and the paces that come of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence

from agent.bench import Race, compare
from sdk.objective import is_speed, quantity
from sdk.result import Result
from sdk.search.standing import Attempt, Standing
from sdk.steps.capture import Captured
from sdk.steps.lower import Lowering
from sdk.steps.prove import heat
from sdk.steps.runner import Runner


def race(
    runner: Runner,
    standing: Standing,
    new: Collection[str],
    built: Mapping[str, Lowering],
    captured: Captured,
) -> Standing:
    """The standing with the paces of the new ones, all relative to one reference.

    Args:
        runner: measures.
        standing: with the new ones among its attempts.
        new: digests of the recipes to race; those that were not built stay out.
        built: recipe digest -> files.
        captured: the inputs.
    """
    leader = _leader(standing, new)
    entrants = [
        one
        for one in standing.attempts
        if one.result.status == "built"
        and (one.digest in new or (leader is not None and one.digest == leader.digest))
    ]
    if not any(one.digest in new for one in entrants):
        return standing
    fit = [one.move.recipe.name for one in entrants if standing.is_accurate(one)]
    rules = Race(
        pace=tuple(fit) if is_speed(standing.objective) else (),
        keep=(leader.move.recipe.name,) if leader else (),
        by=quantity(standing.objective),
    )
    found = heat(runner, [one.result for one in entrants], built, captured, rules)
    return _entered(standing, entrants, found, leader)


def _leader(standing: Standing, new: Collection[str]) -> Attempt | None:
    """Whom the new ones are held against: the best of those that have a pace."""
    ranking = standing.ranking()
    return next((one for one in ranking if one.pace is not None and one.digest not in new), None)


def _entered(
    standing: Standing,
    entrants: Sequence[Attempt],
    found: Sequence[Result],
    leader: Attempt | None,
) -> Standing:
    measured = [
        (one, result.report.measurement)
        for one, result in zip(entrants, found, strict=True)
        if result.report is not None and result.report.measurement is not None
    ]
    if leader is None:
        reference = next((m for _, m in measured), None)
        scale = 1.0
    else:
        reference = next((m for one, m in measured if one.digest == leader.digest), None)
        scale = leader.pace or 1.0
    entered = {}
    for one, result in zip(entrants, found, strict=True):
        own = result.report.measurement if result.report else None
        pace = one.pace
        if own is not None and reference is not None:
            pace = scale * compare(own, reference, quantity(standing.objective)).value
        if leader is None or one.digest != leader.digest:
            entered[one.digest] = dataclasses.replace(one, result=result, pace=pace)
    return dataclasses.replace(
        standing, attempts=tuple(entered.get(one.digest, one) for one in standing.attempts)
    )
