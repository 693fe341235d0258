"""The answers of a variant beside the original's: how far apart, and what is no figure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest

from agent.tensors import Array
from sdk.prove import check_agreement

NAN, INF = math.nan, math.inf


class _Answers:
    """A session that always answers the same."""

    def __init__(self, output: Array) -> None:
        self._output = output

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        del inputs
        return {"y": self._output}


class _Sample:
    inputs: Mapping[str, Array] = {}

    def __init__(self, reference: Array) -> None:
        self.outputs = {"y": reference}


def _f32(*values: float) -> Array:
    return np.array(values, np.float32)


@pytest.mark.parametrize(
    ("output", "reference", "expected"),
    [
        pytest.param(_f32(1, 2), _f32(1, 2.5), 0.5, id="the largest"),
        pytest.param(_f32(1, NAN), _f32(1, 2), None, id="NaN among numbers"),
        pytest.param(_f32(NAN, NAN), _f32(1, 2), None, id="nothing but NaN is not nothing apart"),
        pytest.param(_f32(1, INF), _f32(1, 2), None, id="infinity"),
        pytest.param(_f32(1, -INF), _f32(1, -INF), 0.0, id="infinite alike"),
        pytest.param(np.float32(3), np.float32(1), 2.0, id="a scalar"),
        pytest.param(np.array([1, 0]), np.array([1, 3]), 3.0, id="integers"),
        pytest.param(_f32(), _f32(), 0.0, id="empty"),
    ],
)
def test_the_largest_difference_is_null_where_it_is_no_number(
    output: Array, reference: Array, expected: float | None
) -> None:
    session: Any = _Answers(np.asarray(output))
    samples: Any = _samples(np.asarray(reference))
    assert check_agreement(session, samples)[1] == expected


def _samples(reference: Array) -> Iterator[_Sample]:
    yield _Sample(reference)
