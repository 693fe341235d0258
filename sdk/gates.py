"""What a device must find itself before it activates a variant: floors, gates, the drop. Pure.

Integers only: this goes into what gets signed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from agent.manifest import Floor, Gate, Signature
from sdk.result import Result

_QUANTILES = {
    "latency_p50_ms": 500,
    "latency_p90_ms": 900,
    "latency_p95_ms": 950,
    "latency_p99_ms": 990,
}
# A device of another instruction set class answers a little differently from the build host; three
# times the distance seen, and a thousandth, tells that apart from a wrong answer.
_SLACK_TIMES, _SLACK_PPM = 3, 1_000
_UNSEEN_FLOOR_PPM = 900_000  # where nothing could be run: far from equal is still wrong


def floors(result: Result, signature: Signature) -> tuple[Floor, ...]:
    """The least agreement with the original on golden data, per output."""
    evaluation = result.report.evaluation if result.report else None
    seen = {a.output: a.value for a in evaluation.golden} if evaluation else {}
    found = []
    for spec in signature.outputs:
        is_float = np.dtype(spec.dtype).kind == "f"
        value = seen.get(spec.name)
        if value is None:
            ppm = _UNSEEN_FLOOR_PPM
        else:
            ppm = 1_000_000 - math.ceil((1 - value) * 1_000_000) * _SLACK_TIMES - _SLACK_PPM
        found.append(
            Floor(
                output=spec.name,
                metric="cosine" if is_float else "equal_share",
                min_ppm=max(0, min(ppm, 1_000_000)),
            )
        )
    return tuple(found)


def gates(limits: Mapping[str, float]) -> tuple[Gate, ...]:
    """The limits that a device can measure, in integers; rounded so that none is loosened."""
    found = []
    for name, limit in limits.items():
        if name in _QUANTILES:
            found.append(
                Gate(
                    quantity="latency_us",
                    quantile_permille=_QUANTILES[name],
                    max=math.floor(limit * 1000),
                )
            )
        elif name == "throughput_per_s":
            found.append(Gate(quantity="throughput_milli_per_s", min=math.ceil(limit * 1000)))
        elif name == "peak_memory_mib":
            found.append(Gate(quantity="memory_peak_bytes", max=math.floor(limit * (1 << 20))))
        elif name == "speedup" and limit > 0:
            found.append(
                Gate(
                    quantity="latency_us",
                    quantile_permille=500,
                    ratio_max_permille=math.floor(1000 / limit),
                    ratio_to="baseline",
                )
            )
        elif name == "memory_reduction":
            found.append(
                Gate(
                    quantity="memory_increment_bytes",
                    ratio_max_permille=math.floor(1000 * (1 - limit)),
                    ratio_to="baseline",
                )
            )
    return tuple(found)


def drop_max_ppm(limits: Mapping[str, float]) -> int | None:
    """The limit on the accuracy drop in parts per million."""
    limit = limits.get("accuracy_drop")
    return None if limit is None else math.floor(limit * 1_000_000)
