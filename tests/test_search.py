"""What a search tries next, and who leads: pure rules, played against a made-up world."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

import targets
from agent.calls import ONE_AT_A_TIME, calls_of
from agent.errors import UsageError
from agent.manifest import Signature, TensorSpec
from profiles import find
from sdk.estimate import estimate
from sdk.objective import OBJECTIVES, Figures, Objective, cost, must_be_small
from sdk.plan import Candidate
from sdk.result import Status
from sdk.search.clock import Clock, counted, seconds, spoken
from sdk.search.finals import ALIKE, FINALISTS, finalists, why_left
from sdk.search.moves import files_of, in_order, next_kept, next_moves, to_rank
from sdk.search.standing import Attempt, Move, Standing
from targets import variations
from targets.interface import OpCost, Program, Ranking, Recipe, Sensitivity
from targets.recipes import aotinductor_cpu, executorch, nncf, onnxruntime, openvino
from tests.test_prune import program
from tests.test_select import PROFILE, result

VNNI = dataclasses.replace(PROFILE, isa=("avx512_vnni", "avx512_bf16"), cores=8)
LIMITS = {"accuracy_drop": 0.01}
GROUPS = tuple(
    Sensitivity(operators=(f"layer{index}",), error=0.5**index, work=1 / 24) for index in range(24)
)
F32 = openvino("CPU", "f32", "f32")
INT8 = openvino("CPU", "int8", "f32", quantisation=nncf(None))
PLAN = (F32, INT8, onnxruntime(None, VNNI, "f32"))

World = Callable[[Recipe], tuple[float, float]]
"""Recipe -> (pace, drop)."""


def attempt(move: Move, world: World, status: Status = "built") -> Attempt:
    pace, loss = world(move.recipe)
    found = result(move.recipe.name, pace, selection=loss)
    candidate = Candidate(model="net", profile=VNNI, recipe=move.recipe)
    found = dataclasses.replace(found, candidate=candidate, status=status)
    return Attempt(move=move, result=found, pace=pace)


def begin(world: World, objective: Objective = "latency") -> Standing:
    return Standing(
        attempts=tuple(attempt(Move(recipe=r, kind="plan"), world) for r in PLAN),
        limits=LIMITS,
        objective=objective,
        measurable=True,
    )


def play(
    world: World,
    seed: int = 0,
    groups: tuple[Sensitivity, ...] = GROUPS,
    given: Program | None = None,
) -> Standing:
    """Search until nothing is left to try."""
    standing, ranked = begin(world), dict[str, tuple[Sensitivity, ...]]()
    for _ in range(100):
        for recipe in to_rank(standing):
            ranked[recipe.digest] = groups
        moves = next_moves(standing, given or program(), VNNI, ranked, seed)
        if not moves:
            return standing
        new = tuple(attempt(move, world) for move in moves)
        standing = dataclasses.replace(standing, attempts=(*standing.attempts, *new))
    raise AssertionError("it goes on for ever")


def kept(recipe: Recipe) -> int:
    return len((recipe.quantisation or {}).get("ignored", ()))


def losing(needed: int, gain: float = 0.5) -> World:
    """int8 takes `gain` of f32's time and loses too much until `needed` layers are kept."""

    def world(recipe: Recipe) -> tuple[float, float]:
        if recipe.precision != "int8":
            return (1.0 if recipe.toolchain == "openvino" else 1.2), 0.0
        share = kept(recipe) / len(GROUPS)
        return gain + (1 - gain) * share, 0.0 if kept(recipe) >= needed else 0.3 - 0.001 * share

    return world


@pytest.mark.parametrize("needed", [1, 2, 5, 11, 23])
def test_the_walk_keeps_about_as_few_layers_as_the_limit_takes(needed: int) -> None:
    best = play(losing(needed)).best()
    assert best is not None
    assert needed <= kept(best.move.recipe) <= needed + 1


def test_a_walk_ends_where_what_is_left_is_not_worth_having() -> None:
    standing = play(losing(20, gain=0.9))
    best = standing.best()
    assert best is not None
    assert best.move.recipe.precision == "f32" or best.pace < 0.97
    tried = [one for one in standing.attempts if one.move.kind == "mixed"]
    assert all(one.pace <= 0.9 + 0.1 * 20 / 24 + 0.01 for one in tried if one.pace is not None)


