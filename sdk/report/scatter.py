"""Latency against accuracy drop, with the Pareto front: SVG from a profile's summary. Pure."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

from sdk.report import svg
from sdk.report.figures import (
    asked,
    limit_figure,
    milliseconds,
    name_and_digest,
    outcome,
    percent,
    rough,
)
from sdk.report.frontier import Point, pareto_front, points
from sdk.report.scales import Scale, fitting, linear
from sdk.report.svg import Plot, at
from sdk.summary import ProfileSummary

HEIGHT = 300
_NOMINAL_WIDTH = 270  # of the plot area on a phone: labels that keep apart there do so anywhere
_OFF_SCALE = 5.0  # a drop of more than so many times the limit would flatten all others
_LEGEND = {
    "measured": "measured",
    "estimate": "estimated, with its interval",
    "unmet": "breaks a limit",
    "front": "Pareto front of those that break no limit",
    "all": "Pareto front",
}


def scatter(result: ProfileSummary, identifier: str) -> Plot | None:
    """The plot; None where fewer than two candidates have both figures."""
    found = points(result)
    if len(found) < 2:
        return None
    limits = asked(result)
    across = fitting(
        bound for point in found for bound in (point.latency_ms.low, point.latency_ms.high)
    )
    up = _drop_scale(found, limits.get("accuracy_drop"))
    front = pareto_front(found)
    parts = [
        *_grid(across, up),
        *_limits(limits, across, up),
        *_front_lines(front, across, up),
        *_bars(found, across, up),
        *_markers(found, result, across, up),
    ]
    whose = "all" if all(point.kind == "unmet" for point in found) else "front"
    used = [*dict.fromkeys(point.kind for point in found), whose]
    names = ", ".join(name_and_digest(point.candidate.identifier)[0] for point in front)
    description = (
        f"Lower left is better; none is both faster and closer to the original than {names}. "
        "Numbers are the rows of the table below; thin lines are bounds."
    )
    title = "Latency against accuracy drop"
    return Plot(
        identifier=identifier,
        title=title,
        description=description,
        drawing=svg.drawing(identifier, title, description, HEIGHT, *parts, kind="axes"),
        legend=tuple((kind, _LEGEND[kind]) for kind in used),
    )


def _drop_scale(found: Sequence[Point], limit: float | None) -> Scale:
    """In percent; what is far beyond the limit is drawn at the upper edge."""
    values = [bound for point in found for bound in (point.drop.low, point.drop.high)]
    if limit:
        within = [point.drop.value for point in found if point.drop.value <= _OFF_SCALE * limit]
        top = max(1.5 * limit, 1.3 * max(within, default=0.0))
        values = [min(value, top) for value in values] + [1.1 * limit]
        values = [max(value, -top) for value in values]
    return linear([100 * value for value in values])


def _grid(across: Scale, up: Scale) -> list[str]:
    parts = []
    for tick in across.ticks():
        x = at(tick.position)
        parts += [svg.line(x, "0%", x, "100%", "grid"), _x_label(x, tick.label)]
    for tick in up.ticks():
        y = at(100 - tick.position)
        parts.append(svg.line("0%", y, "100%", y, "grid"))
        parts.append(svg.text("0%", y, tick.label, kind="tick", dx=-8, dy=4, anchor="end"))
    parts.append(svg.text("0%", "0%", "accuracy drop, %", kind="axis", dx=-36, dy=-14))
    parts.append(svg.text("100%", "100%", "median latency, ms", kind="axis", dy=38, anchor="end"))
    return parts


def _x_label(x: str, label: str) -> str:
    return svg.text(x, "100%", label, kind="tick", dy=20, anchor="middle")


def _limits(limits: dict[str, float], across: Scale, up: Scale) -> list[str]:
    parts = []
    drop = limits.get("accuracy_drop")
    if drop is not None and 100 * drop <= up.high:
        y = at(100 - up.position(100 * drop))
        label = f"at most {limit_figure('accuracy_drop', drop)}"
        parts.append(svg.line("0%", y, "100%", y, "limit"))
        parts.append(svg.text("100%", y, label, kind="limit-label", dy=-6, anchor="end"))
    median = limits.get("latency_p50_ms")
    if median is not None and across.low <= median <= across.high:
        x = at(across.position(median))
        label = f"at most {milliseconds(median)} ms"
        parts.append(svg.line(x, "0%", x, "100%", "limit"))
        parts.append(svg.text(x, "0%", label, kind="limit-label", dx=-5, dy=12, anchor="end"))
    return parts


def _front_lines(front: Sequence[Point], across: Scale, up: Scale) -> list[str]:
    """Steps: from each point on, until the next is reached, its drop is the least to be had."""
    parts = []
    for one, other in itertools.pairwise(front):
        (x1, y1), (x2, y2) = (_place(point, across, up) for point in (one, other))
        parts.append(svg.line(at(x1), at(y1), at(x2), at(y1), "front"))
        parts.append(svg.line(at(x2), at(y1), at(x2), at(y2), "front"))
    return parts


def _bars(found: Sequence[Point], across: Scale, up: Scale) -> list[str]:
    parts = []
    for point in found:
        x, y = _place(point, across, up)
        low, high = across.position(point.latency_ms.low), across.position(point.latency_ms.high)
        kind = "bounds" if point.candidate.latency_ms is not None else "bounds predicted"
        parts.append(svg.line(at(low), at(y), at(high), at(y), kind))
        top = 100 - up.position(100 * point.drop.high)
        bottom = 100 - up.position(100 * point.drop.low)
        parts.append(svg.line(at(x), at(top), at(x), at(bottom), "bounds"))
    return parts


def _markers(found: Sequence[Point], result: ProfileSummary, across: Scale, up: Scale) -> list[str]:
    places = [_place(point, across, up) for point in found]
    labels = place_labels(places, [str(point.row) for point in found])
    parts = []
    for point, (x, y), label in zip(found, places, labels, strict=True):
        chosen = " chosen" if point.candidate.identifier == result.selected else ""
        kind = f"{point.kind}{chosen}"
        parts.append(svg.marker(at(x), at(y), point.kind, kind, _told(point)))
        off = 100 * point.drop.value > up.high
        shown = f"{point.row} (up at {percent(point.drop.value)} %)" if off else str(point.row)
        parts.append(
            svg.text(
                at(x), at(y), shown, kind=f"label{chosen}", dx=label.dx, dy=label.dy,
                anchor=label.anchor,
            )
        )  # fmt: skip
    return parts


def _told(point: Point) -> str:
    name = name_and_digest(point.candidate.identifier)[0]
    span = point.latency_ms
    if point.candidate.latency_ms is None:
        latency = f"estimated {rough(span.low)} to {rough(span.high)} ms"
    else:
        latency = f"{milliseconds(span.value)} ms"
    drop = f"drop {percent(point.drop.value)} %, at most {percent(point.drop.high)} %"
    return f"{point.row} {name}: {latency}; {drop}; {outcome(point.candidate)}"


def _place(point: Point, across: Scale, up: Scale) -> tuple[float, float]:
    x = across.position(point.latency_ms.value)
    return x, round(100 - up.position(100 * point.drop.value), 2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Label:
    """Where a label stands from its point, in pixels."""

    dx: float
    dy: float
    anchor: str


_SPOTS = (
    Label(dx=10, dy=-7, anchor="start"),
    Label(dx=-10, dy=-7, anchor="end"),
    Label(dx=10, dy=15, anchor="start"),
    Label(dx=-10, dy=15, anchor="end"),
    Label(dx=0, dy=-12, anchor="middle"),
    Label(dx=0, dy=22, anchor="middle"),
    Label(dx=22, dy=4, anchor="start"),
    Label(dx=-22, dy=4, anchor="end"),
    Label(dx=0, dy=-25, anchor="middle"),
    Label(dx=0, dy=34, anchor="middle"),
)


def place_labels(places: Sequence[tuple[float, float]], texts: Sequence[str]) -> list[Label]:
    """A spot for each label, in turn, that covers no other label and no marker if there is one."""
    points = [(x / 100 * _NOMINAL_WIDTH, y / 100 * HEIGHT) for x, y in places]
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in points]
    chosen = []
    for (x, y), text in zip(points, texts, strict=True):
        boxes = {spot: _box(x, y, spot, 8 * len(text)) for spot in _SPOTS}
        best = min(_SPOTS, key=lambda spot: sum(_overlap(boxes[spot], box) for box in taken))
        taken.append(boxes[best])
        chosen.append(best)
    return chosen


_Box = tuple[float, float, float, float]


def _box(x: float, y: float, spot: Label, width: float) -> _Box:
    left = x + spot.dx - {"start": 0.0, "middle": width / 2, "end": width}[spot.anchor]
    return left, y + spot.dy - 11, left + width, y + spot.dy + 2


def _overlap(one: _Box, other: _Box) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, width) * max(0.0, height)
