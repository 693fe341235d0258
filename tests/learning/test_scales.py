"""Factors from reports: near the truth, whoever lies, in any order, and none without reports."""

from __future__ import annotations

import dataclasses
import math
import random
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiles import Profile, Scale, parse
from sdk.detect import profile_toml
from sdk.estimate import bounds, estimate
from sdk.learning.gather import Sighting, gather
from sdk.learning.scales import FEWEST_MODELS, Learnt, learn, scales_of
from tests.learning.worlds import F32, ORT, fleet, profile, program, sighting, true_ms

TODAY = "2026-11-22"


def learnt_from(sightings: list[Sighting], within: Profile | None = None) -> tuple[Learnt, ...]:
    within = within or profile()
    return learn(gather(sightings, within).observations, within, TODAY)


def scaled(sightings: list[Sighting]) -> Profile:
    return dataclasses.replace(profile(), scales=scales_of(learnt_from(sightings), ()))


def one_scale(sightings: list[Sighting]) -> Scale:
    (found,) = learnt_from(sightings)
    assert found.new is not None
    return found.new


def predicted(within: Profile, number: int) -> tuple[float, float, float]:
    found = estimate(program(number), within, F32).latency_ms
    assert found is not None
    return found.value, found.low, found.high


@pytest.mark.parametrize("wrong", [2.0, 0.5])
def test_a_profile_that_is_wrong_by_two_is_right_for_models_it_has_not_seen(wrong: float) -> None:
    rows = [dataclasses.replace(row, ms=row.ms * wrong / 2.0) for row in fleet(8, 5)]
    within = scaled(rows)
    for number in range(100, 120):
        value, low, high = predicted(within, number)
        assert value == pytest.approx(true_ms(program(number), fixed=wrong, work=wrong), rel=0.1)
        assert low <= true_ms(program(number), fixed=wrong, work=wrong) <= high


def test_what_is_fixed_and_what_is_work_are_told_apart_where_models_tell() -> None:
    rows = [sighting(program(n), true_ms(program(n), fixed=6.0, work=1.5)) for n in range(20)]
    (factors,) = one_scale(rows).factors.values()
    assert factors["fixed"] == pytest.approx(6.0, rel=0.2)
    assert factors["work"] == pytest.approx(1.5, rel=0.2)


def test_without_a_reason_for_two_factors_there_is_one() -> None:
    (factors,) = one_scale(fleet(8, 3)).factors.values()
    assert factors["fixed"] == factors["work"] == pytest.approx(2.0, rel=0.05)