def test_what_is_accurate_is_not_mended_and_what_is_slower_neither() -> None:
    for world in (losing(0), losing(5, gain=1.3)):
        assert {one.move.kind for one in play(world).attempts} <= {"plan", "tuning"}


def test_settings_come_before_the_walk_and_may_make_it_needless() -> None:
    def world(recipe: Recipe) -> tuple[float, float]:
        if recipe.precision == "int8":
            cured = (recipe.quantisation or {}).get("preset") == "mixed"
            return 0.5, 0.0 if cured else 0.2
        return 1.0, 0.0

    standing = play(world)
    best = standing.best()
    assert best is not None
    assert best.move.kind in ("setting", "tuning")
    assert "mixed" not in {one.move.kind for one in standing.attempts}


def test_options_that_help_are_combined_and_none_is_tried_twice() -> None:
    def world(recipe: Recipe) -> tuple[float, float]:
        pace = 0.5 if recipe.precision == "int8" else 1.0
        if recipe.options.get("INFERENCE_NUM_THREADS") == 4:
            pace *= 0.8
        if recipe.options.get("ENABLE_CPU_PINNING") is False:
            pace *= 0.9
        return pace, 0.0

    standing = play(world)
    digests = [one.digest for one in standing.attempts]
    assert len(digests) == len(set(digests))
    best = standing.best()
    assert best is not None
    assert best.pace == pytest.approx(0.5 * 0.8 * 0.9)
    assert best.move.kind == "tuning"


@pytest.mark.slow
@given(st.integers(0, 1000), st.integers(0, 24))
def test_the_same_seed_gives_the_same_plan(seed: int, needed: int) -> None:
    one, other = (play(losing(needed), seed) for _ in range(2))
    assert [a.digest for a in one.attempts] == [a.digest for a in other.attempts]


@given(
    st.dictionaries(st.sampled_from([r.digest for r in PLAN]), st.floats(0.01, 10)),
    st.dictionaries(st.sampled_from([r.digest for r in PLAN]), st.floats(0, 0.5)),
    st.sampled_from(OBJECTIVES),
)
def test_the_leader_keeps_the_limit_and_nobody_who_does_is_better(
    paces: dict[str, float], drops: dict[str, float], objective: Objective
) -> None:
    standing = begin(lambda r: (paces.get(r.digest, 1.0), drops.get(r.digest, 0.0)), objective)
    best = standing.best()
    fit = [one for one in standing.attempts if drops.get(one.digest, 0.0) <= 0.01]
    assert (best is None) == (not fit)
    if best is not None:
        assert best in fit
        assert standing.cost(best) == min(map(standing.cost, fit))


def test_a_failed_candidate_neither_leads_nor_is_varied() -> None:
    standing = begin(losing(0))
    broken = tuple(
        dataclasses.replace(one, result=dataclasses.replace(one.result, status="failed"))
        if one.move.recipe == INT8
        else one
        for one in standing.attempts
    )
    standing = dataclasses.replace(standing, attempts=broken)
    best = standing.best()
    assert best is not None
    assert best.move.recipe == F32
    moves = next_moves(standing, program(), VNNI, {}, 0)
    assert all(move.parent != INT8.digest for move in moves)


