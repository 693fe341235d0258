"""What measuring a variant gives: the records, and how they are made from the runs' times."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from agent.identity import Conditions
from agent.quantiles import Interval, median_interval, quantile_bounds, samples_for
from agent.tensors import Array

Quantity = Literal["latency", "throughput"]
QUANTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}
_SPREAD = np.linspace(0.0, 1.0, 21)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Latency:
    """Of one run, in milliseconds. A quantile is null where there were too few runs for it."""

    p50: float
    p90: float | None
    p95: float | None
    p99: float | None
    n: int
    low: float
    high: float
    """`low` and `high` are the median's, at 95 %."""
    stable: bool
    bounds: dict[str, Interval]
    """Every quantile reported, with its interval."""
    spread: tuple[float, ...] = ()
    """The runs' times at every twentieth of them, the least and the greatest included: a picture
    of the distribution, from which no quantile is to be claimed."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measurement:
    """What one contestant did, and under what."""

    name: str
    latency_ms: Latency
    import_ms: float | None
    """The runtime's own import; null where it could not be told apart, and is part of the load."""
    load_ms: float
    first_run_ms: float
    throughput_per_s: float
    """Runs per second at the dims' opt values, of all callers together, back to back. A run with a
    batch of n times the opt value counts n."""
    callers: int
    memory_peak_bytes: int | None
    """Of the process tree, Python and the inputs included."""
    memory_increment_bytes: int | None
    """By how much the peak lies above the runtime, imported and with nothing loaded."""
    placement: dict[str, float]
    conditions_before: Conditions
    conditions_after: Conditions
    versions: dict[str, str]
    environment: dict[str, Any]
    windows_ms: tuple[float, ...]
    """The median of each turn; turn i of all contestants of one contest ran side by side."""
    turns_ms: tuple[float, ...]
    """The inverse of each turn's throughput: milliseconds per run, all callers together."""
    batch: int | None = None
    """The batch of each run; None for the dims' opt values."""
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a contestant has no measurement."""

    name: str
    kind: Literal["crashed", "hung", "out_of_memory", "wrong_answer", "error"]
    message: str
    error: dict[str, str] | None = None
    """As `agent.errors.to_record` makes it, where the contestant itself could say what is wrong."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ratio:
    """How a's latency compares with b's: 0.8 means that a takes 80 % of b's time."""

    value: float
    low: float
    high: float
    """At 95 % from 6 rounds on; of fewer, the least and the greatest that was seen."""
    rounds: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two variants measured in one contest."""

    left: Measurement
    right: Measurement
    ratio: Ratio
    """The left one's latency over the right one's."""


def compare(a: Measurement, b: Measurement, by: Quantity = "latency") -> Ratio:
    """The latency of a over that of b, paired by round, so that what slowed both cancels out.

    Both must come from one contest. The interval is the sign test's on the rounds' ratios.

    Args:
        a: of these two, that which is compared.
        b: what it is held against.
        by: with `throughput`, b's throughput over that of a: less is better in both.
    """
    if by == "throughput":
        return ratio(a.turns_ms, b.turns_ms)
    return ratio(a.windows_ms, b.windows_ms)


def ratio(a: Sequence[float], b: Sequence[float]) -> Ratio:
    """The same of the windows' medians; where one left the contest early, of the rounds of both."""
    rounds = min(len(a), len(b))
    found = median_interval(np.divide(a[:rounds], b[:rounds]))
    return Ratio(value=found.value, low=found.low, high=found.high, rounds=rounds)


def latency(windows: Sequence[Sequence[int] | Array], *, stable: bool) -> Latency:
    """The latency's quantiles from windows of nanoseconds.

    Runs within a window are alike, so counted as independent they make too narrow an interval.
    Where every window has runs enough for the quantile, the interval also spans the one of the
    windows' own quantiles.
    """
    runs = np.concatenate([np.asarray(window, np.float64) for window in windows]) / 1e6
    medians = [float(np.median(window)) / 1e6 for window in windows]
    bounds: dict[str, Interval] = {"p50": median_interval(runs)}
    bounds["p50"] = _spanning(bounds["p50"], median_interval(medians))
    for name, q in QUANTILES.items():
        found = quantile_bounds(runs, q)
        if found is None or name == "p50":
            continue
        if min(map(len, windows)) >= samples_for(q):
            found = _spanning(found, median_interval([np.quantile(w, q) / 1e6 for w in windows]))
        bounds[name] = found
    values = {name: bounds[name].value if name in bounds else None for name in QUANTILES}
    return Latency(
        p50=bounds["p50"].value,
        p90=values["p90"],
        p95=values["p95"],
        p99=values["p99"],
        n=len(runs),
        low=bounds["p50"].low,
        high=bounds["p50"].high,
        stable=stable,
        bounds=bounds,
        spread=tuple(float(time) for time in np.quantile(runs, _SPREAD)),
    )


def _spanning(one: Interval, other: Interval) -> Interval:
    return Interval(value=one.value, low=min(one.low, other.low), high=max(one.high, other.high))
