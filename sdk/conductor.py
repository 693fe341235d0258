"""The build, as a sentence: capture, plan, lower, prove, select, write.

Everything slow is a step whose result is kept in the cache under the digest of all that it read,
so a build that was interrupted goes on where it stopped, and one with nothing changed only reads.
A candidate that fails is a result; a bug is a crash.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from agent.errors import LimitError, ToolchainError, UsageError
from agent.files import write_atomic
from agent.folders import cache_folder, data_folder
from agent.identity import fingerprint
from agent.manifest import Fingerprint
from sdk.accepted import with_regressions
from sdk.assign import assign
from sdk.cache import Cache
from sdk.estimate import estimate
from sdk.events import Event, OnEvent
from sdk.foresight import unprovable
from sdk.learning.records import FILE_NAME as REPORTS
from sdk.learning.records import reports_bytes, reports_of
from sdk.objective import must_be_small
from sdk.options import Options
from sdk.output import Output, write_output
from sdk.plan import Assignment, Candidate, Planned, plan
from sdk.project import Project
from sdk.project_reader import load_project
from sdk.prune import audit, reason, with_disproofs
from sdk.report.learnt import scale_lines
from sdk.result import Result
from sdk.search.clock import Clock
from sdk.search.loop import Job, search
from sdk.select import Selection, select
from sdk.steps.calibration import calibration_note
from sdk.steps.capture import Captured, capture
from sdk.steps.lower import Lowering, lower
from sdk.steps.operators import operators
from sdk.steps.prove import evaluate, measure
from sdk.steps.runner import Runner
from sdk.summary import Summary, summarise
from sdk.workers import Workers
from targets import target, toolchain, toolchain_names
from targets.interface import Request

if TYPE_CHECKING:
    from sdk.rig_bench import RigBench


def build(project_path: Path, options: Options, on_event: OnEvent) -> Summary:
    """Build a project for all its targets and profiles.

    Raises:
        SlipwayError: nothing could be built at all; what each candidate met is in the Summary.
    """
    started = time.time()
    clock = None if options.budget_s is None else Clock(budget_s=options.budget_s)
    project = load_project(project_path)
    cache = Cache(cache_folder())
    cache.sweep()
    assignments = assign(project, options, cache_folder())
    workers = Workers(cache_folder())
    with (
        Output.locked(options.out, project.model.name) as output,
        _stopping(workers),
        _rig(options, assignments, on_event) as (rig, device),
    ):
        runner = Runner(
            project, cache, workers, device, fresh=options.fresh, on_event=on_event, rig=rig
        )
        captured = capture(runner)
        _foresee(assignments, captured, runner)
        for line in (line for item in assignments for line in scale_lines(item.profile)):
            runner.say("note", line)
        planned = [_planned(project, item, captured, runner, options) for item in assignments]
        if clock is None:
            built = _lower_all(planned, captured, runner, options)
            selections = [
                _prove_and_select(item, own, built, captured, runner, options)
                for item, own in zip(assignments, planned, strict=True)
            ]
        else:
            built = {}
            selections = _search_all(assignments, planned, built, captured, runner, options, clock)
        summary = summarise(
            project.model.name,
            assignments,
            selections,
            captured,
            device,
            runner.tool_versions,
            started=started,
            seconds=time.time() - started,
        )
        summary = with_regressions(summary, data_folder())
        on_event(Event(kind="step", message="writing the variants"))
        summary = write_output(
            output, summary, assignments, selections, built, captured, cache, runner.logs
        )
        place = options.rig or "host"
        found = reports_of(summary.model, selections, captured.program, place, device)
        write_atomic(output.folder / REPORTS, reports_bytes(found))
        return summary


def dry_run(project_path: Path, options: Options) -> list[Planned]:
    """The candidates that a build would try, without capturing or building anything."""
    project = load_project(project_path)
    has_data = project.data is not None
    available = {name: toolchain(name).available() for name in toolchain_names()}
    return [
        entry
        for item in assign(project, options, cache_folder())
        for entry in plan(
            project.model.name,
            target(item.target),
            Request(
                profile=item.profile,
                program=None,
                has_data=has_data,
                must_be_small=must_be_small(options.objective, item.limits),
                searches=options.budget_s is not None,
            ),
            {name: toolchain(name) for name in toolchain_names()},
            available,
        )
    ]


def _planned(
    project: Project, item: Assignment, captured: Captured, runner: Runner, options: Options
) -> tuple[Planned, ...]:
    request = Request(
        profile=item.profile,
        program=captured.program,
        has_data=bool(captured.samples.get("calibration")),
        must_be_small=must_be_small(options.objective, item.limits),
        searches=options.budget_s is not None,
    )
    toolchains = {name: toolchain(name) for name in toolchain_names()}
    planned = plan(
        project.model.name, target(item.target), request, toolchains, runner.availability
    )
    limits = dict(item.limits)
    if options.budget_s is not None:
        # Several callers and batches may reach what one caller cannot.
        limits.pop("throughput_per_s", None)
    return with_disproofs(planned, captured.program, limits)


def _lower_all(
    planned: Sequence[Sequence[Planned]], captured: Captured, runner: Runner, options: Options
) -> dict[str, Lowering]:
    """Lower every recipe once, whichever profiles want it; recipe digest -> outcome."""
    wanted: dict[str, Candidate] = {}
    for entry in (entry for own in planned for entry in own):
        if entry.refusal is None and not (options.prune and entry.disproof):
            wanted.setdefault(entry.candidate.recipe.digest, entry.candidate)
    done: dict[str, Lowering] = {}
    with concurrent.futures.ThreadPoolExecutor(max_workers=max(1, options.jobs)) as pool:
        futures = {
            pool.submit(lower, runner, candidate.recipe, captured): digest
            for digest, candidate in wanted.items()
        }
        try:
            for future in concurrent.futures.as_completed(futures):
                done[futures[future]] = future.result()
        except BaseException:
            runner.workers.stop()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return done


def _search_all(
    assignments: Sequence[Assignment],
    planned: Sequence[Sequence[Planned]],
    built: dict[str, Lowering],
    captured: Captured,
    runner: Runner,
    options: Options,
    clock: Clock,
) -> list[Selection]:
    """One profile after the other, each with an equal share of what is left of the budget."""
    selections = []
    for done, (item, own) in enumerate(zip(assignments, planned, strict=True)):
        job = Job(
            model=runner.project.model.name,
            profile=item.profile,
            limits=item.limits,
            objective=options.objective,
            seed=options.seed,
            jobs=options.jobs,
            prune=options.prune,
        )
        own_clock = clock.share(len(assignments) - done)
        found = search(job, own, built, captured, runner, own_clock)
        selections.append(_finished(found, item, own, built, captured, runner, options))
    return selections


def _finished(
    selection: Selection,
    item: Assignment,
    planned: Sequence[Planned],
    built: Mapping[str, Lowering],
    captured: Captured,
    runner: Runner,
    options: Options,
) -> Selection:
    """With where the time goes, what pruning would have cost, and whether to mend the samples."""
    selection = operators(runner, selection, built, captured)
    cost = None if options.prune else audit(planned, selection.results)
    notes = calibration_note(runner, selection.results, built, captured, item.limits)
    learnt = scale_lines(item.profile)
    return dataclasses.replace(selection, notes=(*((cost,) if cost else ()), *notes, *learnt))


def _foresee(assignments: Sequence[Assignment], captured: Captured, runner: Runner) -> None:
    """Say first what cannot be proven, whatever is tried."""
    scores = captured.original_scores
    told = [unprovable(item.limits, captured.metric, scores) for item in assignments]
    for note in dict.fromkeys(told):
        if note:
            runner.say("note", note)


def _prove_and_select(
    item: Assignment,
    planned: Sequence[Planned],
    built: Mapping[str, Lowering],
    captured: Captured,
    runner: Runner,
    options: Options,
) -> Selection:
    results = [_result(entry, item, built, captured, runner, options) for entry in planned]
    measured = measure(runner, item.profile, results, built, captured, item.limits)
    selection = select(measured, item.limits, options.objective)
    return _finished(selection, item, planned, built, captured, runner, options)


def _result(
    entry: Planned,
    item: Assignment,
    built: Mapping[str, Lowering],
    captured: Captured,
    runner: Runner,
    options: Options,
) -> Result:
    predicted = estimate(captured.program, item.profile, entry.candidate.recipe)
    if entry.refusal is not None:
        return Result(
            candidate=entry.candidate,
            status="refused",
            step="plan",
            reason=entry.refusal,
            estimate=predicted,
        )
    if options.prune and entry.disproof is not None:
        return Result(
            candidate=entry.candidate,
            status="pruned",
            step="estimate",
            reason=reason(entry.disproof),
            estimate=predicted,
            verdicts=(entry.disproof,),
        )
    lowering = built[entry.candidate.recipe.digest]
    if lowering.failure is not None:
        return Result(
            candidate=entry.candidate,
            status="failed",
            step="lower",
            reason=lowering.failure,
            estimate=predicted,
        )
    return evaluate(
        runner,
        Result(
            candidate=entry.candidate,
            status="built",
            size_bytes=lowering.size_bytes,
            estimate=predicted,
            placement=lowering.lowered.placement if lowering.lowered else {},
        ),
        lowering,
        captured,
        item.limits.get("accuracy_drop"),
    )


@contextlib.contextmanager
def _rig(
    options: Options, assignments: Sequence[Assignment], on_event: OnEvent
) -> Iterator[tuple[RigBench | None, Fingerprint]]:
    """Where variants are run: a rig and what it is, or this machine."""
    if options.rig is None:
        yield None, fingerprint()
        return
    from sdk.rigs import bench_for  # with it comes SSH

    if len(assignments) != 1:
        names = ", ".join(item.profile.name for item in assignments)
        raise UsageError(
            f"A rig is one device, and this build is for {len(assignments)} profiles: {names}.",
            cause="sdk.toml names several targets.",
            remedy=f"Name one: sdk build --target TARGET --rig {options.rig}",
        )

    def say(line: str) -> None:
        on_event(Event(kind="step", message=line))

    with contextlib.closing(bench_for(options.rig, options.inventory, say)) as rig:
        device = rig.device()
        rig.check(assignments[0].profile, device)
        yield rig, device


@contextlib.contextmanager
def _stopping(workers: Workers) -> Iterator[None]:
    """Leave no process behind, whatever ends the build."""
    try:
        yield
    finally:
        workers.stop()


def exit_error(summary: Summary, *, strict: bool) -> LimitError | ToolchainError | None:
    """What the build's exit code should say: the gravest, no toolchain before an unmet limit."""
    for result in summary.results:
        if not any(candidate.status in ("built", "pruned") for candidate in result.candidates):
            return ToolchainError(
                f"No toolchain of {result.target} can lower {summary.model} for {result.profile}.",
                cause="Every candidate was refused or failed; the table names the reason of each.",
                remedy="Install what `sdk doctor` names as missing, or change what they refuse.",
            )
    for result in summary.results:
        if result.verdict == "unmet":
            return LimitError(
                f"No variant of {summary.model} meets the limits of {result.profile}.",
                cause="Every candidate breaks at least one; the table names it.",
                remedy="Loosen the limit, or make the model smaller.",
            )
    for result in summary.results:
        if strict and result.verdict == "unproven":
            return LimitError(
                f"The limits of {result.profile} are unproven, and --strict asks for proof.",
                cause="Only a unit that the profile matches can prove speed and memory.",
                remedy="Build on such a unit, or leave --strict out.",
            )
    return None
