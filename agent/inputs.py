"""Inputs held against a model's signature, before a runtime sees them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from agent.errors import UsageError
from agent.manifest import Signature, TensorSpec
from agent.tensors import Array


def check_inputs(signature: Signature, inputs: Mapping[str, Any]) -> dict[str, Array]:
    """The inputs as contiguous arrays in the signature's order.

    Raises:
        UsageError: a name, dtype or shape does not fit, or one dim has two sizes.
    """
    names = [spec.name for spec in signature.inputs]
    if set(inputs) != set(names):
        raise UsageError(
            f"The inputs are {sorted(inputs)}, the model takes {sorted(names)}.",
            cause="A name is missing, misspelt or too many.",
            remedy="Pass exactly the declared inputs, by name.",
        )
    sizes: dict[str, int] = {}
    arrays: dict[str, Array] = {}
    for spec in signature.inputs:
        array = np.ascontiguousarray(inputs[spec.name])
        if np.ndim(inputs[spec.name]) == 0:
            array = array.reshape(())  # ascontiguousarray makes a scalar one-dimensional
        _check_one(spec, array, signature.dims, sizes)
        arrays[spec.name] = array
    return arrays


def _check_one(
    spec: TensorSpec,
    array: Array,
    dims: Mapping[str, tuple[int, int, int]],
    sizes: dict[str, int],
) -> None:
    if str(array.dtype) != spec.dtype:
        raise UsageError(
            f"Input {spec.name} has dtype {array.dtype}, the model takes {spec.dtype}.",
            cause="numpy makes float64 and int64 unless told otherwise.",
            remedy=f"Convert it: array.astype({spec.dtype!r})",
        )
    shown = f"Input {spec.name} has shape {array.shape}, the model takes {spec.shape}"
    remedy = "Reshape, crop or pad it."
    if len(array.shape) != len(spec.shape):
        raise UsageError(f"{shown}.", cause="The number of axes differs.", remedy=remedy)
    for axis, (size, expected) in enumerate(zip(array.shape, spec.shape, strict=True)):
        if isinstance(expected, int):
            if size != expected:
                raise UsageError(f"{shown}.", cause=f"Axis {axis} is fixed.", remedy=remedy)
            continue
        low, _, high = dims[expected]
        if not low <= size <= high:
            raise UsageError(
                f"{shown}.", cause=f"{expected} goes from {low} to {high}.", remedy=remedy
            )
        if sizes.setdefault(expected, size) != size:
            raise UsageError(
                f"{shown}.",
                cause=f"{expected} is {sizes[expected]} in another input.",
                remedy=remedy,
            )
