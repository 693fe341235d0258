"""The comparison with rivals as a table and a plot in docs/explanation/, from the saved results."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from agent.codec import decode
from agent.files import write_atomic
from benchmarks.rivals.figures import (
    AGAIN,
    OURS,
    Entry,
    Model,
    against_each,
    geometric_mean,
    held,
    over_limit,
    own_ms,
    solved,
    within,
)
from benchmarks.rivals.makers import RIVALS
from benchmarks.rivals.models import CASES

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "rivals.json"
PAGE = ROOT / "docs" / "explanation" / "rivals.md"
PLOT = PAGE.with_suffix(".svg")
F32 = ("torch eager", "torch.compile", "ONNX Runtime", "ExecuTorch", "OpenVINO f32")
_BEGIN, _END = "<!-- measured: begin -->", "<!-- measured: end -->"
_LEFT, _RIGHT, _TOP, _ROW = 190, 30, 84, 26
_WIDTH = 1000
_AXIS = (0.5, 32.0)
"""Times the best rival's latency, from left to right."""


def write(document: Mapping[str, Any]) -> None:
    """Save the results, and write the page's measured part and the plot."""
    RESULTS.parent.mkdir(exist_ok=True)
    write_atomic(RESULTS, (json.dumps(document, indent=1) + "\n").encode())
    models = [decode(Model, entry) for entry in document["models"]]
    write_atomic(PLOT, plot(models).encode())
    text = PAGE.read_text(encoding="utf-8")
    fresh = f"{_BEGIN}\n\n{measured(document, models)}\n\n{_END}"
    pattern = re.escape(_BEGIN) + ".*" + re.escape(_END)
    write_atomic(PAGE, re.sub(pattern, lambda _: fresh, text, flags=re.DOTALL).encode())


def measured(document: Mapping[str, Any], models: Sequence[Model]) -> str:
    """All tables."""
    versions = ", ".join(f"{name} {version}" for name, version in document["versions"].items())
    host = document["host"]["identity"]
    told = (
        f"Measured on {document['date']}: {host.get('soc') or host['arch']}, {host['cores']} "
        f"cores; {versions}."
    )
    left = [name for name in CASES if name not in {model.name for model in models}]
    if left:
        told += f" Of {len(CASES)} models these have not been run yet: {', '.join(left)}."
    parts = [told, summary(models), "## Per model", per_model(models)]
    parts += ["## Every contestant", everybody(models), "## The searches", searches(models)]
    return "\n\n".join(parts)


def summary(models: Sequence[Model]) -> str:
    """The issue's figures beside their bounds."""
    compared = [(model, found) for model in models if (found := held(model))]
    rows = []
    if compared:
        mean = geometric_mean(found.ratio for _, found in compared)
        worst, by = max(compared, key=lambda pair: pair[1].ratio)
        rows += [
            ["ours / best rival per model, geometric mean", f"{mean:.3f}", "at most 1.00", "0.85"],
            [
                "the same, worst model",
                f"{by.ratio:.3f} ({worst.name}; noise {by.noise:.3f})",
                "at most 1.03",
                "1.00",
            ],
        ]
    fallbacks = {name: r.fallback for name, r in RIVALS.items() if not r.also}
    rows += [
        [f"ours / {name} for everything", f"{ratio:.3f}", "at most 0.60", "0.50"]
        for name, ratio in against_each(models, fallbacks).items()
    ]
    broken = over_limit(models)
    rows.append(["delivered over the limit", _count(broken), "0", "0"])
    traps = [model for model in models if model.trap]
    missed = [model.name for model in traps if not solved(model, F32) and winnable(model)]
    rows.append(
        [
            "traps solved",
            f"{len(traps) - len(missed)} of {len(traps)}{_named(missed)}",
            "all",
            "all",
        ]
    )
    shares = [
        float(model.search["near_s"]) / float(model.exhaustive["seconds"])
        for model in models
        if model.exhaustive
    ]
    if shares:
        share = f"{max(shares):.2f} at most, of {len(shares)} traps"
        rows.append(["time to within 5 % / exhaustive walk", share, "at most 0.5", "0.25"])
    return _table(["figure", "measured", "must", "aim"], rows)


