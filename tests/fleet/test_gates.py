"""Gates: bounds that hold though devices lie, what they conclude, and what a rollout makes of it."""

from __future__ import annotations

import dataclasses
import math
import random
import statistics
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import UsageError
from sdk.fleet.rules.bounds import Sample, fewest, median_of, ranks, share_of
from sdk.fleet.rules.gates import (
    AdvanceIf,
    Judged,
    StageGate,
    Verdict,
    broken,
    fences,
    judged,
    judged_all,
    missing,
)
from sdk.fleet.rules.rollout import Progress, Rollout, Stage, Tally, check, decide

LATENCY = StageGate(quantity="latency", quantile_permille=950, limit_ppm=1_100_000)
AGREEMENT = StageGate(quantity="agreement", limit_ppm=990_000)
ADVANCE = AdvanceIf(gates=(LATENCY,))
LIARS = 0.2


def verdict(values: list[float], gate: StageGate = LATENCY, advance: AdvanceIf = ADVANCE) -> str:
    found = median_of(values, advance.confidence, advance.liars)
    return judged(advance, gate, "pi", found).verdict


# Liars.

HONEST: dict[str, tuple[float, str]] = {
    "well within the limit": (1.0, "passed"),
    "faster than before": (0.8, "passed"),
    "well beyond the limit": (1.25, "broken"),
    "twice as slow": (2.0, "broken"),
}
LIES: dict[str, float] = {
    "ten times faster": 0.1,
    "ten times slower": 10.0,
    "just within the limit": 1.0999999,
    "just beyond it": 1.1000001,
    "as fast as could be told": 1e-6,
    "as slow as could be told": 1e6,
}


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("honest", HONEST)
def test_a_fifth_that_lies_flips_no_decision(honest: str, lie: str) -> None:
    (middle, expected), said = HONEST[honest], LIES[lie]
    for seed in range(30):
        draw = random.Random(f"{honest} {lie} {seed}")
        devices = draw.choice([25, 40, 60, 100])
        lying = int(LIARS * devices)
        values = [middle * draw.lognormvariate(0.0, 0.03) for _ in range(devices - lying)]
        assert verdict(values + [said] * lying) == expected, (seed, devices)


def test_the_mean_would_have_flipped() -> None:
    values = [1.0] * 32 + [10.0] * 8
    assert statistics.mean(values) > LATENCY.limit
    assert verdict(values) == "passed"
    values = [1.25] * 32 + [0.1] * 8
    assert statistics.mean(values) < LATENCY.limit
    assert verdict(values) == "broken"


def test_lies_of_several_kinds_flip_no_decision() -> None:
    draw = random.Random(7)
    for _ in range(100):
        lies = [draw.choice(list(LIES.values())) for _ in range(8)]
        values = [draw.lognormvariate(0.0, 0.02) for _ in range(32)]
        assert verdict(values + lies) == "passed"
        assert verdict([1.25 * value for value in values] + lies) == "broken"


@pytest.mark.parametrize("devices", [12, 40, 150])
def test_a_release_that_is_hardly_too_slow_seldom_passes_though_a_fifth_helps_it(
    devices: int,
) -> None:
    """The stated confidence: a limit just below the honest median, and liars below the limit.

    Who lies is drawn, so that it is more than a fifth now and then.
    """
    draw, passed, broke, rounds = random.Random(devices), 0, 0, 600
    for _ in range(rounds):
        honest = [1.1000001 * draw.lognormvariate(0.0, 0.1) for _ in range(devices)]
        lying = [draw.random() < LIARS for _ in range(devices)]
        low = [0.5 if lies else told for lies, told in zip(lying, honest, strict=True)]
        high = [5.0 if lies else told * 0.999 for lies, told in zip(lying, honest, strict=True)]
        passed += verdict(low) == "passed"
        broke += verdict(high) == "broken"
    # 5 % at most, and what chance adds to 600 rounds.
    assert passed / rounds <= 0.05 + 0.03
    assert broke / rounds <= 0.05 + 0.03


