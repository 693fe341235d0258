"""Latency by what reports taught about a profile, on top of its fit or its data sheet. Pure."""

from __future__ import annotations

import math

from profiles import Profile, Scale
from sdk.estimate.constants import Constants
from sdk.estimate.fitted import kind_of
from sdk.estimate.interval import Interval
from sdk.estimate.parts import base_digest, parts
from targets.interface import Program, Recipe

BETWEEN_MODELS = math.log(1.5)
"""How much models differ where too few tell: the typical factor between estimates and published
latencies (docs/explanation/estimates.md)."""
_NINE_IN_TEN = 1.645  # standard deviations of a normal, to either side


def scaled_latency_ms(
    program: Program, profile: Profile, recipe: Recipe, base: Interval, constants: Constants
) -> Interval | None:
    """One request's latency; None where reports taught nothing of this kind of recipe.

    Args:
        program: to be run.
        profile: with what was learnt.
        recipe: how.
        base: what is estimated without: where the reports were too few to tell an interval, it gets
            no narrower than that, nor than models usually differ.
        constants: of the data sheet's estimate.
    """
    own = find_scale(profile, recipe, constants)
    found = None if own is None else parts(program, profile, recipe, constants)
    if own is None or found is None:
        return None
    factors = own.factors[kind_of(recipe)]
    value = factors["fixed"] * found.fixed + factors["work"] * found.work
    if own.low is None or own.high is None:
        usual = math.exp(_NINE_IN_TEN * BETWEEN_MODELS * math.sqrt(1 + 1 / own.models))
        low, high = min(base.low / base.value, 1 / usual), max(base.high / base.value, usual)
    else:
        low, high = own.low, own.high
    return Interval(value=value, low=value * low, high=value * high)


def find_scale(profile: Profile, recipe: Recipe, constants: Constants) -> Scale | None:
    """What reports taught of this kind of recipe, if the rest of the profile is as it was then."""
    kind = kind_of(recipe)
    for entry in profile.scales:
        if (entry.toolchain, entry.engine) == (recipe.toolchain, recipe.engine):
            return (
                entry if kind in entry.factors and is_current(entry, profile, constants) else None
            )
    return None


def is_current(scale: Scale, profile: Profile, constants: Constants) -> bool:
    """Whether the profile's other facts are those that the factors were found on."""
    return scale.base == base_digest(profile, scale.toolchain, scale.engine, constants)
