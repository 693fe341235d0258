"""Figures as people read them: units, verdicts, the cells of a table. Pure."""

from __future__ import annotations

from sdk.summary import CandidateSummary, ProfileSummary

MARKS = {"met": "met", "unmet": "UNMET", "unproven": "unproven"}
COLUMNS = ("candidate", "role", "p50 ms", "p90 ms", "memory MiB", "size MiB", "drop %", "why")


def size_mib(size_bytes: int | None) -> str:
    """Bytes as MiB with three digits, or a dash."""
    return "-" if size_bytes is None else f"{size_bytes / (1 << 20):.3g}"


def milliseconds(value: float | None) -> str:
    """Milliseconds with three digits, or a dash."""
    return "-" if value is None else f"{value:.3g}"


def percent(value: float | None) -> str:
    """A fraction in percent, or a dash."""
    return "-" if value is None else f"{100 * value:.2f}"


def latency(candidate: CandidateSummary, quantile: str) -> str:
    """A measured quantile; an estimate of the median is marked by ~."""
    if candidate.latency_ms is not None:
        return milliseconds(getattr(candidate.latency_ms, quantile))
    predicted = candidate.estimate.latency_ms
    if quantile == "p50" and predicted is not None:
        return f"~{predicted.low:.2g}..{predicted.high:.2g}"
    return "-"


def row(candidate: CandidateSummary) -> tuple[str, ...]:
    """One candidate as the cells of `COLUMNS`."""
    return (
        candidate.identifier.rsplit("/", 1)[-1],
        candidate.role or ("" if candidate.status == "built" else candidate.status),
        latency(candidate, "p50"),
        latency(candidate, "p90"),
        size_mib(candidate.peak_memory_bytes),
        size_mib(candidate.size_bytes),
        percent(candidate.accuracy.drop if candidate.accuracy else None),
        candidate.reason,
    )


def headline(result: ProfileSummary) -> str:
    """One profile's answer in one line."""
    if result.selected is None:
        return f"{result.target} on {result.profile}: UNMET, no variant meets the limits"
    name = result.selected.rsplit("/", 1)[-1]
    return (
        f"{result.target} on {result.profile}: {MARKS[result.verdict]}, "
        f"{name} (selected by {result.selected_by})"
    )
