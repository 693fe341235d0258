"""Latency: a roofline per operator, a fixed cost per kernel, a fixed cost per request. Pure.

    t = request + sum over kernels of max(flops / (efficiency x peak), bytes / (share x bandwidth))
                + launch x number of kernels

An operator that compilers fuse into its neighbour costs nothing (sdk/capture/graph.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from profiles import Engine, Profile
from sdk.estimate.constants import Constants, EngineConstants, OpClass
from sdk.estimate.interval import Interval
from sdk.estimate.precision import ELEMENT_BYTES, computed_in
from targets.interface import OpCost, Program, Recipe

_PER_MS = 1e6  # GFLOP/s and GB/s are 1e6 operations and bytes per millisecond


def latency_ms(
    program: Program, profile: Profile, recipe: Recipe, constants: Constants
) -> Interval | None:
    """One request's latency; None where the profile has no rate at all for the engine.

    The upper bound is the engine's own spread above the value, and higher by a factor for each
    thing that is not known. The lower bound is what physics allows, less the same factors: all
    arithmetic at more than the peak, all data in caches, hardly any fixed cost. It is there to
    disprove what cannot be, and nothing else.
    """
    found = latency_parts(program, profile, recipe, constants)
    if found is None:
        return None
    fixed, work = found
    engine, own = profile.engines[recipe.engine], constants.engines[recipe.engine]
    kernels = [cost for cost in program.costs if not cost.fused]
    rates = [_rate(recipe, engine, cost) for cost in kernels]
    value, least = fixed + work, constants.least_fixed.value * fixed
    for cost, rate in zip(kernels, rates, strict=True):
        least += cost.flops / (_most_gflops(rate, engine, constants) * _PER_MS)
    unknown = 1.0
    if any(rate.stands_in for rate in rates):
        unknown *= constants.stand_in.value
    if profile.bandwidth_gb_s is None:
        unknown *= constants.no_bandwidth.value
    if any(low < high for low, _, high in program.signature.dims.values()):
        unknown *= constants.dynamic_dims.value
    if any(cost.kind == "recurrent" for cost in kernels):
        unknown *= constants.recurrent.value
    return Interval(value=value, low=least / unknown, high=value * own.spread.value * unknown)


def latency_parts(
    program: Program, profile: Profile, recipe: Recipe, constants: Constants
) -> tuple[float, float] | None:
    """The value's two parts: what is fixed for a request and its kernels, and their work."""
    engine = profile.engines.get(recipe.engine)
    own = constants.engines.get(recipe.engine)
    if engine is None or not engine.peak or own is None or not program.costs:
        return None
    kernels = [cost for cost in program.costs if not cost.fused]
    launch = own.launch_ms.value + own.launch_ms_per_core.value * (profile.cores or 0)
    work = sum(_kernel_ms(cost, _rate(recipe, engine, cost), profile, own) for cost in kernels)
    return own.request_ms.value + launch * len(kernels), work


def _most_gflops(rate: _Rate, engine: Engine, constants: Constants) -> float:
    """What nothing on the engine can exceed."""
    if not rate.stands_in:
        return constants.most_of_peak.value * rate.gflops
    highest = max(figure.value for figure in engine.peak.values())
    return constants.most_of_highest.value * highest


def op_class(cost: OpCost) -> OpClass:
    """The class that an operator's efficiency is looked up by."""
    return "depthwise" if cost.depthwise else cost.kind


def _precision(recipe: Recipe, engine: Engine, cost: OpCost) -> str:
    """What one operator is computed in.

    f32 on a GPU that has TF32 is TF32, unless the recipe tells TensorRT or CUDA not to.
    """
    precision = computed_in(recipe, cost)
    if precision == "f32" and "tf32" in engine.peak and _may_use_tf32(recipe):
        return "tf32"
    return precision


def _may_use_tf32(recipe: Recipe) -> bool:
    """Both TensorRT and ONNX Runtime's CUDA provider use it unless they are told not to."""
    builder = recipe.options.get("builder")
    if isinstance(builder, Mapping) and not builder.get("tf32", True):
        return False
    settings = [
        entry[1] for entry in recipe.options.get("providers", ()) if not isinstance(entry, str)
    ]
    return all(str(found.get("use_tf32", "1")) == "1" for found in settings)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Rate:
    """What one operator is computed in, and at how many GFLOP/s at most."""

    precision: str
    gflops: float
    stands_in: bool
    """Another precision's figure."""


def _rate(recipe: Recipe, engine: Engine, cost: OpCost) -> _Rate:
    """The dense peak for an operator.

    Where the precision has no figure, f32's stands in; where f32 has none, that of a narrower
    precision does, less what it gains by being narrower.
    """
    precision = _precision(recipe, engine, cost)
    if precision in engine.peak:
        return _Rate(precision=precision, gflops=engine.peak[precision].value, stands_in=False)
    if "f32" in engine.peak:
        return _Rate(precision=precision, gflops=engine.peak["f32"].value, stands_in=True)
    other, figure = next(iter(engine.peak.items()))
    ratio = min(1.0, ELEMENT_BYTES[other] / ELEMENT_BYTES[precision])
    return _Rate(precision=precision, gflops=figure.value * ratio, stands_in=True)


def _kernel_ms(cost: OpCost, rate: _Rate, profile: Profile, own: EngineConstants) -> float:
    """The longer of its arithmetic and its memory traffic."""
    efficiency = own.efficiency_of(op_class(cost), rate.precision)
    compute = cost.flops / (efficiency * rate.gflops * _PER_MS)
    if profile.bandwidth_gb_s is None:
        return compute
    size = cost.bytes * ELEMENT_BYTES[rate.precision] / ELEMENT_BYTES["f32"]
    return max(compute, size / (own.bandwidth.value * profile.bandwidth_gb_s.value * _PER_MS))
