"""One generated program, as data."""

from __future__ import annotations

import dataclasses
from typing import Any

Layer = tuple[Any, ...]
"""A layer's word and its sizes: ("conv", 64, 3, 1, 1). `modules.py` builds it."""
_NETWORK = "net_"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One program to be timed."""

    name: str
    """`<family>-<number>`, and for a network the draw that it is of."""
    shape: tuple[int, ...]
    """Of the input, with the batch of 1."""
    layers: tuple[Layer, ...]
    integers: bool = False
    """The input holds indices, not floats."""
    dynamic: bool = False
    """The batch may vary from 1 to 4."""

    @property
    def family(self) -> str:
        """What its layers have in common."""
        return self.name.rpartition("-")[0]

    @property
    def is_net(self) -> bool:
        """A whole network, which intervals are calibrated on."""
        return self.family.startswith(_NETWORK)


def case_of(shape: tuple[int, ...], *layers: Layer, **rest: bool) -> Case:
    """One without a name yet."""
    return Case(name="", shape=shape, layers=layers, **rest)
