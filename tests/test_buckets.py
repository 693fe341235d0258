"""Shape buckets: what a record may say, and which form takes an input."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.buckets import Forms, Router, buckets_of
from agent.errors import ToolchainError, VerificationError
from agent.manifest import File, Runtime, Signature, TensorSpec
from agent.sessions import load
from agent.tensors import Array
from agent.variant import RECORD_NAME, VariantRecord, record_bytes

DIMS = {"batch": (1, 2, 4), "length": (3, 5, 9)}
SIGNATURE = Signature(
    inputs=(
        TensorSpec(name="mask", dtype="float32", shape=("batch",)),
        TensorSpec(name="x", dtype="float32", shape=("batch", 3, "length")),
    ),
    outputs=(TensorSpec(name="y", dtype="float32", shape=("batch",)),),
    dims=DIMS,
)


def inputs(batch: int, length: int) -> dict[str, Array]:
    return {
        "mask": np.zeros(batch, np.float32),
        "x": np.zeros((batch, 3, length), np.float32),
    }


@pytest.mark.parametrize(
    ("told", "wrong"),
    [
        ([], "a list of one bucket or more"),
        ({"batch": 2}, "a list of one bucket or more"),
        (None, "a list of one bucket or more"),
        ([{}], "one dim or more"),
        (["batch"], "one dim or more"),
        ([{"width": 2}], "no dim 'width', they have ['batch', 'length']"),
        ([{"batch": 2.0}], "2.0 of batch should be an integer"),
        ([{"batch": True}], "True of batch should be an integer"),
        ([{"batch": "2"}], "'2' of batch should be an integer"),
        ([{"batch": 0}], "batch is 0, and goes from 1 to 4"),
        ([{"batch": 2, "length": 10}], "length is 10, and goes from 3 to 9"),
        ([{"batch": 2}, {"length": 3}, {"batch": 2}], "a bucket is there twice"),
        ([{"batch": 2, "length": 3}, {"length": 3, "batch": 2}], "a bucket is there twice"),
    ],
    ids=str,
)
def test_wrong_buckets_are_refused_with_what_is_wrong(told: Any, wrong: str) -> None:
    with pytest.raises(VerificationError) as caught:
        buckets_of({"buckets": told}, SIGNATURE)
    assert wrong in caught.value.what


def test_without_the_option_there_are_none() -> None:
    assert buckets_of({"device": "CPU"}, SIGNATURE) == ()
    assert buckets_of({"buckets": [{"batch": 2}]}, SIGNATURE) == ({"batch": 2},)


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ((2, 5), 0),
        ((2, 9), 1),
        ((1, 5), 2),
        ((4, 5), 2),
        ((2, 3), None),
        ((1, 3), None),
        ((4, 9), None),
    ],
)
def test_the_bucket_that_names_most_takes_an_input(
    sizes: tuple[int, int], expected: int | None
) -> None:
    buckets = [{"batch": 2, "length": 5}, {"batch": 2, "length": 9}, {"length": 5}]
    assert Router(buckets, SIGNATURE).find(inputs(*sizes)) == expected


BUCKETS = st.lists(
    st.fixed_dictionaries(
        {}, optional={name: st.integers(low, high) for name, (low, _, high) in DIMS.items()}
    ).filter(bool),
    unique_by=lambda bucket: tuple(sorted(bucket.items())),
    min_size=1,
    max_size=6,
)


@given(BUCKETS, st.integers(1, 4), st.integers(3, 9))
def test_a_bucket_takes_what_has_its_sizes_and_nothing_else(
    buckets: list[dict[str, int]], batch: int, length: int
) -> None:
    assert buckets_of({"buckets": buckets}, SIGNATURE) == tuple(buckets)
    sizes = {"batch": batch, "length": length}
    fitting = [one for one in buckets if one.items() <= sizes.items()]
    found = Router(buckets, SIGNATURE).find(inputs(batch, length))
    if found is None:
        assert not fitting
    else:
        assert buckets[found] in fitting
        assert len(buckets[found]) == max(map(len, fitting))


class Counter:
    """A stateful session that counts the runs since its reset, whichever form made them."""

    def __init__(self, placement: Mapping[str, float]) -> None:
        self.count = self.own = 0
        self.closed = False
        self._placement = dict(placement)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        del inputs
        self.own += 1
        self.count += 1
        return {"y": np.array(self.count)}

    def take_state(self, other: Counter) -> None:
        self.count = other.count

    def reset(self) -> None:
        self.count = 0

    def close(self) -> None:
        self.closed = True

    def placement(self) -> dict[str, float]:
        return self._placement


def test_state_goes_along_from_form_to_form_until_a_reset() -> None:
    general, fixed = Counter({"cpu": 1.0}), Counter({"cpu": 1.0})
    forms = Forms(general, [({"batch": 2}, fixed)], SIGNATURE)
    sizes = (1, 2, 2, 4, 2)
    assert [int(forms.run(inputs(batch, 5))["y"]) for batch in sizes] == [1, 2, 3, 4, 5]
    assert (general.own, fixed.own) == (2, 3)
    forms.reset()
    assert [int(forms.run(inputs(batch, 5))["y"]) for batch in (2, 1)] == [1, 2]
    forms.close()
    assert general.closed
    assert fixed.closed


def test_to_take_all_memory_every_form_runs_and_forgets() -> None:
    general, fixed = Counter({"cpu": 1.0}), Counter({"cpu": 1.0})
    forms = Forms(general, [({"batch": 2}, fixed)], SIGNATURE)
    forms.run_all(inputs(2, 5))
    assert (general.own, fixed.own) == (1, 1)
    assert int(forms.run(inputs(1, 5))["y"]) == 1


@pytest.mark.parametrize(
    ("general", "fixed", "expected"),
    [
        ({"CPU": 1.0}, {"CPU": 1.0}, {"CPU": 1.0}),
        ({"CPU": 1.0}, {"GPU": 0.5, "CPU": 0.5}, {"CPU": 0.75, "GPU": 0.25}),
        ({"CPU": 1.0}, {}, {}),
    ],
)
def test_placement_is_the_mean_of_the_forms_or_unknown(
    general: dict[str, float], fixed: dict[str, float], expected: dict[str, float]
) -> None:
    forms = Forms(Counter(general), [({"batch": 2}, Counter(fixed))], SIGNATURE)
    assert forms.placement() == expected


@pytest.mark.parametrize("format", ["executorch", "tensorrt", "aotinductor"])
def test_a_runtime_that_makes_one_form_says_so(format: str, tmp_path: Path) -> None:
    record = VariantRecord(
        version=1,
        id="net/host/x",
        model="net",
        target="any",
        profile="any",
        runtime=Runtime(format=format, at_least=None, below=None),
        options={"buckets": [{"batch": 2}]},
        signature=SIGNATURE,
        files=(File(path="model", sha256="0" * 64, length=0),),
        provenance={},
    )
    (tmp_path / RECORD_NAME).write_bytes(record_bytes(record))
    with pytest.raises(ToolchainError, match=f"the session for {format} makes one form"):
        load(tmp_path)
