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

from agent.bench import Measurement, compare
from agent.calls import ONE_AT_A_TIME, calls_of
from agent.manifest import Role
from agent.metrics import Drop
from agent.quantiles import median_interval
from agent.sessions import OperatorTime
from sdk.estimate import Estimate
from sdk.limits import KINDS, Bounded, Evidence, LimitVerdict, Verdict, judge, overall
from sdk.objective import Figures, Objective, cost, is_speed, quantity
from sdk.plan import Candidate
from sdk.prove import Report
from sdk.search.record import SearchRecord

Status = Literal["built", "failed", "pruned", "refused", "planned"]
RUNNERS_UP = 2
_NOT_RUN = "this machine has nothing to run it on"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Accuracy:
    """The drop on the final split, and on the selection split, by which metric."""

    metric: str
    final: Drop | None
    selection: Drop | None
    evidence: Evidence
    proves: bool
    """Whether numerics found so can prove a limit for this profile."""
    samples_needed: int | None = None
    """Final samples it would take to prove the limit; None if proven, or if no number would do."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """One candidate and all that became known of it."""

    candidate: Candidate
    status: Status
    step: str | None = None
    """Where it failed: plan, estimate, lower, evaluate, measure."""
    reason: str = ""
    size_bytes: int | None = None
    estimate: Estimate | None = None
    report: Report | None = None
    accuracy: Accuracy | None = None
    placement: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Engine -> share of the graph, as the runtime tells it, else as the compiler did."""
    verdicts: tuple[LimitVerdict, ...] = ()
    role: Role | None = None
    operators: tuple[OperatorTime, ...] | None = None
    """Where the time goes, the slowest first; None where nobody asked or the runtime is silent."""
    notes: tuple[str, ...] = ()
    left: str = ""
    """Why a search left it behind before the final contest; its figures are of an earlier heat,
    and are not to be held against those of the final."""

    varies: str | None = None
    """The digest of the plain recipe whose files this one runs with other options."""

    @property
    def speed(self) -> Measurement | None:
        """The measurement, where it was made on the device itself, beside the others."""
        report = self.report
        if self.left:
            return None
        return report.measurement if report and report.speed_evidence == "device" else None


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


def verdicts(
    result: Result, limits: Mapping[str, float], baseline: Result | None
) -> tuple[LimitVerdict, ...]:
    """Every limit of one candidate, judged by what is known of it so far."""
    return tuple(_judge_one(name, limit, result, baseline) for name, limit in limits.items())


def _judge_one(name: str, limit: float, result: Result, baseline: Result | None) -> LimitVerdict:
    if name == "accuracy_drop":
        return _judge_accuracy(limit, result)
    if name == "sqnr_min_db":
        return _judge_sqnr(limit, result)
    if name in ("size_mib", "size_reduction"):
        figure = _size(name, result, baseline)
        return judge(name, limit, figure, proving=("device", "emulated", "host", "estimate"))
    if name in ("speedup", "memory_reduction"):
        return judge(name, limit, _relative(name, result, baseline))
    return judge(name, limit, _measured(name, result) or _predicted(name, result))


def _judge_accuracy(limit: float, result: Result) -> LimitVerdict:
    accuracy = result.accuracy
    if result.report is None:
        return judge("accuracy_drop", limit, None, note=_NOT_RUN)
    if accuracy is None or accuracy.final is None:
        return judge("accuracy_drop", limit, None, note="no final samples to measure it on")
    drop = accuracy.final
    figure = Bounded(value=drop.value, low=drop.low, high=drop.high, evidence=accuracy.evidence)
    note = ""
    if accuracy.samples_needed is not None and accuracy.samples_needed > drop.n:
        note = f"{drop.n} final samples; proof would take about {accuracy.samples_needed}"
    proving = (accuracy.evidence,) if accuracy.proves else ()
    return judge("accuracy_drop", limit, figure, proving=proving, note=note)


