"""The choice: fail closed, measured before estimated, never slower than the baseline."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.bench import Measurement
from agent.identity import Conditions
from agent.measurement import latency
from agent.metrics import Drop
from profiles import Profile
from sdk.estimate import Estimate, Interval
from sdk.plan import Candidate
from sdk.prove import Report
from sdk.result import Accuracy, Result
from sdk.select import Selection, find_baseline, select
from sdk.verdicts import deciding
from targets.interface import Recipe

QUIET = Conditions(power_mode=None, governor=None, clocks_mhz=(), load_1m=0.0, temperatures_c={})
PROFILE = Profile(
    name="bench",
    target="intel",
    title="",
    match={},
    arch="x86_64",
    isa=(),
    cores=2,
    memory_bytes=1 << 30,
    bandwidth_gb_s=None,
    engines={},
    status={},
)


def measurement(p50_ms: float, jitter: float = 0.01, memory_mib: int = 50) -> Measurement:
    random = np.random.default_rng(round(p50_ms * 1000))
    pace = p50_ms * (1 + jitter * random.uniform(-1, 1, 12))
    windows = [np.full(60, 1e6 * ms) * (1 + 0.01 * random.uniform(-1, 1, 60)) for ms in pace]
    found = latency(windows, stable=True)
    return Measurement(
        name="",
        latency_ms=found,
        import_ms=None,
        load_ms=1.0,
        first_run_ms=1.0,
        throughput_per_s=1000 / p50_ms,
        callers=1,
        memory_peak_bytes=(100 + memory_mib) << 20,
        memory_increment_bytes=memory_mib << 20,
        placement={},
        conditions_before=QUIET,
        conditions_after=QUIET,
        versions={},
        environment={},
        windows_ms=tuple(float(np.median(window)) / 1e6 for window in windows),
        turns_ms=tuple(float(np.mean(window)) / 1e6 for window in windows),
    )


def drop(value: float, spread: float = 0.005, n: int = 500) -> Drop:
    return Drop(
        value=value, low=value - spread, high=value + spread, n=n, original_mean=1, variant_mean=1
    )


def result(
    name: str,
    p50_ms: float | None = None,
    *,
    final: float | None = 0.0,
    selection: float | None = None,
    size_mib: float = 1.0,
    estimate_ms: float | None = None,
    **more: Any,
) -> Result:
    precision = name.rsplit("-", maxsplit=1)[-1]
    recipe = Recipe(toolchain=name, format="x", precision=precision)
    measured = measurement(p50_ms, more.pop("jitter", 0.01)) if p50_ms else None
    evidence = "device" if measured else "host"
    accuracy = Accuracy(
        metric="top1",
        final=None if final is None else drop(final),
        selection=drop(final or 0.0) if selection is None else drop(selection),
        evidence=evidence,  # type: ignore[arg-type]
        proves=evidence == "device",
    )
    predicted = None
    if estimate_ms is not None:
        predicted = Interval(value=estimate_ms, low=estimate_ms / 4, high=estimate_ms * 4)
    return Result(
        candidate=Candidate(model="net", profile=PROFILE, recipe=recipe),
        status=more.pop("status", "built"),
        size_bytes=round(size_mib * (1 << 20)),
        estimate=Estimate(latency_ms=predicted, peak_memory_bytes=None),
        report=more.pop("report", None)
        or Report(
            evaluation=None,
            measurement=measured,
            numerics_evidence=evidence,  # type: ignore[arg-type]
            speed_evidence=evidence,  # type: ignore[arg-type]
        ),
        accuracy=accuracy,
        **more,
    )


LIMITS = {"accuracy_drop": 0.02}


def chosen(results: Sequence[Result], limits: dict[str, float] | None = None) -> str | None:
    found = select(results, limits or LIMITS)
    return found.chosen.candidate.recipe.toolchain if found.chosen else None


def test_the_fastest_within_the_limits_wins() -> None:
    found = select([result("a-f32", 4), result("b-int8", 2), result("c-int8", 3)], LIMITS)
    assert found.chosen is not None
    assert found.chosen.candidate.recipe.toolchain == "b-int8"
    assert (found.verdict, found.selected_by) == ("met", "measured")


def test_a_fast_one_over_its_accuracy_limit_is_never_chosen_nor_on_the_ladder() -> None:
    found = select([result("a-f32", 4), result("b-int8", 2, final=0.1)], LIMITS)
    assert [rung.candidate.recipe.toolchain for rung in found.ladder] == ["a-f32"]
    assert "accuracy_drop 0.1 > 0.02" in deciding(found.results[1])


def test_the_baseline_itself_is_refused_when_it_breaks_a_limit() -> None:
    limits = {**LIMITS, "latency_p50_ms": 3.0}
    found = select([result("a-f32", 4), result("b-int8", 2)], limits)
    assert [rung.role for rung in found.ladder] == ["chosen"]


@pytest.mark.parametrize(
    ("tuned_ms", "jitter", "wins"),
    [(1.9, 0.2, "b-int8"), (1.0, 0.01, "c-int8"), (1.95, 0.001, "c-int8")],
    ids=["by luck", "surely", "surely by little"],
)
def test_what_is_not_measured_faster_than_the_plain_one_that_it_tunes_loses_to_it(
    tuned_ms: float, jitter: float, wins: str
) -> None:
    plain = result("b-int8", 2, jitter=jitter)
    tuned = dataclasses.replace(
        result("c-int8", tuned_ms, jitter=jitter), varies=plain.candidate.recipe.digest
    )
    others = [result("a-f32", 4), result("d-int8", 3)]
    assert chosen([tuned, *others, plain]) == wins
    # Without the plain one in the contest there is nothing to lose to.
    assert chosen([tuned, *others]) == "c-int8"


def test_what_is_not_measured_faster_than_the_baseline_loses_to_it() -> None:
    assert chosen([result("a-f32", 4.0, jitter=0.2), result("b-int8", 3.99, jitter=0.2)]) == "a-f32"


def test_a_slower_one_is_chosen_where_a_limit_needs_it() -> None:
    results = [result("a-f32", 2, size_mib=8), result("b-int8", 3, size_mib=2)]
    assert chosen(results, {**LIMITS, "size_mib": 4}) == "b-int8"


def test_a_proven_one_wins_over_a_faster_unproven_one() -> None:
    assert chosen([result("a-f32", 4), result("b-int8", 2, final=0.018)]) == "a-f32"


def test_an_unproven_one_is_chosen_if_nothing_is_proven() -> None:
    found = select([result("a-f32", 4, final=0.018), result("b-int8", 2, final=0.018)], LIMITS)
    assert found.verdict == "unproven"
    assert found.chosen is not None
    assert found.chosen.candidate.recipe.toolchain == "b-int8"


def test_the_selection_split_orders_and_the_final_split_decides() -> None:
    results = [result("a-f32", 4), result("b-int8", 2, final=0.0, selection=0.05)]
    assert chosen(results) == "a-f32"


def test_without_a_device_the_estimate_ranks_and_nothing_is_proven() -> None:
    results = [
        result("a-f32", estimate_ms=4),
        result("b-int8", estimate_ms=2),
        result("c-f16", estimate_ms=3),
        result("d-int8", estimate_ms=9),
    ]
    found = select(results, {**LIMITS, "latency_p50_ms": 20.0})
    assert (found.verdict, found.selected_by) == ("unproven", "estimate")
    names = [rung.candidate.recipe.toolchain for rung in found.ladder]
    assert names == ["b-int8", "c-f16", "d-int8", "a-f32"]
    assert [rung.role for rung in found.ladder] == ["chosen", "runner_up", "runner_up", "baseline"]


def test_an_estimate_that_cannot_hold_disproves() -> None:
    found = select([result("a-f32", estimate_ms=100)], {**LIMITS, "latency_p50_ms": 20.0})
    assert found.verdict == "unmet"
    assert found.chosen is None
    assert "estimate" in deciding(found.results[0])


def test_a_smaller_one_is_carried_along() -> None:
    results = [
        result("a-f32", 1.0, size_mib=8),
        result("b-int8", 0.5, size_mib=4),
        result("c-int8", 3, size_mib=3),
        result("d-int8", 4, size_mib=3),
        result("e-int8", 5, size_mib=1),
    ]
    found = select(results, LIMITS)
    roles = {r.candidate.recipe.toolchain: r.role for r in found.ladder}
    assert roles["e-int8"] == "smaller"


def test_speedup_is_held_against_the_baseline() -> None:
    results = [result("a-f32", 4), result("b-int8", 2)]
    assert chosen(results, {**LIMITS, "speedup": 1.5}) == "b-int8"
    assert chosen(results, {**LIMITS, "speedup": 3.0}) is None


def test_nothing_built_is_unmet() -> None:
    found = select([result("a-f32", status="failed", reason="no such operator")], LIMITS)
    assert found == Selection(
        verdict="unmet", chosen=None, selected_by=None, ladder=(), results=found.results
    )
    assert deciding(found.results[0]) == "no such operator"


def test_the_baseline_is_the_fastest_f32_and_the_first_where_nothing_is_measured() -> None:
    measured = [result("a-f32", 4), result("b-f32", 3), result("c-int8", 1)]
    assert find_baseline(measured) is measured[1]
    unmeasured = [result("z-int8"), result("a-f32"), result("b-f32")]
    assert find_baseline(unmeasured) is unmeasured[1]


def test_few_final_samples_leave_accuracy_unproven() -> None:
    few = result("a-f32", 4)
    assert few.accuracy is not None
    accuracy = dataclasses.replace(
        few.accuracy, final=Drop(value=0, low=-0.1, high=0.1, n=28, original_mean=1, variant_mean=1),
        samples_needed=149,
    )  # fmt: skip
    found = select([dataclasses.replace(few, accuracy=accuracy)], LIMITS)
    assert found.verdict == "unproven"
    assert "about 149" in deciding(found.results[0])


results_strategy = st.lists(
    st.tuples(
        st.sampled_from(["f32", "int8", "f16"]),
        st.one_of(st.none(), st.floats(0.1, 50)),
        st.floats(-0.01, 0.1),
        st.floats(0.1, 20),
        st.sampled_from(["built", "built", "failed", "refused"]),
    ),
    min_size=1,
    max_size=7,
)


@pytest.mark.filterwarnings("ignore::hypothesis.errors.NonInteractiveExampleWarning")
@given(rows=results_strategy, size=st.floats(0.05, 20))
def test_no_ladder_ever_holds_a_variant_that_breaks_a_limit(
    rows: list[tuple[str, float | None, float, float, str]], size: float
) -> None:
    results = [
        result(f"t{i}-{p}", p50, final=d, size_mib=s, estimate_ms=5, status=status)
        for i, (p, p50, d, s, status) in enumerate(rows)
    ]
    found = select(results, {**LIMITS, "size_mib": size})
    for rung in found.ladder:
        assert rung.status == "built"
        assert all(verdict.verdict != "unmet" for verdict in rung.verdicts)
    names = [rung.candidate.identifier for rung in found.ladder]
    assert len(names) == len(set(names))
    assert (found.chosen is None) == (found.verdict == "unmet")
    assert len(found.results) == len(results)