@given(
    st.integers(1, 200).flatmap(
        lambda n: st.tuples(
            st.just(n), st.integers(0, n), st.lists(st.floats(-1, 1), min_size=n, max_size=n)
        )
    )
)
def test_a_bisection_ends_soon_near_the_least_that_is_enough(
    case: tuple[int, int, list[float]],
) -> None:
    count, needed, errors = case
    groups = [Sensitivity(operators=(str(i),), error=e, work=0.1) for i, e in enumerate(errors)]
    too_few: list[int] = []
    enough: list[int] = []
    for steps in itertools.count():
        step = next_kept(groups, too_few=too_few, too_many=enough)
        if step is None:
            break
        assert 0 < step < count
        assert step not in (*too_few, *enough)
        (enough if step >= needed else too_few).append(step)
        assert steps < 12
    if enough and too_few:
        assert min(enough) - needed <= max(1, count // 16)


def test_groups_are_kept_by_what_they_gain_for_their_work() -> None:
    heavy = Sensitivity(operators=("heavy",), error=0.4, work=0.8)
    light = Sensitivity(operators=("light",), error=0.3, work=0.1)
    harmless = Sensitivity(operators=("harmless",), error=-0.1, work=0.1)
    assert in_order([harmless, heavy, light]) == (light, heavy, harmless)


OBJECTIVE_CASES: dict[str, tuple[Objective, Figures, Figures]] = {
    "latency": ("latency", Figures(latency=1, memory_bytes=9, size_bytes=9),
                Figures(latency=2, memory_bytes=1, size_bytes=1)),
    "memory": ("memory", Figures(latency=9, memory_bytes=1, size_bytes=9),
               Figures(latency=1, memory_bytes=2, size_bytes=1)),
    "throughput": ("throughput", Figures(latency=9, per_run=1, memory_bytes=9, size_bytes=9),
                   Figures(latency=1, per_run=2, memory_bytes=1, size_bytes=1)),
    "size": ("size", Figures(latency=9, memory_bytes=9, size_bytes=1),
             Figures(latency=1, memory_bytes=1, size_bytes=2)),
    "balanced": ("balanced", Figures(latency=2, memory_bytes=1, size_bytes=1),
                 Figures(latency=1, memory_bytes=2, size_bytes=2)),
    "known before unknown": ("memory", Figures(latency=1, memory_bytes=99, size_bytes=1),
                             Figures(latency=1, memory_bytes=None, size_bytes=1)),
}  # fmt: skip


@pytest.mark.parametrize(
    ("objective", "limits", "small"),
    [
        ("latency", {"accuracy_drop": 0.01}, False),
        ("latency", {"peak_memory_mib": 100}, True),
        ("latency", {"size_reduction": 0.5}, True),
        ("throughput", {}, False),
        ("size", {}, True),
        ("balanced", {}, True),
    ],
)
def test_smallness_counts_where_it_is_limited_or_wanted(
    objective: Objective, limits: dict[str, float], small: bool
) -> None:
    assert must_be_small(objective, limits) == small


@pytest.mark.parametrize("name", OBJECTIVE_CASES)
def test_the_objective_says_which_is_better(name: str) -> None:
    objective, better, worse = OBJECTIVE_CASES[name]
    baseline = Figures(latency=4, memory_bytes=4, size_bytes=4)
    assert cost(objective, better, baseline) < cost(objective, worse, baseline)


TIMES = {"90s": 90, "10m": 600, "1h30m": 5400, "2h": 7200, "45": 45, "0.5m": 30, "1m5s": 65}


@pytest.mark.parametrize("text", TIMES)
def test_a_budget_is_read(text: str) -> None:
    assert seconds(text) == TIMES[text]


@pytest.mark.parametrize("text", ["", "0", "-5", "10x", "m", "nan", "inf", "10m x", "1e999"])
def test_what_is_no_budget_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError, match="--budget should be a time above zero"):
        seconds(text)


def test_a_clock_counts_down_and_shares_what_is_left() -> None:
    clock = Clock(budget_s=100.0, started=0.0)
    assert clock.left() == 0.0
    clock = Clock(budget_s=1e6)
    assert clock.share(4).budget_s == pytest.approx(2.5e5, rel=1e-3)


def test_a_leader_of_whom_nothing_is_known_has_no_cost() -> None:
    known = begin(losing(0))
    assert known.best_cost() == pytest.approx(0.5)
    blind = tuple(
        dataclasses.replace(one, pace=None, result=dataclasses.replace(one.result, estimate=None))
        for one in known.attempts
    )
    unknown = dataclasses.replace(known, attempts=blind, measurable=False)
    assert unknown.best() is not None
    assert unknown.best_cost() is None
    assert dataclasses.replace(known, attempts=()).best_cost() is None


def test_things_are_counted() -> None:
    assert [counted(number, "heat") for number in (0, 1, 2)] == ["0 heats", "1 heat", "2 heats"]


def test_durations_are_spoken() -> None:
    assert [spoken(s) for s in (5.2, 200, 3900)] == ["5 s", "3 min 20 s", "1 h 5 min"]


