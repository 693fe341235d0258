"""Shape buckets: sizes of the dims that have a compiled form of their own.

`buckets` is a reserved option of a variant's record, which no runtime sees: a list of
`{dim: size}`. Each is compiled from the same file with these sizes fixed, which lets a compiler
choose kernels and lay out memory once. Dims that a bucket does not name keep varying. Whatever
fits no bucket goes to the general form, so every size within the dims' bounds still runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from agent.errors import VerificationError
from agent.manifest import Signature
from agent.tensors import Array

if TYPE_CHECKING:
    from agent.sessions import Session

RESERVED = "buckets"

Bucket = Mapping[str, int]
"""Dim -> the size at which it is fixed."""
GENERAL: Bucket = {}
"""The form in which no size is fixed."""


def buckets_of(options: Mapping[str, Any], signature: Signature) -> tuple[Bucket, ...]:
    """The buckets of a variant with these options; empty where there is one form for all sizes.

    Raises:
        VerificationError: they are no list of sizes within the bounds of the signature's dims, or
            two are the same.
    """
    if RESERVED not in options:
        return ()
    told = options[RESERVED]
    wrong = _what_is_wrong(told, signature)
    if wrong:
        raise VerificationError(
            f"The record's option buckets is {told!r}: {wrong}.",
            cause="The record was edited by hand, or a newer Slipway wrote it.",
            remedy="Run `sdk build` again, or update Slipway on this machine.",
        )
    return tuple(dict(bucket) for bucket in told)


def in_words(buckets: Sequence[Bucket]) -> str:
    """The sizes.

    >>> in_words([{"batch": 1, "length": 16}, {"length": 32}])
    'batch 1 and length 16, length 32'
    """
    return ", ".join(
        " and ".join(f"{name} {size}" for name, size in bucket.items()) for bucket in buckets
    )


class Router:
    """Tells which bucket takes an input."""

    def __init__(self, buckets: Sequence[Bucket], signature: Signature) -> None:
        places = _places(signature)
        tables: dict[tuple[str, ...], dict[tuple[int, ...], int]] = {}
        for index, bucket in enumerate(buckets):
            names = tuple(sorted(bucket))
            tables.setdefault(names, {})[tuple(bucket[name] for name in names)] = index
        # One look-up for each set of names: this is part of every run.
        self._tables = [
            ([places[name] for name in names], tables[names])
            for names in sorted(tables, key=len, reverse=True)
        ]

    def find(self, inputs: Mapping[str, Array]) -> int | None:
        """The index of the bucket that names most of the inputs' sizes; None if all differ."""
        for places, table in self._tables:
            index = table.get(tuple([inputs[name].shape[axis] for name, axis in places]))
            if index is not None:
                return index
        return None


class Forms:
    """One session of several compiled forms: the general one, and one for each bucket."""

    def __init__(
        self, general: Session, fixed: Sequence[tuple[Bucket, Session]], signature: Signature
    ) -> None:
        self._router = Router([bucket for bucket, _ in fixed], signature)
        self._general = general
        self._fixed = [session for _, session in fixed]
        self._last: Session | None = None

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run the form that takes these sizes; state goes along from the one that ran last."""
        index = self._router.find(inputs)
        form = self._general if index is None else self._fixed[index]
        if form is not self._last:
            if self._last is not None and hasattr(form, "take_state"):
                form.take_state(self._last)
            self._last = form
        return form.run(inputs)

    def run_all(self, inputs: Mapping[str, Array]) -> None:
        """Run the form that takes these sizes, and the general one; then forget their state.

        A runtime may lay out weights and memory at the first run only.
        """
        self.run(inputs)
        self._general.run(inputs)
        self.reset()

    def reset(self) -> None:
        """Forget the state of all forms."""
        self._last = None
        for form in self._all:
            form.reset()

    def close(self) -> None:
        """Give all forms' memory back."""
        self._last = None
        for form in self._all:
            form.close()

    def placement(self) -> dict[str, float]:
        """The mean share of each engine over the forms; empty where one of them does not tell."""
        found = [form.placement() for form in self._all]
        if not all(found):
            return {}
        names = sorted({name for shares in found for name in shares})
        return {name: sum(one.get(name, 0.0) for one in found) / len(found) for name in names}

    @property
    def _all(self) -> list[Session]:
        return [self._general, *self._fixed]


def _places(signature: Signature) -> dict[str, tuple[str, int]]:
    """Dim -> an input and an axis that have its size."""
    found: dict[str, tuple[str, int]] = {}
    for spec in signature.inputs:
        for axis, size in enumerate(spec.shape):
            if isinstance(size, str):
                found.setdefault(size, (spec.name, axis))
    return found


def _what_is_wrong(told: Any, signature: Signature) -> str | None:
    if not isinstance(told, (list, tuple)) or not told:
        return "it should be a list of one bucket or more"
    known = _places(signature)
    for bucket in told:
        if not isinstance(bucket, Mapping) or not bucket:
            return f"{bucket!r} should be an object of one dim or more -> its size"
        for name, size in bucket.items():
            if name not in known or name not in signature.dims:
                return f"the model's inputs have no dim {name!r}, they have {sorted(known)}"
            low, _, high = signature.dims[name]
            if not isinstance(size, int) or isinstance(size, bool):
                return f"the size {size!r} of {name} should be an integer"
            if not low <= size <= high:
                return f"{name} is {size}, and goes from {low} to {high}"
    if len({tuple(sorted(bucket.items())) for bucket in told}) < len(told):
        return "a bucket is there twice"
    return None
