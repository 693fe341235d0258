"""What a limit needs is told before anything is tried, and never where proof is possible."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.metrics import judge_drop, paired_drop
from sdk.foresight import rules_of, unprovable

TOP1 = {"name": "top1", "by_function": False, "higher_is_better": True}
OWN = {"name": "error", "by_function": True, "higher_is_better": False}


def told(limit: float, n: int) -> str | None:
    scores = {"selection": [1.0] * n, "final": [1.0] * n}
    return unprovable({"accuracy_drop": limit}, TOP1, scores)


def test_two_percent_without_any_loss_takes_149_samples() -> None:
    assert told(0.02, 149) is None
    found = told(0.02, 100)
    assert found is not None
    assert "149 samples in the final split, which has 100" in found


def test_no_number_of_samples_proves_a_limit_of_nothing() -> None:
    found = told(0.0, 1000)
    assert found is not None
    assert "no number of samples" in found


@pytest.mark.parametrize(
    ("limits", "metric", "scores"),
    [
        ({}, TOP1, {"final": [1.0]}),
        ({"accuracy_drop": 0.01}, None, None),
        ({"accuracy_drop": 0.01}, TOP1, {"selection": [1.0]}),
        ({"accuracy_drop": 0.01}, TOP1, {"final": []}),
    ],
    ids=["no limit", "no metric", "no final split", "empty"],
)
def test_nothing_is_told_where_nothing_is_limited_or_scored(
    limits: dict[str, float],
    metric: dict[str, object] | None,
    scores: dict[str, list[float]] | None,
) -> None:
    assert unprovable(limits, metric, scores) is None


@given(
    st.floats(0.001, 0.2),
    st.lists(st.floats(0.5, 2.0), min_size=1, max_size=400),
    st.booleans(),
)
def test_it_is_told_exactly_where_the_original_itself_would_be_unproven(
    limit: float, scores: list[float], mine: bool
) -> None:
    metric = OWN if mine else TOP1
    own = scores if mine else [min(1.0, score) for score in scores]
    drop = paired_drop(own, own, **rules_of(metric))
    found = unprovable({"accuracy_drop": limit}, metric, {"final": own})
    edge = abs(drop.high - limit) < 1e-6 * limit  # the count is rounded, the bound is not
    assert edge or (found is None) == (judge_drop(drop, limit) == "met")
