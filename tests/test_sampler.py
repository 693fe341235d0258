"""Draws from settings and mixed precision at once, played against a made-up world."""

from __future__ import annotations

import dataclasses

import pytest

from sdk.search.moves import next_moves, to_rank
from sdk.search.sampler import AT_A_TIME, IN_VAIN, draws
from sdk.search.standing import Attempt, Move, Standing
from targets import variations
from targets.interface import Recipe, Sensitivity
from targets.recipes import executorch
from tests.test_prune import program
from tests.test_search import GROUPS, INT8, VNNI, World, attempt, begin, kept, losing

Ranked = dict[str, tuple[Sensitivity, ...]]


def play(world: World, seed: int = 0) -> tuple[Standing, Standing]:
    """The standing where the walk has ended, and where the draws have."""
    standing, ranked, walked = begin(world), Ranked(), None
    for _ in range(200):
        for recipe in to_rank(standing):
            ranked[recipe.digest] = GROUPS
        moves = next_moves(standing, program(), VNNI, ranked, seed)
        if not moves:
            walked = walked or standing
            moves = draws(standing, ranked, seed)
        if not moves:
            return walked or standing, standing
        new = tuple(attempt(move, world) for move in moves)
        standing = dataclasses.replace(standing, attempts=(*standing.attempts, *new))
    raise AssertionError("it goes on for ever")


def drawn(standing: Standing) -> list[Attempt]:
    return [one for one in standing.attempts if one.move.kind == "drawn"]


def together(recipe: Recipe) -> tuple[float, float]:
    """Two settings that help only together: then two layers have to be kept, else twenty."""
    if recipe.precision != "int8":
        return 1.0, 0.0
    chosen = recipe.quantisation or {}
    cured = chosen.get("preset") == "mixed" and chosen.get("ranges") in ("minmax", "histogram")
    needed = 2 if cured else 20
    return 0.4 + 0.6 * kept(recipe) / len(GROUPS), 0.0 if kept(recipe) >= needed else 0.1


@pytest.mark.parametrize("seed", range(5))
def test_draws_find_what_helps_only_together(seed: int) -> None:
    walked, ended = play(together, seed)
    before, after = walked.best(), ended.best()
    assert before is not None
    assert after is not None
    assert before.pace == pytest.approx(0.4 + 0.6 * 20 / 24, abs=0.1)
    assert after.pace is not None
    assert after.pace < 0.8
    assert after.move.kind == "drawn"
    assert ended.is_accurate(after)


def test_the_same_seed_draws_the_same_and_nothing_is_drawn_twice() -> None:
    one, two = (play(together)[1] for _ in range(2))
    assert [a.digest for a in one.attempts] == [a.digest for a in two.attempts]
    assert len({a.digest for a in one.attempts}) == len(one.attempts)


def test_draws_that_are_long_in_vain_end() -> None:
    walked, ended = play(losing(2))
    assert ended.best() == walked.best() or ended.best() in drawn(ended)
    last = drawn(ended)[-AT_A_TIME * IN_VAIN :]
    assert len(last) <= AT_A_TIME * IN_VAIN
    assert ended.best() not in last


def test_nothing_is_drawn_where_nothing_had_to_be_walked() -> None:
    assert drawn(play(losing(0))[1]) == []


def test_what_has_no_settings_is_not_drawn_and_does_not_hide_what_has() -> None:
    static = executorch("xnnpack", "int8", quantisation={"method": "pt2e", "samples": 8})
    assert variations.space(static) == {}
    world = losing(5)
    first = attempt(Move(recipe=static, kind="plan"), world)
    alone = dataclasses.replace(begin(world), attempts=(first,))
    assert draws(alone, {static.digest: GROUPS}, 0) == ()
    both = dataclasses.replace(alone, attempts=(first, *begin(world).attempts))
    found = draws(both, {static.digest: GROUPS, INT8.digest: GROUPS}, 0)
    assert found
    assert {move.parent for move in found} == {INT8.digest}


def test_a_recipe_has_one_place_and_a_place_one_recipe() -> None:
    space = variations.space(INT8)
    for ranges in space["ranges"]:
        place = {"preset": "mixed", "ranges": ranges, "bias_correction": "fast"}
        recipe = variations.placed(INT8, space, place, ("a", "b"))
        assert variations.place_in(space, recipe, INT8) == place
        assert (recipe.quantisation or {})["ignored"] == ["a", "b"]
    other = dataclasses.replace(INT8, quantisation={**(INT8.quantisation or {}), "samples": 7})
    assert variations.place_in(space, other, INT8) is None
    odd = dataclasses.replace(INT8, quantisation={**(INT8.quantisation or {}), "preset": "odd"})
    assert variations.place_in(space, odd, INT8) is None