def _judge_sqnr(limit: float, result: Result) -> LimitVerdict:
    if result.report is None:
        return judge("sqnr_min_db", limit, None, note=_NOT_RUN)
    evaluation = result.report.evaluation
    if evaluation is None or evaluation.sqnr_db is None or result.accuracy is None:
        return judge("sqnr_min_db", limit, None, note="no samples to measure it on")
    value = evaluation.sqnr_db
    evidence = result.accuracy.evidence
    figure = Bounded(value=value, low=value, high=value, evidence=evidence)
    return judge(
        "sqnr_min_db", limit, figure, proving=(evidence,) if result.accuracy.proves else ()
    )


def _size(name: str, result: Result, baseline: Result | None) -> Bounded | None:
    if result.size_bytes is None:
        return None
    value = result.size_bytes / (1 << 20)
    if name == "size_reduction":
        if baseline is None or not baseline.size_bytes:
            return None
        value = 1 - result.size_bytes / baseline.size_bytes
    # The files are the same on every machine: their size is known, not measured.
    return Bounded(value=value, low=value, high=value, evidence="device")


def _relative(name: str, result: Result, baseline: Result | None) -> Bounded | None:
    own, other = result.speed, baseline.speed if baseline else None
    if own is None or other is None:
        return None
    if name == "speedup":
        ratio = compare(own, other)
        return Bounded(
            value=1 / ratio.value, low=1 / ratio.high, high=1 / ratio.low, evidence="device"
        )
    if not other.memory_increment_bytes or own.memory_increment_bytes is None:
        return None
    saved = 1 - own.memory_increment_bytes / other.memory_increment_bytes
    return Bounded(value=saved, low=saved, high=saved, evidence="device")


def _measured(name: str, result: Result) -> Bounded | None:
    speed = result.speed
    if speed is None:
        return None
    if name == "peak_memory_mib":
        peak = speed.memory_peak_bytes
        mib = None if peak is None else peak / (1 << 20)
        return None if mib is None else Bounded(value=mib, low=mib, high=mib, evidence="device")
    if name == "throughput_per_s":
        turns = median_interval([1e3 / turn for turn in speed.turns_ms])
        value = speed.throughput_per_s
        return Bounded(
            value=value,
            low=min(value, turns.low),
            high=max(value, turns.high),
            evidence="device",
        )
    bounds = speed.latency_ms.bounds.get(name.removeprefix("latency_").removesuffix("_ms"))
    if bounds is None:
        return None
    return Bounded(value=bounds.value, low=bounds.low, high=bounds.high, evidence="device")


def _predicted(name: str, result: Result) -> Bounded | None:
    estimate = result.estimate
    if estimate is None:
        return None
    if name == "peak_memory_mib" and estimate.peak_memory_bytes:
        found, scale = estimate.peak_memory_bytes, 1 / (1 << 20)
    elif name.startswith("latency_") and estimate.latency_ms:
        found, scale = estimate.latency_ms, 1.0
    else:
        return None
    return Bounded(
        value=found.value * scale,
        low=found.low * scale,
        high=found.high * scale,
        evidence="estimate",
    )


def deciding(result: Result) -> str:
    """The figure that decided about a candidate, in a few words, for the table of reasons."""
    if result.reason or result.left:
        return result.reason or result.left
    for wanted in ("unmet", "unproven"):
        for verdict in result.verdicts:
            if verdict.verdict == wanted:
                return describe(verdict)
    return ""


def describe(verdict: LimitVerdict) -> str:
    """One limit's verdict in words: `latency_p90_ms 12.3 > 10 (device)`."""
    kind = KINDS[verdict.name]
    if verdict.value is None:
        return f"{verdict.name}: {verdict.note or 'not measured on the device'}"
    beyond = verdict.value > verdict.limit if kind.at_most else verdict.value < verdict.limit
    sign = (">" if kind.at_most else "<") if beyond else ("<=" if kind.at_most else ">=")
    value, limit = f"{verdict.value:.4g}", f"{verdict.limit:.4g}"
    found = f"{verdict.name} {value} {sign} {limit} ({verdict.evidence})"
    if verdict.verdict == "unproven":
        found += f", unproven{': ' + verdict.note if verdict.note else ''}"
    return found
