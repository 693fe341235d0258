"""The estimate: a wide interval that ranks and never promises."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.manifest import Signature
from profiles import Engine, Figure, Profile, all_profiles, find
from sdk.estimate import Estimate, Interval, estimate
from targets import intel, mobile, target
from targets.interface import OpCost, Program, Recipe, Request

MIB = 1 << 20


def _program(costs: list[OpCost], weight_bytes: int = 4 * MIB) -> Program:
    return Program(
        kind="exported",
        path=Path("program.pt2"),
        signature=Signature(inputs=(), outputs=(), dims={}),
        digest="0" * 64,
        costs=tuple(costs),
        weight_bytes=weight_bytes,
    )


def _recipe(precision: str, **fields: Any) -> Recipe:
    return Recipe(toolchain="openvino", format="openvino", precision=precision, **fields)


def _cost(flops: int, size: int = 1000, kind: Any = "conv") -> OpCost:
    return OpCost(op="aten.conv2d.default", kind=kind, flops=flops, bytes=size)


def _latency(program: Program, profile: Profile, recipe: Recipe) -> Interval:
    found = estimate(program, profile, recipe).latency_ms
    assert found is not None
    return found


_costs = st.lists(
    st.builds(
        OpCost,
        op=st.just("aten.linear.default"),
        kind=st.sampled_from(["matmul", "conv", "recurrent", "other"]),
        flops=st.integers(0, 10**12),
        bytes=st.integers(0, 10**9),
    ),
    min_size=1,
    max_size=5,
)
_peaks = st.dictionaries(
    st.sampled_from(["f32", "f16", "bf16", "int8"]),
    st.builds(Figure, value=st.floats(1, 1e6), source=st.just("a test")),
)


@st.composite
def _profiles(draw: st.DrawFn) -> Profile:
    bandwidth = draw(st.none() | st.builds(Figure, value=st.floats(1, 1e4), source=st.just("a")))
    engines = {
        name: Engine(name=name, title=name, peak=draw(_peaks)) for name in ("cpu", "gpu", "npu")
    }
    platform = draw(st.sampled_from(["linux", "android", "ios"]))
    return dataclasses.replace(
        find("a17-pro", ()), engines=engines, bandwidth_gb_s=bandwidth, platform=platform
    )


_recipes = st.builds(
    _recipe,
    st.sampled_from(["f32", "f16", "bf16", "int8"]),
    backend=st.sampled_from([None, "CPU", "GPU", "NPU", "xnnpack", "vulkan", "coreml"]),
    options=st.sampled_from([{}, {"INFERENCE_PRECISION_HINT": "f32"}]),
)


def _intervals(found: Estimate) -> list[Interval]:
    return [i for i in (found.latency_ms, found.peak_memory_bytes) if i is not None]


@given(_costs, _profiles(), _recipes, st.integers(0, 10**10))
def test_an_interval_holds_its_value_and_is_above_nothing(
    costs: list[OpCost], profile: Profile, recipe: Recipe, weight_bytes: int
) -> None:
    found = estimate(_program(costs, weight_bytes), profile, recipe)
    assert found.peak_memory_bytes is not None
    for interval in _intervals(found):
        assert 0 < interval.low <= interval.value <= interval.high < float("inf")


@given(_costs, _profiles(), _recipes, st.integers(0, 4), st.integers(0, 10**12))
def test_more_work_is_never_faster(
    costs: list[OpCost], profile: Profile, recipe: Recipe, index: int, more: int
) -> None:
    index %= len(costs)
    before = estimate(_program(costs), profile, recipe).latency_ms
    for change in ("flops", "bytes"):
        bigger = list(costs)
        amount = getattr(costs[index], change) + more
        bigger[index] = dataclasses.replace(costs[index], **{change: amount})
        after = estimate(_program(bigger), profile, recipe).latency_ms
        assert (before is None) is (after is None)
        if before and after:
            assert before.value <= after.value
            assert before.low <= after.low
            assert before.high <= after.high


@given(_costs, _profiles(), _recipes, st.integers(0, 10**9), st.integers(0, 10**9))
def test_more_weights_never_take_less_memory(
    costs: list[OpCost], profile: Profile, recipe: Recipe, weights: int, more: int
) -> None:
    before = estimate(_program(costs, weights), profile, recipe).peak_memory_bytes
    after = estimate(_program(costs, weights + more), profile, recipe).peak_memory_bytes
    assert before is not None
    assert after is not None
    assert before.value <= after.value


@given(_costs, _profiles(), _recipes, st.floats(1.0, 100.0))
def test_a_faster_engine_is_never_slower(
    costs: list[OpCost], profile: Profile, recipe: Recipe, factor: float
) -> None:
    def faster(engine: Engine) -> Engine:
        peak = {
            key: dataclasses.replace(f, value=f.value * factor) for key, f in engine.peak.items()
        }
        return dataclasses.replace(engine, peak=peak)

    quick = dataclasses.replace(
        profile, engines={name: faster(engine) for name, engine in profile.engines.items()}
    )
    before = estimate(_program(costs), profile, recipe).latency_ms
    after = estimate(_program(costs), quick, recipe).latency_ms
    assert (before is None) is (after is None)
    if before and after:
        assert after.value <= before.value


def test_an_operator_takes_the_slower_of_arithmetic_and_memory() -> None:
    profile = find("core-ultra-155h", ())
    compute = _latency(_program([_cost(10**10)]), profile, _recipe("f32"))
    traffic = _latency(_program([_cost(1, size=10**9)]), profile, _recipe("f32"))
    assert compute.value == pytest.approx(10**10 / (0.5 * 482e6), rel=0.01)
    assert traffic.value == pytest.approx(10**9 / (0.7 * 119.5e6), rel=0.01)


def test_a_missing_peak_is_stood_in_for_and_widens_the_interval() -> None:
    profile = find("core-ultra-155h", ())
    program = _program([_cost(10**10)])
    known = _latency(program, profile, _recipe("int8", engine="npu"))
    guessed = _latency(program, profile, _recipe("f16", engine="npu"))
    assert guessed.value == pytest.approx(2 * known.value, rel=0.05)
    assert guessed.high / guessed.low > known.high / known.low


def test_f16_weights_that_are_computed_in_f32_gain_no_arithmetic() -> None:
    profile = find("core-ultra-155h", ())
    program = _program([_cost(10**10)])
    stored = _recipe("f16", options={"INFERENCE_PRECISION_HINT": "f32"})
    assert _latency(program, profile, stored) == _latency(program, profile, _recipe("f32"))


def test_nothing_is_claimed_where_nothing_is_known() -> None:
    program = _program([_cost(10**9)])
    phone = find("snapdragon-8-gen-3", ())
    assert estimate(program, phone, _recipe("f32", engine="cpu")).latency_ms is None
    assert estimate(program, phone, _recipe("f16", engine="npu")).latency_ms is None
    without_gpu = find("xeon-sapphire-rapids", ())
    assert estimate(program, without_gpu, _recipe("f16", engine="gpu")).latency_ms is None
    intel_cpu = find("core-ultra-155h", ())
    assert estimate(_program([]), intel_cpu, _recipe("f32")).latency_ms is None


# GFLOP, milliseconds: published by OpenVINO (165H) and Apple (iPhone 15 Pro), batch 1, ResNet-50.
# The profiles' peaks come from the same pages, so this holds the constants, not the method.
PUBLISHED = [
    ("core-ultra-155h", "cpu", "int8", 7.98),
    ("core-ultra-155h", "gpu", "int8", 2.34),
    ("core-ultra-155h", "npu", "int8", 1.61),
    ("xeon-sapphire-rapids", "cpu", "int8", 1.07),
    ("xeon-sapphire-rapids", "cpu", "bf16", 1.29),
    ("a17-pro", "npu", "f16", 1.38),
    ("a17-pro", "npu", "int8", 0.77),
]


@pytest.mark.parametrize(("profile", "engine", "precision", "published_ms"), PUBLISHED)
def test_published_latencies_lie_in_the_interval(
    profile: str, engine: str, precision: str, published_ms: float
) -> None:
    layers = [_cost(int(8.18e9 / 54), size=3 * MIB)] * 54
    found = _latency(_program(layers), find(profile, ()), _recipe(precision, engine=engine))
    assert found.low <= published_ms <= found.high


@pytest.mark.parametrize("profile", all_profiles(()).values(), ids=lambda profile: profile.name)
def test_every_recipe_of_every_shipped_profile_is_estimated(profile: Profile) -> None:
    request = Request(profile=profile, program=None, has_data=True)
    for recipe in target(profile.target).recipes(request):
        found = estimate(_program([_cost(10**9)]), profile, recipe)
        assert found.peak_memory_bytes is not None
        assert recipe.engine in profile.engines


def test_an_app_holds_less_than_a_python_process() -> None:
    program = _program([_cost(10**9)])
    on_phone = Request(profile=find("a17-pro", ()), program=program, has_data=True)
    on_host = Request(profile=find("core-ultra-155h", ()), program=program, has_data=True)
    phone = next(iter(mobile.recipes(on_phone)))
    host = next(r for r in intel.recipes(on_host) if r.toolchain == "executorch")
    small = estimate(program, on_phone.profile, phone).peak_memory_bytes
    large = estimate(program, on_host.profile, host).peak_memory_bytes
    assert small
    assert large
    assert small.value < large.value
