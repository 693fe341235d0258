"""What to try next. Pure: the same standing and the same seed give the same moves.

Three kinds, the cheap ones first. *Tunings* run the files of the leaders with other options, and,
where throughput counts, by several callers and in batches: uphill from what is known to be best.
*Settings* quantise anew where int8 would win and loses too much accuracy. The *walk* keeps the most
sensitive groups of operators in floating point, as few as the limit allows: a bisection over the
groups in the order of what leaving each of them out gains in accuracy for its work. A walk ends
where what is left is not worth having: no faster than the leader.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from agent.buckets import RESERVED, in_words
from agent.calls import ONE_AT_A_TIME, calls_of
from profiles import Profile
from sdk.search.standing import THROUGHPUT, Attempt, Kind, Move, Standing
from targets import variations
from targets.interface import Program, Recipe, Sensitivity

LEADERS = 2
"""How many leaders are tuned at a time."""
WORTH = 0.97
"""What is quantised is mended only if it takes at most this share of the leader's time."""
WALK_ENDS = 16
"""A walk over n groups ends when fewer than n over this are between too few and enough."""

Ranked = Mapping[str, tuple[Sensitivity, ...]]
"""Digest of a quantised recipe -> its groups of operators."""


def next_moves(
    standing: Standing, program: Program, profile: Profile, ranked: Ranked, seed: int
) -> tuple[Move, ...]:
    """The next heat; empty when nothing is left to try.

    Args:
        standing: what was tried, and what came of it.
        program: what is lowered.
        profile: of the device.
        ranked: the sensitivities that are known.
        seed: orders what is equally promising.
    """
    tried = {one.digest for one in standing.attempts}

    def new(moves: Iterable[Move]) -> list[Move]:
        found = {move.recipe.digest: move for move in moves if move.recipe.digest not in tried}
        shuffled = list(found.values())
        random.Random(seed).shuffle(shuffled)  # noqa: S311  an order, not a secret
        return shuffled

    settings = new(_settings(standing, program))
    # Where the walk begins is known only when all settings have had their turn.
    mixed = [] if settings else new(_walks(standing, ranked))
    called = new(_callings(standing, program, profile))
    return (*called, *new(_tunings(standing, program, profile)), *settings, *mixed)


def to_rank(standing: Standing) -> tuple[Recipe, ...]:
    """The quantised recipes that a walk may begin from, and whose sensitivities it needs."""
    return tuple(root.move.recipe for root in _roots(standing))


def in_order(found: Iterable[Sensitivity]) -> tuple[Sensitivity, ...]:
    """Groups by what leaving them out gains in accuracy for each bit of speed it costs."""
    least = 1e-6  # a group of hardly any work costs hardly any speed
    return tuple(sorted(found, key=lambda group: -group.error / max(group.work, least)))


def _tunings(standing: Standing, program: Program, profile: Profile) -> Iterator[Move]:
    """Of the leaders, each of other files; an option that was already changed is left alone."""
    leaders: dict[str, Attempt] = {}
    for one in standing.ranking():
        if one.pace is not None:
            leaders.setdefault(files_of(one), one)
    for files, leader in list(leaders.items())[:LEADERS]:
        root = standing.find(files)
        own = leader.move.recipe.options
        changed = _differing(own, root.move.recipe.options if root else own)
        for tuning in variations.tunings(leader.move.recipe, program, profile):
            other = _differing(tuning.recipe.options, own)
            if other and not other & changed:
                yield Move(
                    recipe=tuning.recipe,
                    kind="tuning",
                    why=_told(tuning.recipe.options, other),
                    parent=files,
                    exact=tuning.exact and (leader.move.kind != "tuning" or leader.move.exact),
                )


def _callings(standing: Standing, program: Program, profile: Profile) -> Iterator[Move]:
    """Of each leader, the neighbours of the way of calling it that has the best throughput."""
    if not standing.wants_throughput:
        return
    leaders: dict[str, Attempt] = {}
    for one in standing.ranking(but=THROUGHPUT):
        if one.pace is not None and calls_of(one.move.recipe.options) == ONE_AT_A_TIME:
            leaders.setdefault(files_of(one), one)
    for files, leader in list(leaders.items())[:LEADERS]:
        grid = variations.callings(leader.move.recipe, program, profile)
        tried = {key: standing.find(recipe.digest) for key, recipe in grid.items()}
        rates = {
            key: standing.rate(one)
            for key, one in tried.items()
            if one is not None and standing.keeps_limits(one, but=THROUGHPUT)
        }
        for key in neighbours(max(rates, key=lambda key: rates[key]), list(grid)):
            callers, size = key
            yield Move(
                recipe=grid[key],
                kind="tuning",
                why=f"{callers} at a time, {size} in each run",
                parent=files,
                exact=leader.move.kind != "tuning" or leader.move.exact,
            )


