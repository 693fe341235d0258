"""What a search did, for the summary and the report."""

from __future__ import annotations

import dataclasses

from sdk.objective import Objective


@dataclasses.dataclass(frozen=True, kw_only=True)
class Heat:
    """One round: what was tried, and who led afterwards."""

    tried: tuple[str, ...]
    """The candidates' own names; those that the budget did not suffice for are not among them."""
    best: str | None
    """None while nothing keeps the limits."""
    cost: float | None
    """The leader's, by the objective; for latency, over the first measured candidate's. None where
    it is not known."""
    seconds: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchRecord:
    """How a variant was found, and how much was left to try."""

    objective: Objective
    budget_s: float
    spent_s: float
    seed: int
    heats: tuple[Heat, ...]
    untried: int
    """Candidates that the budget did not suffice for."""
    ended: bool = False
    """Nothing was left to try: more time would have found no more."""
