"""The small programs that a profile's constants are fitted on: generated, seeded, described.

A case is a list of layers on an input: one operator or a short chain (`operators.py`), or a whole
network (`networks.py`); how far a fit is off on those, unseen, is what its interval is made of.
`modules.py` makes torch modules of them. Nothing here is taken from a known network.
"""

from __future__ import annotations

import dataclasses
import random

from sdk.microbenchmarks.case import Case, Layer
from sdk.microbenchmarks.networks import NETWORKS
from sdk.microbenchmarks.operators import OPERATORS

QUICK = 4
"""Every so many of the cases are taken where time is short."""


def cases(*, quick: bool = False, networks: str = "") -> tuple[Case, ...]:
    """All cases, always the same ones; with `quick` a quarter of each family.

    `networks` names another draw of the whole networks. A fit is judged on them beside the one
    before it, and neither may have seen them (but for one or two that are drawn alike).
    """
    found = []
    for family, (count, draw) in {**OPERATORS, **NETWORKS}.items():
        tag = networks if family in NETWORKS else ""
        for index in range(0, count, QUICK if quick else 1):
            name = f"{family}-{index:02d}{tag}"
            # Seeded by name, so that another count of one family changes no other case.
            found.append(dataclasses.replace(draw(random.Random(name)), name=name))  # noqa: S311
    return tuple(found)


__all__ = ["QUICK", "Case", "Layer", "cases"]
