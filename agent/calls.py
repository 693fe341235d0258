"""How a variant is to be called for its throughput: by how many at a time, with how much a run.

These are reserved options of a variant's record, which no runtime sees. `callers` is how many run
at a time, back to back, each with a session of its own. `batch` is the size of `batch_dim` in one
run, where that dim is the first axis of all inputs and outputs. Without them there is one caller,
and the dims have their opt values.

Throughput counts runs at the dims' opt values: a run with four times that batch counts four.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from agent import buckets
from agent.errors import VerificationError
from agent.manifest import Signature
from agent.tensors import Array

RESERVED = ("callers", "batch", "batch_dim")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Calls:
    """So many callers, and the size of one dim; the dim is None where all have their opt values."""

    callers: int = 1
    batch_dim: str | None = None
    batch: int | None = None

    @property
    def options(self) -> dict[str, int | str]:
        """As a variant's record has them; empty for one caller and opt values."""
        found: dict[str, int | str] = {} if self.callers == 1 else {"callers": self.callers}
        if self.batch_dim is not None and self.batch is not None:
            found |= {"batch": self.batch, "batch_dim": self.batch_dim}
        return found


ONE_AT_A_TIME = Calls()


def calls_of(options: Mapping[str, Any]) -> Calls:
    """How a variant with these options is to be called.

    Raises:
        VerificationError: they are no whole numbers from 1 on, or only one of the two that tell the
            batch is there.
    """
    batch, dim = options.get("batch"), options.get("batch_dim")
    counts = [options.get("callers", 1), 1 if batch is None else batch]
    whole = all(isinstance(n, int) and not isinstance(n, bool) and n >= 1 for n in counts)
    if not whole or (batch is None) != (dim is None) or not isinstance(dim, str | None):
        told = {name: options[name] for name in RESERVED if name in options}
        raise VerificationError(
            f"The record's options {told} do not say how the variant is called.",
            cause="The record was edited by hand, or a newer Slipway wrote it.",
            remedy="Run `sdk build` again, or update Slipway on this machine.",
        )
    return Calls(callers=counts[0], batch_dim=dim, batch=batch)


def of_runtime(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are the runtime's own: neither how it is called, nor its buckets."""
    ours = (*RESERVED, buckets.RESERVED)
    return {name: value for name, value in options.items() if name not in ours}


def batch_dim(signature: Signature) -> str | None:
    """The dim that is the first axis of all inputs and outputs, and of no other axis."""
    shapes = [spec.shape for spec in (*signature.inputs, *signature.outputs)]
    first = {shape[0] if shape else None for shape in shapes}
    name = next(iter(first)) if len(first) == 1 else None
    if not isinstance(name, str) or any(name in shape[1:] for shape in shapes):
        return None
    return name


def runs_in_one(calls: Calls, signature: Signature) -> float:
    """For how many runs at the dims' opt values one run counts."""
    if calls.batch_dim is None or calls.batch is None:
        return 1.0
    return calls.batch / signature.dims[calls.batch_dim][1]


def batches(
    samples: Sequence[Mapping[str, Array]], signature: Signature, calls: Calls
) -> Iterator[dict[str, Array]]:
    """The samples put together to runs of the calls' batch; as they are where there is none.

    Samples whose other axes differ are not put together: one of them is repeated then.

    Raises:
        VerificationError: the record names a dim that the model does not have, or a size beyond it.
    """
    dim, size = calls.batch_dim, calls.batch
    if dim is None or size is None:
        yield from map(dict, samples)
        return
    low, _, high = signature.dims.get(dim, (0, 0, 0))
    if not low <= size <= high or dim != batch_dim(signature):
        raise VerificationError(
            f"A batch of {size} along {dim!r} does not fit the model's dims {signature.dims}.",
            cause="The record was edited by hand.",
            remedy="Run `sdk build` again.",
        )
    for chosen in _chosen(samples, size):
        yield _joined(chosen, size)


def _chosen(
    samples: Sequence[Mapping[str, Array]], size: int
) -> Iterator[list[Mapping[str, Array]]]:
    """As many batches as there are samples, each of enough samples of one shape."""
    for start, first in enumerate(samples):
        each = _rows(first)
        alike = [
            other
            for other in (*samples[start:], *samples[:start])
            if all(other[name].shape == array.shape for name, array in first.items())
        ]
        wanted = -(-size // each)
        yield [alike[index % len(alike)] for index in range(wanted)]


def _rows(sample: Mapping[str, Array]) -> int:
    return max(1, int(next(iter(sample.values())).shape[0]))


def _joined(samples: Sequence[Mapping[str, Array]], size: int) -> dict[str, Array]:
    return {
        name: np.concatenate([sample[name] for sample in samples])[:size] for name in samples[0]
    }
