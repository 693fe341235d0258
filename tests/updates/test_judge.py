"""The gates on a device: what refuses a release there, and what says nothing."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.identity import Conditions
from agent.manifest import Floor, Gate
from agent.measurement import Measurement, latency
from agent.updates.judge import judge, judge_floors, ratios
from agent.updates.proof import room_to_measure, unmeasured

CALM = Conditions(power_mode=None, governor=None, clocks_mhz=(), load_1m=None, temperatures_c={})


def measured(ms: float, *, runs: int = 600, spread: float = 0.01, **changes: Any) -> Measurement:
    """Nine turns of runs around so many milliseconds."""
    random = np.random.default_rng(0)
    each = runs // 9 + 1
    windows = [ms * 1e6 * (1 + spread * random.random(each)) for _ in range(9)]
    found = Measurement(
        name="it",
        latency_ms=latency(windows, stable=True),
        import_ms=None,
        load_ms=50.0,
        first_run_ms=2 * ms,
        throughput_per_s=1e3 / ms,
        callers=1,
        memory_peak_bytes=100 << 20,
        memory_increment_bytes=20 << 20,
        placement={},
        conditions_before=CALM,
        conditions_after=CALM,
        versions={},
        environment={},
        windows_ms=tuple(float(np.median(window)) / 1e6 for window in windows),
        turns_ms=tuple(float(np.mean(window)) / 1e6 for window in windows),
    )
    return dataclasses.replace(found, **changes)


def latency_gate(**bounds: Any) -> Gate:
    return Gate(quantity="latency_us", **bounds)


ABSOLUTE = [
    ("a latency below the gate", latency_gate(quantile_permille=500, max=1100), True),
    ("a latency beyond the gate", latency_gate(quantile_permille=500, max=900), False),
    ("no quantile means the median", latency_gate(max=900), False),
    ("p99 beyond", latency_gate(quantile_permille=990, max=900), False),
    ("throughput enough", Gate(quantity="throughput_milli_per_s", min=900_000), True),
    ("throughput too little", Gate(quantity="throughput_milli_per_s", min=1_200_000), False),
    ("a load in time", Gate(quantity="load_us", max=60_000), True),
    ("a load too slow", Gate(quantity="load_us", max=40_000), False),
    ("memory enough", Gate(quantity="memory_peak_bytes", max=100 << 20), True),
    ("memory beyond", Gate(quantity="memory_peak_bytes", max=(100 << 20) - 1), False),
    ("an increment beyond", Gate(quantity="memory_increment_bytes", max=10 << 20), False),
]


@pytest.mark.parametrize(
    ("gate", "holds"), [case[1:] for case in ABSOLUTE], ids=[c[0] for c in ABSOLUTE]
)
def test_an_absolute_gate(gate: Gate, holds: bool) -> None:
    judged = judge([gate], measured(1.0), running=None, baseline=None)
    assert judged.holds == holds
    assert not judged.skipped
    if not holds:
        bound = gate.max if gate.max is not None else gate.min
        assert f"the gate is {bound}" in judged.breaches[0].what


def test_what_is_told_of_how_a_variant_compares() -> None:
    found = ratios(measured(3.0, memory_peak_bytes=150 << 20), measured(2.0))
    assert set(found) == {"latency@500", "latency@900", "latency@950", "latency@990", "memory"}
    assert found.pop("memory") == 1.5
    assert all(abs(value - 1.5) < 0.03 for value in found.values()), found


def stutters(times: float) -> Measurement:
    """As fast as another at the median, and that many times slower in one run of twenty."""
    own = measured(1.0)
    bounds = dict(own.latency_ms.bounds)
    tail = bounds["p95"]
    bounds["p95"] = dataclasses.replace(
        tail, low=times * tail.low, value=times * tail.value, high=times * tail.high
    )
    return dataclasses.replace(own, latency_ms=dataclasses.replace(own.latency_ms, bounds=bounds))


def test_the_tail_is_compared_by_itself() -> None:
    found = ratios(stutters(4.0), measured(1.0))
    assert (found["latency@500"], found["latency@950"]) == (1.0, 4.0)


@pytest.mark.parametrize(
    ("permille", "holds"), [(None, True), (500, True), (900, True), (950, False)]
)
def test_a_ratio_is_held_at_the_quantile_that_its_gate_names(
    permille: int | None, holds: bool
) -> None:
    gate = latency_gate(quantile_permille=permille, ratio_max_permille=2000, ratio_to="running")
    judged = judge([gate], stutters(4.0), running=measured(1.0), baseline=None)
    assert judged.holds == holds
    if not holds:
        assert "at 950 permille is 4.000 of the running one's" in judged.breaches[0].what


def test_a_ratio_of_a_quantile_of_too_few_runs_is_skipped_and_said() -> None:
    gate = latency_gate(quantile_permille=990, ratio_max_permille=1, ratio_to="running")
    few = measured(1.0, runs=50)
    judged = judge([gate], few, running=few, baseline=None)
    assert judged.holds
    assert "too few runs" in judged.skipped[0]


def test_what_is_not_known_of_both_is_not_compared() -> None:
    few, nothing = measured(1.0, runs=50), measured(1.0, memory_peak_bytes=None)
    assert set(ratios(few, nothing)) == {"latency@500", "latency@900"}


def test_a_figure_that_could_be_on_either_side_refuses_nothing() -> None:
    wide = measured(1.0, spread=1.0)
    bounds = wide.latency_ms.bounds["p50"]
    between = round((bounds.low + bounds.value) / 2 * 1e3)
    assert bounds.low * 1e3 < between < bounds.value * 1e3
    assert judge([latency_gate(max=between)], wide, running=None, baseline=None).holds


def test_a_quantile_of_too_few_runs_is_skipped_and_said() -> None:
    judged = judge(
        [latency_gate(quantile_permille=990, max=1)],
        measured(1.0, runs=50),
        running=None,
        baseline=None,
    )
    assert judged.holds
    assert judged.skipped == (
        "latency_us at 990 permille: there were too few runs, or it is not known here",
    )


def test_on_a_busy_device_only_ratios_are_judged() -> None:
    gates = [
        latency_gate(max=1),
        Gate(quantity="throughput_milli_per_s", min=10**9),
        Gate(quantity="load_us", max=1),
        Gate(quantity="load_us", ratio_max_permille=1, ratio_to="running"),
    ]
    judged = judge(gates, measured(1.0), running=measured(2.0), baseline=None, quiet=False)
    assert judged.holds
    assert len(judged.skipped) == 4
    assert all("busy" in line for line in judged.skipped)
    slower = latency_gate(ratio_max_permille=1000, ratio_to="running")
    judged = judge([slower], measured(2.0), running=measured(1.0), baseline=None, quiet=False)
    assert not judged.holds
    memory = Gate(quantity="memory_peak_bytes", max=1)
    assert not judge([memory], measured(1.0), running=None, baseline=None, quiet=False).holds


def test_what_even_the_fastest_turn_breaks_is_broken_on_an_unsteady_device() -> None:
    found = measured(2.0, windows_ms=(1.0, *([2.0] * 8)))

    def judged(most: int, **more: Any) -> bool:
        return judge([latency_gate(max=most)], found, running=None, baseline=None, **more).holds

    assert not judged(1500)
    assert judged(1500, steady=False)
    assert not judged(999, steady=False)
    load = Gate(quantity="load_us", max=1)
    assert judge([load], found, running=None, baseline=None, steady=False).skipped


def test_a_busy_device_still_judges_the_ratio_of_a_gate_that_has_both() -> None:
    both = latency_gate(max=1, ratio_max_permille=1500, ratio_to="running")
    judged = judge([both], measured(2.0), running=measured(1.0), baseline=None, quiet=False)
    assert len(judged.breaches) == 1
    assert "running one's" in judged.breaches[0].what
    judged = judge([both], measured(1.0), running=measured(1.0), baseline=None)
    assert len(judged.breaches) == 1
    assert "the gate is 1" in judged.breaches[0].what


@pytest.mark.parametrize("whom", ["running", "baseline"])
def test_a_ratio_is_held_against_the_one_it_names(whom: Any) -> None:
    gate = latency_gate(ratio_max_permille=1000, ratio_to=whom)
    others = {"running": None, "baseline": None, whom: measured(2.0)}
    assert judge([gate], measured(1.0), **others).holds
    others[whom] = measured(0.5)
    judged = judge([gate], measured(1.0), **others)
    assert f"{whom} one's" in judged.breaches[0].what
    none = judge([gate], measured(1.0), running=None, baseline=None)
    assert none.holds
    assert none.skipped == (f"latency_us against the {whom} one: there is none",)


@given(ms=st.floats(0.1, 100), other=st.floats(0.1, 100), gate=st.integers(1, 5000))
def test_a_tighter_gate_never_lets_more_pass(ms: float, other: float, gate: int) -> None:
    def holds(bound: int) -> bool:
        gates = [latency_gate(ratio_max_permille=bound, ratio_to="running", max=bound * 100)]
        return judge(
            gates, measured(ms, runs=90), running=measured(other, runs=90), baseline=None
        ).holds

    assert holds(gate) <= holds(gate + 1)


def test_floors() -> None:
    floor = Floor(output="y", metric="cosine", min_ppm=990_000)
    assert judge_floors([floor], {"y": 0.99}).holds
    judged = judge_floors([floor], {"y": 0.98999})
    assert "cosine 0.989990, the floor is 0.990000" in judged.breaches[0].what
    assert not judge_floors([floor], {}).holds, "an output that was never seen agrees with nothing"


def test_what_is_not_measured_is_judged_by_its_memory_alone() -> None:
    gates = [Gate(quantity="memory_peak_bytes", max=100), latency_gate(max=1)]
    found = unmeasured(gates, 101, "too little memory")
    assert found.reasons == ("memory_peak_bytes is 101, the gate is 100",)
    assert found.notes[0] == "too little memory"
    assert "latency_us" in found.notes[1]
    assert not unmeasured(gates, 100, "").reasons


@given(own=st.integers(0, 1 << 40), others=st.integers(0, 2), free=st.integers(0, 1 << 42))
def test_room_to_measure_is_for_all_that_are_measured(own: int, others: int, free: int) -> None:
    told = room_to_measure(own, others, free)
    assert (told is None) == (int(1.2 * own * (1 + others)) <= free)
