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
from sdk.estimate import Estimate, Interval, estimate, file_bytes
from sdk.estimate.constants import DEFAULT, EngineConstants
from targets import intel, mobile, target
from targets.interface import OpCost, Program, Recipe, Request

MIB = 1 << 20


def _program(costs: list[OpCost], weight_bytes: int = 4 * MIB, **fields: Any) -> Program:
    return Program(
        kind="exported",
        path=Path("program.pt2"),
        signature=Signature(inputs=(), outputs=(), dims={}),
        digest="0" * 64,
        costs=tuple(costs),
        weight_bytes=weight_bytes,
        **fields,
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
        bytes=st.integers(10**6, 10**9),
        weight_bytes=st.integers(0, 10**5),
        output_bytes=st.integers(0, 10**5),
        depthwise=st.booleans(),
        fused=st.booleans(),
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


@given(_costs, _profiles(), _recipes, st.floats(1.0, 100.0))
def test_faster_memory_is_never_slower(
    costs: list[OpCost], profile: Profile, recipe: Recipe, factor: float
) -> None:
    if profile.bandwidth_gb_s is None:
        return
    wider = Figure(value=factor * profile.bandwidth_gb_s.value, source="a test")
    before = estimate(_program(costs), profile, recipe).latency_ms
    quick = dataclasses.replace(profile, bandwidth_gb_s=wider)
    after = estimate(_program(costs), quick, recipe).latency_ms
    assert (before is None) is (after is None)
    if before and after:
        assert after.value <= before.value
        assert after.low == before.low  # which counts on caches


def test_an_operator_takes_the_slower_of_arithmetic_and_memory() -> None:
    profile = find("core-ultra-155h", ())
    own = DEFAULT.engines["cpu"]
    fixed = own.request_ms.value + own.launch_ms.value + 16 * own.launch_ms_per_core.value
    compute = _latency(_program([_cost(10**10)]), profile, _recipe("f32"))
    traffic = _latency(_program([_cost(1, size=10**9)]), profile, _recipe("f32"))
    share = own.efficiency_of("conv", "f32")
    assert compute.value == pytest.approx(10**10 / (share * 482e6) + fixed)
    assert traffic.value == pytest.approx(10**9 / (own.bandwidth.value * 119.5e6) + fixed)


def test_narrower_numbers_make_less_traffic() -> None:
    profile, program = find("core-ultra-155h", ()), _program([_cost(0, size=10**9)])
    own = DEFAULT.engines["cpu"]
    fixed = own.request_ms.value + own.launch_ms.value + 16 * own.launch_ms_per_core.value
    wide, half, quarter = (
        _latency(program, profile, _recipe(precision)).value - fixed
        for precision in ("f32", "f16", "int8")
    )
    assert wide == pytest.approx(2 * half)
    assert wide == pytest.approx(4 * quarter)


def test_what_is_fused_costs_nothing() -> None:
    profile = find("core-ultra-155h", ())
    fused = dataclasses.replace(_cost(10**6, kind="other"), fused=True)
    alone = _latency(_program([_cost(10**9)]), profile, _recipe("f32"))
    assert _latency(_program([_cost(10**9), fused, fused]), profile, _recipe("f32")) == alone


def test_the_lower_bound_counts_on_caches_on_cheap_launches_and_on_more_than_the_peak() -> None:
    profile, own = find("core-ultra-155h", ()), DEFAULT.engines["cpu"]
    streaming = _latency(_program([_cost(1, size=10**9)] * 10), profile, _recipe("f32"))
    launches = 10 * (own.launch_ms.value + 16 * own.launch_ms_per_core.value)
    assert streaming.low < launches < streaming.value / own.spread.value
    busy = _latency(_program([_cost(10**11)]), profile, _recipe("f32"))
    at_peak = 10**11 / (482 * 1e6)
    assert busy.low == pytest.approx(at_peak / DEFAULT.most_of_peak.value, rel=0.01)


def test_a_stand_in_never_bounds_a_faster_precision_from_below() -> None:
    profile, program = find("core-ultra-155h", ()), _program([_cost(10**11)])
    cpu = profile.engines["cpu"]
    only_f32 = dataclasses.replace(cpu, peak={"f32": cpu.peak["f32"]})
    without = dataclasses.replace(profile, engines={"cpu": only_f32})
    # as int8 on AMX: 12 times f32, and Winograd beside it
    fastest = 10**11 / (12.2 * 2.25 * cpu.peak["f32"].value * 1e6)
    assert _latency(program, without, _recipe("int8")).low < fastest
    # f16 on tensor cores is known, TF32 is not: at most as fast as f16
    figures = {"f32": Figure(value=51e3, source="a"), "f16": Figure(value=756e3, source="a")}
    gpu = dataclasses.replace(profile, engines={"gpu": Engine(name="gpu", title="", peak=figures)})
    found = _latency(program, gpu, _recipe("bf16", engine="gpu"))
    assert found.low < 10**11 / (756e3 * 1e6)


def test_many_small_kernels_cost_their_launches() -> None:
    profile, kernels = find("core-ultra-155h", ()), [_cost(1)] * 100
    own = DEFAULT.engines["cpu"]
    found = _latency(_program(kernels), profile, _recipe("f32"))
    assert found.value >= 100 * own.launch_ms.value


def test_depthwise_reaches_less_of_the_peak() -> None:
    profile = find("core-ultra-155h", ())
    depthwise = dataclasses.replace(_cost(10**9), depthwise=True)
    slow = _latency(_program([depthwise]), profile, _recipe("f32"))
    assert slow.value > _latency(_program([_cost(10**9)]), profile, _recipe("f32")).value


PRECISIONS = {
    # recipe's precision, options, quantisation, operator kind -> GFLOP/s it is computed at
    "f32 on a GPU is TF32": ("f32", {}, None, "conv", 8000),
    "unless TensorRT is told not to": ("f32", {"builder": {"tf32": False}}, None, "conv", 2000),
    "and it is so where it is said": ("f32", {"builder": {"tf32": True}}, None, "conv", 8000),
    "nor where CUDA is told not to": (
        "f32", {"providers": [["CUDAExecutionProvider", {"use_tf32": "0"}], "CPU"]}, None, "conv",
        2000,
    ),
    "but where CUDA is told to": (
        "f32", {"providers": [["CUDAExecutionProvider", {"use_tf32": "1"}], "CPU"]}, None, "conv",
        8000,
    ),
    "f16": ("f16", {}, None, "conv", 16000),
    "f16 stored, f32 computed": (
        "f16", {"INFERENCE_PRECISION_HINT": "f32"}, None, "conv", 8000,
    ),
    "int8": ("int8", {}, {"method": "static"}, "conv", 32000),
    "on the fly only products are int8": ("int8", {}, {"method": "dynamic"}, "matmul", 32000),
    "and convolutions are not": ("int8", {}, {"method": "dynamic"}, "conv", 8000),
    "weights of 4 bits are too": ("int4", {}, {"method": "dynamic"}, "matmul", 32000),
    "weights alone are int8": (
        "int8", {"INFERENCE_PRECISION_HINT": "f16"}, {"method": "weights"}, "matmul", 16000,
    ),
    "weights alone are int4": ("int4", {}, {"method": "weights"}, "matmul", 8000),
    "and activations as they come": (
        "int4", {"DYNAMIC_QUANTIZATION_GROUP_SIZE": 32}, {"method": "weights"}, "matmul", 32000,
    ),
    "but not before a convolution": (
        "int4", {"DYNAMIC_QUANTIZATION_GROUP_SIZE": 32}, {"method": "weights"}, "conv", 8000,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", PRECISIONS.values(), ids=PRECISIONS)
def test_each_operator_is_computed_in_its_own_precision(case: Any) -> None:
    precision, options, quantisation, kind, gflops = case
    peak = {"f32": 2000.0, "tf32": 8000.0, "f16": 16000.0, "int8": 32000.0}
    figures = {name: Figure(value=value, source="a test") for name, value in peak.items()}
    profile = dataclasses.replace(
        find("core-ultra-155h", ()),
        engines={"gpu": Engine(name="gpu", title="", peak=figures)},
    )
    recipe = _recipe(precision, engine="gpu", options=options, quantisation=quantisation)
    share = {"*": Figure(value=0.5, source="a test")}
    constants = dataclasses.replace(
        DEFAULT,
        engines={
            "gpu": dataclasses.replace(
                DEFAULT.engines["gpu"], efficiency=dict.fromkeys(("conv", "matmul"), share)
            )
        },
    )
    own = constants.engines["gpu"]
    program = _program([_cost(10**11, kind=kind)])
    found = estimate(program, profile, recipe, constants).latency_ms
    assert found is not None
    fixed = own.request_ms.value + own.launch_ms.value
    assert found.value == pytest.approx(10**11 / (0.5 * gflops * 1e6) + fixed)


def test_what_a_recipe_ignores_is_computed_in_floats() -> None:
    costs = [dataclasses.replace(_cost(10**10), name=f"conv{index}") for index in range(4)]
    profile = find("n100", ())

    def value(*ignored: str) -> float:
        quantisation = {"method": "pt2e", "ignored": list(ignored)}
        return _latency(_program(costs), profile, _recipe("int8", quantisation=quantisation)).value

    plain = _latency(_program(costs), profile, _recipe("f32")).value
    assert value() < value("conv0") < value("conv0", "conv1") < plain
    assert value(*(f"conv{index}" for index in range(4))) == pytest.approx(plain)


@pytest.mark.parametrize(("rest", "ratio"), [("f32", 4.0), ("f16", 2.0), (None, 1.0)])
def test_quantisers_leave_norms_in_floating_point(rest: str | None, ratio: float) -> None:
    profile, own = find("core-ultra-155h", ()), DEFAULT.engines["cpu"]
    norm = OpCost(op="aten.layer_norm.default", kind="other", flops=0, bytes=10**9)
    quantisation = {"method": "nncf"} | ({"rest": rest} if rest else {})
    fixed = own.request_ms.value + own.launch_ms.value + 16 * own.launch_ms_per_core.value
    found = _latency(_program([norm]), profile, _recipe("int8", quantisation=quantisation))
    int8 = 0.25 * 10**9 / (own.bandwidth.value * 119.5e6)
    assert found.value - fixed == pytest.approx(ratio * int8)


def _width(interval: Interval) -> float:
    return interval.high / interval.low


def _without_bandwidth(profile: Profile, program: Program) -> tuple[Profile, Program]:
    return dataclasses.replace(profile, bandwidth_gb_s=None), program


def _stand_in(profile: Profile, program: Program) -> tuple[Profile, Program]:
    cpu = profile.engines["cpu"]
    peak = {"f32": cpu.peak["f32"]}
    engines = {"cpu": dataclasses.replace(cpu, peak=peak)}
    return dataclasses.replace(profile, engines=engines), program


def _dynamic(profile: Profile, program: Program) -> tuple[Profile, Program]:
    signature = Signature(inputs=(), outputs=(), dims={"batch": (1, 1, 8)})
    return profile, dataclasses.replace(program, signature=signature)


def _recurrent(profile: Profile, program: Program) -> tuple[Profile, Program]:
    more = _cost(10**6, kind="recurrent")
    return profile, dataclasses.replace(program, costs=(*program.costs, more))


UNKNOWNS = {
    "no bandwidth": _without_bandwidth,
    "another precision's peak": _stand_in,
    "dims that vary": _dynamic,
    "recurrent layers": _recurrent,
}


@pytest.mark.parametrize("forget", UNKNOWNS.values(), ids=UNKNOWNS)
def test_what_is_not_known_widens_the_interval(forget: Any) -> None:
    profile, program, recipe = find("core-ultra-155h", ()), _program([_cost(10**9)]), "int8"
    known = _latency(program, profile, _recipe(recipe))
    profile, program = forget(profile, program)
    assert _width(_latency(program, profile, _recipe(recipe))) > 1.5 * _width(known)


def test_a_dim_that_does_not_vary_is_known() -> None:
    profile, program = find("core-ultra-155h", ()), _program([_cost(10**9)])
    fixed = dataclasses.replace(
        program, signature=Signature(inputs=(), outputs=(), dims={"batch": (1, 1, 1)})
    )
    assert _latency(fixed, profile, _recipe("f32")) == _latency(program, profile, _recipe("f32"))


@pytest.mark.parametrize("own", DEFAULT.engines.values(), ids=DEFAULT.engines)
def test_every_constant_has_a_source_and_a_possible_value(own: EngineConstants) -> None:
    shares = [figure for table in own.efficiency.values() for figure in table.values()]
    for figure in (*shares, own.bandwidth):
        assert 0 < figure.value <= 1
        assert figure.source
    assert own.spread.value > 1
    assert own.launch_ms.source
    assert set(own.efficiency) == {"conv", "depthwise", "matmul", "recurrent", "other"}
    assert all("*" in table for table in own.efficiency.values())


def test_constants_can_be_replaced() -> None:
    profile, program = find("core-ultra-155h", ()), _program([_cost(10**9)])
    narrow = dataclasses.replace(DEFAULT.engines["cpu"], spread=Figure(value=1.2, source="fitted"))
    constants = dataclasses.replace(DEFAULT, engines={**DEFAULT.engines, "cpu": narrow})
    found = estimate(program, profile, _recipe("f32"), constants).latency_ms
    assert found is not None
    assert found.high == pytest.approx(1.2 * found.value)


@given(_costs, st.integers(0, 10**10), st.integers(0, 10**9), st.integers(0, 10**9), _recipes)
def test_memory_is_never_below_the_weights_and_what_is_alive(
    costs: list[OpCost], weights: int, alive: int, more: int, recipe: Recipe
) -> None:
    program = _program(costs, weights, activation_bytes=alive, activation_bytes_at_max=alive + more)
    found = estimate(program, find("core-ultra-155h", ()), recipe).peak_memory_bytes
    assert found is not None
    scale = {"f32": 1, "f16": 2, "bf16": 2, "int8": 4}[recipe.precision]
    assert found.value >= (weights + alive) // scale
    assert found.low <= max(1, weights // scale)
    assert found.high >= (alive + more) // scale


def test_dims_that_grow_raise_the_upper_bound_of_memory_alone() -> None:
    profile = find("core-ultra-155h", ())
    small = _program([_cost(1)], activation_bytes=MIB, activation_bytes_at_max=MIB)
    large = dataclasses.replace(small, activation_bytes_at_max=1000 * MIB)
    one = estimate(small, profile, _recipe("f32")).peak_memory_bytes
    other = estimate(large, profile, _recipe("f32")).peak_memory_bytes
    assert one is not None
    assert other is not None
    assert (one.value, one.low) == (other.value, other.low)
    assert one.high < other.high


def test_an_embeddings_table_may_stay_on_disk() -> None:
    table = OpCost(op="aten.embedding.default", kind="other", flops=0, bytes=8, weight_bytes=4)
    program = _program([table], weight_bytes=1000 * MIB)
    found = estimate(program, find("core-ultra-155h", ()), _recipe("f32")).peak_memory_bytes
    assert found is not None
    assert found.low < MIB
    assert found.value > 1000 * MIB


SIZES = {"f32": 1.0, "f16": 0.5, "bf16": 0.5, "int8": 0.25, "fp8": 0.25, "fp4": 0.125}


@pytest.mark.parametrize("precision", SIZES)
def test_files_are_as_large_as_their_weights(precision: str) -> None:
    program = _program([_cost(1)] * 10, weight_bytes=100 * MIB)
    found = file_bytes(program, _recipe(precision), DEFAULT)
    assert found.value == pytest.approx(100 * MIB * SIZES[precision], rel=0.01)
    assert found.low == 0.5 * 100 * MIB * SIZES[precision]
    assert found.high >= 100 * MIB


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
        engine = profile.engines.get(recipe.engine)
        assert (found.latency_ms is None) is (engine is None or not engine.peak)
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
