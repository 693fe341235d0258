"""Reports + limits -> the chosen variant and its ladder, or the table of reasons. Pure.

Fail closed: a variant that breaks a limit is never chosen and never on the ladder, the baseline
included. With speed measured on the device, the best by the objective wins; where that is speed, a
candidate that is not measured faster than the baseline loses to it. Without, candidates are ranked
by estimate, nothing is proven, and the device itself picks from the ladder.

The final split accepts or rejects candidates in the order that speed gave; it never ranks them.
What it would be unfair to measure there, whether a candidate is worth a place in that order, is
read off the selection split.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Literal

from agent.bench import compare
from agent.calls import ONE_AT_A_TIME, calls_of
from agent.manifest import Role
from sdk.limits import Verdict, overall
from sdk.objective import Figures, Objective, cost, is_speed, quantity
from sdk.result import Result
from sdk.search.record import SearchRecord
from sdk.verdicts import verdicts

RUNNERS_UP = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Selection:
    """The answer for one profile."""

    verdict: Verdict
    chosen: Result | None
    selected_by: Literal["measured", "estimate"] | None
    ladder: tuple[Result, ...]
    results: tuple[Result, ...]
    """All candidates, judged, with their roles, in the plan's order."""
    notes: tuple[str, ...] = ()
    """What a person should know beside the verdicts."""
    search: SearchRecord | None = None
    """How it was found, where there was a budget to search within."""
    objective: Objective = "latency"
    """What was to be least."""


def select(
    results: Sequence[Result], limits: Mapping[str, float], objective: Objective = "latency"
) -> Selection:
    """Judge every candidate against the limits and choose.

    Args:
        results: of one profile.
        limits: name -> value, the default on accuracy included.
        objective: what is to be least among those that keep the limits.
    """
    baseline = find_baseline(results)
    judged = tuple(
        dataclasses.replace(result, verdicts=verdicts(result, limits, baseline))
        if result.status == "built" and not result.left
        else result  # a pruned one has the verdict that it was pruned for
        for result in results
    )
    eligible = [
        r for r in judged if r.status == "built" and not r.left and overall(r.verdicts) != "unmet"
    ]
    if not eligible:
        return Selection(
            verdict="unmet",
            chosen=None,
            selected_by=None,
            ladder=(),
            results=judged,
            objective=objective,
        )
    measured = [result for result in eligible if result.speed is not None]
    own_baseline = next(
        (r for r in eligible if baseline and r.candidate == baseline.candidate), None
    )
    order = _ordered(measured, eligible, own_baseline, objective)
    order = [r for r in order if _worth_trying(r, limits)] or order
    proven = [result for result in order if overall(result.verdicts) == "met"]
    chosen = (proven or order)[0]
    ladder = _ladder(chosen, order, eligible, own_baseline)
    roles = {result.candidate.identifier: result.role for result in ladder}
    marked = tuple(dataclasses.replace(r, role=roles.get(r.candidate.identifier)) for r in judged)
    return Selection(
        verdict=overall(chosen.verdicts),
        chosen=ladder[0],
        selected_by="measured" if measured else "estimate",
        ladder=ladder,
        results=marked,
        objective=objective,
    )


def find_baseline(results: Sequence[Result]) -> Result | None:
    """The fastest measured f32 lowering, else the first f32 one that the target lists and built.

    One that is called one at a time: ratios to a queue of batches would tell little.
    """
    built = [
        r
        for r in results
        if r.status == "built"
        and not r.left
        and r.candidate.recipe.precision == "f32"
        and calls_of(r.candidate.recipe.options) == ONE_AT_A_TIME
    ]
    measured = [result for result in built if result.speed is not None]
    if measured:
        return min(measured, key=_p50)
    return built[0] if built else None


def _ordered(
    measured: list[Result], eligible: list[Result], baseline: Result | None, objective: Objective
) -> list[Result]:
    """The best first."""
    if not is_speed(objective):
        held_against = figures_of(baseline) if baseline else None
        return sorted(
            measured or eligible, key=lambda r: cost(objective, figures_of(r), held_against)
        )
    if not measured:
        return sorted(eligible, key=_estimated)
    return _by_speed(measured, baseline, objective)


def figures_of(result: Result) -> Figures:
    """What an objective looks at, measured on the device or estimated."""
    speed = result.speed
    return Figures(
        latency=_p50(result) if speed else _estimated(result),
        per_run=1e3 / speed.throughput_per_s if speed else _estimated(result),
        memory_bytes=speed.memory_increment_bytes if speed else None,
        size_bytes=result.size_bytes,
    )


def _by_speed(
    measured: list[Result], baseline: Result | None, objective: Objective
) -> list[Result]:
    """Fastest first.

    What is not measured faster than the baseline, or than the plain recipe that it tunes, comes
    after that.
    """
    by = quantity(objective)
    plain = {result.candidate.recipe.digest: result for result in measured}

    def pace(result: Result) -> float:
        return cost(objective, figures_of(result), None)

    def is_faster(result: Result, other: Result) -> bool:
        assert result.speed is not None
        assert other.speed is not None
        return compare(result.speed, other.speed, by).high < 1

    def place(result: Result) -> tuple[float, bool]:
        varied = plain.get(result.varies or "")
        if varied is None or is_faster(result, varied):
            return pace(result), False
        return max(pace(result), pace(varied)), True

    if baseline is None or baseline.speed is None:
        return sorted(measured, key=place)
    faster = [r for r in measured if r is not baseline and is_faster(r, baseline)]
    slower = [r for r in measured if r is not baseline and r not in faster]
    return [*sorted(faster, key=place), baseline, *sorted(slower, key=place)]


def _p50(result: Result) -> float:
    return result.speed.latency_ms.p50 if result.speed else math.inf


def _estimated(result: Result) -> float:
    interval = result.estimate.latency_ms if result.estimate else None
    return interval.value if interval else math.inf


def _worth_trying(result: Result, limits: Mapping[str, float]) -> bool:
    """The selection split's word: the observed drop lies within the limit."""
    drop = result.accuracy.selection if result.accuracy else None
    limit = limits.get("accuracy_drop")
    return drop is None or limit is None or drop.value <= limit


def _ladder(
    chosen: Result, order: list[Result], eligible: list[Result], baseline: Result | None
) -> tuple[Result, ...]:
    """The chosen one, runners-up, the baseline, a smaller one; in order, none twice."""
    rungs: dict[str, Result] = {}

    def add(result: Result, role: Role) -> None:
        rungs.setdefault(result.candidate.identifier, dataclasses.replace(result, role=role))

    add(chosen, "chosen")
    others = [r for r in order if r is not chosen and r is not baseline]
    for result in others[:RUNNERS_UP]:
        add(result, "runner_up")
    if baseline is not None:
        add(baseline, "baseline")
    smallest = min(eligible, key=lambda result: result.size_bytes or math.inf)
    if (smallest.size_bytes or 0) < min(r.size_bytes or 0 for r in rungs.values()):
        add(smallest, "smaller")
    return tuple(rungs.values())
