"""When a limit is met, unmet or unproven: weaker evidence disproves, never proves."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdk.limits import KINDS, Bounded, LimitVerdict, judge, overall, with_default


def figure(low: float, value: float, high: float, evidence: str = "device") -> Bounded:
    return Bounded(value=value, low=low, high=high, evidence=evidence)  # type: ignore[arg-type]


CASES = {
    "the bound holds": ("latency_p50_ms", 10, figure(8, 9, 10), "met"),
    "the value holds, the bound does not": ("latency_p50_ms", 10, figure(8, 9, 10.1), "unproven"),
    "even the best is over": ("latency_p50_ms", 10, figure(10.1, 11, 12), "unmet"),
    "at least: the bound holds": ("throughput_per_s", 100, figure(100, 110, 120), "met"),
    "at least: the best is under": ("throughput_per_s", 100, figure(80, 90, 99), "unmet"),
    "another machine cannot prove": ("latency_p50_ms", 10, figure(1, 1, 1, "host"), "unproven"),
    "another machine can disprove": ("latency_p50_ms", 10, figure(11, 12, 13, "host"), "unmet"),
    "an estimate cannot prove": ("latency_p50_ms", 10, figure(1, 1, 1, "estimate"), "unproven"),
    "an estimate can disprove": ("latency_p50_ms", 10, figure(20, 30, 40, "estimate"), "unmet"),
    "nothing known": ("latency_p50_ms", 10, None, "unproven"),
}


@pytest.mark.parametrize(("name", "limit", "found", "expected"), CASES.values(), ids=CASES)
def test_the_verdict(name: str, limit: float, found: Bounded | None, expected: str) -> None:
    assert judge(name, limit, found).verdict == expected


@given(
    name=st.sampled_from(sorted(KINDS)),
    limit=st.floats(0, 1000),
    bounds=st.lists(st.floats(0, 1000), min_size=3, max_size=3).map(sorted),
    evidence=st.sampled_from(["device", "emulated", "host", "estimate"]),
)
def test_met_and_unmet_are_never_both_possible_and_only_a_device_proves(
    name: str, limit: float, bounds: list[float], evidence: str
) -> None:
    low, value, high = bounds
    verdict = judge(name, limit, figure(low, value, high, evidence)).verdict
    if verdict == "met":
        assert evidence == "device"
        assert (high <= limit) if KINDS[name].at_most else (low >= limit)
    if verdict == "unmet":
        assert (low > limit) if KINDS[name].at_most else (high < limit)


def one(verdict: str) -> LimitVerdict:
    return LimitVerdict(name="size_mib", limit=1, value=1, verdict=verdict, evidence="device")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ((), "met"),
        (("met", "met"), "met"),
        (("met", "unproven"), "unproven"),
        (("unproven", "unmet", "met"), "unmet"),
    ],
)
def test_limits_are_joint(verdicts: tuple[str, ...], expected: str) -> None:
    assert overall(tuple(map(one, verdicts))) == expected


def test_accuracy_is_limited_where_nobody_said_so() -> None:
    assert with_default({"size_mib": 3}) == {"size_mib": 3, "accuracy_drop": 0.02}
    assert with_default({"sqnr_min_db": 30}) == {"sqnr_min_db": 30}
    assert with_default({"accuracy_drop": 0.5}) == {"accuracy_drop": 0.5}
