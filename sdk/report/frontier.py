"""The candidates as points of latency and accuracy drop, and which of them nobody beats. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

from sdk.report.figures import verdict_of
from sdk.summary import CandidateSummary, ProfileSummary

_ALIKE_DIGITS = 4  # drops that agree to a hundredth of a percent are shown, and count, as equal


@dataclasses.dataclass(frozen=True, kw_only=True)
class Span:
    """A figure with its bounds, or a prediction with its interval."""

    value: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
    """A candidate of which both figures are known."""

    row: int
    """Its row in the table of reasons, from 1."""
    candidate: CandidateSummary
    latency_ms: Span
    drop: Span
    kind: Literal["measured", "estimate", "unmet"]


def points(result: ProfileSummary) -> tuple[Point, ...]:
    """Every candidate with a drop and a latency, measured or estimated."""
    found = []
    for row, candidate in enumerate(result.candidates, 1):
        latency, accuracy = latency_span(candidate), candidate.accuracy
        if candidate.status != "built" or latency is None or accuracy is None:
            continue
        kind: Literal["measured", "estimate", "unmet"] = "measured"
        if candidate.latency_ms is None:
            kind = "estimate"
        if verdict_of(candidate) == "unmet":
            kind = "unmet"
        drop = Span(value=accuracy.drop, low=accuracy.low, high=accuracy.high)
        found.append(Point(row=row, candidate=candidate, latency_ms=latency, drop=drop, kind=kind))
    return tuple(found)


def latency_span(candidate: CandidateSummary) -> Span | None:
    """The median with its bounds, else the estimate with its interval."""
    found = candidate.latency_ms
    if found is not None:
        return Span(value=found.p50, low=found.low, high=found.high)
    predicted = candidate.estimate.latency_ms
    if predicted is None:
        return None
    return Span(value=predicted.value, low=predicted.low, high=predicted.high)


def pareto_front(found: Sequence[Point]) -> tuple[Point, ...]:
    """Those that no other beats in latency without losing accuracy, the fastest first.

    Only of what breaks no limit, where there is such. Measured and estimated figures do not
    compare: the front is over the measured points, or where there is none, over the estimates.
    """
    usable = [point for point in found if point.kind != "unmet"] or found
    measured = [point for point in usable if point.candidate.latency_ms is not None]
    front: list[Point] = []
    for point in sorted(measured or usable, key=lambda p: (p.latency_ms.value, _drop(p))):
        if not front or _drop(point) < _drop(front[-1]):
            front.append(point)
    return tuple(front)


def _drop(point: Point) -> float:
    return round(point.drop.value, _ALIKE_DIGITS)
