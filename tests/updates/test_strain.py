"""What the kernel's files say of memory, load and heat."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.updates.strain import available_bytes, is_quiet, is_too_hot
from tests.updates.machine import machine


def test_memory_that_can_be_had(tmp_path: Path) -> None:
    assert available_bytes(machine(tmp_path, free_mib=123)) == 123 << 20
    assert available_bytes(tmp_path / "nothing") == 1 << 62, "no file, no bound"


@pytest.mark.parametrize(("load", "quiet"), [("0.99", True), ("1.01", False), ("x", False)])
def test_quiet(tmp_path: Path, load: str, quiet: bool) -> None:
    assert is_quiet(2, machine(tmp_path, load=load)) == quiet
    assert not is_quiet(2, tmp_path / "nothing")


@pytest.mark.parametrize(("celsius", "hot"), [(84, False), (85, True), (-5, False)])
def test_heat_is_the_passive_trip_point(tmp_path: Path, celsius: int, hot: bool) -> None:
    assert is_too_hot(machine(tmp_path, celsius=celsius)) == hot


def test_zones_that_tell_nothing_are_cool(tmp_path: Path) -> None:
    zone = machine(tmp_path, celsius=99) / "sys/class/thermal/thermal_zone0"
    (zone / "temp").write_text("error\n")
    assert not is_too_hot(tmp_path)
    (zone / "temp").write_text("99000\n")
    (zone / "trip_point_0_temp").write_text("0\n")  # not set, says the kernel
    assert not is_too_hot(tmp_path)


def test_a_capped_clock_is_a_power_mode_and_no_heat(tmp_path: Path) -> None:
    policy = machine(tmp_path) / "sys/devices/system/cpu/cpufreq/policy0"
    policy.mkdir(parents=True)
    (policy / "scaling_max_freq").write_text("1000000\n")
    (policy / "cpuinfo_max_freq").write_text("2000000\n")
    assert not is_too_hot(tmp_path)
