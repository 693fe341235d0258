"""`python -m benchmarks.choose_constants`: what the fit rows say about the estimate's constants.

Least squares of the logarithm of predicted over published, on the fit rows alone, by coordinate
descent; each constant is drawn a little towards where it starts, so what no row tells stays there.
The result, rounded, stands in sdk/estimate/constants.py.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

from benchmarks.architectures import cost_table
from benchmarks.published import recipe_of
from benchmarks.published_figures import HARNESS_MS, PUBLISHED, Published
from profiles import Figure, find
from sdk.estimate import Constants, estimate
from sdk.estimate.constants import DEFAULT

STARTS: dict[str, dict[str, float]] = {
    "cpu": {
        "conv *": 0.6,
        "depthwise *": 0.15,
        "matmul *": 0.5,
        # launch_ms is left out: from 1 to 8 microseconds, the rows fit equally well
        "launch_ms_per_core": 0.0003,
    },
    "gpu": {
        "conv *": 0.4,
        "conv int8": 0.35,
        "depthwise *": 0.05,
        "matmul *": 0.4,
        "launch_ms": 0.005,
        "harness jetson": 2.2,
        "harness t4": 0.4,
    },
    "npu": {"conv *": 0.4, "depthwise *": 0.05, "matmul *": 0.2, "launch_ms": 0.005},
}
"""Engine -> constant -> where the search begins: an order of magnitude."""
PULL = 0.03  # weight of the squared distance from the start, beside one row's squared error
LARGEST_ERROR = 1.5  # of a logarithm: one hopeless row must not decide


def choose(engine: str) -> dict[str, float]:
    """The constants of one engine that the fit rows are nearest to."""
    start = STARTS[engine]
    rows = [row for row in PUBLISHED if row.engine == engine and row.set == "fit"]
    best = dict(start)
    least, step = _loss(engine, best, rows), 1.3
    while step > 1.01:
        before = least
        for name in STARTS[engine]:
            for factor in (step, 1 / step):
                tried = {**best, name: best[name] * factor}
                loss = _loss(engine, tried, rows)
                if loss < least - 1e-6 and not (" *" in name and tried[name] > 1):
                    best, least = tried, loss
        step = step if least < before else math.sqrt(step)
    return best


def _loss(engine: str, values: Mapping[str, float], rows: list[Published]) -> float:
    constants = _with(engine, values)
    errors = (min(abs(_log_ratio(row, constants, values)), LARGEST_ERROR) for row in rows)
    pulled = (math.log(values[name] / STARTS[engine][name]) for name in values)
    return sum(e * e for e in errors) + PULL * sum(p * p for p in pulled)


def _log_ratio(row: Published, constants: Constants, values: Mapping[str, float]) -> float:
    found = estimate(cost_table(row.network), find(row.profile, ()), recipe_of(row), constants)
    assert found.latency_ms is not None, f"{row.profile} has no rate for {row.engine}"
    harness = values.get(f"harness {row.host}", HARNESS_MS.get(row.host, 0.0))
    return math.log((found.latency_ms.value + harness) / row.ms)


def _with(engine: str, values: Mapping[str, float]) -> Constants:
    """The constants in use, with these in place of theirs."""
    own = DEFAULT.engines[engine]
    efficiency = {op_class: dict(table) for op_class, table in own.efficiency.items()}
    changes = {}
    for name, value in values.items():
        figure = Figure(value=value, source="tried")
        op_class, _, precision = name.partition(" ")
        if op_class in efficiency:
            efficiency[op_class][precision] = figure
        elif op_class != "harness":
            changes[name] = figure
    own = dataclasses.replace(own, efficiency=efficiency, **changes)
    return dataclasses.replace(DEFAULT, engines={**DEFAULT.engines, engine: own})


def main() -> None:
    for engine in STARTS:
        for name, value in choose(engine).items():
            print(f"{engine:4} {name:20} {value:.3g}")


if __name__ == "__main__":
    main()
