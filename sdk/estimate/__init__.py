"""What a candidate will probably cost on a device, with an interval. Pure.

It ranks candidates that cannot be measured, and disproves those that cannot fit even in the best
case; it never proves a limit. docs/explanation/estimates.md tells the method, where the constants
come from, and how far published latencies are off.
"""

from __future__ import annotations

from profiles import Profile
from sdk.estimate.constants import DEFAULT, Constants
from sdk.estimate.interval import Estimate, Interval
from sdk.estimate.latency import latency_ms
from sdk.estimate.memory import file_bytes, peak_memory_bytes
from targets.interface import Program, Recipe

__all__ = ["Constants", "Estimate", "Interval", "estimate", "file_bytes"]


def estimate(
    program: Program, profile: Profile, recipe: Recipe, constants: Constants = DEFAULT
) -> Estimate:
    """Predict one request's latency at the dims' `opt` values, and the process's peak memory."""
    return Estimate(
        latency_ms=latency_ms(program, profile, recipe, constants),
        peak_memory_bytes=peak_memory_bytes(program, profile, recipe, constants),
    )
