"""A user's samples: checked, split by id, stored, read back."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import CaptureError
from agent.manifest import Signature, TensorSpec
from sdk.samples import Sample, SplitWriter, StoredSamples, checked, split_of

SIGNATURE = Signature(
    inputs=(TensorSpec(name="x", dtype="float32", shape=("batch", 3)),),
    outputs=(),
    dims={"batch": (1, 1, 4)},
)
GOOD = np.zeros((1, 3), np.float32)


def test_half_of_the_samples_is_final_and_a_quarter_calibrates() -> None:
    counts = Counter(split_of(f"sample-{index}") for index in range(4000))
    assert 1900 < counts["final"] < 2100
    assert 900 < counts["calibration"] < 1100


@given(st.text(), st.lists(st.text()))
def test_a_samples_split_does_not_depend_on_the_others(name: str, others: list[str]) -> None:
    before = split_of(name)
    for other in others:
        split_of(other)
    assert split_of(name) == before


MISTAKES: dict[str, tuple[list[Any], str]] = {
    "no samples": ([], "yields no samples"),
    "not a tuple": ([{"x": GOOD}], "Sample 0 is a dict"),
    "in the wrong order": ([({"x": GOOD}, "a")], "inputs of type str"),
    "the same id twice": ([("a", {"x": GOOD}), ("a", {"x": GOOD})], "again at sample 1"),
    "another dtype": ([("a", {"x": GOOD.astype(np.float64)})], "dtype float64"),
    "another shape": ([("a", {"x": GOOD[:, :2]})], "shape (1, 2)"),
    "outside the dim's bounds": ([("a", {"x": np.zeros((9, 3), np.float32)})], "from 1 to 4"),
    "another name": ([("a", {"y": GOOD})], "['y']"),
    "NaN": ([("a", {"x": GOOD * np.nan})], "holds NaN"),
    "a label that is a word": ([("a", {"x": GOOD}, "cat")], "not a number"),
}


@pytest.mark.parametrize(("items", "answer"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_named_with_the_sample(items: list[Any], answer: str) -> None:
    with pytest.raises(CaptureError, match="e") as found:
        list(checked(items, SIGNATURE))
    assert answer in str(found.value)
    assert found.value.exit_code == 5


def test_samples_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    with SplitWriter(tmp_path) as writer:
        for index in range(40):
            outputs = {"y": np.full((2,), index, np.int64)}
            label = np.asarray(index % 3) if index % 2 else None
            sample = Sample(
                id=f"s{index}", inputs={"x": GOOD + index}, label=label, outputs=outputs
            )
            writer.add(sample)
    found = [s for split in writer.counts for s in StoredSamples(tmp_path / f"{split}.safetensors")]
    assert len(found) == 40
    for sample in found:
        index = int(sample.outputs["y"][0])
        assert (sample.inputs["x"] == index).all()
        assert (sample.label is None) == (index % 2 == 0)


def test_a_limit_on_stored_samples_takes_the_first(tmp_path: Path) -> None:
    with SplitWriter(tmp_path) as writer:
        for index in range(40):
            writer.add(Sample(id=f"s{index}", inputs={"x": GOOD}, label=None, outputs={}))
    assert len(StoredSamples(tmp_path / "final.safetensors", 3)) == 3