def test_tunings_and_settings_are_new_recipes_of_the_same_toolchain() -> None:
    for recipe in PLAN:
        found = [tuning.recipe for tuning in variations.tunings(recipe, program(), VNNI)]
        found += variations.settings(recipe, program())
        digests = {one.digest for one in found}
        assert found
        assert len(digests) == len(found)
        assert recipe.digest not in digests
        assert {one.toolchain for one in found} == {recipe.toolchain}
        assert len({one.name for one in found}) == len(found)


def test_a_tuning_changes_no_file() -> None:
    for recipe in PLAN:
        for tuning in variations.tunings(recipe, program(), VNNI):
            same = dataclasses.replace(tuning.recipe, options=recipe.options, tag=recipe.tag)
            assert same == recipe


def test_other_engines_are_not_tuned_as_if_they_were_cpus() -> None:
    assert not list(variations.tunings(openvino("GPU", "f16", "f16"), program(), VNNI))


SEQUENCE = dataclasses.replace(
    program(),
    signature=Signature(
        inputs=(TensorSpec(name="x", dtype="int64", shape=("batch", "length", "fixed")),),
        outputs=(TensorSpec(name="y", dtype="float32", shape=("batch",)),),
        dims={"batch": (1, 1, 24), "length": (4, 16, 48), "fixed": (3, 3, 3)},
    ),
)
ORT = onnxruntime(None, VNNI, "f32")


@pytest.mark.parametrize(
    ("recipe", "options", "expected"),
    [
        (F32, {}, {"batch": 1, "length": 16}),
        (INT8, {}, {"batch": 1, "length": 16}),
        (ORT, {}, {"batch": 1, "length": 16}),
        (ORT, {"batch": 8, "batch_dim": "batch"}, {"batch": 8, "length": 16}),
        (openvino("GPU", "f16", "f16"), {}, None),
        (executorch("xnnpack", "f32"), {}, None),
        (next(iter(aotinductor_cpu())), {}, None),
    ],
)
def test_where_sizes_vary_a_form_for_those_that_count_is_tried(
    recipe: Recipe, options: dict[str, object], expected: dict[str, int] | None
) -> None:
    given = dataclasses.replace(recipe, options={**recipe.options, **options})
    found = [t for t in variations.tunings(given, SEQUENCE, VNNI) if "buckets" in t.recipe.options]
    assert [t.recipe.options["buckets"] for t in found] == ([[expected]] if expected else [])
    assert not any(t.exact for t in found)
    for other in (program(), dataclasses.replace(SEQUENCE, signature=still())):
        assert all(
            "buckets" not in t.recipe.options for t in variations.tunings(given, other, VNNI)
        )


def still() -> Signature:
    """Of dims that do not vary."""
    dims = {name: (opt, opt, opt) for name, (_, opt, _) in SEQUENCE.signature.dims.items()}
    return dataclasses.replace(SEQUENCE.signature, dims=dims)


def test_a_batch_is_run_in_a_form_of_its_size() -> None:
    static = next(
        t.recipe for t in variations.tunings(F32, SEQUENCE, VNNI) if "buckets" in t.recipe.options
    )
    for (callers, size), recipe in variations.callings(static, SEQUENCE, VNNI).items():
        assert recipe.options["buckets"] == [{"batch": size, "length": 16}]
        assert calls_of(recipe.options).callers == callers


def test_a_form_of_its_own_is_combined_with_other_options_and_looked_at_again() -> None:
    def world(recipe: Recipe) -> tuple[float, float]:
        pace = 1.0 if recipe.toolchain == "openvino" else 2.0
        pace *= 0.5 if "buckets" in recipe.options else 1.0
        pace *= 0.8 if recipe.options.get("INFERENCE_NUM_THREADS") == 4 else 1.0
        return pace * (3 if recipe.precision == "int8" else 1), 0.0

    standing = play(world, given=SEQUENCE)
    best = standing.best()
    assert best is not None
    assert best.move.recipe.options["buckets"] == [{"batch": 1, "length": 16}]
    assert best.move.recipe.options["INFERENCE_NUM_THREADS"] == 4
    fixed = [one for one in standing.attempts if "buckets" in one.move.recipe.options]
    assert not any(one.move.exact for one in fixed)
    assert {one.move.kind for one in fixed} == {"tuning"}
    assert any(one.move.why == "compiled once more for batch 1 and length 16" for one in fixed)
    assert any(one.move.exact for one in standing.attempts if one.move.kind == "tuning")


