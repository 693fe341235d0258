"""How much memory a graph's activations take at the same time. Pure.

Operators run in the order given. A buffer is taken when its tensor is made and given back after
the last operator that reads it, the way compilers plan memory; they may do a little better by
running operators in another order, and never need more.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """One operator by the names of the tensors it touches; weights are not among them."""

    reads: tuple[str, ...]
    writes: tuple[str, ...]
    view_of: str | None = None
    """Its outputs are this tensor seen in another way: they take no memory of their own."""
    overwrites: tuple[str, ...] = ()
    """Its output may take the place of the first of these that nobody reads afterwards."""


def peak_bytes(
    steps: Sequence[Step],
    sizes: Mapping[str, int],
    *,
    inputs: Iterable[str],
    outputs: Iterable[str],
) -> int:
    """The most bytes that are alive while any step runs.

    Args:
        steps: in the order they run.
        sizes: bytes of every tensor; one that is missing counts as 0.
        inputs: tensors that the caller holds until their last reader ran.
        outputs: tensors that stay to the end.

    >>> chain = [Step(reads=("a",), writes=("b",)), Step(reads=("b",), writes=("c",))]
    >>> peak_bytes(chain, {"a": 3, "b": 5, "c": 1}, inputs=["a"], outputs=["c"])
    8
    """
    buffer = {name: name for name in inputs}
    for step in steps:
        for name in step.writes:
            buffer[name] = buffer.get(step.view_of, name) if step.view_of else name
    last = _last_use(steps, buffer, outputs)
    alive = {name: sizes.get(name, 0) for name in inputs}
    place = {name: name for name in alive}  # a buffer may sit in the place of another
    peak = sum(alive.values())
    for index, step in enumerate(steps):
        free = [
            buffer[name]
            for name in step.overwrites
            if buffer.get(name) in place and last[buffer[name]] == index
        ]
        for name in step.writes:
            if buffer[name] != name:
                continue  # a view
            place[name] = place.pop(free.pop(0)) if free else name
            alive[place[name]] = max(alive.get(place[name], 0), sizes.get(name, 0))
        peak = max(peak, sum(alive.values()))
        alive.update({place[n]: sizes.get(n, 0) for n in step.writes if n in place})
        for name in [n for n in place if last.get(n, index) <= index]:
            alive.pop(place.pop(name), None)
    return peak


def _last_use(
    steps: Sequence[Step], buffer: Mapping[str, str], outputs: Iterable[str]
) -> dict[str, int]:
    """Buffer -> the index of the last step that touches it; outputs outlive all steps."""
    last: dict[str, int] = {}
    for index, step in enumerate(steps):
        for name in (*step.reads, *step.writes):
            if name in buffer:
                last[buffer[name]] = index
    last.update({buffer[name]: len(steps) for name in outputs if name in buffer})
    return last
