"""Latency: a roofline per operator, a fixed cost per kernel, a fixed cost per request. Pure.

    t = request + sum over kernels of max(flops / (efficiency x peak), bytes / (share x bandwidth))
                + launch x number of kernels

An operator that compilers fuse into its neighbour costs nothing (sdk/capture/graph.py).
"""

from __future__ import annotations

from profiles import Engine, Profile
from sdk.estimate.constants import Constants, EngineConstants, OpClass
from sdk.estimate.interval import Interval, around
from targets.interface import OpCost, Program, Recipe

ELEMENT_BYTES = {
    "f32": 4.0,
    "tf32": 4.0,
    "f16": 2.0,
    "bf16": 2.0,
    "int8": 1.0,
    "fp8": 1.0,
    "fp4": 0.5,
}
"""How much memory traffic one number makes, by precision."""
_PER_MS = 1e6  # GFLOP/s and GB/s are 1e6 operations and bytes per millisecond


def latency_ms(
    program: Program, profile: Profile, recipe: Recipe, constants: Constants
) -> Interval | None:
    """One request's latency; None where the profile has no rate at all for the engine.

    The interval is the engine's own spread, times a factor for each thing that is not known.
    """
    engine = profile.engines.get(recipe.engine)
    own = constants.engines.get(recipe.engine)
    if engine is None or own is None or not program.costs:
        return None
    kernels = [cost for cost in program.costs if not cost.fused]
    value, spread = own.request_ms.value, own.spread.value
    stands_in = False
    for cost in kernels:
        precision = _precision(recipe, engine, cost)
        peak, guessed = _peak(engine, precision)
        if peak is None:
            return None
        stands_in |= guessed
        value += _kernel_ms(cost, precision, peak, profile, own)
    if stands_in:
        spread *= constants.stand_in.value
    if profile.bandwidth_gb_s is None:
        spread *= constants.no_bandwidth.value
    if any(low < high for low, _, high in program.signature.dims.values()):
        spread *= constants.dynamic_dims.value
    if any(cost.kind == "recurrent" for cost in kernels):
        spread *= constants.recurrent.value
    return around(value, spread)


def op_class(cost: OpCost) -> OpClass:
    """The class that an operator's efficiency is looked up by."""
    return "depthwise" if cost.depthwise else cost.kind


def _precision(recipe: Recipe, engine: Engine, cost: OpCost) -> str:
    """What one operator is computed in.

    Weights may be stored in f16 and computed in f32. Quantised on the fly, only products are.
    And f32 on a GPU that has TF32 is TF32, unless the recipe asks TensorRT not to.
    """
    precision = recipe.precision
    hint = str(recipe.options.get("INFERENCE_PRECISION_HINT"))
    if precision == "f16" and hint in ELEMENT_BYTES:
        precision = hint
    dynamic = (recipe.quantisation or {}).get("method") == "dynamic"
    if dynamic and cost.kind not in ("matmul", "recurrent"):
        precision = "f32"
    builder = recipe.options.get("builder")
    allowed = bool(builder.get("tf32", True)) if isinstance(builder, dict) else True
    if precision == "f32" and "tf32" in engine.peak and allowed:
        return "tf32"
    return precision


def _peak(engine: Engine, precision: str) -> tuple[float | None, bool]:
    """GFLOP/s for a precision, and whether another precision's figure stands in.

    Where the precision has no figure, f32's stands in; where f32 has none, that of a narrower
    precision does, less what it gains by being narrower.
    """
    if precision in engine.peak:
        return engine.peak[precision].value, False
    if "f32" in engine.peak:
        return engine.peak["f32"].value, True
    for other, figure in engine.peak.items():
        ratio = min(1.0, ELEMENT_BYTES[other] / ELEMENT_BYTES[precision])
        return figure.value * ratio, True
    return None, True


def _kernel_ms(
    cost: OpCost, precision: str, peak: float, profile: Profile, own: EngineConstants
) -> float:
    efficiency = own.efficiency_of(op_class(cost), precision)
    compute = cost.flops / (efficiency * peak * _PER_MS)
    traffic = 0.0
    if profile.bandwidth_gb_s is not None:
        size = cost.bytes * ELEMENT_BYTES[precision] / ELEMENT_BYTES["f32"]
        traffic = size / (own.bandwidth.value * profile.bandwidth_gb_s.value * _PER_MS)
    launch = own.launch_ms.value + own.launch_ms_per_core.value * (profile.cores or 0)
    return max(compute, traffic) + launch