@given(st.data())
@settings(max_examples=30)
def test_a_fifth_that_lies_about_every_variant_moves_nothing_beyond_what_is_true(
    data: st.DataObject,
) -> None:
    devices, models = data.draw(st.integers(5, 15)), data.draw(st.integers(1, 6))
    honest = fleet(models, devices, noise=0.05, seed=data.draw(st.integers(0, 99)))
    liars = {f"device-{index}" for index in range(devices // 5)}
    lie = st.one_of(st.floats(1e-6, 1e-3), st.floats(1e3, 1e9))
    told = [
        dataclasses.replace(one, ms=data.draw(lie)) if one.device in liars else one
        for one in honest
    ]
    (factors,) = one_scale(told).factors.values()
    bare = [
        math.log(one.ms / true_ms(one.program, fixed=1.0, work=1.0))  # type: ignore[arg-type]
        for one in honest
        if one.device not in liars
    ]
    assert 0.0 <= math.log(factors["work"]) <= max(bare) + 1e-3
    if models >= FEWEST_MODELS:
        assert math.log(factors["work"]) >= 0.95 * min(bare)


def test_a_device_that_reports_often_has_no_more_weight() -> None:
    rows = fleet(4, 3)
    loud = [
        dataclasses.replace(row, ms=row.ms * (9.0 + index / 1e3))
        for row in rows
        if row.device == "device-0"
        for index in range(50)
    ]
    quiet = [row for row in rows if row.device != "device-0"]
    (factors,) = one_scale([*quiet, *loud]).factors.values()
    assert factors["work"] == pytest.approx(2.0, rel=0.06)


@given(st.randoms(use_true_random=False))
@settings(max_examples=20)
def test_the_order_of_reports_is_of_no_account(draw: random.Random) -> None:
    rows = fleet(7, 3, off=0.3)
    shuffled = list(rows)
    draw.shuffle(shuffled)
    assert learnt_from(shuffled) == learnt_from(rows)


def test_of_no_report_nothing_is_learnt() -> None:
    assert learnt_from([]) == ()
    old = one_scale(fleet(4, 3))
    assert scales_of((), (old,)) == (old,)


def test_one_model_moves_the_estimate_and_narrows_no_interval() -> None:
    (found,) = learnt_from(fleet(1, 3))
    assert (found.used, found.missing) == (True, FEWEST_MODELS - 1)
    assert found.new is not None
    assert (found.new.low, found.new.error) == (None, None)
    plain, within = predicted(profile(), 50), predicted(scaled(fleet(1, 3)), 50)
    assert within[0] > 1.4 * plain[0]
    assert within[2] / within[0] == pytest.approx(plain[2] / plain[0])


def test_nothing_is_learnt_of_what_no_report_is_about() -> None:
    within = scaled(fleet(4, 3))
    for recipe in (ORT, dataclasses.replace(F32, options={**F32.options, "NUM_STREAMS": 2})):
        assert estimate(program(50), within, recipe) == estimate(program(50), profile(), recipe)


@given(st.integers(1, 8), st.integers(0, 10**6), st.floats(0.0, 0.8))
@settings(max_examples=25)
def test_sourced_facts_and_bounds_stay_and_the_block_is_read_back(
    models: int, seed: int, off: float
) -> None:
    within = scaled(fleet(models, 3, seed=seed, off=off))
    assert dataclasses.replace(within, scales=()) == profile()
    assert bounds(program(50), within, F32) == bounds(program(50), profile(), F32)
    again = parse(profile_toml(within), "again")
    assert dataclasses.replace(again, origin=within.origin) == within


def test_the_same_reports_again_change_nothing_and_more_of_them_do() -> None:
    few, more = fleet(4, 3, off=0.3), fleet(6, 3, off=0.3)
    within = scaled(few)
    (same,) = learnt_from(few, within)
    assert (same.used, same.reason) == (False, "no better")
    assert scales_of((same,), within.scales) == within.scales
    (found,) = learnt_from(more, within)
    assert found.old == within.scales[0]
    assert (found.used, found.models) == (True, 6)


def test_where_models_contradict_each_other_the_profile_stays_as_it_is() -> None:
    """Half of them take a fiftieth of the estimate, half fifty times it: no factor tells a third."""
    apart = [
        sighting(program(n), true_ms(program(n)) * (0.01 if n % 2 else 25.0)) for n in range(6)
    ]
    (found,) = learnt_from(apart)
    assert not found.used


def test_factors_on_facts_that_have_changed_are_not_used() -> None:
    within = scaled(fleet(4, 3))
    cpu = within.engines["cpu"]
    peak = {n: dataclasses.replace(f, value=f.value * 2) for n, f in cpu.peak.items()}
    faster = dataclasses.replace(
        within, engines={**within.engines, "cpu": dataclasses.replace(cpu, peak=peak)}
    )
    bare = dataclasses.replace(faster, scales=())
    assert estimate(program(50), faster, F32) == estimate(program(50), bare, F32)


@pytest.mark.slow
@pytest.mark.parametrize("models", [3, 5, 10])
def test_intervals_hold_nine_in_ten_of_what_was_not_seen(models: int) -> None:
    """Models whose estimates are off by a factor that no profile knows: 200 fits for each count."""
    inside = []
    for seed in range(200):
        draw = random.Random(f"{models} {seed}")
        found = [
            sighting(program(n), true_ms(program(n)) * math.exp(draw.gauss(0.0, 0.4)))
            for n in range(models)
        ]
        within = scaled(found)
        new = program(draw.randint(1000, 9999))
        value = estimate(new, within, F32).latency_ms
        assert value is not None
        ms = true_ms(new) * math.exp(draw.gauss(0.0, 0.4))
        inside.append(value.low <= ms <= value.high)
    assert statistics.fmean(inside) >= 0.87
