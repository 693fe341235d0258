"""How a variant is called: the reserved options, and batches made of samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.calls import ONE_AT_A_TIME, Calls, batch_dim, batches, calls_of, of_runtime, runs_in_one
from agent.errors import VerificationError
from agent.manifest import Signature, TensorSpec

DIMS = {"batch": (1, 2, 16), "length": (1, 4, 8)}


def signature(*shapes: tuple[int | str, ...], dims: dict[str, Any] | None = None) -> Signature:
    """Of float inputs `x0`, `x1`, ... with these shapes; the last shape is the output's."""
    specs = [
        TensorSpec(name=f"x{index}", dtype="float32", shape=shape)
        for index, shape in enumerate(shapes)
    ]
    return Signature(inputs=tuple(specs[:-1]), outputs=(specs[-1],), dims=dims or DIMS)


TWO = signature(("batch", 3), ("batch", "length"), ("batch",))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ONE_AT_A_TIME),
        ({"device": "CPU"}, ONE_AT_A_TIME),
        ({"callers": 4}, Calls(callers=4)),
        ({"batch": 8, "batch_dim": "n"}, Calls(batch=8, batch_dim="n")),
    ],
)
def test_options_say_how_it_is_called(options: dict[str, Any], expected: Calls) -> None:
    assert calls_of(options) == expected
    assert {**of_runtime(options), **expected.options} == options
    assert calls_of(of_runtime(options)) == ONE_AT_A_TIME


@pytest.mark.parametrize(
    "options",
    [
        {"callers": 0},
        {"callers": True},
        {"callers": "2"},
        {"callers": 2.0},
        {"callers": None},
        {"batch": 8},
        {"batch_dim": "n"},
        {"batch": 0, "batch_dim": "n"},
        {"batch": 8, "batch_dim": 1},
    ],
    ids=str,
)
def test_options_that_say_nothing_sensible_are_refused_with_their_values(
    options: dict[str, Any],
) -> None:
    with pytest.raises(VerificationError, match=r"callers|batch"):
        calls_of(options)


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        ([("batch", 3), ("batch", "length"), ("batch",)], "batch"),
        ([("batch", 3), (1, 3)], None),
        ([("batch", "batch"), ("batch",)], None),
        ([(1, 3), (1,)], None),
        ([("length", 3), ("batch", 3), ("batch",)], None),
        ([(), ("batch",)], None),
        ([("length", 8), ("length", 2)], "length"),
    ],
)
def test_the_batch_is_the_first_axis_of_everything(
    shapes: list[tuple[int | str, ...]], expected: str | None
) -> None:
    assert batch_dim(signature(*shapes)) == expected


@given(st.integers(1, 16), st.integers(1, 3), st.integers(1, 5), st.data())
def test_a_batch_has_its_size_and_whole_samples(
    size: int, rows: int, count: int, data: st.DataObject
) -> None:
    lengths = data.draw(st.lists(st.integers(1, 2), min_size=count, max_size=count))
    samples = [
        {
            "x0": np.full((rows, 3), index, np.float32),
            "x1": np.full((rows, length), index, np.float32),
        }
        for index, length in enumerate(lengths)
    ]
    found = list(batches(samples, TWO, Calls(batch=size, batch_dim="batch")))
    assert len(found) == count
    for start, run in enumerate(found):
        assert {len(array) for array in run.values()} == {size}
        assert run["x0"][0, 0] == start  # every sample comes first once
        # What belongs together stays together, and only samples of one length are joined.
        assert np.array_equal(run["x0"][:, 0], run["x1"][:, 0])
        alike = {index for index, length in enumerate(lengths) if length == lengths[start]}
        assert set(run["x0"][:, 0].astype(int)) <= alike


def test_without_a_batch_samples_stay_as_they_are() -> None:
    samples = [{"x0": np.zeros((2, 3), np.float32), "x1": np.zeros((2, 4), np.float32)}]
    (run,) = batches(samples, TWO, Calls(callers=3))
    assert run == samples[0]


@pytest.mark.parametrize(
    "calls", [Calls(batch=32, batch_dim="batch"), Calls(batch=2, batch_dim="length")]
)
def test_a_batch_that_does_not_fit_the_model_is_refused(calls: Calls) -> None:
    samples = [{"x0": np.zeros((2, 3), np.float32), "x1": np.zeros((2, 4), np.float32)}]
    with pytest.raises(VerificationError, match="does not fit"):
        list(batches(samples, TWO, calls))


def test_a_run_counts_for_as_many_as_it_holds_at_the_opt_value() -> None:
    assert runs_in_one(ONE_AT_A_TIME, TWO) == 1
    assert runs_in_one(Calls(batch=16, batch_dim="batch"), TWO) == 8
    assert runs_in_one(Calls(batch=1, batch_dim="batch"), TWO) == 0.5
