"""Inputs at the bounds of every dynamic dim, made from real samples by wrapping and cropping. Pure.

Repeating real values keeps ids, masks and pixels valid where random numbers would not be.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from agent.manifest import Signature, TensorSpec
from agent.tensors import Array

Sizes = dict[str, int]


def sizes_to_cover(dims: Mapping[str, tuple[int, int, int]]) -> list[Sizes]:
    """All dims at opt, min and max together, then each alone at its bounds, none twice.

    >>> sizes_to_cover({"batch": (1, 1, 8)})
    [{'batch': 1}, {'batch': 8}]
    """
    opt = {name: bounds[1] for name, bounds in dims.items()}
    wanted = [opt]
    wanted += [{name: bounds[end] for name, bounds in dims.items()} for end in (0, 2)]
    wanted += [{**opt, name: bounds[end]} for name, bounds in dims.items() for end in (0, 2)]
    unique: list[Sizes] = []
    for sizes in wanted:
        if sizes not in unique:
            unique.append(sizes)
    return unique


def resized(
    inputs: Mapping[str, Array], specs: tuple[TensorSpec, ...], sizes: Sizes
) -> dict[str, Array]:
    """The same inputs with each dynamic axis wrapped around or cropped to its size."""
    arrays = {}
    for spec in specs:
        array = inputs[spec.name]
        for axis, size in enumerate(spec.shape):
            if isinstance(size, str):
                array = np.take(array, np.arange(sizes[size]) % array.shape[axis], axis=axis)
        arrays[spec.name] = np.ascontiguousarray(array).reshape(array.shape)
    return arrays


def is_at_opt(inputs: Mapping[str, Array], signature: Signature) -> bool:
    """Whether every dynamic axis has its dim's `opt` size."""
    return all(
        size == (signature.dims[named][1] if isinstance(named, str) else named)
        for spec in signature.inputs
        for size, named in zip(inputs[spec.name].shape, spec.shape, strict=True)
    )


def generated(signature: Signature, sizes: Sizes, seed: int) -> dict[str, Array]:
    """Stand-ins where there are no samples: good for speed, and for comparing two runtimes.

    Integers are 0 or 1, the only indices that every table has.
    """
    random = np.random.default_rng(seed)
    arrays: dict[str, Array] = {}
    for spec in signature.inputs:
        shape = tuple(size if isinstance(size, int) else sizes[size] for size in spec.shape)
        dtype = np.dtype(spec.dtype)
        if dtype.kind == "f":
            arrays[spec.name] = np.asarray(random.standard_normal(shape)).astype(dtype)
        else:
            arrays[spec.name] = np.asarray(random.integers(0, 2, shape)).astype(dtype)
    return arrays


def golden_inputs(
    signature: Signature, bases: list[dict[str, Array]]
) -> Iterator[dict[str, Array]]:
    """The first base at every size to cover, the others at opt."""
    covered = sizes_to_cover(signature.dims)
    for sizes in covered:
        yield resized(bases[0], signature.inputs, sizes)
    for base in bases[1:]:
        yield resized(base, signature.inputs, covered[0])
