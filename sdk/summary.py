"""`summary.json`: all that a build found, for a program to read. Unmeasured is null, never 0.

The form is in sdk/schemas/summary.schema.json; docs/reference/summary.md is the same in words.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

from agent.bench import Measurement, compare
from agent.calls import calls_of
from agent.identity import Conditions
from agent.manifest import Fingerprint, Role
from agent.sessions import OperatorTime
from sdk.estimate import Estimate
from sdk.limits import Evidence, LimitVerdict, Verdict
from sdk.plan import Assignment
from sdk.reasons import reason
from sdk.result import Accuracy, Result, Status
from sdk.search.record import SearchRecord
from sdk.select import Selection, find_baseline
from sdk.steps.capture import Captured

SCHEMA = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bounds:
    """What a figure lies between, at 95 %."""

    low: float
    high: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class RatioSummary:
    """The median latency over the baseline's, paired by turn: 0.8 means 80 % of its time."""

    value: float
    low: float
    high: float
    rounds: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeasuredUnder:
    """What the measuring machine was set to and busy with, before and after."""

    before: Conditions
    after: Conditions
    environment: dict[str, Any]
    versions: dict[str, str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatencySummary:
    """Measured latency; `low` and `high` bound the median at 95 %. None: too few runs to say."""

    p50: float
    p90: float | None
    p95: float | None
    p99: float | None
    n: int
    low: float
    high: float
    stable: bool
    evidence: Evidence
    bounds: dict[str, Bounds] | None = None
    """Every quantile reported, with its own bounds."""
    spread: tuple[float, ...] | None = None
    """The runs' times at every twentieth of them, from the least to the greatest."""
    windows: tuple[float, ...] | None = None
    """The median of each turn, in order; turn i of all candidates ran side by side."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class AccuracySummary:
    """The drop on the final split; `low` and `high` are one-sided 95 % bounds."""

    metric: str
    value: float
    original: float
    drop: float
    low: float
    high: float
    n: int
    evidence: Evidence
    samples_needed: int | None = None
    """Final samples it would take to prove the limit; null if proven, or if no number would do."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class NumericsSummary:
    """On the golden data, the worst output of the worst sample."""

    cosine_min: float
    max_abs: float | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class CandidateSummary:
    """One candidate: what it is, how far it came, and every figure with its evidence."""

    identifier: str
    toolchain: str
    precision: str
    role: Role | None
    status: Status
    step: str | None
    """Where it failed or was refused."""
    reason: str
    """Why, or the figure that decided about it."""
    size_bytes: int | None
    load_ms: float | None
    first_run_ms: float | None
    evaluated_at: dict[str, int]
    latency_ms: LatencySummary | None
    throughput_per_s: float | None
    peak_memory_bytes: int | None
    memory_increment_bytes: int | None
    estimate: Estimate
    accuracy: AccuracySummary | None
    numerics: NumericsSummary | None
    placement: dict[str, float]
    limits: tuple[LimitVerdict, ...]
    notes: tuple[str, ...] = ()
    ratio_to_baseline: RatioSummary | None = None
    conditions: MeasuredUnder | None = None
    operators: tuple[OperatorTime, ...] | None = None
    """The slowest first; null where nobody asked, or the runtime does not tell."""
    callers: int | None = None
    """How many ran at a time, each with a session of its own; null where nothing was measured."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProfileSummary:
    """The answer for one profile."""

    target: str
    profile: str
    verdict: Verdict
    selected: str | None
    selected_by: Literal["measured", "estimate"] | None
    variant: str | None
    """The chosen variant's folder, relative to the summary's."""
    ladder: tuple[str, ...]
    candidates: tuple[CandidateSummary, ...]
    title: str | None = None
    """What the profile calls the device."""
    platform: str | None = None
    match: dict[str, Any] | None = None
    """What a device's fingerprint has to be for its figures to count."""
    limits: dict[str, float] | None = None
    baseline: str | None = None
    """The candidate that ratios and reductions are relative to."""
    notes: tuple[str, ...] = ()
    """What a person should know beside the verdicts, such as what pruning would have cost."""
    search: SearchRecord | None = None
    """How the variant was found; null where only the target's own recipes were tried."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary:
    """What a build found."""

    schema: int
    model: str
    program_digest: str
    started: int
    """Seconds since 1970, UTC."""
    seconds: float
    accuracy_note: str
    results: tuple[ProfileSummary, ...]
    host: Fingerprint
    tool_versions: dict[str, str]


def summarise(
    model: str,
    assignments: Sequence[Assignment],
    selections: Sequence[Selection],
    captured: Captured,
    device: Fingerprint,
    tool_versions: dict[str, str],
    *,
    started: float,
    seconds: float,
) -> Summary:
    """The summary; `variant` paths are filled in by whoever writes the folders."""
    return Summary(
        schema=SCHEMA,
        model=model,
        program_digest=captured.program.digest,
        started=int(started),
        seconds=round(seconds, 3),
        accuracy_note=(captured.metric or {}).get("note", "") if captured.metric else _NO_DATA,
        results=tuple(
            _profile(assignment, selection, captured)
            for assignment, selection in zip(assignments, selections, strict=True)
        ),
        host=device,
        tool_versions=tool_versions,
    )


_NO_DATA = "no [data] in sdk.toml: accuracy is unproven, and inputs for speed are generated"


def _profile(assignment: Assignment, selection: Selection, captured: Captured) -> ProfileSummary:
    profile, chosen = assignment.profile, selection.chosen
    baseline = find_baseline(selection.results)
    return ProfileSummary(
        target=assignment.target,
        profile=profile.name,
        verdict=selection.verdict,
        selected=chosen.candidate.identifier if chosen else None,
        selected_by=selection.selected_by,
        variant=None,
        ladder=tuple(rung.candidate.identifier for rung in selection.ladder),
        candidates=tuple(
            _candidate(result, selection, baseline, captured) for result in selection.results
        ),
        title=profile.title,
        platform=profile.platform,
        match=dict(profile.match),
        limits=dict(assignment.limits),
        baseline=baseline.candidate.identifier if baseline else None,
        notes=selection.notes,
        search=selection.search,
    )


def _candidate(
    result: Result, selection: Selection, baseline: Result | None, captured: Captured
) -> CandidateSummary:
    measured = result.report.measurement if result.report else None
    evaluation = result.report.evaluation if result.report else None
    recipe = result.candidate.recipe
    agreements = [found.value for found in evaluation.golden] if evaluation else []
    return CandidateSummary(
        identifier=result.candidate.identifier,
        toolchain=recipe.toolchain,
        precision=recipe.precision,
        role=result.role,
        status=result.status,
        step=result.step,
        reason=reason(result, selection),
        size_bytes=result.size_bytes,
        load_ms=_rounded(measured.load_ms) if measured else None,
        first_run_ms=_rounded(measured.first_run_ms) if measured else None,
        evaluated_at=_evaluated_at(result, captured),
        callers=measured.callers if measured else None,
        latency_ms=_latency(measured, result) if measured else None,
        throughput_per_s=_rounded(measured.throughput_per_s) if measured else None,
        peak_memory_bytes=measured.memory_peak_bytes if measured else None,
        memory_increment_bytes=measured.memory_increment_bytes if measured else None,
        estimate=result.estimate or Estimate(latency_ms=None, peak_memory_bytes=None),
        accuracy=_accuracy(result.accuracy),
        numerics=NumericsSummary(cosine_min=min(agreements), max_abs=evaluation.max_abs)
        if evaluation and agreements
        else None,
        placement=dict(result.placement),
        limits=result.verdicts,
        notes=(*(measured.notes if measured else ()), *result.notes),
        ratio_to_baseline=_ratio(result, baseline),
        conditions=MeasuredUnder(
            before=measured.conditions_before,
            after=measured.conditions_after,
            environment=measured.environment,
            versions=measured.versions,
        )
        if measured
        else None,
        operators=result.operators,
    )


def _evaluated_at(result: Result, captured: Captured) -> dict[str, int]:
    calls = calls_of(result.candidate.recipe.options)
    own = {} if calls.batch_dim is None or calls.batch is None else {calls.batch_dim: calls.batch}
    return {name: dim[1] for name, dim in captured.program.signature.dims.items()} | own


def _ratio(result: Result, baseline: Result | None) -> RatioSummary | None:
    """Against another: a baseline's ratio to itself says nothing."""
    if baseline is None or baseline.candidate == result.candidate:
        return None
    if result.speed is None or baseline.speed is None:
        return None
    found = compare(result.speed, baseline.speed)
    return RatioSummary(
        value=round(found.value, 4),
        low=round(found.low, 4),
        high=round(found.high, 4),
        rounds=found.rounds,
    )


def _latency(measured: Measurement, result: Result) -> LatencySummary:
    latency = measured.latency_ms
    return LatencySummary(
        p50=round(latency.p50, 4),
        p90=_rounded(latency.p90),
        p95=_rounded(latency.p95),
        p99=_rounded(latency.p99),
        n=latency.n,
        low=round(latency.low, 4),
        high=round(latency.high, 4),
        stable=latency.stable,
        evidence=result.report.speed_evidence if result.report else "host",
        bounds={
            name: Bounds(low=round(found.low, 4), high=round(found.high, 4))
            for name, found in latency.bounds.items()
        },
        spread=tuple(round(time, 4) for time in latency.spread) or None,
        windows=tuple(round(time, 4) for time in measured.windows_ms),
    )


def _accuracy(found: Accuracy | None) -> AccuracySummary | None:
    if found is None or found.final is None:
        return None
    drop = found.final
    return AccuracySummary(
        metric=found.metric,
        value=drop.variant_mean,
        original=drop.original_mean,
        drop=drop.value,
        low=drop.low,
        high=drop.high,
        n=drop.n,
        evidence=found.evidence,
        samples_needed=found.samples_needed,
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
