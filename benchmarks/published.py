"""`python -m benchmarks.published`: the estimate beside latencies and memory that were published.

Nothing is measured here. published_figures.py has the figures, split into those that constants were
chosen on and those held out; docs/explanation/estimates.md shows the tables.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence

from benchmarks.architectures import PUBLISHED_COST, cost_table
from benchmarks.published_figures import PEAK_MEMORY_MB, PUBLISHED, Published
from profiles import find
from sdk.estimate import Interval, estimate
from targets.interface import Recipe


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One published latency beside its prediction; None where the profile has no rate."""

    published: Published
    predicted: Interval | None

    @property
    def ratio(self) -> float:
        """Predicted over published."""
        return self.predicted.value / self.published.ms if self.predicted else math.nan

    @property
    def inside(self) -> bool:
        """Whether the interval holds what was published."""
        found = self.predicted
        return found is not None and found.low <= self.published.ms <= found.high


@functools.cache
def rows() -> tuple[Row, ...]:
    """Every published latency beside its prediction."""
    return tuple(Row(published=entry, predicted=predict(entry)) for entry in PUBLISHED)


def predict(entry: Published) -> Interval | None:
    """The estimate, and the publisher's harness on top of it."""
    recipe = recipe_of(entry)
    found = estimate(cost_table(entry.network), find(entry.profile, ()), recipe).latency_ms
    if found is None:
        return None
    more = entry.harness_ms
    return Interval(value=found.value + more, low=found.low + more, high=found.high + more)


def recipe_of(entry: Published) -> Recipe:
    """What was run, as far as the estimate reads it."""
    return _recipe(entry.toolchain, entry.engine, entry.precision)


def _recipe(toolchain: str, engine: str, precision: str) -> Recipe:
    return Recipe(toolchain=toolchain, format=toolchain, precision=precision, engine=engine)


def memory_rows() -> list[tuple[str, str, str, float, Interval]]:
    """(device, network, precision, published bytes, predicted) for phones."""
    found = []
    for network, precision, s24, s25 in PEAK_MEMORY_MB:
        for profile, published in (("snapdragon-8-gen-3", s24), ("snapdragon-8-elite", s25)):
            recipe = _recipe("executorch", "npu", precision)
            predicted = estimate(cost_table(network), find(profile, ()), recipe).peak_memory_bytes
            assert predicted is not None
            found.append((profile, network, precision, published * 1e6, predicted))
    return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class Error:
    """How far off a group of predictions is."""

    n: int
    bias: float
    """Geometric mean of predicted / published."""
    spread: float
    """exp of the mean absolute error of the logarithm: 1.3 is 30 % off, up or down."""
    inside: float
    """The share of published figures that the interval holds."""


def error(ratios: Sequence[float], inside: Sequence[bool]) -> Error:
    """The error of a group that is not empty."""
    logs = [math.log(ratio) for ratio in ratios]
    return Error(
        n=len(logs),
        bias=math.exp(statistics.fmean(logs)),
        spread=math.exp(statistics.fmean(abs(log) for log in logs)),
        inside=sum(inside) / len(inside),
    )


def pairs_in_order(found: Sequence[Row]) -> tuple[int, int]:
    """Of two precisions of one network on one engine, how often the faster is predicted faster.

    Returns:
        (in order, all pairs whose published latencies differ by more than 5 %).
    """
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in found:
        if row.predicted:
            entry = row.published
            groups.setdefault((entry.profile, entry.engine, entry.network), []).append(row)
    right = total = 0
    for rows_of_one in groups.values():
        for one, other in itertools.combinations(rows_of_one, 2):
            gap = one.published.ms / other.published.ms
            if one.predicted and other.predicted and abs(math.log(gap)) > math.log(1.05):
                total += 1
                right += (one.predicted.value > other.predicted.value) == (gap > 1)
    return right, total


def networks() -> str:
    """Our cost tables beside the published costs."""
    lines = []
    for name, (gflop, millions) in PUBLISHED_COST.items():
        program = cost_table(name)
        own = sum(cost.flops for cost in program.costs if cost.kind != "other") / 1e9
        parameters = program.weight_bytes / 4e6
        lines.append((name, f"{own:.3g}", f"{gflop:g}", f"{parameters:.3g}", f"{millions:g}"))
    return _table(("network", "GFLOP", "published", "M parameters", "published"), lines, text=1)


def latencies() -> str:
    """Every published latency beside its prediction."""
    header = ("device", "engine", "network", "precision", "rows", "ms", "predicted", "low", "high")
    lines = []
    for row in rows():
        entry, guess = row.published, row.predicted
        start = (entry.profile, entry.engine, entry.network, entry.precision)
        if guess is None:
            lines.append((*start, "no rate", f"{entry.ms:.3g}", "", "", "", ""))
            continue
        found = (f"{figure:.3g}" for figure in (entry.ms, guess.value, guess.low, guess.high))
        ratio = f"{row.ratio:.2f}{'' if row.inside else ' outside'}"
        lines.append((*start, entry.set, *found, ratio))
    return _table((*header, "ratio"), lines, text=5)


def errors() -> str:
    """The error of each engine, on the fit rows and on those held out."""
    lines = []
    for engine, which in itertools.product(("cpu", "gpu", "npu", "all"), ("fit", "held out")):
        group = [
            row
            for row in rows()
            if row.predicted and row.published.set == which
            if engine in ("all", row.published.engine)
        ]
        off = error([row.ratio for row in group], [row.inside for row in group])
        worst = max(max(row.ratio, 1 / row.ratio) for row in group)
        shown = (f"{off.n}", f"{off.bias:.2f}", f"{off.spread:.2f}", f"{worst:.2f}")
        lines.append((engine, which, *shown, f"{off.inside:.0%}"))
    right, total = pairs_in_order(rows())
    header = ("engine", "rows", "n", "bias", "typical factor", "worst factor", "inside")
    order = f"Precisions of one network in the published order: {right} of {total} pairs."
    return f"{_table(header, lines, text=2)}\n\n{order}"


def memory() -> str:
    """Peak memory on phones."""
    header = ("device", "network", "precision", "MB", "predicted", "low", "high", "ratio")
    lines, ratios, inside = [], [], []
    for profile, network, precision, published, guess in memory_rows():
        ratios.append(guess.value / published)
        inside.append(guess.low <= published <= guess.high)
        found = (f"{b / 1e6:.0f}" for b in (published, guess.value, guess.low, guess.high))
        lines.append((profile, network, precision, *found, f"{ratios[-1]:.2f}"))
    off = error(ratios, inside)
    total = (
        f"{off.n} rows, bias {off.bias:.2f}, typical factor {off.spread:.2f}, "
        f"{off.inside:.0%} inside."
    )
    return f"{_table(header, lines, text=3)}\n\n{total}"


PARTS: dict[str, Callable[[], str]] = {
    "networks": networks,
    "latencies": latencies,
    "errors": errors,
    "memory": memory,
}


def _table(header: Sequence[str], lines: Iterable[Sequence[str]], *, text: int) -> str:
    """Markdown; after the first `text` columns come numbers."""
    marks = ["---" if index < text else "---:" for index in range(len(header))]
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, marks, *lines))


def main(names: Sequence[str]) -> int:
    """Print the named parts, or all."""
    for name in names or PARTS:
        print(f"\n{PARTS[name]()}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
