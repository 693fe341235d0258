"""Heat, throttled clocks, and one measurement at a time: on made-up machines."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from agent.errors import UsageError
from agent.identity import Conditions
from agent.measurement import Measurement, latency
from agent.rig.machine import MachineLock
from agent.rig.quiet import STEADY_S, Throttle, wait_for_quiet, with_throttling

COOL = Conditions(
    power_mode=None, governor=None, clocks_mhz=(), load_1m=0.0, temperatures_c={"cpu": 40.0}
)


def _hot(*degrees: float) -> list[Conditions]:
    return [dataclasses.replace(COOL, temperatures_c={"cpu": one}) for one in degrees]


@pytest.mark.parametrize(
    ("degrees", "waits"),
    [((40.0, 40.2), 1), ((70.0, 60.0, 52.0, 51.5), 3), ((40.0, 45.0, 45.5), 2)],
)
def test_it_is_waited_until_the_temperature_is_steady(
    degrees: tuple[float, ...], waits: int
) -> None:
    seen, slept = iter(_hot(*degrees)), list[float]()
    assert wait_for_quiet(slept.append, lambda: next(seen)) == ""
    assert slept == [STEADY_S] * waits


def test_where_nothing_tells_nothing_is_waited_for() -> None:
    cold = dataclasses.replace(COOL, temperatures_c={})
    assert wait_for_quiet(lambda _: pytest.fail("it waited"), lambda: cold) == ""


def test_a_machine_that_does_not_settle_is_told() -> None:
    degrees = iter(range(40, 4000, 5))
    told = wait_for_quiet(lambda _: None, lambda: _hot(float(next(degrees)))[0], most_s=9.0)
    assert told == "after 9 s its temperature still changed"


def test_a_run_in_which_the_clock_was_throttled_is_not_stable(tmp_path: Path) -> None:
    counter = tmp_path / "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count"
    counter.parent.mkdir(parents=True)
    counter.write_text("3")
    throttle = Throttle(tmp_path)
    found = _measurement()
    assert throttle.told() == ""
    assert with_throttling(found, throttle.told()) is found
    counter.write_text("5")
    after = with_throttling(found, throttle.told())
    assert found.latency_ms.stable
    assert not after.latency_ms.stable
    assert "throttled 2 times" in after.notes[-1]


def _measurement() -> Measurement:
    empty: dict[str, Any] = {}
    return Measurement(
        name="a", latency_ms=latency([[1000] * 200] * 9, stable=True), import_ms=None, load_ms=1.0,
        first_run_ms=1.0, throughput_per_s=1.0, callers=1, memory_peak_bytes=None,
        memory_increment_bytes=None, placement=empty, conditions_before=COOL,
        conditions_after=COOL, versions=empty, environment=empty, windows_ms=(), turns_ms=(),
    )  # fmt: skip


def test_two_never_measure_at_once_on_one_machine(tmp_path: Path) -> None:
    told: list[str] = []
    one, other = MachineLock(told.append, tmp_path), MachineLock(told.append, tmp_path)
    one.take(lambda: pytest.fail("it waited"))
    waited: list[int] = []

    def wait() -> None:
        waited.append(1)
        if len(waited) == 3:
            one.release()

    other.take(wait)
    assert len(waited) == 3
    assert told == ["waiting: something else measures on this machine"]
    with pytest.raises(UsageError):
        one.take(_give_up)
    one.release()
    other.release()


def _give_up() -> None:
    raise UsageError("enough")
