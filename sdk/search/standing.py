"""Who was tried, and who leads. Pure."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Literal

from agent.calls import ONE_AT_A_TIME, calls_of
from sdk.limits import overall
from sdk.objective import Figures, Objective, cost, in_words
from sdk.result import Result
from sdk.verdicts import verdicts
from targets.interface import Recipe

Kind = Literal["plan", "tuning", "setting", "mixed", "drawn"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Move:
    """Something to try, and why."""

    recipe: Recipe
    kind: Kind
    why: str = ""
    parent: str | None = None
    """The digest of the recipe that this one varies: a tuning runs its files."""
    exact: bool = False
    """It computes what its parent does, so the parent's accuracy is its own until the final."""
    kept: int = 0
    """How many groups of the parent's operators a mixed one keeps in floating point."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attempt:
    """A move and what came of it."""

    move: Move
    result: Result
    pace: float | None = None
    """Its latency over the reference's, by turns side by side; where throughput counts, its time
    per run. None if it was not measured."""

    @property
    def digest(self) -> str:
        """The recipe's."""
        return self.move.recipe.digest


@dataclasses.dataclass(frozen=True, kw_only=True)
class Standing:
    """All attempts so far, and how they are judged."""

    attempts: tuple[Attempt, ...]
    limits: Mapping[str, float]
    objective: Objective
    measurable: bool
    """This machine is such a device: speed is measured. Otherwise estimates stand for it."""

    def find(self, digest: str) -> Attempt | None:
        """The attempt with a recipe."""
        return next((one for one in self.attempts if one.digest == digest), None)

    @functools.cached_property
    def baseline(self) -> Attempt | None:
        """The fastest f32 so far; the first one built where nothing is measured."""
        plain = [
            one
            for one in self.attempts
            if one.result.status == "built"
            and one.move.recipe.precision == "f32"
            and calls_of(one.move.recipe.options) == ONE_AT_A_TIME
        ]
        return min(plain, key=lambda one: math.inf if one.pace is None else one.pace, default=None)

    @property
    def wants_throughput(self) -> bool:
        """How a variant is called is worth varying: that is the objective, or a limit unkept."""
        return self.objective == "throughput" or (THROUGHPUT in self.limits and not self.ranking())

    def keeps_limits(self, attempt: Attempt, *, but: str | None = None) -> bool:
        """Nothing disproves it: built, no limit surely broken, the drop seen within the limit.

        Args:
            attempt: to be judged.
            but: a limit that is left out.
        """
        result = attempt.result
        if result.status != "built" or not self.is_accurate(attempt):
            return False
        baseline = self.baseline
        # Ratios to the baseline hold within one contest alone: the final one judges them.
        limits = {name: v for name, v in self.limits.items() if name not in (*_RELATIVE, but)}
        return overall(verdicts(result, limits, baseline.result if baseline else None)) != "unmet"

    def is_accurate(self, attempt: Attempt) -> bool:
        """The drop seen on the selection split lies within the limit, or there is none to see."""
        accuracy = attempt.result.accuracy
        limit = self.limits.get("accuracy_drop")
        drop = accuracy.selection if accuracy else None
        return drop is None or limit is None or drop.value <= limit

    def cost(self, attempt: Attempt) -> float:
        """By the objective; less is better."""
        own = self._figures(self.baseline) if self.baseline else None
        return cost(self.objective, self._figures(attempt), own)

    def ranking(self, *, but: str | None = None) -> Sequence[Attempt]:
        """Those that keep the limits, or all limits but one; the best first."""
        kept = (one for one in self.attempts if self.keeps_limits(one, but=but))
        return sorted(kept, key=self.cost)

    def rate(self, attempt: Attempt) -> float:
        """Its throughput in its heat, in runs per second; 0 where it was not measured."""
        report = attempt.result.report
        measured = report.measurement if report else None
        return measured.throughput_per_s if measured else 0.0

    def best(self) -> Attempt | None:
        """The leader."""
        return self._best

    @functools.cached_property
    def _best(self) -> Attempt | None:
        return next(iter(self.ranking()), None)

    def best_cost(self) -> float | None:
        """The leader's; None without one, and where what counts is not known of it."""
        best = self.best()
        found = math.inf if best is None else self.cost(best)
        return found if math.isfinite(found) else None

    def in_words(self, attempt: Attempt) -> str:
        """What the objective looks at in it."""
        own = self._figures(self.baseline) if self.baseline else None
        return in_words(self.objective, self._figures(attempt), own)

    def _figures(self, attempt: Attempt) -> Figures:
        result = attempt.result
        measured = result.report.measurement if result.report else None
        latency = attempt.pace
        if not self.measurable and result.estimate and result.estimate.latency_ms:
            latency = result.estimate.latency_ms.value
        return Figures(
            latency=latency,
            per_run=latency,
            memory_bytes=measured.memory_increment_bytes if measured else None,
            size_bytes=result.size_bytes,
        )


THROUGHPUT = "throughput_per_s"
_RELATIVE = ("speedup", "memory_reduction")