def neighbours(best: tuple[int, int], grid: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """What differs from the best in one of the two: by a step down, or by one or two up.

    >>> neighbours((1, 2), [(callers, size) for callers in (1, 2) for size in (1, 2, 4, 8, 16)])
    [(1, 1), (1, 4), (1, 8), (2, 2)]
    """
    callers, size = best
    return [
        *((callers, other) for other in _beside(size, {key[1] for key in grid})),
        *((other, size) for other in _beside(callers, {key[0] for key in grid})),
    ]


def _beside(value: int, values: set[int]) -> list[int]:
    ordered = sorted(values)
    at = ordered.index(value)
    return [*ordered[max(0, at - 1) : at], *ordered[at + 1 : at + 3]]


def files_of(attempt: Attempt) -> str:
    """The digest of the recipe that made the files which an attempt runs."""
    move = attempt.move
    return move.parent if move.kind == "tuning" and move.parent else attempt.digest


def _told(options: Mapping[str, Any], names: set[str]) -> str:
    """Options in words."""
    told = {name: f"{name} {options[name]}" for name in names}
    if RESERVED in names:
        told[RESERVED] = f"compiled once more for {in_words(options[RESERVED])}"
    return ", ".join(told[name] for name in sorted(told))


def _differing(options: Mapping[str, Any], others: Mapping[str, Any]) -> set[str]:
    return {name for name, value in options.items() if others.get(name) != value}


def _settings(standing: Standing, program: Program) -> Iterator[Move]:
    for one in _to_mend(standing, ("plan",)):
        for recipe in variations.settings(one.move.recipe, program):
            yield Move(
                recipe=recipe,
                kind="setting",
                why=f"{one.move.recipe.name} loses too much accuracy",
                parent=one.digest,
            )


def _to_mend(standing: Standing, kinds: tuple[Kind, ...]) -> list[Attempt]:
    """Quantised, not accurate enough, and so fast that mending would pay."""
    return [
        one
        for one in standing.attempts
        if one.result.status == "built"
        and one.move.kind in kinds
        and one.move.recipe.quantisation is not None
        and not standing.is_accurate(one)
        and _pays(one, standing)
    ]


def _pays(attempt: Attempt, standing: Standing) -> bool:
    """Is it so much faster? Where nothing is measured it is enough that no estimate denies it."""
    best = standing.best()
    if best is None:
        return True
    own, least = standing.cost(attempt), standing.cost(best)
    return own < WORTH * least if standing.measurable else own <= least


def _roots(standing: Standing) -> list[Attempt]:
    """Where walks begin: of each runtime and engine, what loses least and yet too much."""
    found: dict[tuple[str, str], Attempt] = {}
    for one in sorted(_to_mend(standing, ("plan", "setting")), key=_drop):
        recipe = one.move.recipe
        if variations.is_walkable(recipe):
            found.setdefault((recipe.format, recipe.engine), one)
    return list(found.values())


def _drop(attempt: Attempt) -> float:
    accuracy = attempt.result.accuracy
    return accuracy.selection.value if accuracy and accuracy.selection else math.inf


def _walks(standing: Standing, ranked: Ranked) -> Iterator[Move]:
    for root in _roots(standing):
        groups = in_order(ranked.get(root.digest, ()))
        walked = [
            one
            for one in standing.attempts
            if one.move.kind == "mixed" and one.move.parent == root.digest
        ]
        kept = next_kept(
            groups,
            too_few=[one.move.kept for one in walked if not standing.is_accurate(one)],
            too_many=[one.move.kept for one in walked if _ends(one, standing)],
        )
        if kept is not None:
            names = tuple(name for group in groups[:kept] for name in group.operators)
            yield Move(
                recipe=variations.keeping(root.move.recipe, names),
                kind="mixed",
                why=f"{kept} of {len(groups)} groups of operators kept in floating point",
                parent=root.digest,
                kept=kept,
            )


def _ends(walked: Attempt, standing: Standing) -> bool:
    """Keeping more would be in vain: this is accurate already, or no longer fast enough."""
    return (
        walked.result.status != "built"
        or standing.is_accurate(walked)
        or not _pays(walked, standing)
    )


def next_kept(
    groups: Sequence[Sensitivity], *, too_few: Sequence[int], too_many: Sequence[int]
) -> int | None:
    """How many groups to keep next; None where the walk has ended.

    The first step keeps what makes half of the error, the others bisect.

    Args:
        groups: in the order in which they are kept.
        too_few: what was tried and was not accurate.
        too_many: what was tried and was enough, or not worth having.
    """
    low, high = max(too_few, default=0), min(too_many, default=len(groups))
    if high - low <= max(1, len(groups) // WALK_ENDS):
        return None
    if too_few or too_many:
        return (low + high) // 2
    gains = [max(0.0, group.error) for group in groups]
    total, so_far = sum(gains), 0.0
    for count, gain in enumerate(gains, start=1):
        so_far += gain
        if so_far >= total / 2:
            return min(max(count, low + 1), high - 1)
    return (low + high) // 2
