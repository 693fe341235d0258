"""The search at work: lower, screen, race, ask for more; then a final between the best.

Screening looks at the selection split alone. The final contest measures the few that are left with
the whole budget, and only they are scored on the final split, which nothing was chosen by. Every
step is kept in the cache, so a search that was killed replays what it did and goes on.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from agent.bench import Budget
from profiles import Profile
from sdk.estimate import estimate
from sdk.objective import Objective
from sdk.plan import Candidate, Planned
from sdk.prune import reason as why_pruned
from sdk.result import Result, Status
from sdk.samples import FINAL, SELECTION
from sdk.search.clock import Clock, counted, spoken
from sdk.search.finals import FINALISTS, finalists, why_left
from sdk.search.moves import files_of, next_moves, to_rank
from sdk.search.race import race
from sdk.search.record import Heat, SearchRecord
from sdk.search.sampler import draws
from sdk.search.standing import Attempt, Move, Standing
from sdk.select import Selection, select
from sdk.steps.capture import Captured
from sdk.steps.lower import Lowering, lower, sensitivities, tuned
from sdk.steps.prove import evaluate, is_measurable, measure
from sdk.steps.runner import Runner
from targets import toolchain, variations
from targets.interface import Program, Sensitivity, Toolchain

RESERVE = 0.3
"""The share of the budget that is kept for the final, at most."""
AT_ONCE = 8
"""A heat races so many at a time beside the leader: all that race are loaded in memory."""
PATIENCE, PATIENCE_S = 0.25, 30.0
"""One lowering may take this share of what is left, or so many seconds."""
Item = TypeVar("Item")
Done = TypeVar("Done")
_LOAD_S = 2.0  # a small variant's, with its runtime's import
_ENDED = "the budget ended before it was tried"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """One profile to search for."""

    model: str
    profile: Profile
    limits: Mapping[str, float]
    objective: Objective = "latency"
    seed: int = 0
    jobs: int = 1
    prune: bool = True


def search(
    job: Job,
    planned: Sequence[Planned],
    built: dict[str, Lowering],
    captured: Captured,
    runner: Runner,
    clock: Clock,
) -> Selection:
    """The best variant that a time suffices to find.

    The first f32 candidate of the plan is judged whatever the time: where nothing disproves it, it
    is what a budget that is too short delivers.

    Args:
        job: what is wanted.
        planned: the target's own recipes, refused ones included: the first heat.
        built: recipe digest -> files; what is lowered here is added.
        captured: the model.
        runner: runs the steps.
        clock: the budget.
    """
    return _Search(job, planned, built, captured, runner, clock).run()


def _in_two(plan: Sequence[Move]) -> tuple[tuple[Move, ...], tuple[Move, ...]]:
    """What makes the first heat, and what waits until the first moves have been tried.

    A slow compiler would hold up all that follows from what the quick ones show at once.
    """
    quick = tuple(move for move in plan if not variations.is_slow(move.recipe))
    slow = tuple(move for move in plan if variations.is_slow(move.recipe))
    return (quick, slow) if quick else (slow, ())


class _Search:
    def __init__(
        self,
        job: Job,
        planned: Sequence[Planned],
        built: dict[str, Lowering],
        captured: Captured,
        runner: Runner,
        clock: Clock,
    ) -> None:
        self._job = job
        self._planned = planned
        self._built = built
        self._captured = captured
        self._runner = runner
        self._clock = clock
        self._ranked: dict[str, tuple[Sensitivity, ...]] = {}
        self._heats: list[Heat] = []
        self._check_s = 0.0
        self._ended = False
        self._measurable = is_measurable(runner, job.profile)
        self._standing = Standing(
            attempts=(), limits=job.limits, objective=job.objective, measurable=self._measurable
        )

    def run(self) -> Selection:
        """All heats, then the final."""
        refused = [self._refused(entry) for entry in self._planned]
        plan = [
            Move(recipe=entry.candidate.recipe, kind="plan")
            for entry, result in zip(self._planned, refused, strict=True)
            if result is None
        ]
        moves, later = _in_two(plan)
        while moves:
            self._heat(moves)
            if self._left() <= 0:
                break
            self._rank()
            moves = self._next()
            if len(self._heats) > 1 or not moves:
                moves, later = (*moves, *later), ()
        self._ended = not moves and not later
        self._leave(later)
        results = self._final()
        known = {result.candidate.recipe.digest: result for result in results}
        ordered = [
            known.pop(entry.candidate.recipe.digest) if result is None else result
            for entry, result in zip(self._planned, refused, strict=True)
        ]
        # Of what no estimate tells apart, the smaller one has more in narrow numbers.
        found = sorted(known.values(), key=lambda result: result.size_bytes or math.inf)
        selection = select([*ordered, *found], self._job.limits, self._job.objective)
        return dataclasses.replace(selection, search=self._record())

    def _next(self) -> tuple[Move, ...]:
        """What follows from what was found."""
        standing, seed = self._standing, self._job.seed
        return next_moves(standing, self._program, self._job.profile, self._ranked, seed) or draws(
            standing, self._ranked, seed
        )

    def _leave(self, moves: tuple[Move, ...]) -> None:
        """Note what the budget did not suffice for."""
        untried = tuple(
            Attempt(move=move, result=self._result(self._candidate(move), "planned", None, _ENDED))
            for move in moves
        )
        self._standing = dataclasses.replace(
            self._standing, attempts=(*self._standing.attempts, *untried)
        )

    def _candidate(self, move: Move) -> Candidate:
        return Candidate(model=self._job.model, profile=self._job.profile, recipe=move.recipe)

    @property
    def _program(self) -> Program:
        return self._captured.program

    def _left(self) -> float:
        """Seconds until the final has to begin, which checks and measures a few once more."""
        each = Budget.seconds_per_contestant + _LOAD_S + self._check_s
        reserve = min(RESERVE * self._clock.budget_s, (2 * FINALISTS + 1) * each)
        return self._clock.left() - reserve

    def _refused(self, entry: Planned) -> Result | None:
        """What is not tried at all, and why."""
        if entry.refusal is not None:
            return self._result(entry.candidate, "refused", "plan", entry.refusal)
        if self._job.prune and entry.disproof is not None:
            found = self._result(entry.candidate, "pruned", "estimate", why_pruned(entry.disproof))
            return dataclasses.replace(found, verdicts=(entry.disproof,))
        return None

    def _heat(self, moves: tuple[Move, ...]) -> None:
        """Lower, screen and race; what came of it joins the standing."""
        began = self._clock.spent()
        number = len(self._heats)
        self._runner.say(
            "step", f"heat {number}: {counted(len(moves), 'candidate')}, {self._told()}"
        )
        attempts = self._side_by_side(self._attempt, moves)
        before = {one.digest for one in self._standing.attempts}
        self._standing = dataclasses.replace(
            self._standing, attempts=(*self._standing.attempts, *attempts)
        )
        if self._measurable:
            new = [one.digest for one in attempts if one.digest not in before]
            for start in range(0, len(new), AT_ONCE):
                self._standing = race(
                    self._runner,
                    self._standing,
                    set(new[start : start + AT_ONCE]),
                    self._built,
                    self._captured,
                )
        best = self._standing.best()
        tried = [one for one in attempts if one.result.status != "planned"]
        self._heats.append(
            Heat(
                tried=tuple(one.result.candidate.recipe.name for one in tried),
                best=best.move.recipe.name if best else None,
                cost=self._standing.best_cost(),
                seconds=round(self._clock.spent() - began, 3),
            )
        )
        shown = str(len(tried)) if len(tried) == len(moves) else f"{len(tried)} of {len(moves)}"
        self._runner.say("note", f"heat {number}: {shown} tried; {self._told()}")

    def _told(self) -> str:
        """What it has and how long it may go on."""
        best, baseline = self._standing.best(), self._standing.baseline
        left = f"{spoken(self._clock.left())} left"
        if not self._standing.attempts:
            return left
        if best is None:
            return f"nothing keeps the limits yet, {left}"
        if best.pace is None or baseline is None or baseline.pace is None:
            return f"best so far {best.move.recipe.name}, {left}"
        pace = best.pace / baseline.pace
        return f"best so far {best.move.recipe.name} at {pace:.2f} of the baseline's time, {left}"

    def _side_by_side(self, work: Callable[[Item], Done], items: Sequence[Item]) -> list[Done]:
        with concurrent.futures.ThreadPoolExecutor(max_workers=max(1, self._job.jobs)) as pool:
            futures = [pool.submit(work, item) for item in items]
            try:
                return [future.result() for future in futures]
            except BaseException:
                self._runner.workers.stop()
                pool.shutdown(wait=True, cancel_futures=True)
                raise

    def _attempt(self, move: Move) -> Attempt:
        """One candidate lowered and screened, or why not."""
        candidate = self._candidate(move)
        problems = self._toolchain(move).supports(self._program, move.recipe)
        if problems:
            told = "; ".join(f"{p.what} ({p.where})" if p.where else p.what for p in problems)
            return Attempt(move=move, result=self._result(candidate, "refused", "plan", told))
        must = self._is_first(move)
        if not must and self._left() <= 0:
            return Attempt(move=move, result=self._result(candidate, "planned", None, _ENDED))
        within_s = None if must else self._patience()
        lowering = self._lowered(move, within_s)
        self._built[move.recipe.digest] = lowering
        if lowering.failure is not None:
            if lowering.hung and within_s is not None and within_s < self._time_limit_s(move):
                told = f"lowering it takes more than {spoken(within_s)}, its share of the budget"
                return Attempt(move=move, result=self._result(candidate, "planned", None, told))
            failed = self._result(candidate, "failed", "lower", lowering.failure)
            return Attempt(move=move, result=failed)
        result = dataclasses.replace(
            self._result(candidate, "built", None, ""),
            size_bytes=lowering.size_bytes,
            placement=lowering.lowered.placement if lowering.lowered else {},
        )
        return Attempt(move=move, result=self._screened(move, result, lowering))

    def _patience(self) -> float:
        """How long one lowering may take: no slow compiler eats up what others could use."""
        return min(self._left(), max(PATIENCE_S, PATIENCE * self._left()))

    def _time_limit_s(self, move: Move) -> float:
        return self._runner.limits_for(move.recipe.toolchain).time_limit_s

    def _is_first(self, move: Move) -> bool:
        """The one that is judged whatever the time: the first f32 of the plan."""
        plain = next(
            (
                entry.candidate.recipe
                for entry in self._planned
                if entry.refusal is None and entry.candidate.recipe.precision == "f32"
            ),
            None,
        )
        return plain is not None and move.recipe == plain

    def _lowered(self, move: Move, within_s: float | None) -> Lowering:
        parent = self._built.get(move.parent or "")
        if move.kind == "tuning" and parent is not None:
            return tuned(self._runner, move.recipe, parent)
        return lower(self._runner, move.recipe, self._captured, within_s)

    def _screened(self, move: Move, result: Result, lowering: Lowering) -> Result:
        """Its answers on the golden data and the selection split, or its parent's."""
        parent = self._standing.find(move.parent or "") if move.exact else None
        if parent is not None and parent.result.report is not None:
            report = dataclasses.replace(parent.result.report, measurement=None)
            return dataclasses.replace(result, report=report, accuracy=parent.result.accuracy)
        began = self._clock.spent()
        # What computes in f32 answers as the original does, or the golden data show it.
        splits = () if move.recipe.precision == "f32" else (SELECTION,)
        found = evaluate(self._runner, result, lowering, self._captured, self._drop_limit, splits)
        self._check_s = max(self._check_s, self._clock.spent() - began)
        return found

    @property
    def _drop_limit(self) -> float | None:
        return self._job.limits.get("accuracy_drop")

    def _rank(self) -> None:
        """The sensitivities that a walk needs and nobody has asked for yet.

        Half of what is left may go into one: without time for the walk it would be in vain.
        """
        for recipe in to_rank(self._standing):
            if recipe.digest not in self._ranked and self._left() > 0:
                self._ranked[recipe.digest] = sensitivities(
                    self._runner, recipe, self._captured, self._left() / 2
                )

    def _final(self) -> list[Result]:
        """The best few and the baseline, side by side again, and scored on the final split."""
        entered = finalists(self._standing)
        if entered:
            self._runner.say("step", f"the final: {counted(len(entered), 'candidate')}")
        scored = self._side_by_side(self._scored, entered)
        short = self._clock.left() < len(entered) * (Budget.seconds_per_contestant + _LOAD_S)
        judged = measure(
            self._runner,
            self._job.profile,
            scored,
            self._built,
            self._captured,
            self._job.limits,
            short=short,
        )
        final = {one.digest: result for one, result in zip(entered, judged, strict=True)}
        return [final.get(one.digest) or self._left_behind(one) for one in self._standing.attempts]

    def _scored(self, attempt: Attempt) -> Result:
        varied = files_of(attempt)
        found = evaluate(
            self._runner,
            dataclasses.replace(
                attempt.result, varies=None if varied == attempt.digest else varied
            ),
            self._built[attempt.digest],
            self._captured,
            self._drop_limit,
            (FINAL,),
        )
        own, seen = found.accuracy, attempt.result.accuracy
        if own is None or seen is None:
            return found
        return dataclasses.replace(
            found, accuracy=dataclasses.replace(own, selection=seen.selection)
        )

    def _left_behind(self, attempt: Attempt) -> Result:
        """Why it did not come into the final."""
        result = attempt.result
        if result.status != "built":
            return result
        return dataclasses.replace(result, left=why_left(self._standing, attempt))

    def _result(self, candidate: Candidate, status: Status, step: str | None, why: str) -> Result:
        predicted = estimate(self._program, self._job.profile, candidate.recipe)
        return Result(candidate=candidate, status=status, step=step, reason=why, estimate=predicted)

    def _toolchain(self, move: Move) -> Toolchain:
        return toolchain(move.recipe.toolchain)

    def _record(self) -> SearchRecord:
        untried = sum(one.result.status == "planned" for one in self._standing.attempts)
        return SearchRecord(
            objective=self._job.objective,
            budget_s=round(self._clock.budget_s, 3),
            spent_s=round(self._clock.spent(), 3),
            seed=self._job.seed,
            heats=tuple(self._heats),
            untried=untried,
            ended=self._ended and not untried,
        )