def test_a_mixed_recipe_names_what_it_keeps() -> None:
    mixed = variations.keeping(INT8, ("b", "a"))
    assert mixed.quantisation is not None
    assert mixed.quantisation["ignored"] == ["a", "b"]
    assert mixed.name.startswith("openvino-int8-mixed2-")
    assert mixed.digest == variations.keeping(INT8, ("a", "b")).digest


def test_what_can_be_walked_is_what_a_toolchain_ranks() -> None:
    static = executorch("xnnpack", "int8", quantisation={"method": "pt2e", "samples": 8})
    dynamic = executorch("xnnpack", "int8", quantisation={"method": "dynamic"})
    weights = dataclasses.replace(INT8, quantisation={"method": "weights"})
    other = dataclasses.replace(INT8, toolchain="tensorrt", format="tensorrt")
    for recipe in (INT8, static):
        assert variations.is_walkable(recipe)
        assert isinstance(targets.toolchain(recipe.toolchain), Ranking)
    for recipe in (F32, dynamic, weights, other):
        assert not variations.is_walkable(recipe)


STATIC = executorch("xnnpack", "int8", quantisation={"method": "pt2e", "samples": 8})
LAYERS = dataclasses.replace(
    program(),
    costs=tuple(
        OpCost(
            op="aten.conv2d.default", kind="conv", flops=10**8, bytes=10**5, name=f"layer{index}"
        )
        for index in range(24)
    ),
)


@pytest.mark.parametrize("needed", [1, 3, 9])
@pytest.mark.parametrize("device", ["n100", "snapdragon-8-gen-3"])
def test_what_cannot_be_measured_is_walked_by_its_accuracy_and_its_estimate(
    device: str, needed: int
) -> None:
    """Estimates for the one know what is kept in floats; for the other there are none."""
    profile = find(device, ())

    def tried(move: Move) -> Attempt:
        recipe = move.recipe
        loses = recipe.precision == "int8" and kept(recipe) < needed
        found = result(recipe.name, None, selection=0.2 if loses else 0.0)
        found = dataclasses.replace(
            found,
            candidate=Candidate(model="net", profile=profile, recipe=recipe),
            estimate=estimate(LAYERS, profile, recipe),
        )
        return Attempt(move=move, result=found)

    plan = (executorch("xnnpack", "f32"), STATIC)
    standing = Standing(
        attempts=tuple(tried(Move(recipe=recipe, kind="plan")) for recipe in plan),
        limits=LIMITS,
        objective="latency",
        measurable=False,
    )
    assert [recipe.digest for recipe in to_rank(standing)] == [STATIC.digest]
    ranked = {STATIC.digest: GROUPS}
    while moves := [
        move for move in next_moves(standing, LAYERS, profile, ranked, 0) if move.kind == "mixed"
    ]:
        new = tuple(map(tried, moves))
        standing = dataclasses.replace(standing, attempts=(*standing.attempts, *new))
    mixed = [one for one in standing.attempts if one.move.kind == "mixed"]
    fewest = min(one.move.kept for one in mixed if standing.is_accurate(one))
    assert needed <= fewest <= needed + 1
    best = standing.best()
    assert best is not None
    assert math.isinf(standing.cost(best)) or best.move.kept == fewest


def test_drops_without_a_limit_or_without_samples_speak_against_nobody() -> None:
    standing = dataclasses.replace(begin(losing(3)), limits={})
    assert all(map(standing.is_accurate, standing.attempts))


def test_the_final_is_between_the_best_few_not_all_of_one_file_and_the_baseline() -> None:
    standing = play(losing(0))
    found = finalists(standing)
    best = standing.best()
    assert best in found
    assert standing.baseline in found
    assert len(found) <= 2 * FINALISTS + 1
    files = [files_of(one) for one in found if one is not standing.baseline]
    assert max(files.count(name) for name in files) <= ALIKE + 1
    # A tuned one meets the plain one again.
    assert {files_of(one) for one in found} <= {one.digest for one in found}
    assert any(one.move.kind == "tuning" for one in found)
    for one in standing.attempts:
        if one not in found:
            assert "times the latency of" in why_left(standing, one)


