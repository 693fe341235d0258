"""Which reports count: of such a device, steady, of one request, and outvoted where they may lie."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from sdk.learning.gather import FEWEST_DEVICES, gather
from tests.learning.worlds import DEVICE, F32, OTHER, fleet, profile, program, sighting

GOOD = sighting(program(1), 3.0)
BATCHED = dataclasses.replace(
    F32, options={**F32.options, "batch": 4, "batch_dim": "batch", "callers": 2}
)


@pytest.mark.parametrize(
    ("why", "change"),
    [
        ("unstable", {"stable": False}),
        ("throttled or busy", {"notes": ("the clock was throttled 3 times in 9 s: too hot",)}),
        ("no time", {"ms": math.nan}),
        ("no time", {"ms": -1.0}),
        ("no time", {"ms": math.inf}),
        ("batches", {"recipe": BATCHED}),
        ("unknown device", {"fingerprint": None}),
        ("unknown program", {"program": None}),
        ("unknown program", {"recipe": None}),
        ("too few devices", {"origin": "fleet"}),
    ],
)
def test_what_does_not_count_is_counted(why: str, change: dict[str, Any]) -> None:
    found = gather([GOOD, dataclasses.replace(GOOD, device="other", **change)], profile())
    assert (len(found.observations), dict(found.aside), found.total) == (1, {why: 1}, 2)


def test_another_device_is_refused_by_name() -> None:
    emulated = dataclasses.replace(DEVICE, identity={**DEVICE.identity, "emulated": True})
    found = gather(
        [
            dataclasses.replace(GOOD, device="bench-2", fingerprint=OTHER),
            dataclasses.replace(GOOD, device="qemu", fingerprint=emulated),
        ],
        profile(),
    )
    assert not found.observations
    assert "'Intel(R) N200', not 'Intel(R) N100'" in found.refused["bench-2"]
    assert "emulated" in found.refused["qemu"]


def test_the_same_report_twice_counts_once() -> None:
    assert gather([GOOD, GOOD], profile()).total == 1


def test_busy_machines_count_where_they_are_asked_for() -> None:
    busy = dataclasses.replace(GOOD, stable=False, notes=("the machine was busy or throttled",))
    (found,) = gather([busy], profile(), unstable=True).observations
    assert not found.stable


def test_of_a_fleet_three_have_to_have_measured_a_variant() -> None:
    assert len(gather(fleet(2, FEWEST_DEVICES), profile()).observations) == 12
    assert not gather(fleet(2, FEWEST_DEVICES - 1), profile()).observations
