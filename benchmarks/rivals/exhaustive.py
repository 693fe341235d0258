"""An exhaustive walk of the search's own space, for the traps: what could have been found.

The same search with every bound on its moves taken off: all settings of every quantised recipe, all
tunings of everything planned or set otherwise, one option at a time, and of NNCF's int8 every
number of operator groups kept in floating point. It runs until nothing is left to try. What it
finds is held against what the search found within its budget.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from agent.codec import decode, pretty
from agent.files import write_atomic
from benchmarks.rivals.figures import Model
from benchmarks.rivals.models import LIMITS
from profiles import Profile
from sdk import build
from sdk.search.moves import Ranked, files_of, in_order
from sdk.search.standing import Attempt, Move, Standing
from targets import variations
from targets.interface import Program, Recipe

BUDGET_S = 2 * 3600.0


def all_moves(
    standing: Standing, program: Program, profile: Profile, ranked: Ranked, seed: int
) -> tuple[Move, ...]:
    """Everything one step from what was tried; stands in for `sdk.search.moves.next_moves`."""
    del seed
    tried = {one.digest for one in standing.attempts}
    built = [one for one in standing.attempts if one.result.status == "built"]
    moves = [*_settings(built, program), *_mixed(built, ranked), *_tunings(built, program, profile)]
    return tuple({m.recipe.digest: m for m in moves if m.recipe.digest not in tried}.values())


def all_to_rank(standing: Standing) -> tuple[Recipe, ...]:
    """Every int8 of NNCF that was planned or set otherwise."""
    return tuple(one.move.recipe for one in standing.attempts if _is_root(one))


def _is_root(one: Attempt) -> bool:
    """Of the plan alone: the settings' groups are the same ones."""
    quantised = (one.move.recipe.quantisation or {}).get("method") == "nncf"
    return one.result.status == "built" and one.move.kind == "plan" and quantised


def _settings(built: list[Attempt], program: Program) -> Iterator[Move]:
    for one in built:
        if one.move.kind == "plan":
            for recipe in variations.settings(one.move.recipe, program):
                yield Move(recipe=recipe, kind="setting", parent=one.digest)


def _mixed(built: list[Attempt], ranked: Ranked) -> Iterator[Move]:
    for root in filter(_is_root, built):
        groups = in_order(ranked.get(root.digest, ()))
        for kept in range(1, len(groups)):
            names = tuple(name for group in groups[:kept] for name in group.operators)
            recipe = variations.keeping(root.move.recipe, names)
            yield Move(recipe=recipe, kind="mixed", parent=root.digest, kept=kept)


def _tunings(built: list[Attempt], program: Program, profile: Profile) -> Iterator[Move]:
    for one in built:
        if one.move.kind in ("plan", "setting"):  # one option at a time, and not of every mixed one
            for tuning in variations.tunings(one.move.recipe, program, profile):
                exact = tuning.exact
                yield Move(recipe=tuning.recipe, kind="tuning", parent=files_of(one), exact=exact)


def exhaust_all(names: list[str], out: Path) -> None:
    """Walk, and add what was found to each model's result."""
    for name in names:
        file = out / "results" / f"{name}.json"
        model = decode(Model, _read(file))
        if model.exhaustive is None:
            write_atomic(file, pretty(_exhausted(model, out / name)))


def _exhausted(model: Model, folder: Path) -> Model:
    began = time.monotonic()
    with (
        mock.patch("sdk.search.loop.next_moves", all_moves),
        mock.patch("sdk.search.loop.to_rank", all_to_rank),
    ):
        summary = build(
            folder / "project",
            targets=["intel"],
            profiles=["host"],
            budget_s=BUDGET_S,
            limits={"accuracy_drop": LIMITS[model.metric]},  # type: ignore[index]
            out=folder / "exhaustive",
            fresh=True,  # its time is to be its own
            jobs=2,
        )
    (result,) = summary.results
    chosen = next((c for c in result.candidates if c.role == "chosen"), None)
    own = chosen.latency_ms if chosen else None
    plain = [c.latency_ms for c in result.candidates if c.precision == "f32" and c.latency_ms]
    f32 = min(plain, key=lambda found: found.p50, default=None)
    return dataclasses.replace(
        model,
        exhaustive={
            "chosen": (result.selected or "").rsplit("/", 1)[-1],
            "precision": chosen.precision if chosen else "",
            "p50_ms": own.p50 if own else 0.0,
            "high_ms": own.high if own else 0.0,
            "f32_ms": f32.p50 if f32 else 0.0,
            "f32_low_ms": f32.low if f32 else 0.0,
            "seconds": round(time.monotonic() - began, 1),
            "candidates": len(result.candidates),
        },
    )


def _read(file: Path) -> Any:
    return json.loads(file.read_bytes())
