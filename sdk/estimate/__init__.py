"""What a candidate will probably cost on a device, with an interval. Pure.

It ranks candidates that cannot be measured, and disproves those that cannot fit even in the best
case; it never proves a limit. docs/explanation/estimates.md tells the method, where the constants
come from, and how far published latencies are off.
"""

from __future__ import annotations

import dataclasses

from profiles import Profile
from sdk.estimate.constants import DEFAULT, Constants
from sdk.estimate.fitted import fitted_latency_ms
from sdk.estimate.interval import Estimate, Interval
from sdk.estimate.latency import latency_ms
from sdk.estimate.memory import file_bytes, peak_memory_bytes
from sdk.estimate.scaled import scaled_latency_ms
from targets.interface import Program, Recipe

__all__ = ["Constants", "Estimate", "Interval", "bounds", "estimate", "file_bytes"]


def estimate(
    program: Program, profile: Profile, recipe: Recipe, constants: Constants = DEFAULT
) -> Estimate:
    """Predict one request's latency at the dims' `opt` values, and the process's peak memory.

    Where the profile was fitted for such a recipe, or reports taught about it, the latency's
    interval holds nine in ten; it is no bound, and `bounds` has one.
    """
    found = bounds(program, profile, recipe, constants)
    latency = fitted_latency_ms(program, profile, recipe) or found.latency_ms
    if latency is not None:
        latency = scaled_latency_ms(program, profile, recipe, latency, constants) or latency
    return dataclasses.replace(found, latency_ms=latency)


def bounds(
    program: Program, profile: Profile, recipe: Recipe, constants: Constants = DEFAULT
) -> Estimate:
    """The same by data sheets alone: its lower bound is what physics allows, and can disprove.

    A fitted interval leaves out one in twenty that are faster, so nothing may be pruned by it.
    """
    return Estimate(
        latency_ms=latency_ms(program, profile, recipe, constants),
        peak_memory_bytes=peak_memory_bytes(program, profile, recipe, constants),
    )
