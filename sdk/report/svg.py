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
    "measured": '<circle r="5.5"/>',
    "estimate": '<circle r="5"/>',
    "unmet": '<path d="M-4.5-4.5 4.5 4.5M-4.5 4.5 4.5-4.5"/>',
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
    identifier: str, title: str, description: str, height: int, *parts: str, kind: str
) -> Markup:
    """The `svg` element around parts that the functions below made."""
    name, told = escape(title), escape(description)
    head = f'<title id="{identifier}-t">{name}</title><desc id="{identifier}-d">{told}</desc>'
    labels = f'aria-labelledby="{identifier}-t {identifier}-d"'
    return Markup(  # noqa: S704  every text in it went through escape()
        f'<svg class="plot {kind}" role="img" {labels} height="{height}">{head}'
        f"{''.join(parts)}</svg>"
    )


def line(x1: str, y1: str, x2: str, y2: str, kind: str) -> str:
    """A line between two points, each `37%` or pixels."""
    return f'<line class="{kind}" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"/>'


def bar(x: str, y: str, width: str, height: str, kind: str) -> str:
    """A rectangle."""
    return f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{height}"/>'


def dot(x: str, y: str, kind: str) -> str:
    """A small disc."""
    return f'<circle class="{kind}" cx="{x}" cy="{y}" r="1.6"/>'


def text(
    x: str, y: str, content: str, *, kind: str = "", dx: float = 0, dy: float = 0, anchor: str = ""
) -> str:
    """A text at a point, moved by pixels."""
    where = f' text-anchor="{anchor}"' if anchor else ""
    place = f'x="{x}" y="{y}" dx="{dx:g}" dy="{dy:g}"'
    return f'<text class="{kind}" {place}{where}>{escape(content)}</text>'


def marker(x: str, y: str, shape: str, kind: str, title: str) -> str:
    """A shape of fixed size at a point; its title is shown on hovering."""
    inner = f"<title>{escape(title)}</title>{MARKERS[shape]}"
    return f'<svg class="mark {kind}" x="{x}" y="{y}">{inner}</svg>'


def at(position: float) -> str:
    """A position as SVG writes it.

    >>> at(12.5)
    '12.5%'
    """
    return f"{position:g}%"
