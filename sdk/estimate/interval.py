"""A prediction and how far off it may be."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Interval:
    """A prediction: the truth is expected between `low` and `high`, near `value`."""

    value: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """What is predicted for one candidate; None where the profile says too little."""

    latency_ms: Interval | None
    peak_memory_bytes: Interval | None
