"""Quantiles, their intervals, and when a series counts as stable."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.arena import is_busy, spin_ms
from agent.measurement import latency
from agent.quantiles import is_stable, median_interval, quantile_bounds, samples_for


@pytest.mark.parametrize(("q", "n"), [(0.5, 7), (0.9, 44), (0.95, 90), (0.99, 459)])
def test_a_quantile_is_reported_from_just_enough_samples(q, n):
    assert samples_for(q) == n
    assert quantile_bounds(np.arange(n - 1), q) is None
    assert quantile_bounds(np.arange(n), q) is not None


@pytest.mark.parametrize(("n", "low", "high"), [(6, 0, 5), (10, 1, 8), (100, 39, 60)])
def test_the_medians_interval_is_the_sign_tests(n, low, high):
    found = median_interval(np.arange(n))
    assert (found.low, found.high) == (low, high)


@pytest.mark.parametrize("n", [1, 5])
def test_of_too_few_samples_the_interval_is_all_that_was_seen(n):
    found = median_interval(np.arange(n))
    assert (found.low, found.high) == (0, n - 1)


@pytest.mark.parametrize(("q", "n"), [(0.5, 9), (0.5, 200), (0.9, 60), (0.99, 600)])
def test_the_interval_covers_the_true_quantile_as_often_as_it_says(q, n):
    rng = np.random.default_rng(0)
    trials, truth = 1000, -math.log(1 - q)
    covered = 0
    for _ in range(trials):
        found = quantile_bounds(rng.exponential(size=n), q)
        assert found is not None
        covered += found.low <= truth <= found.high
    # The upper end of p99 from under 1000 samples is the greatest sample, and may fall short.
    assert covered >= 0.95 * trials - 3 * math.sqrt(trials * 0.05 * 0.95)


@settings(deadline=None)
@given(st.lists(st.floats(0.1, 100), min_size=7, max_size=300))
def test_the_interval_spans_the_figure(samples):
    found = quantile_bounds(samples, 0.5)
    assert found is not None
    assert found.low <= found.value <= found.high


STEADY = [1.0, 1.02, 0.99, 1.0, 1.01, 1.0]


@pytest.mark.parametrize(
    ("name", "medians", "stable"),
    [
        ("steady", STEADY, True),
        ("too few", STEADY[:4], False),
        ("still settling", [1.0, 1.0, 1.0, 1.0, 1.2, 1.0], False),
        ("settled after a slow start", [3.0, 1.0, 1.0, 1.0, 1.01, 1.0, 1.0, 0.99], True),
        ("drifting", [1.0 + 0.01 * i for i in range(20)], False),
        ("a step", [1.0] * 10 + [1.3] * 10, False),
    ],
)
def test_stable_is_settled_and_without_drift(name, medians, stable):
    assert is_stable(medians, tolerance=0.05, last=5) is stable, name


def test_a_machine_is_busy_when_the_same_work_varies_but_not_for_one_outlier():
    assert not is_busy([1.0] * 20 + [5.0], tolerance=0.2)
    assert is_busy([1.0] * 10 + [1.5] * 10, tolerance=0.2)
    assert spin_ms() > 0


def test_latency_reports_what_its_runs_allow_and_null_for_the_rest():
    found = latency([[1_000_000] * 10] * 6, stable=True)
    assert (found.p50, found.p90, found.p95, found.p99, found.n) == (1.0, 1.0, None, None, 60)
    assert set(found.bounds) == {"p50", "p90"}


def test_windows_that_differ_widen_the_interval_of_runs_that_are_alike_within():
    windows = [[1_000_000 + 100_000 * i] * 500 for i in range(6)]
    found = latency(windows, stable=False)
    assert (found.low, found.high) == (1.0, 1.5)
    assert found.bounds["p90"].low == 1.0
