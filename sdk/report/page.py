"""One self-contained HTML page: no request leaves it, it reads in the dark and on a phone."""

from __future__ import annotations

import datetime
from importlib import resources
from typing import Any

from sdk.limits import LimitVerdict
from sdk.report.figures import headline, latency, milliseconds, percent, size_mib
from sdk.summary import CandidateSummary, ProfileSummary, Summary


def render(summary: Summary) -> str:
    """The page as HTML; every text that comes from outside is escaped."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = (resources.files("sdk.report") / "page.html.j2").read_text(encoding="utf-8")
    when = datetime.datetime.fromtimestamp(summary.started, datetime.timezone.utc)
    return environment.from_string(template).render(
        summary=summary,
        when=f"{when:%Y-%m-%d %H:%M} UTC",
        results=[_result(result) for result in summary.results],
    )


def _result(result: ProfileSummary) -> dict[str, Any]:
    slowest = max(
        (c.latency_ms.high for c in result.candidates if c.latency_ms is not None), default=0.0
    )
    return {
        "headline": headline(result),
        "verdict": result.verdict,
        "rows": [_row(candidate, slowest) for candidate in result.candidates],
        "limits": _limits(result),
    }


def _row(candidate: CandidateSummary, slowest: float) -> dict[str, Any]:
    accuracy = candidate.accuracy
    measured = candidate.latency_ms
    return {
        "name": candidate.identifier.rsplit("/", 1)[-1],
        "role": candidate.role or "",
        "status": candidate.status,
        "p50": latency(candidate, "p50"),
        "p90": latency(candidate, "p90"),
        "stable": measured is None or measured.stable,
        "bar": None
        if measured is None or not slowest
        else {
            "width": round(100 * measured.p50 / slowest, 2),
            "low": round(100 * measured.low / slowest, 2),
            "high": round(100 * measured.high / slowest, 2),
        },
        "memory": size_mib(candidate.peak_memory_bytes),
        "size": size_mib(candidate.size_bytes),
        "drop": percent(accuracy.drop if accuracy else None),
        "drop_high": percent(accuracy.high if accuracy else None),
        "load": milliseconds(candidate.load_ms),
        "placement": ", ".join(f"{k} {100 * v:.0f} %" for k, v in candidate.placement.items()),
        "why": candidate.reason,
    }


def _limits(result: ProfileSummary) -> tuple[LimitVerdict, ...]:
    chosen = next((c for c in result.candidates if c.identifier == result.selected), None)
    return chosen.limits if chosen else ()