def winnable(model: Model) -> bool:
    """Whether the exhaustive walk found what is not f32 and faster; yes where nobody walked.

    Faster than the intervals of the two medians are wide: else the order is noise.
    """
    walked = model.exhaustive
    if walked is None:
        return True
    own, f32 = walked.get("high_ms", walked["p50_ms"]), walked.get("f32_low_ms", walked["f32_ms"])
    return walked["precision"] != "f32" and float(own) < float(f32)


def per_model(models: Sequence[Model]) -> str:
    """Ours and the best rival."""
    rows = []
    for model in models:
        found, own = held(model), own_ms(model)
        ours = model.entries.get(OURS)
        rows.append(
            [
                f"`{model.name}`",
                model.told,
                f"{model.metric}, {model.limit:g}",
                model.chosen,
                "-" if own is None else f"{own:.3f}",
                _drop(ours),
                model.verdict,
                found.rival if found else "-",
                f"{found.ratio:.3f}" if found else "-",
                f"{found.noise:.3f}" if found else "-",
            ]
        )
    header = ["model", "what it is", "limit", "ours", "ms", "drop", "own verdict", "best rival"]
    return _table([*header, "ours / best", "noise"], rows)


def everybody(models: Sequence[Model]) -> str:
    """Median latencies; those over the limit in brackets."""
    names = [name for name in RIVALS if any(name in model.entries for model in models)]
    rows = []
    for model in models:
        cells = [_cell(model.entries.get(name)) for name in (OURS, *names)]
        rows.append([f"`{model.name}`", *cells])
    reasons = [
        f"- `{model.name}`, {name}: {entry.note}"
        for model in models
        for name, entry in model.entries.items()
        if entry.note and name != AGAIN
    ]
    table = _table(["ms", "ours", *names], rows)
    failed = "\n".join(reasons)
    return table + (
        f"\n\nNot measured, or not with its defaults, and why:\n\n{failed}" if reasons else ""
    )


def searches(models: Sequence[Model]) -> str:
    """What each search did, and the exhaustive walks."""
    rows = []
    for model in models:
        own, walk = model.search, model.exhaustive
        rows.append(
            [
                f"`{model.name}`",
                f"{own['budget_s']:g}",
                f"{own['spent_s']:.0f}",
                f"{own['near_s']:.0f}",
                f"{own['candidates']:g}",
                "yes" if own["ended"] else f"{own['untried']:g} untried",
                f"{walk['seconds']} s, {walk['candidates']}, {walk['chosen']}" if walk else "-",
            ]
        )
    header = ["model", "budget, s", "spent, s", "within 5 % after, s", "candidates"]
    return _table([*header, "to its end", "exhaustive walk: time, candidates, best"], rows)


def _cell(entry: Entry | None) -> str:
    if entry is None or entry.p50_ms is None:
        return "-"
    mark = "" if entry.stable else " ~"
    return f"{entry.p50_ms:.3f}{mark}" if entry.within else f"({entry.p50_ms:.3f}){mark}"


def _drop(entry: Entry | None) -> str:
    return "-" if entry is None or entry.drop is None else f"{entry.drop:.4f}"


def _count(names: Sequence[str]) -> str:
    return f"{len(names)}{_named(names)}"


def _named(names: Sequence[str]) -> str:
    return f" ({', '.join(names)})" if names else ""


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def plot(models: Sequence[Model]) -> str:
    """One row per model, every contestant at its latency over the best rival's."""
    height = _TOP + _ROW * len(models) + 46
    parts = [_head(height), *_axis(height)]
    for index, model in enumerate(models):
        y = _TOP + _ROW * index + _ROW / 2
        parts.append(f'<text x="{_LEFT - 12}" y="{y + 5:g}" text-anchor="end">{model.name}</text>')
        parts += _row(model, y)
    return "\n".join([*parts, "</svg>", ""])