BATCHED = dataclasses.replace(
    program(),
    signature=Signature(
        inputs=(TensorSpec(name="x", dtype="float32", shape=("batch", 3)),),
        outputs=(TensorSpec(name="y", dtype="float32", shape=("batch",)),),
        dims={"batch": (1, 1, 24)},
    ),
)


def crowded(best_callers: int, best_size: int) -> World:
    """f32 alone; time per run falls towards one way of calling, and rises beyond it."""

    def world(recipe: Recipe) -> tuple[float, float]:
        calls = calls_of(recipe.options)
        apart = abs(math.log2(calls.callers / best_callers))
        apart += abs(math.log2((calls.batch or 1) / best_size))
        slower = 1.0 if recipe.toolchain == "openvino" else 1.5
        return slower * (1 if recipe.precision == "f32" else 3) * (1 + apart), 0.0

    return world


def play_calls(
    world: World, objective: Objective, limits: dict[str, float]
) -> tuple[Standing, int]:
    standing = dataclasses.replace(begin(world, objective), limits={**LIMITS, **limits})
    for heats in range(100):
        moves = next_moves(standing, BATCHED, VNNI, {}, 0)
        if not moves:
            return standing, heats
        new = tuple(attempt(move, world) for move in moves)
        standing = dataclasses.replace(standing, attempts=(*standing.attempts, *new))
    raise AssertionError("it goes on for ever")


@pytest.mark.parametrize(("callers", "size"), [(1, 1), (1, 24), (8, 1), (4, 8), (8, 16)])
def test_the_best_way_of_calling_is_climbed_to(callers: int, size: int) -> None:
    standing, _ = play_calls(crowded(callers, size), "throughput", {})
    best = standing.best()
    assert best is not None
    calls = calls_of(best.move.recipe.options)
    assert (calls.callers, calls.batch or 1) == (callers, size)
    if callers > 1:
        assert best.move.recipe.options["INFERENCE_NUM_THREADS"] == 8 // callers
    tried = {one.digest for one in standing.attempts}
    assert len(tried) == len(standing.attempts)


def test_one_caller_and_opt_values_where_only_latency_counts() -> None:
    standing, _ = play_calls(crowded(8, 16), "latency", {})
    assert {calls_of(one.move.recipe.options) for one in standing.attempts} == {ONE_AT_A_TIME}


def test_a_limit_on_throughput_is_met_by_how_it_is_called() -> None:
    world = crowded(4, 8)
    # One at a time it takes 6 ms a run: 167 in a second.
    limit = {"throughput_per_s": 400.0}
    standing, _ = play_calls(world, "latency", limit)
    best = standing.best()
    assert best is not None
    assert calls_of(best.move.recipe.options) != ONE_AT_A_TIME
    assert standing.rate(best) >= 400


def test_what_depends_on_its_neighbours_is_not_put_together() -> None:
    recipe = dataclasses.replace(F32, quantisation={"method": "dynamic"}, precision="int8")
    assert {size for _, size in variations.callings(recipe, BATCHED, VNNI)} == {1}
    gpu = dataclasses.replace(F32, engine="gpu", backend="GPU")
    assert list(variations.callings(gpu, BATCHED, VNNI)) == [(1, 1)]


@given(st.integers(1, 200), st.integers(1, 8), st.integers(1, 300))
def test_every_way_of_calling_is_within_the_dims_and_the_cores(
    cores: int, opt: int, more: int
) -> None:
    dims = {"batch": (1, opt, opt + more - 1)}
    held = dataclasses.replace(BATCHED.signature, dims=dims)
    profile = dataclasses.replace(VNNI, cores=cores)
    found = variations.callings(F32, dataclasses.replace(BATCHED, signature=held), profile)
    assert found[1, opt] == F32
    assert len({recipe.digest for recipe in found.values()}) == len(found)
    for (callers, size), recipe in found.items():
        assert 1 <= callers <= cores
        assert opt <= size <= opt + more - 1
        calls = calls_of(recipe.options)
        assert (calls.callers, calls.batch or opt) == (callers, size)
