"""Whether the calibration samples span what the model meets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdk.calibration import BEYOND, FEW, Coverage, coverage, told

RANGES = {"a": 1.0, "b": 10.0, "dead": 0.0}
CASES: dict[str, tuple[list[dict[str, float]], int, str]] = {
    "all within": ([{"a": 1.0, "b": 9.0}] * 10, 0, ""),
    "a little beyond, as quantisers clip themselves": ([{"a": 1.2, "b": 10.0}] * 10, 0, ""),
    "one sample far out": ([{"a": 1.0}] * 9 + [{"a": 5.0, "b": 11.0}], 1, "a"),
    "the one that is out most often": ([{"a": 5.0}, {"b": 20.0}, {"b": 30.0}], 3, "b"),
    "never seen before": ([{"new": 5.0}], 0, ""),
    "a tensor that was always zero": ([{"dead": 5.0}], 0, ""),
    "not finite": ([{"a": float("inf")}], 1, "a"),
}


@pytest.mark.parametrize("name", CASES)
def test_what_lies_beyond_the_calibrated_ranges_is_counted(name: str) -> None:
    samples, outside, worst = CASES[name]
    found = coverage(RANGES, samples, calibrated=100)
    assert (found.outside, found.worst, found.seen) == (outside, worst, len(samples))


@given(st.lists(st.floats(0.0, 100.0), min_size=1), st.floats(0.01, 100.0))
def test_a_sample_counts_once_and_only_if_it_is_beyond(values: list[float], most: float) -> None:
    found = coverage({"a": most}, [{"a": value} for value in values], calibrated=50)
    assert found.outside == sum(value > BEYOND * most for value in values)
    assert (told(found) is None) == (found.outside < max(1, 0.05 * len(values)))


def test_what_is_told_names_the_tensor_and_the_counts() -> None:
    found = Coverage(calibrated=12, seen=64, outside=20, worst="/layer/MatMul", worst_ratio=3.1)
    text = told(found)
    assert text is not None
    for part in ("20 of 64", "12 calibration samples", "/layer/MatMul", "3.1 times"):
        assert part in text


def test_one_sample_alone_is_named_as_too_few() -> None:
    text = told(Coverage(calibrated=1, seen=64, outside=0, worst="", worst_ratio=1.0))
    assert text is not None
    assert f"1 sample fixed int8's ranges, fewer than {FEW}" in text


@pytest.mark.toolchain
def test_a_calibration_of_quiet_samples_is_found_out_on_a_real_model(tmp_path: Path) -> None:
    from onnx import TensorProto, helper, numpy_helper

    from targets.lowering.onnx_ranges import maxima_of_each, observed_maxima

    weight = np.eye(4, dtype=np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    quiet = [{"x": np.full((1, 4), 0.5, np.float32)}] * 3
    loud = [{"x": np.full((1, 4), 5.0, np.float32)}]
    ranges = observed_maxima(model, quiet, 3)  # type: ignore[arg-type]
    found = coverage(ranges, list(maxima_of_each(model, [*quiet, *loud])), calibrated=3)
    assert found.outside == 1
    assert found.worst_ratio == pytest.approx(10.0)
