"""Estimates over measurements, before reports and after, on logarithmic axes: one SVG. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from sdk.estimate import Interval

Point = tuple[float, float, Interval]
"""Measured, estimated before, estimated after; milliseconds."""
_SIZE, _LEFT, _TOP, _SIDE = 640, 70, 70, 520
_STYLE = """
  svg { color-scheme: light dark; --paper: #fbfbf9; --ink: #1b1f24; --soft: #5c6570; --line: #dfe2e6; --met: #176f35; --unmet: #b3261e; }
  @media (prefers-color-scheme: dark) { svg { --paper: #14171b; --ink: #e5e8eb; --soft: #9ba5b0; --line: #30363e; --met: #5bc97b; --unmet: #ff867c; } }
  .paper { fill: var(--paper); } text { fill: var(--ink); } .soft { fill: var(--soft); font-size: 12px; }
  .rule { stroke: var(--line); } .one { stroke: var(--soft); stroke-width: 1.5; }
  .before { fill: none; stroke: var(--unmet); stroke-width: 1.5; } .after { fill: var(--met); }
  .interval { stroke: var(--met); stroke-opacity: 0.45; }
"""  # noqa: E501
_TITLE = "What is estimated of networks that were not reported, over what the rig measured"


def drawing(points: Sequence[Point]) -> str:
    """The whole file."""
    values = [v for ms, before, after in points for v in (ms, before, after.low, after.high)]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return "\n".join(_parts(points, low, high)) + "\n"


def _parts(points: Sequence[Point], low: int, high: int) -> Iterator[str]:
    def place(ms: float) -> float:
        return _SIDE * (math.log10(ms) - low) / (high - low)

    def x(ms: float) -> str:
        return f"{_LEFT + place(ms):.1f}"

    def y(ms: float) -> str:
        return f"{_TOP + _SIDE - place(ms):.1f}"

    least, most = 10.0**low, 10.0**high
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_SIZE} {_SIZE + 10}" role="img" '
        'aria-labelledby="t d" font-family="system-ui, sans-serif" font-size="14">'
    )
    yield f'<title id="t">{_TITLE}</title>'
    yield (
        '<desc id="d">Both axes are milliseconds, logarithmic; on the diagonal the estimate is '
        "right. Rings: the profile that is wrong by a factor of 2. Discs with lines: after the "
        "reports, with the interval that is to hold nine in ten.</desc>"
    )
    yield f"<style>{_STYLE}</style>"
    yield f'<rect class="paper" width="{_SIZE}" height="{_SIZE + 10}" rx="6"/>'
    yield f'<text x="20" y="26" font-weight="600" font-size="13">{_TITLE}</text>'
    for at, kind in ((28, "before"), (98, "after")):
        yield f'<circle class="{kind}" cx="{at}" cy="46" r="4"/>'
        yield f'<text class="soft" x="{at + 10}" y="50">{kind}</text>'
    for power in range(low, high + 1):
        ms = 10.0**power
        yield f'<path class="rule" d="M{x(ms)} {y(least)}V{y(most)}M{x(least)} {y(ms)}H{x(most)}"/>'
        for where, anchor in (
            (f'x="{x(ms)}" y="{_TOP + _SIDE + 18}"', "middle"),
            (f'x="{_LEFT - 8}" y="{y(ms)}" dy="4"', "end"),
        ):
            yield f'<text class="soft" {where} text-anchor="{anchor}">{ms:g}</text>'
    yield f'<path class="one" d="M{x(least)} {y(least)}L{x(most)} {y(most)}"/>'
    for ms, _, after in points:
        yield f'<path class="interval" d="M{x(ms)} {y(after.low)}V{y(after.high)}"/>'
    for ms, before, _ in points:
        yield f'<circle class="before" cx="{x(ms)}" cy="{y(before)}" r="4"/>'
    for ms, _, after in points:
        yield f'<circle class="after" cx="{x(ms)}" cy="{y(after.value)}" r="3.5"/>'
    middle = _LEFT + _SIDE / 2
    yield f'<text class="soft" x="{middle}" y="{_SIZE}" text-anchor="middle">measured, ms</text>'
    yield (
        f'<text class="soft" transform="translate(20 {_TOP + _SIDE / 2}) rotate(-90)" '
        'text-anchor="middle">estimated, ms</text>'
    )
    yield "</svg>"
