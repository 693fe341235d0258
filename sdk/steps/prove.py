"""The proving steps: answers and accuracy one by one, speed and memory all in one contest."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from agent.arena import log_name
from agent.bench import Budget, Contestant, Failure, Measurement, Race, contest
from agent.codec import decode, encode
from agent.errors import UsageError
from agent.metrics import Drop, paired_drop, samples_needed
from agent.quantiles import samples_for
from profiles import Profile
from sdk.cache import key_of
from sdk.foresight import rules_of
from sdk.prove import Evaluation, Report, evidence, proves_numerics, runnable_as
from sdk.result import Accuracy, Result
from sdk.samples import FINAL, SELECTION
from sdk.steps.answers import on_rig
from sdk.steps.capture import Captured
from sdk.steps.lower import Lowering
from sdk.steps.runner import Runner, own_code_digest
from sdk.workers import StepFailure
from targets.interface import Recipe

SPLITS = (SELECTION, FINAL)
P99_SECONDS = 12.0  # long enough for the 459 runs of a model of 25 ms
HEAT = Budget(seconds_per_contestant=1.2, min_runs=20, tolerance=0.1)
"""Enough to tell who leads; the final contest measures with the whole `Budget`."""
TURN_LIMIT_S = 600.0  # one load or one window of a contestant


def evaluate(
    runner: Runner,
    result: Result,
    lowering: Lowering,
    captured: Captured,
    drop_limit: float | None,
    splits: Sequence[str] = SPLITS,
) -> Result:
    """Run a built candidate beside the original's recorded answers, where this machine can.

    Args:
        runner: runs the step.
        result: of the candidate, as far as it is known.
        lowering: its files.
        captured: the original's answers.
        drop_limit: the limit on the accuracy drop, to tell how many samples would prove it.
        splits: those to score. A search looks at the selection split alone while it chooses.
    """
    profile, recipe = result.candidate.profile, result.candidate.recipe
    runnable = runnable_as(recipe, profile, runner.device)
    if runnable is None:
        return result
    run_as, checks = runnable
    check_as = run_as if checks else None
    found = _evaluated(runner, recipe, check_as, lowering, captured, splits)
    if isinstance(found, StepFailure):
        return dataclasses.replace(result, status="failed", step="evaluate", reason=found.summary)
    numerics, speed = evidence(profile, runner.device)
    if check_as:
        numerics = speed = "host"
    report = Report(
        evaluation=found,
        measurement=None,
        numerics_evidence=numerics,
        speed_evidence=speed,
        check_as=check_as,
    )
    try:
        accuracy = _accuracy(runner, captured, found, report, profile, drop_limit)
    except UsageError as error:  # scores that are not finite: its answers are not
        return dataclasses.replace(result, status="failed", step="evaluate", reason=error.what)
    placement = result.placement if check_as else found.placement or result.placement
    return dataclasses.replace(result, report=report, accuracy=accuracy, placement=placement)


def measure(
    runner: Runner,
    profile: Profile,
    results: Sequence[Result],
    built: Mapping[str, Lowering],
    captured: Captured,
    limits: Mapping[str, float],
    *,
    short: bool = False,
) -> list[Result]:
    """Speed and memory of all built candidates, in one run with nothing beside it.

    Only a unit that the profile matches is measured: another machine's speed says nothing. There is
    a `short` way for a search whose time is nearly up: its intervals are wider.
    """
    if not is_measurable(runner, profile):
        return list(results)
    return _measured(runner, results, built, captured, _budget(limits, short=short), None)


def heat(
    runner: Runner,
    results: Sequence[Result],
    built: Mapping[str, Lowering],
    captured: Captured,
    race: Race,
) -> list[Result]:
    """A short contest in which whoever is surely slower than the leader goes home early.

    Args:
        runner: measures.
        results: of candidates that this machine can run as what they are.
        built: recipe digest -> files.
        captured: the inputs.
        race: by the recipes' names, who sets the pace and who stays.
    """
    return _measured(runner, results, built, captured, HEAT, race)


def is_measurable(runner: Runner, profile: Profile) -> bool:
    """Whether this machine is a unit that the profile matches."""
    return evidence(profile, runner.device)[1] == "device"


def _measured(
    runner: Runner,
    results: Sequence[Result],
    built: Mapping[str, Lowering],
    captured: Captured,
    budget: Budget,
    race: Race | None,
) -> list[Result]:
    contestants = {
        result.candidate.recipe.name: built[result.candidate.recipe.digest]
        for result in results
        if result.status == "built" and result.report is not None and not result.report.check_as
    }
    if not contestants:
        return list(results)
    found = _contest(runner, contestants, captured, budget, race)
    return [
        _with_measurement(result, found[result.candidate.recipe.name])
        if result.candidate.recipe.name in found
        else result
        for result in results
    ]


def _evaluated(
    runner: Runner,
    recipe: Recipe,
    check_as: str | None,
    lowering: Lowering,
    captured: Captured,
    splits: Sequence[str],
) -> Evaluation | StepFailure:
    key = key_of(
        step="evaluate",
        variant=lowering.digest,
        check_as=check_as,
        captured=captured.digest,
        metric=captured.metric,
        score=_score_digest(runner),
        splits=splits,
        identity=runner.device.identity,
        software=runner.device.software,
        code=own_code_digest(),
    )
    entry = runner.find(key)
    if entry is None:
        payload = {
            "variant": str(lowering.folder),
            "check_as": check_as,
            "captured": str(captured.folder),
            "project": str(runner.project.root),
            "metric": captured.metric,
            "splits": list(splits),
            "answers": None,
        }
        if runner.rig is not None:
            answered = on_rig(runner, recipe, lowering, check_as, captured, splits)
            if isinstance(answered, StepFailure):
                return answered
            payload["answers"] = answered
        with runner.workers.busy():
            outcome, folder, _ = runner.run(
                "evaluate", payload, runner.limits_for(recipe.toolchain), f"checking {recipe.name}"
            )
        if isinstance(outcome, StepFailure):
            return outcome
        entry = runner.commit(key, folder, outcome)
    return decode(Evaluation, entry.result)


def _score_digest(runner: Runner) -> str:
    """The user's score function is code that evaluation reads."""
    data = runner.project.data
    if data is None or data.score is None:
        return ""
    return runner.cache.sha256_of(runner.project.root / data.score.file)


