"""The estimate beside what others published: no better than the documentation says, and no worse."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from benchmarks.architectures import ARCHITECTURES, PUBLISHED_COST, cost_table
from benchmarks.published import PARTS, error, memory_rows, pairs_in_order, rows
from benchmarks.published_figures import FIT_ON, HARNESS_MS, PUBLISHED, SOURCES

pytestmark = pytest.mark.toolchain  # the networks are exported by torch

DOCUMENT = Path(__file__).parent.parent / "docs" / "explanation" / "estimates.md"


@pytest.mark.parametrize("name", PUBLISHED_COST)
def test_our_networks_cost_what_was_published(name: str) -> None:
    gflop, millions = PUBLISHED_COST[name]
    program = cost_table(name)
    own = sum(cost.flops for cost in program.costs if cost.kind != "other") / 1e9
    assert own == pytest.approx(gflop, rel=0.04)  # published ones are rounded: 0.8, 0.6
    assert program.weight_bytes / 4e6 == pytest.approx(millions, rel=0.03)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_batch_norms_and_activations_leave_no_kernel(name: str) -> None:
    program = cost_table(name)
    kernels = [cost for cost in program.costs if not cost.fused]
    assert not [cost.op for cost in kernels if "batch_norm" in cost.op or "relu" in cost.op]
    assert len(kernels) < 0.7 * len(program.costs)
    assert 0 < program.activation_bytes < sum(cost.output_bytes for cost in kernels)


def test_every_figure_has_a_source() -> None:
    assert {entry.source for entry in PUBLISHED} == set(SOURCES)
    assert {entry.host for entry in PUBLISHED} == {"", *HARNESS_MS}
    assert {entry.profile for entry in PUBLISHED} >= set(FIT_ON)


def test_the_error_on_devices_nothing_was_chosen_on() -> None:
    held = [row for row in rows() if row.predicted and row.published.set == "held out"]
    off = error([row.ratio for row in held], [row.inside for row in held])
    assert len(held) >= 40
    assert off.spread < 1.5
    assert abs(math.log(off.bias)) < math.log(1.3)
    assert off.inside >= 0.95


def test_a_faster_precision_is_predicted_faster() -> None:
    right, total = pairs_in_order(rows())
    assert total >= 30
    assert right >= 0.9 * total


def test_memory_on_phones_is_inside() -> None:
    for profile, network, precision, published, guess in memory_rows():
        assert guess.low <= published <= guess.high, (profile, network, precision)


@pytest.mark.parametrize("part", PARTS)
def test_the_documentation_shows_these_tables(part: str) -> None:
    assert PARTS[part]() in DOCUMENT.read_text(), "make them again: make docs"