def _row(model: Model, y: float) -> list[str]:
    kept = within(model)
    least = model.entries[kept[0]].p50_ms if kept else None
    if least is None:
        return []
    marks = []
    for name, entry in model.entries.items():
        if entry.p50_ms is None or name in (OURS, AGAIN):
            continue
        ratio = entry.p50_ms / least
        word = "" if entry.within else ", over the accuracy limit"
        title = f"<title>{escape(name)}: {ratio:.2f}{word}</title>"
        shape = '<circle r="5"/>' if entry.within else '<path d="M-4-4 4 4M-4 4 4-4"/>'
        kind = "kept" if entry.within else "over"
        marks.append(
            f'<g class="{kind}" transform="translate({x_of(ratio):g} {y:g})">{title}{shape}</g>'
        )
    own = own_ms(model)
    if own is not None:
        kind = "ours" if model.entries[OURS].within else "ours broken"
        title = f"<title>ours: {own / least:.2f}</title>"
        place = f"translate({x_of(own / least):g} {y:g})"
        marks.append(
            f'<g class="{kind}" transform="{place}">{title}<path d="M0-8 7 0 0 8-7 0Z"/></g>'
        )
    return marks


def x_of(ratio: float) -> float:
    """Where a ratio stands; what lies beyond the axis stands at its end."""
    low, high = map(math.log, _AXIS)
    share = (math.log(ratio) - low) / (high - low)
    return round(_LEFT + min(1.0, max(0.0, share)) * (_WIDTH - _LEFT - _RIGHT), 1)


def _axis(height: int) -> list[str]:
    parts = []
    bottom = height - 40
    for tick in (0.5, 1, 2, 4, 8, 16, 32):
        x = x_of(tick)
        kind = "one" if tick == 1 else "rule"
        parts.append(f'<line class="{kind}" x1="{x}" x2="{x}" y1="{_TOP - 8}" y2="{bottom}"/>')
        label = f"{tick:g} or more" if tick == 32 else f"{tick:g}"
        anchor = "end" if tick == 32 else "middle"
        parts.append(
            f'<text class="soft" x="{x}" y="{bottom + 18}" text-anchor="{anchor}">{label}</text>'
        )
    return parts


def _head(height: int) -> str:
    title = "Latency of every contestant over the best rival's, by model"
    told = (
        "One row per model. A diamond is ours, a disc a rival within the accuracy limit, a cross "
        "one over it. 1 is the fastest rival within the limit; left of it is faster. Log scale."
    )
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img" \
aria-labelledby="t d" font-family="system-ui, sans-serif" font-size="14">
<title id="t">{title}</title>
<desc id="d">{told}</desc>
<style>
  svg {{ color-scheme: light dark; --paper: #fbfbf9; --ink: #1b1f24; --soft: #5c6570; \
--line: #dfe2e6; --met: #176f35; --unmet: #b3261e; }}
  @media (prefers-color-scheme: dark) {{ svg {{ --paper: #14171b; --ink: #e5e8eb; \
--soft: #9ba5b0; --line: #30363e; --met: #5bc97b; --unmet: #ff867c; }} }}
  .paper {{ fill: var(--paper); }} text {{ fill: var(--ink); }} \
.soft {{ fill: var(--soft); font-size: 12px; }}
  .rule {{ stroke: var(--line); }} .one {{ stroke: var(--soft); stroke-width: 1.5; }}
  .kept circle {{ fill: none; stroke: var(--soft); stroke-width: 2; }}
  .over path {{ stroke: var(--unmet); stroke-width: 1.5; }}
  .ours path {{ fill: var(--met); }} .broken path {{ fill: var(--unmet); }}
</style>
<rect class="paper" width="{_WIDTH}" height="{height}" rx="6"/>
<text x="20" y="28" font-weight="600">{title}</text>
<g class="ours" transform="translate(28 50)"><path d="M0-8 7 0 0 8-7 0Z"/></g>\
<text class="soft" x="42" y="54">ours</text>
<g class="kept" transform="translate(98 50)"><circle r="5"/></g>\
<text class="soft" x="110" y="54">a rival within the limit</text>
<g class="over" transform="translate(268 50)"><path d="M-4-4 4 4M-4 4 4-4"/></g>\
<text class="soft" x="280" y="54">a rival over the limit</text>"""