def _accuracy(
    runner: Runner,
    captured: Captured,
    found: Evaluation,
    report: Report,
    profile: Profile,
    drop_limit: float | None,
) -> Accuracy | None:
    if captured.metric is None or not captured.original_scores or not found.scores:
        return None
    original, scores = captured.original_scores, found.scores
    rules = rules_of(captured.metric)

    def bounded(split: str) -> Drop | None:
        if not scores.get(split):
            return None
        pair = {"original": original[split], "variant": scores[split]}
        key = key_of(step="drop", scores=pair, rules=rules, code=own_code_digest())
        return decode(
            Drop,
            runner.remember(
                key, lambda: dict(encode(paired_drop(original[split], scores[split], **rules)))
            ),
        )

    final, needed = bounded(FINAL), None
    if final is not None and drop_limit is not None and final.low <= drop_limit < final.high:
        key = key_of(
            step="needed",
            one=original[FINAL],
            other=scores[FINAL],
            rules=rules,
            limit=drop_limit,
            code=own_code_digest(),
        )
        needed = runner.remember(
            key,
            lambda: {
                "n": samples_needed(original[FINAL], scores[FINAL], limit=drop_limit, **rules)
            },
        )["n"]
    return Accuracy(
        metric=captured.metric["name"],
        final=final,
        selection=bounded(SELECTION),
        evidence=report.numerics_evidence,
        proves=report.check_as is None
        and proves_numerics(profile, runner.device, report.numerics_evidence),
        samples_needed=needed,
    )


def _contest(
    runner: Runner,
    contestants: Mapping[str, Lowering],
    captured: Captured,
    budget: Budget,
    race: Race | None,
) -> dict[str, Measurement | Failure]:
    inputs = captured.folder / "bench.safetensors"
    key = key_of(
        step="contest",
        variants={name: lowering.digest for name, lowering in contestants.items()},
        inputs=runner.cache.sha256_of(inputs),
        device=runner.device,
        budget=budget,
        race=race,
        code=own_code_digest(),
    )
    entry = runner.find(key)
    if entry is None:
        folder = runner.cache.work_folder()
        runner.say("start", "measuring " + _told(len(contestants)))
        started, is_kept = time.monotonic(), True
        folders = {name: _folder(lowering) for name, lowering in contestants.items()}
        if runner.rig is not None:
            there = runner.rig.contest(
                folders, inputs=inputs, budget=budget, race=race, turn_limit_s=TURN_LIMIT_S,
                log_folder=folder, workers=runner.workers,
            )  # fmt: skip
            found, is_kept = {**there.found, **there.out}, not there.out
        else:
            with runner.workers.quiet():
                found = contest(
                    [Contestant(name, path) for name, path in folders.items()],
                    inputs=inputs,
                    budget=budget,
                    log_folder=folder,
                    time_limit_s=TURN_LIMIT_S,
                    race=race,
                )
        runner.say("done", "measuring", time.monotonic() - started)
        if not is_kept:  # perhaps it was not they: the next build tries again
            _keep_logs(runner, found, folder)
            return found
        record = {
            name: {"failed": isinstance(item, Failure), "found": encode(item)}
            for name, item in found.items()
        }
        entry = runner.commit(key, folder, record)
    else:
        runner.say("cached", "measuring: the same variants on the same machine")
    kept = {
        name: decode(Failure, item["found"])
        if item["failed"]
        else decode(Measurement, item["found"])
        for name, item in entry.result.items()
    }
    _keep_logs(runner, kept, entry.folder)
    return kept


def _keep_logs(runner: Runner, found: Mapping[str, Measurement | Failure], folder: Path) -> None:
    """What was printed by those that failed goes beside the build's result."""
    for name, one in found.items():
        log = folder / log_name(name)
        if isinstance(one, Failure) and log.is_file():
            runner.logs[name] = log


def _with_measurement(result: Result, found: Measurement | Failure) -> Result:
    if isinstance(found, Failure):
        return dataclasses.replace(
            result, status="failed", step="measure", reason=f"{found.kind}: {found.message}"
        )
    assert result.report is not None
    report = dataclasses.replace(result.report, measurement=found)
    return dataclasses.replace(result, report=report)


def _told(count: int) -> str:
    return "one variant" if count == 1 else f"{count} variants in turn"


def _budget(limits: Mapping[str, float], *, short: bool) -> Budget:
    """A limit on the 99th percentile takes 459 runs to prove anything (agent/quantiles.py)."""
    if "latency_p99_ms" in limits:
        return Budget(seconds_per_contestant=P99_SECONDS, min_runs=samples_for(0.99))
    return HEAT if short else Budget()


def _folder(lowering: Lowering) -> Path:
    assert lowering.folder is not None
    return lowering.folder
