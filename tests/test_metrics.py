"""Accuracy: what metrics give, and that the drop's bounds hold what they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from agent import mean_bound
from agent.errors import UsageError, VerificationError
from agent.mean_bound import mean_upper_bound
from agent.metrics import (
    SQNR_CEILING_DB,
    agreement,
    judge_drop,
    metric,
    metric_names,
    paired_drop,
    samples_needed,
)

FLOAT = np.float32
LOGITS = {"logits": np.array([[0.1, 0.7, 0.2]], FLOAT)}
TWO_ROWS = {"logits": np.array([[0.1, 0.7, 0.2], [0.9, 0.0, 0.1]], FLOAT)}


def scored(name, outputs, reference=None, label=None):
    return metric(name).score(outputs, reference or outputs, label)


@pytest.mark.parametrize(
    ("name", "outputs", "label", "expected"),
    [
        ("top1", LOGITS, 1, 1.0),
        ("top1", LOGITS, 2, 0.0),
        ("top2", LOGITS, 2, 1.0),
        ("top5", LOGITS, 0, 1.0),
        ("top1", TWO_ROWS, np.array([1, 1]), 0.5),
        ("top1", {"flat": np.array([0.0, 3.0], FLOAT)}, 1, 1.0),
        ("top1", {"classes": np.array([7])}, np.array([7]), 1.0),
        ("top1", {"boxes": np.zeros(4, FLOAT), **LOGITS}, 1, 1.0),
        ("top1", {"tie": np.array([[0.5, 0.5]], FLOAT)}, 0, 1.0),
        ("top1", {"tie": np.array([[0.5, 0.5]], FLOAT)}, 1, 0.0),
        ("top1", {"broken": np.array([[0.5, np.nan]], FLOAT)}, 0, 0.0),
        ("mae", {"y": np.array([1.0, 3.0], FLOAT)}, np.array([0.0, 0.0]), 2.0),
        ("mse", {"y": np.array([1.0, 3.0], FLOAT)}, np.array([0.0, 0.0]), 5.0),
    ],
)
def test_a_metric_with_labels_scores_one_sample(name, outputs, label, expected):
    assert scored(name, outputs, label=label) == pytest.approx(expected)


@pytest.mark.parametrize("name", [n for n in metric_names() if not metric(n).needs_label])
def test_the_original_against_itself_scores_the_best_there_is(name):
    rng = np.random.default_rng(0)
    outputs = {"a": rng.normal(size=(3, 7)).astype(FLOAT), "b": np.arange(4)}
    assert scored(name, outputs) == (SQNR_CEILING_DB if name == "sqnr" else 1.0)


@pytest.mark.parametrize(
    ("name", "worst"), [("cosine", 0.0), ("top1_agreement", 0.0), ("sqnr", -SQNR_CEILING_DB)]
)
def test_nan_scores_the_worst_there_is(name, worst):
    assert scored(name, {"y": np.full((1, 3), np.nan, FLOAT)}, LOGITS_Y) == worst


LOGITS_Y = {"y": np.array([[1.0, 2.0, 3.0]], FLOAT)}


def test_cosine_is_that_of_the_worst_float_output_and_never_below_zero():
    reference = {"a": np.array([1.0, 0.0]), "b": np.array([1.0, 1.0]), "n": np.array([3])}
    turned = {"a": np.array([1.0, 1.0]), "b": np.array([2.0, 2.0]), "n": np.array([4])}
    assert scored("cosine", turned, reference) == pytest.approx(math.sqrt(0.5))
    flipped = {**reference, "b": np.array([-1.0, -1.0])}
    assert scored("cosine", flipped, reference) == 0.0


def test_without_float_outputs_cosine_is_the_share_of_equal_elements():
    assert scored("cosine", {"n": np.array([1, 2])}, {"n": np.array([1, 3])}) == 0.5


def test_sqnr_is_in_decibels():
    reference = {"y": np.array([10.0, 0.0])}
    assert scored("sqnr", {"y": np.array([10.0, 1.0])}, reference) == pytest.approx(20.0)


def test_masks_of_minus_infinity_agree_where_both_have_them():
    reference = np.array([1.0, -np.inf, 2.0], FLOAT)
    assert agreement("cosine", np.array([1.0, -np.inf, 2.0001], FLOAT), reference) > 0.999
    assert agreement("cosine", np.array([1.0, 0.0, 2.0], FLOAT), reference) == -1.0


@pytest.mark.parametrize(
    ("kind", "output", "reference", "expected"),
    [
        ("cosine", [1.0, 2.0], [1.0, 2.0], 1.0),
        ("cosine", [1.0, 2.0], [-1.0, -2.0], -1.0),
        ("cosine", [0.0, 0.0], [0.0, 0.0], 1.0),
        ("cosine", [0.0, 0.0], [0.0, 1.0], 0.0),
        ("cosine", [np.nan, 1.0], [1.0, 1.0], -1.0),
        ("equal_share", [1, 2, 3, 4], [1, 2, 3, 5], 0.75),
        ("equal_share", [True, False], [True, True], 0.5),
    ],
)
def test_agreement_is_what_floors_are_held_against(kind, output, reference, expected):
    assert agreement(kind, np.array(output), np.array(reference)) == pytest.approx(expected)


def test_an_output_of_another_shape_is_an_error_that_names_both():
    with pytest.raises(VerificationError, match=r"\(2,\).*\(3,\)"):
        agreement("cosine", np.zeros(2), np.zeros(3))


@pytest.mark.parametrize(
    ("name", "message"),
    [("top1_agrement", "Did you mean 'top1_agreement'"), ("f1", "known are"), ("top0", "top1")],
)
def test_an_unknown_metric_is_answered_with_the_known_ones(name, message):
    with pytest.raises(UsageError, match=message):
        metric(name)


@pytest.mark.parametrize(
    ("name", "outputs", "label", "message"),
    [
        ("top1", LOGITS, None, "no label"),
        ("top1", LOGITS, 3, "no class of 3"),
        ("top1", LOGITS, 0.5, "float64"),
        ("top1", TWO_ROWS, 1, "answers 2 times"),
        ("top1", {"y": np.array([[0.3]], FLOAT)}, 0, "no axis of classes"),
        ("top5", {"classes": np.array([7])}, 7, "score per class"),
        ("mae", {"y": np.zeros(2, FLOAT)}, np.zeros(3), r"\(3,\)"),
    ],
)
def test_labels_that_do_not_fit_are_an_error(name, outputs, label, message):
    with pytest.raises(UsageError, match=message):
        scored(name, outputs, label=label)


# The drop


def fidelity_drop(differences, confidence=0.95):
    original = np.ones(len(differences))
    return paired_drop(
        original,
        original - np.asarray(differences),
        higher_is_better=True,
        bounds=(0, 1),
        confidence=confidence,
    )


@pytest.mark.parametrize(("n", "verdict"), [(148, "unproven"), (149, "met")])
def test_with_no_regression_at_all_two_percent_takes_149_samples(n, verdict):
    drop = fidelity_drop(np.zeros(n))
    assert drop.high == pytest.approx(1 - 0.05 ** (1 / n), rel=1e-12)
    assert (drop.value, drop.low, drop.n) == (0.0, 0.0, n)
    assert judge_drop(drop, 0.02) == verdict


def test_samples_needed_says_149_whatever_the_number_at_hand():
    for n in (1, 10, 400):
        ones = np.ones(n)
        assert samples_needed(ones, ones, limit=0.02, higher_is_better=True, bounds=(0, 1)) == 149


def test_the_verdict_follows_the_bounds():
    drop = fidelity_drop([0.5] * 400)
    assert drop.low == pytest.approx(0.5, abs=0.01)
    assert judge_drop(drop, 0.02) == "unmet"
    assert judge_drop(drop, 0.51) == "met"
    assert judge_drop(drop, 0.5) == "unproven"


def test_samples_needed_agrees_with_the_bound_it_predicts():
    differences = np.array([0.0] * 97 + [0.4] * 2 + [1.0])
    needed = samples_needed(
        np.ones(100), 1 - differences, limit=0.05, higher_is_better=True, bounds=(0, 1)
    )
    assert needed is not None
    for factor, verdict in ((0.9, "unproven"), (1.1, "met")):
        count = np.round(np.array([0.97, 0.02, 0.01]) * needed * factor).astype(int)
        assert judge_drop(fidelity_drop(np.repeat([0.0, 0.4, 1.0], count)), 0.05) == verdict


def test_no_number_of_samples_proves_a_limit_that_the_observed_drop_breaks():
    ones, half = np.ones(50), np.full(50, 0.5)
    assert samples_needed(ones, half, limit=0.5, higher_is_better=True, bounds=(0, 1)) is None


def test_an_error_metric_drops_when_it_grows():
    drop = paired_drop(np.full(500, 2.0), np.full(500, 2.2), higher_is_better=False, bounds=(0, 10))
    assert drop.value == pytest.approx(0.1)
    assert drop.low < 0.1 < drop.high


def test_without_bounds_equal_scores_still_leave_room_for_what_was_not_seen():
    scores = np.full(148, 3.0)
    drop = paired_drop(scores, scores, higher_is_better=False, bounds=None)
    assert judge_drop(drop, 0.02) == "unproven"


@pytest.mark.parametrize(
    ("original", "variant", "message"),
    [
        ([1.0], [float("nan")], "variant's score of sample 0 is nan"),
        ([1.0, float("inf")], [1.0, 1.0], "original's score of sample 1 is inf"),
        ([], [], "0 scores"),
        ([1.0, 1.0], [1.0], "2 scores"),
        ([0.0, 0.0], [1.0, 0.0], "is 0"),
        ([1.0], [1.5], "to 1.5"),
    ],
)
def test_scores_that_cannot_be_compared_are_an_error(original, variant, message):
    with pytest.raises(UsageError, match=message):
        paired_drop(original, variant, higher_is_better=True, bounds=(0, 1))


def test_one_sample_is_enough_for_a_drop_though_not_for_a_proof():
    drop = fidelity_drop([0.0])
    assert drop.high == pytest.approx(0.95)


# The bound itself


def by_simulation(values, top, confidence, draws=100_000):
    atoms, counts = np.unique(values, return_counts=True)
    weights = np.random.default_rng(0).gamma(np.append(counts, 1.0), size=(draws, len(atoms) + 1))
    means = weights @ np.append(atoms, top) / weights.sum(axis=1)
    return float(np.quantile(means, confidence)), float(means.std())


@pytest.mark.parametrize(
    "values",
    [
        np.repeat([0.0, 1.0], [397, 3]),
        np.repeat([-1.0, 0.0, 1.0], [5, 300, 8]),
        np.random.default_rng(1).uniform(-1, 1, 30),
        np.random.default_rng(2).beta(0.1, 3, 200),
        np.array([0.2, 0.9]),
    ],
    ids=["few flips", "both ways", "uniform", "skewed", "two"],
)
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_the_bound_is_the_quantile_that_simulation_finds(values, confidence):
    simulated, spread = by_simulation(values, 1.0, confidence)
    found = mean_upper_bound(values, top=1.0, confidence=confidence)
    assert found == pytest.approx(simulated, abs=0.05 * spread)


@pytest.mark.parametrize(("n", "k"), [(10, 5), (2, 1), (400, 1), (400, 40), (3, 2)])
def test_for_zeros_and_ones_it_is_clopper_and_pearsons(n, k):
    bound = mean_upper_bound(np.repeat([0.0, 1.0], [n - k, k]), top=1.0, confidence=0.95)
    at_most_k = sum(math.comb(n, i) * bound**i * (1 - bound) ** (n - i) for i in range(k + 1))
    assert at_most_k == pytest.approx(0.05, rel=1e-6)


def test_the_saddlepoint_formula_meets_the_exact_one(monkeypatch):
    values = np.random.default_rng(3).uniform(0, 1, 3000)
    exact = mean_upper_bound(values, top=1.0, confidence=0.95)
    monkeypatch.setattr(mean_bound, "EXACT_CELLS", 0)
    approximate = mean_upper_bound(values, top=1.0, confidence=0.95)
    assert approximate - values.mean() == pytest.approx(exact - values.mean(), rel=1e-3)


def test_fifty_thousand_distinct_values_stay_cheap():
    values = np.random.default_rng(4).uniform(0, 0.1, 50_000)
    bound = mean_upper_bound(values, top=1.0, confidence=0.95)
    normal = values.mean() + 1.645 * values.std() / math.sqrt(len(values))
    assert normal < bound < normal + 3 / len(values)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "values", "shares"),
    [
        ("rare failures", [0.0, 1.0], [0.99, 0.01]),
        ("even", [0.0, 1.0], [0.5, 0.5]),
        ("mixture", [-1.0, 0.0, 0.02, 1.0], [0.01, 0.9, 0.06, 0.03]),
    ],
)
@pytest.mark.parametrize("n", [5, 30, 100])
def test_both_bounds_cover_the_true_mean_as_often_as_they_say(name, values, shares, n):
    rng = np.random.default_rng(5)
    truth, trials = float(np.dot(values, shares)), 300
    draws = rng.choice(values, p=shares, size=(trials, n))
    above = sum(mean_upper_bound(d, top=1.0, confidence=0.95) >= truth - 1e-12 for d in draws)
    below = sum(-mean_upper_bound(-d, top=1.0, confidence=0.95) <= truth + 1e-12 for d in draws)
    allowed = 0.95 * trials - 3 * math.sqrt(trials * 0.05 * 0.95)
    assert min(above, below) >= allowed, name


SCORES = st.lists(
    st.one_of(st.sampled_from([0.0, 0.5, 1.0]), st.floats(0, 1)), min_size=1, max_size=40
)


@settings(deadline=None, max_examples=60)
@given(SCORES, st.data())
def test_a_worse_variant_never_gets_a_better_bound(scores, data):
    worse = [data.draw(st.floats(0, score)) for score in scores]
    better, poorer = (fidelity_drop(1 - np.array(values)) for values in (scores, worse))
    assert poorer.high >= better.high - 1e-7
    assert poorer.low >= better.low - 1e-7


@settings(deadline=None, max_examples=60)
@given(SCORES, st.data())
def test_swapping_better_and_worse_mirrors_the_bounds(scores, data):
    other = [data.draw(st.floats(0, 1)) for _ in scores]
    assume(np.mean(scores) > 0)
    one = paired_drop(scores, other, higher_is_better=True, bounds=(-9, 9))
    mirrored = paired_drop(scores, other, higher_is_better=False, bounds=(-9, 9))
    assert (mirrored.value, mirrored.low, mirrored.high) == pytest.approx(
        (-one.value, -one.high, -one.low), abs=1e-7
    )


@settings(deadline=None, max_examples=60)
@given(SCORES)
def test_the_drop_lies_within_its_bounds_and_is_the_same_each_time(scores):
    differences = 1 - np.array(scores)
    assume(differences.mean() < 1)
    drop = fidelity_drop(differences)
    assert drop.low - 1e-9 <= drop.value <= drop.high + 1e-9
    assert drop == fidelity_drop(differences)
    assert drop == fidelity_drop(np.random.default_rng(0).permutation(differences)) or (
        drop.high == pytest.approx(fidelity_drop(differences[::-1]).high)
    )
