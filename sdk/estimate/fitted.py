"""Latency by what was fitted for a profile, where that covers the program and the recipe. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from profiles import Fitted, Profile
from sdk.estimate.interval import Interval
from sdk.estimate.precision import ELEMENT_BYTES
from sdk.estimate.terms import terms
from targets.interface import Program, Recipe


def fitted_latency_ms(program: Program, profile: Profile, recipe: Recipe) -> Interval | None:
    """One request's latency; None where nothing was fitted for this recipe or these operators.

    Nine in ten such predictions were off by less than the interval when it was fitted. It is no
    bound: physics allows more, and `sdk.estimate.latency` says how much.
    """
    own = find_fitted(profile, recipe)
    value = None if own is None else weighed(own.ms, terms(program, recipe))
    if own is None or not value:
        return None
    return Interval(value=value, low=value * own.low, high=value * own.high)


def find_fitted(profile: Profile, recipe: Recipe) -> Fitted | None:
    """What was fitted for this kind of recipe."""
    kind = kind_of(recipe)
    for entry in profile.fitted:
        if (entry.toolchain, entry.engine) == (recipe.toolchain, recipe.engine):
            return entry if kind in entry.kinds else None
    return None


def weighed(ms: Mapping[str, float], amounts: Mapping[str, float]) -> float | None:
    """The milliseconds of these amounts; None where one of them was never learnt."""
    if not amounts.keys() <= ms.keys():
        return None
    return sum(ms[name] * amount for name, amount in amounts.items())


def kind_of(recipe: Recipe) -> str:
    """What of a recipe decides its speed: recipes of one kind share what was fitted.

    Strengths, presets and ranges of a quantisation change answers, not kernels. Weights stored in
    f16 and computed in f32 are f32 from the moment they are loaded.

    >>> kind_of(Recipe(toolchain="onnxruntime", format="onnxruntime", precision="int8",
    ...     quantisation={"method": "dynamic"}, options={"intra_op_threads": 1}))
    'int8 dynamic intra_op_threads=1'
    """
    precision, quantisation = recipe.precision, recipe.quantisation or {}
    hint = str(recipe.options.get("INFERENCE_PRECISION_HINT"))
    if precision == "f16" and hint in ELEMENT_BYTES:
        precision = hint
    options = [f"{key}={recipe.options[key]}" for key in sorted(recipe.options)]
    method = str(quantisation.get("method", "plain"))
    # With operators kept in floating point it is of no one precision: nothing was fitted for that.
    mixed = ["mixed"] if quantisation.get("ignored") else []
    return " ".join([precision, method, *mixed, *options])
