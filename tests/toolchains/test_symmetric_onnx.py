"""Q/DQ pairs as TensorRT takes them: nothing clipped, no uint8, zero points 0."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from agent.sessions import load
from targets.interface import Program
from targets.lowering import onnx_symmetric
from targets.lowering.typed_onnx import constants, to_f16
from tests.toolchains.cases import CASES, VENDOR_WARNINGS
from tests.toolchains.graphs import graph, run
from tests.toolchains.variants import lower
from tests.toolchains.zoo import ZOO

pytestmark = [pytest.mark.toolchain, *VENDOR_WARNINGS]

BY_NAME = {case.name: case for case in CASES if case.recipe.toolchain == "tensorrt"}


def pair(scale: Any, zero: Any, *, axis: int | None = None, weight: Any = None) -> Any:
    """x through one pair, or a weight that is stored quantised, added to x."""
    more = {} if axis is None else {"axis": axis}
    weights = {"scale": np.asarray(scale, np.float32), "zero": np.asarray(zero)}
    if weight is None:
        nodes = [
            helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"], name="q", **more),
            helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"], name="d", **more),
        ]
    else:
        weights["weight"] = weight
        nodes = [
            helper.make_node(
                "DequantizeLinear", ["weight", "scale", "zero"], ["w"], name="d", **more
            ),
            helper.make_node("Add", ["x", "w"], ["y"], name="add"),
        ]
    return graph(nodes, weights=weights)


@settings(deadline=None, max_examples=40)
@given(
    st.floats(2**-13, 10, width=32),
    st.one_of(
        st.tuples(st.just(np.uint8), st.integers(0, 255)),
        st.tuples(st.just(np.int8), st.integers(-128, 127)),
    ),
)
def test_a_symmetric_pair_clips_nothing_that_the_old_one_held(
    scale: float, kind: tuple[Any, int]
) -> None:
    dtype, zero = kind
    limits = np.iinfo(dtype)
    low, high = (limits.min - zero) * scale, (limits.max - zero) * scale
    model = onnx_symmetric.make_symmetric(pair(scale, dtype(zero)))
    assert onnx_symmetric.violations(model) == []
    x = np.linspace(low, high, 8, dtype=np.float32).reshape(2, 4)
    step = 2 * max(abs(low), abs(high)) / 254
    np.testing.assert_allclose(run(model, x), x, atol=step * 0.51 + 1e-5 * abs(x).max())


@settings(deadline=None, max_examples=30)
@given(
    st.sampled_from([np.uint8, np.int8]),
    st.lists(st.floats(2**-10, 1, width=32), min_size=4, max_size=4),
    st.lists(st.integers(0, 127), min_size=4, max_size=4),
    st.integers(0, 2**31),
)
def test_a_stored_weight_keeps_its_values_channel_by_channel(
    dtype: Any, scales: list[float], zeros: list[int], seed: int
) -> None:
    limits = np.iinfo(dtype)
    data = np.random.default_rng(seed).integers(limits.min, limits.max + 1, (2, 4)).astype(dtype)
    zero = np.array(zeros, dtype)
    real = (data.astype(np.float64) - zeros) * np.float32(scales)
    model = onnx_symmetric.make_symmetric(pair(scales, zero, axis=1, weight=data))
    found = run(model, np.zeros((2, 4), np.float32))
    step = np.maximum(limits.max - zero.astype(int), zero.astype(int) - limits.min)
    bound = step * np.float32(scales) / 127 / 2 * 1.01 + 1e-6
    assert (abs(found - real) <= bound).all()
    floats = onnx_symmetric.weights_as_pairs(model)
    assert onnx_symmetric.violations(floats) == []
    np.testing.assert_allclose(run(floats, np.zeros((2, 4), np.float32)), found, rtol=1e-6)
    assert [n.op_type for n in floats.graph.node][:2] == ["QuantizeLinear", "DequantizeLinear"]


def test_fp8_scales_fill_its_range_and_its_weights_are_rounded_once() -> None:
    data = np.array([[127, -127, 64, 1], [0, 5, -100, 33]], np.int8)
    model = onnx_symmetric.to_fp8(pair([0.1] * 4, np.zeros(4, np.int8), axis=1, weight=data))
    assert onnx_symmetric.violations(model) == []
    scales = constants(model)["scale/fp8"]
    np.testing.assert_allclose(scales, 0.1 * 127 / 448, rtol=1e-6)
    expected = (data.astype(np.float32) * (448 / 127)).astype(ml_dtypes.float8_e4m3fn)
    found = run(model, np.zeros((2, 4), np.float32))
    np.testing.assert_allclose(found, expected.astype(np.float32) * scales, rtol=1e-6)


@pytest.mark.parametrize(
    ("model", "telling"),
    [
        (pair(0.1, np.uint8(0)), ["UINT8"]),
        (pair(0.1, np.uint8(3)), ["UINT8"]),
        (pair(0.1, np.int8(3)), ["zero point is not 0"]),
        (pair(0.0, np.int8(0)), ["not above 0"]),
        (pair(np.inf, np.int8(0)), ["not above 0"]),
        (pair(np.nan, np.int8(0)), ["not above 0"]),
        (pair(0.1, np.int8(0)), []),
        (
            graph(
                [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], name="q"),
                 helper.make_node("Cast", ["q"], ["y"], to=TensorProto.FLOAT)],
                weights={"s": np.float32(1), "z": np.int8(0)},
            ),
            ["reads it"],
        ),
        (
            graph(
                [helper.make_node("QuantizeLinear", ["x", "s"], ["q"], name="q"),
                 helper.make_node("DequantizeLinear", ["q", "s"], ["y"], name="d")],
                weights={"s": np.float32(1)},
            ),
            ["it has no zero point"],
        ),
    ],
)  # fmt: skip
def test_violations_name_what_tensorrt_would_refuse(model: Any, telling: list[str]) -> None:
    found = onnx_symmetric.violations(model)
    assert bool(found) is bool(telling)
    assert all(any(word in entry for entry in found) for word in telling)


@pytest.mark.parametrize("scale", [np.inf, np.nan, 0.0, 1e35])
def test_a_pair_without_a_finite_range_is_left_out(scale: float) -> None:
    model, dropped = onnx_symmetric.drop_unusable(pair(scale, np.int8(0)))
    assert dropped == ("x",)
    x = np.random.default_rng(0).standard_normal((2, 4)).astype(np.float32)
    np.testing.assert_array_equal(run(model, x), x)
    assert onnx_symmetric.violations(model) == []


def test_a_scale_too_small_for_f16_keeps_its_pair_in_f32() -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], name="q"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], name="d"),
        helper.make_node("Relu", ["d"], ["y"], name="relu"),
    ]
    model = graph(nodes, weights={"s": np.float32(2e-7), "z": np.int8(0)})
    made, kept = to_f16(model, {})
    assert kept == ("d", "q")
    assert onnx_symmetric.violations(made) == []
    x = np.float32([[2e-7, 4e-7, 1e-6, 2e-6]] * 2)
    np.testing.assert_allclose(run(made, x), x, rtol=0.2)


def test_an_attention_mask_does_not_make_int8_answer_nan(
    program_of: Callable[[str], Program], tmp_path: Path
) -> None:
    # Not told that it is a transformer, NNCF quantises the sum of scores and lowest floats.
    entry = ZOO["encoder"]
    lowered = lower(BY_NAME["tensorrt-int8"], entry, program_of("encoder"), tmp_path / "variant")
    assert any("not quantised, for want of a finite range" in note for note in lowered.notes)
    with load(tmp_path / "variant", "onnxruntime") as session:
        assert np.isfinite(session.run(entry.sample())["embedding"]).all()
