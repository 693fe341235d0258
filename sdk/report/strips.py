"""Plots with one row per candidate: latency distributions, memory, size. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from sdk.report import svg
from sdk.report.figures import (
    asked,
    baseline_of,
    milliseconds,
    name_and_digest,
    number,
    rough,
    size_mib,
    weight,
)
from sdk.report.frontier import latency_span
from sdk.report.scales import Scale, fitting, linear
from sdk.report.svg import Plot, at
from sdk.summary import CandidateSummary, LatencySummary, ProfileSummary

MOST_ROWS = 12
_ROW = 46  # pixels: a line of text, a strip, and air
_NAME_LENGTH = 30  # characters that leave room for the figure on a phone
_QUANTILES = ("p50", "p90", "p95", "p99")
_FAR = 1.5  # times p95: a p99 beyond that is told by an arrow
_BOX = (5, 15)  # of the 21 points of `spread`: the middle half of the runs
_WHISKER = (1, 19)  # and 90 % of them; the least and the greatest of all say little


def distributions(result: ProfileSummary, identifier: str) -> Plot | None:
    """How the measured latencies spread; None where nothing was measured."""
    rows = [row for row in _rows(result) if row[1].latency_ms is not None]
    if not rows:
        return None
    shown = rows[:MOST_ROWS]
    latencies = [candidate.latency_ms for _, candidate in shown if candidate.latency_ms]
    limits = _latency_limits(result, max(_end(latency) for latency in latencies))
    across = fitting(
        [
            *(_end(latency) for latency in latencies),
            *(min(latency.spread or (latency.p50,)) for latency in latencies),
            *(limit for _, limit in limits),
        ]
    )
    height = _ROW * len(shown)
    parts = _axis(across, "latency, ms")
    for name, limit in limits:
        parts += _limit(across, limit, f"{name} at most {milliseconds(limit)}", len(shown))
    for place, (row, candidate) in enumerate(shown):
        assert candidate.latency_ms is not None
        figure = f"{milliseconds(candidate.latency_ms.p50)} ms"
        parts += _heading(row, candidate, result, place, figure)
        parts += _strip(candidate.latency_ms, across, place * _ROW + 30)
    title = "Latency distributions"
    description = (
        "Box: the middle half of the runs, its bar the median. Line: from 5 to 95 % of them. "
        "Tick: p99. Dots: the medians of the measuring turns."
    )
    if len(shown) < len(rows):
        description += f" The {len(shown)} fastest of {len(rows)}."
    drawing = svg.drawing(identifier, title, description, height, *parts, kind="rows")
    return Plot(identifier=identifier, title=title, description=description, drawing=drawing)


def memory(result: ProfileSummary, identifier: str) -> Plot | None:
    """Peak memory, and the part of it that is the variant's own; None where nothing is known."""
    rows = [row for row in _rows(result) if _memory_high(row[1]) is not None][:MOST_ROWS]
    if not rows:
        return None
    limit = asked(result).get("peak_memory_mib")
    mib = 1 << 20
    across = linear([(_memory_high(candidate) or 0) / mib for _, candidate in rows])
    parts = _axis(across, "peak memory, MiB")
    if limit is not None and limit <= across.high:
        parts += _limit(across, limit, f"at most {rough(limit)}", len(rows))
    for place, (row, candidate) in enumerate(rows):
        top = f"{place * _ROW + 24}"
        peak, own = candidate.peak_memory_bytes, candidate.memory_increment_bytes
        if peak is not None:
            figure = weight(peak) + (f", {size_mib(own)} its own" if own is not None else "")
            parts += _heading(row, candidate, result, place, figure)
            runtime = across.position((peak - (own or 0)) / mib)
            parts.append(svg.bar("0%", top, at(runtime), "11", "runtime"))
            width = at(round(across.position(peak / mib) - runtime, 2))
            parts.append(svg.bar(at(runtime), top, width, "11", "own"))
            continue
        predicted = candidate.estimate.peak_memory_bytes
        assert predicted is not None
        figure = f"estimated {rough(predicted.low / mib)} to {rough(predicted.high / mib)} MiB"
        parts += _heading(row, candidate, result, place, figure)
        low, high = across.position(predicted.low / mib), across.position(predicted.high / mib)
        parts.append(svg.bar(at(low), top, at(round(high - low, 2)), "11", "predicted"))
    title = "Peak memory"
    description = (
        "Of the whole process while running. Dark: the variant's own part; pale: the runtime, "
        "Python and the inputs; dashed: an estimate."
    )
    drawing = svg.drawing(identifier, title, description, _ROW * len(rows), *parts, kind="rows")
    return Plot(identifier=identifier, title=title, description=description, drawing=drawing)


