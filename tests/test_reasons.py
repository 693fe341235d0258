"""Every candidate has the figure that decided about it, those that meet every limit too."""

from __future__ import annotations

from sdk.reasons import reason
from sdk.result import Result
from sdk.select import select
from tests.test_select import LIMITS, result


def reasons(*results: Result, limits: dict[str, float] | None = None) -> list[str]:
    found = select(results, limits or LIMITS)
    return [reason(one, found) for one in found.results]


def test_the_chosen_one_is_the_fastest_and_others_are_told_by_how_much_they_are_not() -> None:
    baseline, chosen = reasons(result("a-f32", 4), result("b-int8", 2))
    assert chosen.startswith("the fastest: p50 2")
    assert baseline.startswith("2 times the chosen one's latency (")


def test_a_faster_one_that_breaks_a_limit_leaves_the_fastest_that_is_proven() -> None:
    _, chosen, fast = reasons(
        result("a-f32", 4), result("b-int8", 2), result("c-int8", 1, final=0.1)
    )
    assert chosen.startswith("the fastest that is proven to meet every limit: p50 2")
    assert "accuracy_drop 0.1 > 0.02" in fast


def test_the_reasons_speak_of_what_was_to_be_least() -> None:
    small, large = result("a-f32", 2, size_mib=3.0), result("b-int8", 4, size_mib=1.5)
    risky = result("c-int8", 4, size_mib=1.0, final=0.1)
    found = select([small, large], LIMITS, "size")
    assert [reason(one, found) for one in found.results] == [
        "3 MiB of files; the chosen one has 1.5 MiB of files",
        "the least: 1.5 MiB of files",
    ]
    found = select([small, large, risky], LIMITS, "size")
    told = [reason(one, found) for one in found.results]
    assert told[1] == "the least that is proven to meet every limit: 1.5 MiB of files"
    assert "accuracy_drop" in told[2]
    found = select([small, large], LIMITS, "balanced")
    told = [reason(one, found) for one in found.results]
    assert all("of the baseline's latency, memory and size" in reason for reason in told)
    blind = select([result("a-f32"), result("b-int8")], {"size_mib": 5.0}, "memory")
    assert [reason(one, blind) for one in blind.results][1].startswith("its memory is not known")


def test_a_baseline_that_nobody_is_measured_to_beat_says_so_of_the_others() -> None:
    baseline, other = reasons(result("a-f32", 2.0), result("b-int8", 2.0, jitter=0.3))
    assert "p50" in baseline
    assert other.startswith("not measured faster: ")


def test_without_a_device_the_estimate_is_what_decided() -> None:
    limits = {"size_mib": 5.0}
    one, other = reasons(
        result("a-f32", estimate_ms=8.0), result("b-int8", estimate_ms=2.0), limits=limits
    )
    assert one == "estimated p50 2 to 32 ms"
    assert other == "estimated p50 0.5 to 8 ms"


def test_without_any_figure_that_is_said() -> None:
    assert reasons(result("a-f32"), limits={"size_mib": 5.0}) == ["no estimate of its speed"]


def test_what_failed_keeps_its_own_reason() -> None:
    _, failed = reasons(
        result("a-f32", 4), result("b-int8", status="failed", reason="no such thing")
    )
    assert failed == "no such thing"


def test_where_nobody_is_chosen_the_broken_limits_are_the_reasons() -> None:
    (told,) = reasons(result("a-f32", 4), limits={"latency_p50_ms": 1.0})
    assert told.startswith("latency_p50_ms 3.997 > 1")