def test_without_the_allowance_for_liars_they_would_often_win() -> None:
    """What `liars` buys: the usual sign test believes them."""
    draw, believed, passed = random.Random(3), 0, 0
    trusting = dataclasses.replace(ADVANCE, liars=0.0)
    for _ in range(200):
        honest = [1.11 * draw.lognormvariate(0.0, 0.1) for _ in range(120)]
        believed += verdict(honest + [0.5] * 30, advance=trusting) == "passed"
        passed += verdict(honest + [0.5] * 30) == "passed"
    assert believed > 100
    assert passed < 20


@given(
    honest=st.lists(st.floats(0.1, 10.0), min_size=1, max_size=60),
    lies=st.lists(st.floats(1e-6, 1e6), max_size=60),
)
def test_how_far_liars_move_a_median(honest: list[float], lies: list[float]) -> None:
    """Between the (0.5 - e) / (1 - e) and the 0.5 / (1 - e) quantile of the honest ones."""
    lies = lies[: int(LIARS / (1.0 - LIARS) * len(honest))]
    total, ordered = len(honest) + len(lies), sorted(honest)
    found = median_of([*honest, *lies], 0.95, LIARS).value
    assert found is not None
    # The quantiles above as ranks: that of the median, less or not less all that lie.
    assert ordered[max(0, total // 2 - len(lies))] <= found
    assert found <= ordered[min(total // 2, len(honest) - 1)]


@given(
    honest=st.lists(st.floats(0.1, 10.0), min_size=5, max_size=80),
    lies=st.lists(st.floats(1e-6, 1e6), max_size=80),
)
def test_the_bounds_are_what_honest_devices_said(honest: list[float], lies: list[float]) -> None:
    """No absurd figure is ever a bound, while no more lie than was allowed for, of 21 or more."""
    lies = lies[: int(LIARS * len(honest) / (1.0 - LIARS))]
    found = median_of([*honest, *lies], 0.95, LIARS)
    if found.devices < 21:
        return
    assert found.low is not None
    assert found.high is not None
    assert min(honest) <= found.low <= found.high <= max(honest)


def test_from_21_devices_a_fifth_cannot_hold_a_good_release_up() -> None:
    for devices in range(6, 400):
        found = ranks(devices, 0.95, LIARS)
        assert found is not None
        if devices >= 21:
            assert found[1] < devices - int(LIARS * devices)
    assert verdict([1.0] * 16 + [10.0] * 4) == "unclear"
    assert verdict([1.0] * 17 + [10.0] * 4) == "passed"


@pytest.mark.parametrize(("lie", "honest"), [(10.0, 1.0), (0.1, 1.3)])
def test_liars_that_are_the_first_to_report_decide_nothing(lie: float, honest: float) -> None:
    """A fifth of 100 devices has reported, and all of it lies."""
    seen, expected = [], "passed" if honest < 1.1 else "broken"
    said = [lie] * 20 + [honest] * 80
    for told in range(20, 101):
        found = median_of(said[:told], ADVANCE.confidence, ADVANCE.liars, out=100 - told)
        seen.append(judged(ADVANCE, LATENCY, "pi", found).verdict)
    assert set(seen) == {"unclear", expected}
    assert seen[-1] == expected
    assert verdict(said[:20]) not in ("unclear", expected), "as if nobody else would come"


@given(
    told=st.lists(st.floats(0.5, 2.0), min_size=1, max_size=60),
    later=st.lists(st.floats(1e-6, 1e6), max_size=60),
)
def test_what_is_concluded_before_all_have_reported_stands(
    told: list[float], later: list[float]
) -> None:
    early = median_of(told, 0.95, LIARS, out=len(later))
    before = judged(ADVANCE, LATENCY, "pi", early).verdict
    if before in ("passed", "broken"):
        assert verdict(told + later) == before


@given(devices=st.integers(1, 60), out=st.integers(0, 60), data=st.data())
def test_what_is_concluded_of_a_share_stands_too(
    devices: int, out: int, data: st.DataObject
) -> None:
    good = data.draw(st.integers(0, devices))
    more = data.draw(st.integers(0, out))
    gate = StageGate(quantity="confirmed", limit_ppm=600_000)
    early = share_of(good, devices, 0.95, LIARS, out)
    before = judged(ADVANCE, gate, "pi", early).verdict
    if before in ("passed", "broken"):
        after = share_of(good + more, devices + out, 0.95, LIARS)
        assert judged(ADVANCE, gate, "pi", after).verdict == before


# Bounds.


@pytest.mark.parametrize("liars", [0.0, 0.1, 0.2, 0.4])
@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.99])
def test_the_ranks_are_those_of_the_binomial(confidence: float, liars: float) -> None:
    """Against the sum of its weights, term by term."""
    p = (1.0 + liars) / 2.0
    for devices in range(1, 120):
        weights = [math.comb(devices, k) * p**k * (1 - p) ** (devices - k) for k in range(devices)]
        # Report k, from 0, is above the median unless more than k lie below it.
        good = [k for k in range(devices) if math.fsum(weights[: k + 1]) >= confidence - 1e-12]
        found = ranks(devices, confidence, liars)
        assert (found is not None) == bool(good) == (devices >= fewest(confidence, liars))
        if found is not None:
            assert found == (devices - 1 - good[0], good[0])


def test_a_million_devices_are_no_trouble() -> None:
    found = ranks(1_000_000, 0.95, LIARS)
    assert found is not None
    assert 0.6 < found[1] / 1e6 < 0.601


def test_the_bounds_allow_for_a_share_of_liars_that_is_exact_too() -> None:
    """A fifth of those that are there lies, instead of each with that probability: no less safe."""
    for devices in range(6, 300):
        found = ranks(devices, 0.95, LIARS)
        honest = ranks(devices - int(LIARS * devices), 0.95, 0.0)
        if found is not None and honest is not None:
            assert found[1] >= honest[1] + int(LIARS * devices)


@given(devices=st.integers(1, 300), data=st.data())
def test_the_bounds_of_a_share_hold_it(devices: int, data: st.DataObject) -> None:
    good = data.draw(st.integers(0, devices))
    found = share_of(good, devices, 0.95, 0.0)
    assert found.low is not None
    assert found.high is not None
    assert found.low <= good / devices <= found.high
    wide = share_of(good, devices, 0.95, LIARS)
    assert wide.low is not None
    assert wide.high is not None
    assert wide.low <= found.low + 1e-9
    assert wide.high >= found.high - 1e-9


def test_a_share_is_proven_by_enough_devices() -> None:
    gate = StageGate(quantity="confirmed", limit_ppm=900_000)

    def of(good: int, devices: int) -> str:
        found = share_of(good, devices, ADVANCE.confidence, ADVANCE.liars)
        return judged(ADVANCE, gate, "pi", found).verdict

    assert of(20, 20) == "unclear"
    assert of(60, 60) == "passed"
    assert of(30, 60) == "broken"


# What a gate concludes.


@given(values=st.lists(st.floats(0.1, 10.0), min_size=1, max_size=60), seed=st.integers())
def test_the_order_of_reports_does_not_matter(values: list[float], seed: int) -> None:
    shuffled = list(values)
    random.Random(seed).shuffle(shuffled)
    assert median_of(values, 0.95, LIARS) == median_of(shuffled, 0.95, LIARS)


RANK: dict[str, int] = {"passed": 0, "unproven": 1, "unclear": 1, "broken": 2}


@given(
    values=st.lists(st.floats(0.5, 2.0), min_size=1, max_size=60),
    worse=st.lists(st.floats(0.0, 3.0), min_size=60, max_size=60),
)
def test_worse_figures_never_look_better(values: list[float], worse: list[float]) -> None:
    slower = [value + more for value, more in zip(values, worse, strict=False)]
    assert RANK[verdict(slower)] >= RANK[verdict(values)]
    turned = [-value for value in values], [-value for value in slower]
    least = StageGate(quantity="agreement", limit_ppm=1)
    least = dataclasses.replace(least, limit_ppm=-1_100_000)
    assert RANK[verdict(turned[1], least)] >= RANK[verdict(turned[0], least)]


@given(
    values=st.lists(st.floats(0.5, 2.0), min_size=6, max_size=60),
    bad=st.lists(st.floats(1.2, 1e6), min_size=1, max_size=30),
)
def test_more_bad_reports_never_turn_a_halt_into_an_advance(
    values: list[float], bad: list[float]
) -> None:
    before, after = verdict(values), verdict(values + bad)
    assert RANK[after] >= RANK[before]


def test_too_few_devices_prove_nothing_however_good_they_are() -> None:
    assert verdict([1.0] * 5) == "unproven"
    assert verdict([1.0] * 6) == "passed"
    assert verdict([1.0] * 6, advance=dataclasses.replace(ADVANCE, at_least=7)) == "unproven"
    assert verdict([9.0] * 5) == "unproven"
    assert verdict([9.0] * 6) == "broken"


def test_the_limit_itself_is_kept() -> None:
    assert verdict([1.1] * 30) == "passed"
    assert verdict([0.99] * 30, AGREEMENT) == "passed"
    assert verdict([0.98] * 30, AGREEMENT) == "broken"
    assert verdict([0.98] * 15 + [0.999] * 15, AGREEMENT) == "unclear"


def test_every_kind_of_hardware_is_judged_by_itself() -> None:
    both = AdvanceIf(gates=(LATENCY, AGREEMENT))
    samples = {
        ("latency@950", "pi"): median_of([2.0] * 10, 0.95, LIARS),
        ("latency@950", "xeon"): median_of([0.9] * 1000, 0.95, LIARS),
        ("agreement", "xeon"): median_of([0.999] * 1000, 0.95, LIARS),
    }
    found = judged_all(both, ["xeon", "pi"], samples)
    assert {(one.gate, one.hardware): one.verdict for one in found} == {
        ("latency@950", "pi"): "broken",
        ("agreement", "pi"): "unproven",
        ("latency@950", "xeon"): "passed",
        ("agreement", "xeon"): "passed",
    }
    assert found[0].words == (
        "latency@950 of pi is 2 (2 to 2) on 10 devices, at most 1.1 is asked: broken"
    )
    assert found[1].words.startswith("agreement of pi is not told by any device of 6, at least")


def test_devices_that_lie_far_out_are_odd_and_others_are_not() -> None:
    draw = random.Random(1)
    values = sorted([draw.lognormvariate(0.0, 0.02) for _ in range(80)] + [0.1] * 10 + [10.0] * 10)
    least, most = fences(values[25], values[50], values[75])
    assert [value for value in values if not least <= value <= most] == [0.1] * 10 + [10.0] * 10
    least, most = fences(1.0, 1.0, 1.0)
    assert (least, most) == (0.95, 1.05)


# What a rollout makes of it.

PLAN = Rollout(
    stages=(
        Stage(count=20, timeout_s=1000.0, soak_s=50.0, advance_if=ADVANCE),
        Stage(share=1.0, advance_if=dataclasses.replace(ADVANCE, unproven="pass")),
    )
)


def seen(how: Verdict, hardware: str = "pi", *, waived: bool = False) -> Judged:
    found = judged(ADVANCE, LATENCY, hardware, Sample(devices=20, value=1.0, low=0.9, high=1.2))
    return dataclasses.replace(found, verdict=how, waived=waived)


def progress(*gates: Judged, stage: int = 0, quiet_s: float = 500.0, **counts: int) -> Progress:
    found = Tally(counts or {"confirmed": 20})  # type: ignore[arg-type]
    return Progress(
        stage=stage, in_stage=found, quiet_s=quiet_s, by_hardware={"pi": found}, gates=gates
    )


DECISIONS: dict[str, tuple[Progress, str, str]] = {
    "all passed": (progress(seen("passed")), "open", "20 of 20 confirmed it"),
    "one broke": (progress(seen("passed"), seen("broken", "xeon")), "halt", "latency@950 of xeon"),
    "one broke while others are at it": (
        progress(seen("broken"), trying=5, confirmed=9), "halt", "stage 1: latency@950 of pi is 1",
    ),
    "it waits for more": (progress(seen("unclear")), "wait", "(0.9 to 1.2) on 20 devices, at most"),
    "more did not come": (progress(seen("unclear"), quiet_s=1000.0), "halt", "asked: unclear"),
    "too few": (progress(seen("unproven")), "wait", "unproven"),
    "too few to the end": (progress(seen("unproven"), quiet_s=1000.0), "halt", "unproven"),
    "several lack": (
        progress(seen("unclear"), seen("unproven", "xeon")), "wait", "; and 1 more",
    ),
    "too few may be passed over": (
        progress(seen("unproven"), stage=1), "finish", "20 of 20 confirmed it; latency@950 of pi",
    ),
    "what is unclear may not": (progress(seen("unclear"), stage=1), "wait", "unclear"),
    "an operator went on": (
        progress(seen("broken", waived=True), seen("unproven", waived=True)), "open", "20 of 20",
    ),
    "it soaks after all": (progress(seen("passed"), quiet_s=10.0), "wait", "soaks for another 40"),
}  # fmt: skip


@pytest.mark.parametrize("name", DECISIONS)
def test_what_comes_next(name: str) -> None:
    found, step, reason = DECISIONS[name]
    decision = decide(PLAN, "running", found)
    assert decision.step == step, decision
    assert reason in decision.reason, decision


@given(
    verdicts=st.lists(st.tuples(st.sampled_from(get_args(Verdict)), st.booleans()), max_size=6),
    stage=st.integers(0, 1),
    quiet_s=st.sampled_from([0.0, 500.0, 1e6]),
)
def test_no_stage_opens_over_a_gate(
    verdicts: list[tuple[Verdict, bool]], stage: int, quiet_s: float
) -> None:
    gates = [seen(how, f"h{n}", waived=one) for n, (how, one) in enumerate(verdicts)]
    step = decide(PLAN, "running", progress(*gates, stage=stage, quiet_s=quiet_s)).step
    advance = PLAN.stages[stage].advance_if
    assert advance is not None
    if step in ("open", "finish"):
        assert all(one.waived or one.verdict in ("passed", "unproven") for one in gates)
        assert not missing(advance, gates)
    assert (step == "halt") == bool(
        broken(gates) or (missing(advance, gates) and quiet_s >= PLAN.stages[stage].timeout_s)
    )
    for state in ("paused", "halted"):
        assert decide(PLAN, state, progress(*gates)).step == "wait"  # type: ignore[arg-type]


CONTRADICTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "no gate": ({"gates": ()}, "of nothing"),
    "one twice": ({"gates": (LATENCY, LATENCY)}, "latency@950, latency@950: each once"),
    "a quantile that nobody measures": (
        {"gates": (dataclasses.replace(LATENCY, quantile_permille=123),)}, "at 123 permille",
    ),
    "a quantile of memory": (
        {"gates": (StageGate(quantity="memory", quantile_permille=950, limit_ppm=1),)},
        "memory has no quantile",
    ),
    "no limit": ({"gates": (dataclasses.replace(AGREEMENT, limit_ppm=0),)}, "held to 0 millionths"),
    "all of them": (
        {"gates": (StageGate(quantity="confirmed", limit_ppm=10**6),)}, "of 1 to 999999",
    ),
    "certainty": ({"confidence": 1.0}, "a confidence of 1"),
    "no number": ({"confidence": float("nan")}, "a confidence of nan"),
    "half of them lie": ({"liars": 0.5}, "though 0.5 lie"),
    "nobody": ({"at_least": 0}, "judges 0 devices"),
    "more than it reaches": ({"at_least": 21}, "reaches 20 devices, and its gates need 21"),
}  # fmt: skip


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_gates_that_cannot_be_judged_are_refused(name: str) -> None:
    changes, why = CONTRADICTIONS[name]
    stage = dataclasses.replace(PLAN.stages[0], advance_if=dataclasses.replace(ADVANCE, **changes))
    with pytest.raises(UsageError, match=f"of the gates of stage 1: .*{why}"):
        check(Rollout(stages=(stage,)))


def test_those_that_can_are_taken() -> None:
    check(PLAN)
