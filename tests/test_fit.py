"""The fit: constants from measurements, never negative, and an interval that holds what it says."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import UsageError
from agent.manifest import Signature
from profiles import Fitted, Profile, find
from sdk.estimate import bounds, estimate
from sdk.estimate.fitted import fitted_latency_ms, kind_of
from sdk.estimate.terms import class_of, terms
from sdk.fit import FEWEST_ROWS, Origin, Row, fit, held_out, interval
from sdk.microbenchmarks import cases
from targets.interface import OpCost, Program, Recipe
from targets.recipes import executorch, nncf, onnxruntime, openvino

ORIGIN = Origin(date="2026-11-21", device="ab12", tools={"openvino": "2026.4.1"})
F32 = openvino("CPU", "f32", "f32")
INT8 = openvino("CPU", "int8", "f32", quantisation=nncf(None))
TRUTH = {"request": 0.02, "conv.gflop": 10.0, "conv.kernels": 0.005, "norm.mb": 0.4}


def _conv(gflop: float) -> OpCost:
    return OpCost(
        op="aten.conv2d.default",
        kind="conv",
        flops=int(gflop * 1e9),
        bytes=0,
        rows=196,
        columns=64,
        depth=576,
        taps=9,
    )


def _norm(mb: float) -> OpCost:
    size = int(mb * 1e6)
    return OpCost(op="aten.layer_norm.default", kind="other", flops=0, bytes=size)


def _program(costs: Sequence[OpCost]) -> Program:
    return Program(
        kind="exported",
        path=Path("program.pt2"),
        signature=Signature(inputs=(), outputs=(), dims={}),
        digest="",
        costs=tuple(costs),
        weight_bytes=0,
    )


def _true_ms(program: Program) -> float:
    total = TRUTH["request"]
    for cost in program.costs:
        if cost.kind == "conv":
            total += cost.flops / 1e9 * TRUTH["conv.gflop"] + TRUTH["conv.kernels"]
        else:
            total += cost.bytes / 1e6 * TRUTH["norm.mb"]
    return total


def _rows(
    count: int, *, noise: float = 0.0, seed: int = 1, recipe: Recipe = F32, nets: int = 0
) -> list[Row]:
    """Programs with known times; the last `nets` judge."""
    draw = random.Random(seed)
    rows = []
    for index in range(count):
        judges = index >= count - nets
        length = draw.randint(6, 20) if judges else draw.randint(1, 3)
        costs = [
            _conv(10 ** draw.uniform(-4, -0.5)) if draw.random() < 0.6 else _norm(draw.random())
            for _ in range(length)
        ]
        program = _program(costs)
        ms = _true_ms(program) * math.exp(draw.gauss(0, noise))
        rows.append(Row(name=f"p{index}", program=program, recipe=recipe, ms=ms, judges=judges))
    return rows


def _blocks(rows: Sequence[Row]) -> tuple[Fitted, ...]:
    return tuple(entry.block for entry in fit(rows, ORIGIN) if entry.block is not None)


def _host(fitted: tuple[Fitted, ...]) -> Profile:
    return dataclasses.replace(find("core-ultra-155h", ()), fitted=fitted)


@pytest.mark.parametrize(("noise", "tolerance"), [(0.0, 0.001), (0.05, 0.15), (0.2, 0.4)])
def test_known_coefficients_are_found_under_noise(noise: float, tolerance: float) -> None:
    (found,) = _blocks(_rows(300, noise=noise, nets=60))
    assert found.ms["conv.f32.gflop"] == pytest.approx(TRUTH["conv.gflop"], rel=tolerance)
    assert found.ms["norm.f32.mb"] == pytest.approx(TRUTH["norm.mb"], rel=tolerance)
    assert (found.rows, found.held_out) == (300, 60)
    assert found.error <= 2 * noise + 0.001


def test_a_row_far_off_hardly_moves_the_fit() -> None:
    rows = _rows(200, nets=40)
    spoilt = [dataclasses.replace(r, ms=r.ms * 6) if i % 25 == 0 else r for i, r in enumerate(rows)]
    (found,) = _blocks(spoilt)
    assert found.ms["conv.f32.gflop"] == pytest.approx(TRUTH["conv.gflop"], rel=0.05)


@given(
    st.lists(
        st.tuples(st.floats(1e-4, 1.0), st.floats(0.0, 1.0), st.floats(1e-3, 1e3)),
        min_size=FEWEST_ROWS,
        max_size=40,
    )
)
def test_no_coefficient_is_ever_below_0(drawn: list[tuple[float, float, float]]) -> None:
    rows = [
        Row(name=str(i), program=_program([_conv(g), _norm(m)]), recipe=F32, ms=ms, judges=True)
        for i, (g, m, ms) in enumerate(drawn)
    ]
    (found,) = _blocks(rows)
    assert min(found.ms.values()) >= 0
    assert 0 < found.low <= found.high


def test_the_interval_holds_nine_in_ten_of_networks_it_has_not_seen() -> None:
    inside = total = 0
    for seed in range(12):
        (found,) = _blocks(_rows(200, noise=0.15, seed=seed, nets=60))
        profile = _host((found,))
        for row in _rows(100, noise=0.15, seed=1000 + seed, nets=100):
            guess = fitted_latency_ms(row.program, profile, F32)
            assert guess is not None
            total += 1
            inside += guess.low <= row.ms <= guess.high
    assert 0.85 <= inside / total <= 0.95


def test_a_judged_program_is_no_part_of_what_judges_it() -> None:
    rows = _rows(200, nets=40)
    last = rows[-1]
    # Its own time in the fit would draw the prediction towards it; held out, it is far off.
    judged = held_out([*rows[:-1], dataclasses.replace(last, ms=last.ms * 100)])
    ratios = sorted(entry.ratio for entry in judged)
    assert ratios[-1] == pytest.approx(100, rel=0.02)
    assert ratios[-2] == pytest.approx(1, rel=0.02)


@pytest.mark.parametrize(
    ("ratios", "low", "high"),
    [
        ([1.0] * 10, 1.0, 1.0),
        ([0.5, *[1.0] * 8, 2.0], 0.5, 2.0),  # of few, all that was seen
        ([0.1, 0.5, *[1.0] * 36, 2.0, 9.0], 0.5, 2.0),  # of 40, the second on either side
    ],
)
def test_an_interval_by_ranks(ratios: list[float], low: float, high: float) -> None:
    assert interval(ratios) == (low, high)


@pytest.mark.parametrize(
    ("rows", "what"),
    [
        (_rows(FEWEST_ROWS - 1, nets=15), "Nothing can be fitted from 19 measurements"),
        (_rows(50, nets=5), "Nothing can be fitted from 50 measurements"),
        ([], "Nothing can be fitted from 0 measurements"),
        ([dataclasses.replace(_rows(1)[0], ms=0.0)], "is 0.0 ms"),
        ([dataclasses.replace(_rows(1)[0], ms=math.nan)], "is nan ms"),
        ([dataclasses.replace(_rows(1)[0], ms=math.inf)], "is inf ms"),
    ],
    ids=["too few", "too few networks", "none", "zero", "not a number", "endless"],
)
def test_rows_that_nothing_can_be_fitted_from(rows: list[Row], what: str) -> None:
    with pytest.raises(UsageError, match=what) as caught:
        fit(rows, ORIGIN)
    assert caught.value.cause
    assert caught.value.remedy


def test_toolchains_are_fitted_apart_and_one_without_rows_is_left_out() -> None:
    ort = Recipe(toolchain="onnxruntime", format="onnxruntime", precision="f32")
    slower = [dataclasses.replace(r, recipe=ort, ms=3 * r.ms) for r in _rows(200, nets=40)]
    few = [dataclasses.replace(r, recipe=executorch("xnnpack", "f32")) for r in _rows(10, nets=5)]
    found = _blocks([*_rows(200, nets=40), *slower, *few])
    assert [entry.toolchain for entry in found] == ["onnxruntime", "openvino"]
    one, other = (entry.ms["conv.f32.gflop"] for entry in found)
    assert one == pytest.approx(3 * other, rel=0.01)


def _uncovered() -> list[tuple[str, Program, Recipe]]:
    program = _program([_conv(0.1)])
    lstm = OpCost(op="aten.lstm.input", kind="recurrent", flops=1000, bytes=1000, rows=10)
    threads = dataclasses.replace(F32, options={**F32.options, "INFERENCE_NUM_THREADS": 1})
    return [
        ("another precision", program, INT8),
        ("another toolchain", program, executorch("xnnpack", "f32")),
        ("another engine", program, openvino("GPU", "f32", "f32")),
        ("other threads", program, threads),
        ("an operator that no program had", _program([_conv(0.1), lstm]), F32),
    ]


@pytest.mark.parametrize(
    ("program", "recipe"),
    [entry[1:] for entry in _uncovered()],
    ids=[entry[0] for entry in _uncovered()],
)
def test_what_was_not_fitted_is_estimated_as_before(program: Program, recipe: Recipe) -> None:
    profile = _host(_blocks(_rows(200, nets=40)))
    assert fitted_latency_ms(program, profile, recipe) is None
    assert estimate(program, profile, recipe) == bounds(program, profile, recipe)


def test_what_was_fitted_is_used_and_bounds_stay_as_they_are() -> None:
    profile, program = _host(_blocks(_rows(200, nets=40))), _program([_conv(0.1), _norm(0.5)])
    found = estimate(program, profile, F32).latency_ms
    assert found is not None
    assert found.value == pytest.approx(_true_ms(program), rel=0.01)
    plain = dataclasses.replace(profile, fitted=())
    assert bounds(program, profile, F32) == bounds(program, plain, F32)
    assert estimate(program, plain, F32) == bounds(program, plain, F32)


KINDS: list[tuple[str, Recipe, Recipe, bool]] = [
    ("f16 weights computed in f32", F32, openvino("CPU", "f16", "f32"), True),
    ("bf16", F32, openvino("CPU", "bf16", "bf16"), False),
    ("another preset", INT8, dataclasses.replace(INT8, quantisation={"method": "nncf"}), True),
    ("another rest", INT8, openvino("CPU", "int8", "bf16", quantisation=nncf(None)), False),
    (
        "quantised on the fly",
        onnxruntime(None, find("n100", ()), "int8", quantisation={"method": "static"}),
        onnxruntime(None, find("n100", ()), "int8", quantisation={"method": "dynamic"}),
        False,
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("one", "other", "alike"), [entry[1:] for entry in KINDS], ids=[entry[0] for entry in KINDS]
)
def test_recipes_of_one_kind_share_what_was_fitted(one: Recipe, other: Recipe, alike: bool) -> None:
    assert (kind_of(one) == kind_of(other)) is alike


_CONV: dict[str, Any] = {"kind": "conv", "taps": 9, "depth": 144, "columns": 32, "rows": 49}
CLASSES: list[tuple[str, dict[str, Any], str | None]] = [
    ("aten.conv2d.default", {**_CONV, "taps": 1, "depth": 16}, "pointwise"),
    ("aten.conv2d.default", _CONV, "conv"),
    ("aten.conv2d.default", {**_CONV, "depth": 135}, "conv_odd"),
    ("aten.conv2d.default", {**_CONV, "columns": 18}, "conv_odd"),
    ("aten.conv2d.default", {**_CONV, "depth": 27}, "stem"),
    ("aten.conv2d.default", {**_CONV, "groups": 4}, "grouped"),
    ("Conv", {**_CONV, "depth": 9, "columns": 1, "groups": 32, "depthwise": True}, "depthwise"),
    ("Conv", {**_CONV, "depth": 9, "columns": 1, "groups": 33, "depthwise": True}, "depthwise_odd"),
    ("aten.linear.default", {"kind": "matmul", "weight_bytes": 4, "rows": 1}, "vector"),
    ("aten.linear.default", {"kind": "matmul", "weight_bytes": 4, "rows": 64}, "linear"),
    ("aten.matmul.default", {"kind": "matmul", "rows": 64}, "product"),
    ("aten.scaled_dot_product_attention.default", {"kind": "matmul"}, "attention"),
    ("aten.gru.input", {"kind": "recurrent"}, "gru"),
    ("aten.layer_norm.default", {"kind": "other"}, "norm"),
    ("Softmax", {"kind": "other"}, "softmax"),
    ("aten.cat.default", {"kind": "other"}, "move"),
    ("aten.max_pool2d.default", {"kind": "other"}, "pool"),
    ("aten.mean.dim", {"kind": "other"}, "reduction"),
    ("aten.conv2d.default", {**_CONV, "taps": 1, "depth": 16, "rows": 1}, "vector"),
    ("aten.gelu.default", {"kind": "other"}, "gelu"),
    ("aten.relu_.default", {"kind": "other", "fused": True}, "fused"),
    ("aten.gelu.default", {"kind": "other", "fused": True}, "fused_gelu"),
    ("aten.permute.default", {"kind": "other", "fused": True}, "reordered"),
    ("aten.view.default", {"kind": "other", "fused": True}, None),
]


@pytest.mark.parametrize(("op", "fields", "expected"), CLASSES)
def test_classes(op: str, fields: dict[str, Any], expected: str | None) -> None:
    assert class_of(OpCost(op=op, flops=1, bytes=8, **fields)) == expected


@given(st.integers(1, 100), st.integers(0, 10**6), st.booleans())
def test_amounts_are_never_below_0_and_grow_with_the_program(
    columns: int, weights: int, twice: bool
) -> None:
    cost = dataclasses.replace(_conv(0.01), columns=columns, weight_bytes=weights, bytes=weights)
    one = terms(_program([cost]), F32)
    more = terms(_program([cost] * (2 if twice else 1)), F32)
    assert min(one.values()) > 0
    assert one.keys() == more.keys()
    assert all(more[name] >= one[name] for name in one)


def test_the_micro_benchmarks_are_many_and_always_the_same() -> None:
    found = cases()
    assert len({case.name for case in found}) == len(found)
    assert sum(not case.is_net for case in found) >= 200
    assert found == cases()
    assert set(cases(quick=True)) < set(found)
    # Another draw is of other networks alone: neither fit has seen what both are judged on.
    other = cases(networks="x12ab34")
    assert {case.name for case in found} & {case.name for case in other} == {
        case.name for case in found if not case.is_net
    }
    assert [case.family for case in other] == [case.family for case in found]
    one, two = ({(c.shape, c.layers) for c in some if c.is_net} for some in (found, other))
    assert len(one & two) <= 3  # families with few sizes repeat one now and then
    assert {case.family for case in cases(quick=True)} == {case.family for case in found}