def size(result: ProfileSummary, identifier: str) -> Plot | None:
    """The files' sizes; None where nothing was built."""
    rows = [row for row in _rows(result) if row[1].size_bytes is not None][:MOST_ROWS]
    if not rows:
        return None
    largest = max(candidate.size_bytes or 0 for _, candidate in rows)
    unit, scale = ("MiB", 1 << 20) if largest >= 1 << 20 else ("KiB", 1 << 10)
    across = linear([largest / scale])
    parts = _axis(across, f"size, {unit}")
    limit = asked(result).get("size_mib")
    if limit is not None and limit * (1 << 20) / scale <= across.high:
        parts += _limit(across, limit * (1 << 20) / scale, f"at most {rough(limit)} MiB", len(rows))
    for place, (row, candidate) in enumerate(rows):
        size_bytes = candidate.size_bytes or 0
        parts += _heading(row, candidate, result, place, f"{number(size_bytes / scale)} {unit}")
        width = at(across.position(size_bytes / scale))
        parts.append(svg.bar("0%", f"{place * _ROW + 24}", width, "11", "own"))
    title = "Size"
    description = "All files of a variant together, as they would be delivered."
    drawing = svg.drawing(identifier, title, description, _ROW * len(rows), *parts, kind="rows")
    return Plot(identifier=identifier, title=title, description=description, drawing=drawing)


def _rows(result: ProfileSummary) -> list[tuple[int, CandidateSummary]]:
    """Built candidates with their row in the table: chosen and baseline first, then the fastest."""
    baseline = baseline_of(result)

    def order(entry: tuple[int, CandidateSummary]) -> tuple[int, bool, float]:
        candidate = entry[1]
        first = {result.selected: 0, baseline.identifier if baseline else "": 1}
        span = latency_span(candidate)
        known = candidate.latency_ms is None
        return first.get(candidate.identifier, 2), known, span.value if span else float("inf")

    built = [(row, c) for row, c in enumerate(result.candidates, 1) if c.status == "built"]
    return sorted(built, key=order)


def _heading(
    row: int, candidate: CandidateSummary, result: ProfileSummary, place: int, figure: str
) -> list[str]:
    name = name_and_digest(candidate.identifier)[0]
    shown = name if len(name) <= _NAME_LENGTH else f"{name[: _NAME_LENGTH - 1]}\u2026"
    chosen = " chosen" if candidate.identifier == result.selected else ""
    y = f"{place * _ROW + 16}"
    return [
        svg.text("0%", y, f"{row}  {shown}", kind=f"name{chosen}"),
        svg.text("100%", y, figure, kind="figure", anchor="end"),
    ]


def _axis(across: Scale, label: str) -> list[str]:
    parts = []
    for tick in across.ticks():
        x = at(tick.position)
        parts.append(svg.line(x, "0%", x, "100%", "grid"))
        parts.append(svg.text(x, "100%", tick.label, kind="tick", dy=18, anchor="middle"))
    parts.append(svg.text("100%", "100%", label, kind="axis", dy=36, anchor="end"))
    return parts


def _limit(across: Scale, limit: float, label: str, rows: int) -> list[str]:
    """A line beside the strips and not through the names."""
    x = at(across.position(limit))
    lines = [
        svg.line(x, f"{place * _ROW + 21}", x, f"{place * _ROW + _ROW - 2}", "limit")
        for place in range(rows)
    ]
    anchor = "end" if across.position(limit) > 50 else "start"
    return [svg.text(x, "0%", label, kind="limit-label", dy=-6, anchor=anchor), *lines]


def _memory_high(candidate: CandidateSummary) -> float | None:
    if candidate.peak_memory_bytes is not None:
        return candidate.peak_memory_bytes
    predicted = candidate.estimate.peak_memory_bytes
    return None if predicted is None else predicted.high


def _latency_limits(result: ProfileSummary, longest: float) -> list[tuple[str, float]]:
    """Those that fit into the picture: a limit far above all would leave nothing to be seen."""
    limits = asked(result)
    found = [(name, limits.get(f"latency_{name}_ms")) for name in _QUANTILES]
    return [(name, limit) for name, limit in found if limit is not None and limit <= 2 * longest]


def _end(latency: LatencySummary) -> float:
    """Where the picture of it may end: a p99 far out would press all the rest together."""
    known = [latency.p50, latency.high, latency.p90, latency.p95]
    body = max(value for value in known if value is not None)
    return min(latency.p99 or body, _FAR * body)


def _strip(latency: LatencySummary, across: Scale, middle: int) -> list[str]:
    spread = latency.spread
    if spread is None:  # an older summary: the quantiles are all there is
        low, high = latency.low, latency.high
        least, most = low, latency.p95 or latency.p90 or high
    else:
        low, high = spread[_BOX[0]], spread[_BOX[1]]
        least, most = spread[_WHISKER[0]], spread[_WHISKER[1]]
    y = f"{middle}"
    left, right = across.position(low), across.position(high)
    parts = [
        svg.line(at(across.position(least)), y, at(across.position(most)), y, "whisker"),
        svg.bar(at(left), f"{middle - 6}", at(round(right - left, 2)), "12", "box"),
        *_ticks([latency.p50], across, middle, 7, "median"),
    ]
    if latency.p99 is not None and latency.p99 > across.high:
        shown = f"p99 {milliseconds(latency.p99)} \u2192"
        parts.append(svg.text("100%", y, shown, kind="figure", dy=12, anchor="end"))
    elif latency.p99 is not None:
        parts += _ticks([latency.p99], across, middle, 4, "whisker")
    for window in latency.windows or ():
        x = at(across.position(window))
        parts.append(svg.dot(x, f"{middle + 10}", "turn"))
    return parts


def _ticks(values: Sequence[float], across: Scale, middle: int, half: int, kind: str) -> list[str]:
    places = [at(across.position(value)) for value in values]
    return [svg.line(x, f"{middle - half}", x, f"{middle + half}", kind) for x in places]
