"""What to try where the space is too large to walk: settings and mixed precision at once. Pure.

The walk bisects how many groups of operators stay in floating point, from one setting of the
quantiser. Together they make thousands of recipes. Once the walk has ended, a Tree-structured
Parzen Estimator (Bergstra et al., NIPS 2011; optuna) draws from all of them, told how everything
tried so far did. The same standing and the same seed give the same draws.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sdk.search.moves import Ranked, in_order
from sdk.search.standing import Attempt, Move, Standing
from targets import variations
from targets.interface import Recipe, Sensitivity

AT_A_TIME = 3
"""Drawn for one heat; more would be drawn without knowing how these did."""
IN_VAIN = 4
"""Heats of draws without a new leader, after which there is nothing more to hope for."""
KEPT = "kept"
_TRIES = 8  # draws for each that is wanted: some were tried before
_OVER = 2.0  # what is over the limit counts as that many times the slowest, and by how far it is


def draws(standing: Standing, ranked: Ranked, seed: int) -> tuple[Move, ...]:
    """The next heat; empty where no walk has been, or where draws have long been in vain.

    A quantiser without settings leaves nothing to draw that its walk has not tried.

    Args:
        standing: what was tried, and what came of it.
        ranked: digest of a quantised recipe -> its groups of operators.
        seed: of the sampler.
    """
    root = next(
        (
            one
            for one in standing.attempts
            if ranked.get(one.digest) and variations.space(one.move.recipe)
        ),
        None,
    )
    if root is None or _in_vain(standing):
        return ()
    space = _Space(root.move.recipe, in_order(ranked[root.digest]))
    known = [space.place_of(one.move.recipe) for one in standing.attempts]
    found: list[dict[str, Any]] = []
    for place in _drawn(standing, space, known, seed):
        if place not in (*known, *found):
            found.append(place)
        if len(found) == AT_A_TIME:
            break
    return tuple(space.move(place, parent=root.digest) for place in found)


def _in_vain(standing: Standing) -> bool:
    drawn = [one for one in standing.attempts if one.move.kind == "drawn"]
    best = standing.best()
    last = drawn[-AT_A_TIME * IN_VAIN :]
    return len(last) == AT_A_TIME * IN_VAIN and best not in last


def _drawn(
    standing: Standing, space: _Space, known: Sequence[dict[str, Any] | None], seed: int
) -> Iterator[dict[str, Any]]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    spread: dict[str, optuna.distributions.BaseDistribution] = {
        name: optuna.distributions.CategoricalDistribution(values)
        for name, values in space.settings.items()
    }
    spread[KEPT] = optuna.distributions.IntDistribution(0, len(space.groups))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        # A new sampler for each heat, so that a resumed search draws as the first one did.
        sampler = optuna.samplers.TPESampler(
            seed=seed + len(standing.attempts), multivariate=True, n_startup_trials=4
        )
    study = optuna.create_study(sampler=sampler)
    for one, place in zip(standing.attempts, known, strict=True):
        value = _value(one, standing)
        if place is not None and value is not None:
            study.add_trial(
                optuna.trial.create_trial(params=place, distributions=spread, value=value)
            )
    for _ in range(AT_A_TIME * _TRIES):
        yield study.ask(spread).params


def _value(attempt: Attempt, standing: Standing) -> float | None:
    """Less is better: the cost; over the limit on accuracy, worse than all that are not."""
    cost = standing.cost(attempt)
    if attempt.result.status != "built" or not math.isfinite(cost):
        return None
    if standing.is_accurate(attempt):
        return cost
    known = [standing.cost(one) for one in standing.attempts if one.result.status == "built"]
    slowest = max(value for value in known if math.isfinite(value))
    accuracy = attempt.result.accuracy
    drop = accuracy.selection.value if accuracy and accuracy.selection else 0.0
    return _OVER * slowest * (1 + min(1.0, drop))


class _Space:
    """Every setting of the quantiser with every number of groups kept, around one recipe."""

    def __init__(self, root: Recipe, groups: Sequence[Sensitivity]) -> None:
        self._root = root
        self.groups = groups
        self.settings = variations.space(root)

    def place_of(self, recipe: Recipe) -> dict[str, Any] | None:
        """Where a recipe lies; None where it lies outside."""
        root = self._root
        if (recipe.toolchain, recipe.engine) != (root.toolchain, root.engine):
            return None
        if recipe.options != root.options:
            return None
        place = variations.place_in(self.settings, recipe, root)
        left = set((recipe.quantisation or {}).get("ignored", ()))
        kept = 0
        while kept < len(self.groups) and left.issuperset(self.groups[kept].operators):
            left -= set(self.groups[kept].operators)
            kept += 1
        return None if left or place is None else {**place, KEPT: kept}

    def move(self, place: Mapping[str, Any], *, parent: str) -> Move:
        """What is tried at a place."""
        kept = int(place[KEPT])
        names = tuple(name for group in self.groups[:kept] for name in group.operators)
        told = ", ".join(f"{name} {place[name]}" for name in self.settings)
        return Move(
            recipe=variations.placed(self._root, self.settings, place, names),
            kind="drawn",
            why=f"{told}; {kept} of {len(self.groups)} groups of operators in floating point",
            parent=parent,
            kept=kept,
        )
