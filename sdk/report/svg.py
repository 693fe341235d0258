"""Plots as inline SVG that keeps its text size at any width. Pure.

The plot area is the whole SVG: positions along it are percentages, and what belongs outside (axes'
labels) overflows into the margin that the page's style sheet leaves. Distances that should not
stretch, such as a marker's outline, are pixels inside a nested `svg` placed by percentage. Colours
are classes, so that the style sheet decides them for the light and for the dark.
"""

from __future__ import annotations

import dataclasses

from markupsafe import Markup, escape

MARKERS = {
    "measured": Markup('<circle r="5.5"/>'),
    "estimate": Markup('<circle r="5"/>'),
    "unmet": Markup('<path d="M-4.5-4.5 4.5 4.5M-4.5 4.5 4.5-4.5"/>'),
}
"""Shapes around 0, 0: a disc, a ring (by its style), a cross."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plot:
    """One figure: its drawing, and what it says to whoever does not see it."""

    identifier: str
    """Unique in its page."""
    title: str
    description: str
    """What there is to see, in words: read out, and shown as the caption's second line."""
    drawing: Markup
    legend: tuple[tuple[str, str], ...] = ()
    """Marker kind -> meaning, of those that are used."""


def drawing(
    identifier: str, title: str, description: str, height: int, *parts: Markup, kind: str = ""
) -> Markup:
    """The `svg` element around the parts."""
    return Markup(
        '<svg class="plot {}" role="img" aria-labelledby="{}-t {}-d" height="{}">'
        '<title id="{}-t">{}</title><desc id="{}-d">{}</desc>{}</svg>'
    ).format(
        kind,
        identifier,
        identifier,
        height,
        identifier,
        title,
        identifier,
        description,
        Markup("").join(parts),
    )


def line(x1: str, y1: str, x2: str, y2: str, kind: str) -> Markup:
    """A line between two points, each `37%` or pixels."""
    return Markup('<line class="{}" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(kind, x1, y1, x2, y2)


def bar(x: str, y: str, width: str, height: str, kind: str, title: str = "") -> Markup:
    """A rectangle; with a title that is shown on hovering."""
    return Markup('<rect class="{}" x="{}" y="{}" width="{}" height="{}">{}</rect>').format(
        kind, x, y, width, height, _title(title)
    )


def text(
    x: str, y: str, content: str, *, kind: str = "", dx: float = 0, dy: float = 0, anchor: str = ""
) -> Markup:
    """A text at a point, moved by pixels."""
    where = Markup(' text-anchor="{}"').format(anchor) if anchor else ""
    return Markup('<text class="{}" x="{}" y="{}" dx="{:g}" dy="{:g}"{}>{}</text>').format(
        kind, x, y, dx, dy, where, content
    )


def marker(x: str, y: str, shape: str, kind: str, title: str) -> Markup:
    """A shape of fixed size at a point."""
    return Markup('<svg class="mark {}" x="{}" y="{}">{}{}</svg>').format(
        kind, x, y, _title(title), MARKERS[shape]
    )


def _title(content: str) -> Markup:
    return Markup("<title>{}</title>").format(escape(content)) if content else Markup("")


def at(position: float) -> str:
    """A position as SVG writes it.

    >>> at(12.5)
    '12.5%'
    """
    return f"{position:g}%"
