"""What a candidate will probably cost on a device: a plain roofline with a wide interval. Pure.

Per operator, the slower of arithmetic and memory traffic, plus a launch; then summed. The result
ranks candidates that cannot be measured and disproves only what is hopeless: it never proves a
limit. Constants are the same for all devices until reports from real ones replace them.
"""

from __future__ import annotations

import dataclasses

from profiles import Engine, Figure, Profile
from targets.interface import OpCost, Program, Recipe

# Share of the dense peak that one request at a time reaches. Published latencies imply: YOLO11 on
# two Jetsons and a T4 fits 0.30 to 0.40; ResNet-50 on a 165H 0.19 (GPU), 0.46 (NPU) and half of the
# throughput figures that our CPU peaks are; the NPU of an iPhone 15 Pro 0.30.
_EFFICIENCY = {"cpu": 0.5, "gpu": 0.35, "npu": 0.4}
_BANDWIDTH_EFFICIENCY = 0.7  # an assumption: no report of a real device has fitted it yet
# Milliseconds per operator. An assumption of the right order: YOLO11 nets of a few hundred
# operators show 1.25 ms (T4) to 4 ms (Jetson, Python included) that no arithmetic explains.
_LAUNCH_MS = {"cpu": 0.002, "gpu": 0.01, "npu": 0.01}
_SPREAD = 4.0  # the interval is value / 4 to value x 4: the efficiencies above differ by as much
_STAND_IN_SPREAD = 2.0  # and twice as wide where another precision's peak stands in
_NO_BANDWIDTH_SPREAD = 2.0  # and where memory traffic could not be counted

_ELEMENT_BYTES = {"f32": 4, "f16": 2, "bf16": 2, "int8": 1}
_MIB = 1 << 20
# Resident memory of a Python process with the runtime and a one-layer model, on one Linux host.
_RUNTIME_BYTES = {"openvino": 90 * _MIB, "onnxruntime": 60 * _MIB, "executorch": 350 * _MIB}
_NATIVE_RUNTIME_BYTES = 30 * _MIB  # in an app: AI Hub reports 40 to 55 MB with MobileNetV2 in it
_MEMORY_SPREAD = 4.0  # runtimes repack weights, keep arenas and plan buffers each in its own way


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


def estimate(program: Program, profile: Profile, recipe: Recipe) -> Estimate:
    """Predict one request's latency at the dims' `opt` values, and the process's peak memory."""
    return Estimate(
        latency_ms=_latency_ms(program, profile, recipe),
        peak_memory_bytes=_memory(program, profile, recipe),
    )


def _latency_ms(program: Program, profile: Profile, recipe: Recipe) -> Interval | None:
    engine = profile.engines.get(recipe.engine)
    if engine is None or not program.costs:
        return None
    peak, spread = _peak(engine, _arithmetic(recipe))
    if peak is None:
        return None
    if profile.bandwidth_gb_s is None:
        spread *= _NO_BANDWIDTH_SPREAD
    scale = _ELEMENT_BYTES[recipe.precision] / 4
    value = sum(
        _operator_ms(cost, engine.name, peak, profile.bandwidth_gb_s, scale)
        for cost in program.costs
    )
    return Interval(value=value, low=value / spread, high=value * spread)


def _arithmetic(recipe: Recipe) -> str:
    """The precision computed in: weights may be stored in f16 and computed in f32."""
    hint = recipe.options.get("INFERENCE_PRECISION_HINT")
    return str(hint) if recipe.precision == "f16" and hint in _ELEMENT_BYTES else recipe.precision


def _peak(engine: Engine, precision: str) -> tuple[float | None, float]:
    """GFLOP/s for a precision, and how wide the interval has to be for it.

    Where the precision has no figure, f32's stands in; where f32 has none, that of a narrower
    precision does, less what it gains by being narrower.
    """
    if precision in engine.peak:
        return engine.peak[precision].value, _SPREAD
    if "f32" in engine.peak:
        return engine.peak["f32"].value, _SPREAD * _STAND_IN_SPREAD
    for other, figure in engine.peak.items():
        ratio = min(1.0, _ELEMENT_BYTES[other] / _ELEMENT_BYTES[precision])
        return figure.value * ratio, _SPREAD * _STAND_IN_SPREAD
    return None, 0.0


def _operator_ms(
    cost: OpCost, engine: str, peak: float, bandwidth: Figure | None, scale: float
) -> float:
    compute = cost.flops / (_EFFICIENCY[engine] * peak * 1e6)  # GFLOP/s are 1e6 per millisecond
    traffic = 0.0
    if bandwidth is not None:
        traffic = cost.bytes * scale / (_BANDWIDTH_EFFICIENCY * bandwidth.value * 1e6)
    return max(compute, traffic) + _LAUNCH_MS[engine]


def _memory(program: Program, profile: Profile, recipe: Recipe) -> Interval | None:
    scale = _ELEMENT_BYTES[recipe.precision] / 4
    model = program.weight_bytes * scale
    model += max((cost.bytes for cost in program.costs), default=0) * scale
    native = profile.platform in ("android", "ios")
    runtime = _NATIVE_RUNTIME_BYTES if native else _RUNTIME_BYTES.get(recipe.toolchain, 0)
    value = runtime + 2 * model  # as read and as repacked
    # The least is half the weights: some may be shared or never touched.
    low = max(1, program.weight_bytes * scale // 2)
    return Interval(value=int(value), low=int(min(low, value)), high=int(value * _MEMORY_SPREAD))
