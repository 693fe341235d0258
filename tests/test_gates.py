"""Limits become gates in integers, never looser than the limit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.manifest import Gate, Signature, TensorSpec
from sdk.gates import drop_max_ppm, floors, gates
from sdk.prove import Agreement, Evaluation, Report
from tests.test_select import result

CASES = {
    "latency_p90_ms": (
        10.0005,
        Gate(quantity="latency_us", quantile_permille=900, max=10000),
    ),
    "throughput_per_s": (0.0015, Gate(quantity="throughput_milli_per_s", min=2)),
    "peak_memory_mib": (1.5, Gate(quantity="memory_peak_bytes", max=1572864)),
    "speedup": (
        1.5,
        Gate(
            quantity="latency_us",
            quantile_permille=500,
            ratio_max_permille=666,
            ratio_to="baseline",
        ),
    ),
    "memory_reduction": (
        0.25,
        Gate(quantity="memory_increment_bytes", ratio_max_permille=750, ratio_to="baseline"),
    ),
}


@pytest.mark.parametrize(("name", "case"), CASES.items(), ids=CASES)
def test_a_limit_becomes_a_gate(name: str, case: tuple[float, Gate]) -> None:
    assert gates({name: case[0]}) == (case[1],)


def test_what_a_device_cannot_measure_is_no_gate() -> None:
    assert gates({"size_mib": 3, "accuracy_drop": 0.1, "sqnr_min_db": 20}) == ()


@given(st.floats(0.001, 1e4))
def test_no_gate_is_looser_than_its_limit(limit: float) -> None:
    found = gates({"latency_p50_ms": limit})[0]
    assert found.max is not None
    assert found.max <= limit * 1000
    ppm = drop_max_ppm({"accuracy_drop": min(limit, 1.0)})
    assert ppm is not None
    assert ppm <= min(limit, 1.0) * 1_000_000


SIGNATURE = Signature(
    inputs=(),
    outputs=(
        TensorSpec(name="scores", dtype="float32", shape=(1,)),
        TensorSpec(name="classes", dtype="int64", shape=(1,)),
    ),
    dims={},
)


def test_floors_leave_room_below_what_was_seen() -> None:
    seen = Evaluation(
        golden=(
            Agreement(output="scores", metric="cosine", value=0.75),
            Agreement(output="classes", metric="equal_share", value=1.0),
        ),
        max_abs=0.1,
        sqnr_db=None,
        scores=None,
        placement={},
    )
    report = Report(
        evaluation=seen, measurement=None, numerics_evidence="host", speed_evidence="host"
    )
    found = floors(result("a-int8", report=report), SIGNATURE)
    assert [(floor.output, floor.metric, floor.min_ppm) for floor in found] == [
        ("scores", "cosine", 249_000),
        ("classes", "equal_share", 999_000),
    ]


def test_where_nothing_was_run_a_floor_still_tells_right_from_wrong() -> None:
    found = floors(result("a-f16"), SIGNATURE)
    assert {floor.min_ppm for floor in found} == {900_000}
