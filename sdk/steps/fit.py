"""Micro-benchmarks on this machine -> what is fitted for its profile.

A few dozen programs at a time are built by workers side by side, measured with nothing beside them,
and thrown away; their costs and times are kept. So it can be killed at any time: the next run goes
on after the last part that was finished, and nothing is written before all is measured.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import datetime as dt
import hashlib
import os
import platform
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from agent.codec import canonical, decode, encode
from agent.errors import UsageError
from agent.identity import fingerprint
from agent.manifest import Fingerprint
from agent.measurement import Failure
from agent.series import SERIES_BUDGET, Item, series
from profiles import Fitted, Profile
from sdk.cache import Cache, Entry, key_of
from sdk.estimate.fitted import kind_of
from sdk.events import Event, OnEvent
from sdk.fit import Origin, Row, fit
from sdk.fit_judgement import Judged, judge
from sdk.microbenchmarks import Case, cases
from sdk.prove import evidence
from sdk.steps.runner import own_code_digest
from sdk.timing_programs import INPUTS, Built
from sdk.workers import Limits, StepFailure, Workers
from targets import target, toolchain
from targets.interface import Recipe, Request

PART = 24
"""Programs between two points from which a killed run goes on: about a minute."""
_CODE = ("agent", "targets", "sdk/capture", "sdk/microbenchmarks", "sdk/timing_programs.py")
"""What decides a measurement: a change of the fit itself measures nothing anew."""
_LIMITS = Limits(time_limit_s=1200.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timed:
    """One program with its recipes' times."""

    built: Built
    ms: dict[str, float]
    """Recipe's name -> the median of one request."""


def recipes_of(profile: Profile) -> tuple[Recipe, ...]:
    """What a build would try on the profile: one recipe for each kind that differs in speed.

    Recipes that the profile refuses, or whose toolchain is not installed, are left out.
    """
    request = Request(profile=profile, program=None, has_data=True)
    found: dict[tuple[str, str, str], Recipe] = {}
    for recipe in target(profile.target).recipes(request):
        refused = recipe.needs_isa and not set(recipe.needs_isa) & set(profile.isa)
        engine = profile.engines.get(recipe.engine)
        if refused or engine is None or (recipe.engine != "cpu" and not engine.peak):
            continue
        if toolchain(recipe.toolchain).available().ok:
            found.setdefault((recipe.toolchain, recipe.engine, kind_of(recipe)), recipe)
    return tuple(found.values())


def fit_profile(
    profile: Profile,
    cache: Cache,
    workers: Workers,
    *,
    quick: bool = False,
    fresh: bool = False,
    chosen: Sequence[Case] | None = None,
    toolchains: Sequence[str] = (),
    on_event: OnEvent,
) -> tuple[Judged, ...]:
    """Run the micro-benchmarks on this machine, fit the profile's constants, and judge the fits.

    Args:
        profile: of this machine.
        cache: keeps what was measured.
        workers: build the programs.
        quick: a quarter of the programs.
        fresh: measure all anew.
        chosen: other programs than the generated ones.
        toolchains: only these; all if none is named.
        on_event: is told of each part.

    Raises:
        UsageError: this machine is no device of the profile, or too little could be measured.
    """
    device = fingerprint()
    recipes = measurable(profile, device, toolchains)
    run = _Run(recipes, device, cache, workers, fresh=fresh, on_event=on_event)
    wanted = chosen or cases(quick=quick, networks=draw_of(profile.fitted))
    timed = list(run.all(wanted))
    origin = Origin(
        date=dt.datetime.now(tz=dt.timezone.utc).date().isoformat(),
        device=device_digest(device),
        tools=run.versions,
    )
    return judge(fit(rows_of(timed, recipes), origin), profile)


def draw_of(fitted: Sequence[Fitted]) -> str:
    """Which draw of networks judges the next fit: none that these blocks were fitted on.

    What a fit has seen it predicts far better than what it has not, and an earlier fit that knew
    the networks would win over any new one. While nothing new is written the draw stays, so that a
    killed run goes on.
    """
    return f"x{hashlib.sha256(canonical(fitted)).hexdigest()[:6]}" if fitted else ""


def measurable(
    profile: Profile, device: Fingerprint, toolchains: Sequence[str] = ()
) -> tuple[Recipe, ...]:
    """The profile's recipes, all of which can be measured on this machine.

    Raises:
        UsageError: this machine is no device of the profile, has none of its toolchains, or a
            toolchain is not known.
    """
    for name in toolchains:
        toolchain(name)  # raises for one that is not known
    if evidence(profile, device)[1] != "device":
        raise UsageError(
            f"This machine is no {profile.name}: its fingerprint does not meet the predicate.",
            cause="Only a unit of the type itself can tell how fast it is.",
            remedy="Fit this machine with --profile host, or run the command on such a unit.",
        )
    recipes = tuple(r for r in recipes_of(profile) if not toolchains or r.toolchain in toolchains)
    if not recipes:
        named = f"none of {', '.join(toolchains)}" if toolchains else "no toolchain"
        raise UsageError(
            f"There is nothing to measure: of {profile.target}, {named} can be used here.",
            cause="It is not installed, or the target has no recipe of it.",
            remedy=f"pip install 'slipway-sdk[{profile.target}]', then: sdk doctor",
        )
    return recipes


def rows_of(timed: Sequence[Timed], recipes: Sequence[Recipe]) -> Iterator[Row]:
    """Every measurement with its program's costs."""
    known = {recipe.name: recipe for recipe in recipes}
    for entry in timed:
        for name, ms in entry.ms.items():
            yield Row(
                name=entry.built.name,
                program=entry.built.program,
                recipe=known[name],
                ms=ms,
                judges=entry.built.name.startswith("net_"),
            )


def device_digest(device: Fingerprint) -> str:
    """Which unit was measured."""
    return hashlib.sha256(canonical(device.identity)).hexdigest()


class _Run:
    def __init__(
        self,
        recipes: Sequence[Recipe],
        device: Fingerprint,
        cache: Cache,
        workers: Workers,
        *,
        fresh: bool,
        on_event: OnEvent,
    ) -> None:
        self._recipes = recipes
        self._device = device
        self._cache = cache
        self._workers = workers
        self._fresh = fresh
        self._on_event = on_event
        found = {recipe.toolchain for recipe in recipes}
        self.versions = {
            name: version
            for used in sorted(found)
            for name, version in toolchain(used).available().versions.items()
        }

    def all(self, chosen: Sequence[Case]) -> Iterator[Timed]:
        """Every program, a part at a time."""
        mixed = _mixed(chosen)
        parts = [mixed[start : start + PART] for start in range(0, len(mixed), PART)]
        for number, part in enumerate(parts, 1):
            title = f"part {number} of {len(parts)}"
            key = key_of(
                step="timing",
                cases=part,
                recipes=self._recipes,
                versions=self.versions,
                identity=self._device.identity,
                software=self._device.software,
                budget=SERIES_BUDGET,
                code=own_code_digest(_CODE),
                python=platform.python_version(),
            )
            entry = None if self._fresh else self._cache.find(key)
            if entry is None:
                entry = self._part(key, part, title)
            else:
                self._say("cached", f"{title}: measured before")
            yield from (decode(Timed, item) for item in entry.result["timed"])

    def _part(self, key: str, part: Sequence[Case], title: str) -> Entry:
        started = time.monotonic()
        self._say("start", f"{title}: building {len(part)} programs")
        folders = []
        try:
            with self._workers.busy():
                folders = self._build(part)
            self._say("start", f"{title}: measuring")
            with self._workers.quiet():
                timed = [
                    encode(entry)
                    for folder, built in folders
                    for entry in self._time(folder, built)
                ]
        finally:
            for folder, _ in folders:
                shutil.rmtree(folder, ignore_errors=True)
        if self._fresh:
            self._cache.discard(key)
        entry = self._cache.commit(key, self._cache.work_folder(), {"timed": timed})
        count = sum(len(item["ms"]) for item in timed)
        self._say("done", f"{title}: {count} measurements", time.monotonic() - started)
        return entry

    def _build(self, part: Sequence[Case]) -> list[tuple[Path, list[Built]]]:
        """As many workers as there are processors, each with every so many of the programs."""
        jobs = max(1, min(os.cpu_count() or 1, 4, len(part)))
        with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
            try:
                return list(pool.map(self._build_some, (part[job::jobs] for job in range(jobs))))
            except BaseException:
                self._workers.stop()
                raise

    def _build_some(self, some: Sequence[Case]) -> tuple[Path, list[Built]]:
        folder = self._cache.work_folder()
        payload = {"cases": encode(list(some)), "recipes": encode(list(self._recipes))}
        outcome = self._workers.run("timing", payload, folder, _LIMITS)
        if isinstance(outcome, StepFailure):
            # A compiler that takes its process with it takes these programs; the others go on.
            log = self._cache.work_folder() / "log.txt"
            shutil.copyfile(outcome.log, log)
            self._say("failed", f"{len(some)} programs: {outcome.summary} (log: {log})")
            return folder, []
        for name, why in outcome["failed"].items():
            self._say("failed", f"{name}: {why}")
        return folder, [_located(entry, folder / "out") for entry in outcome["built"]]

    def _time(self, folder: Path, built: Sequence[Built]) -> list[Timed]:
        formats = {recipe.name: recipe.format for recipe in self._recipes}
        items = [
            Item(
                name=f"{entry.name}/{recipe}",
                folder=folder / "out" / place,
                inputs=folder / "out" / entry.name / INPUTS,
            )
            for entry in built
            for recipe, place in entry.variants.items()
        ]
        items.sort(key=lambda item: formats[item.name.partition("/")[2]])
        ms: dict[str, dict[str, float]] = {entry.name: {} for entry in built}
        for found in series(items, log_folder=folder / "logs"):
            name, _, recipe = found.name.partition("/")
            if isinstance(found, Failure):
                self._say("failed", f"{found.name}: {found.kind}: {found.message}")
            else:
                ms[name][recipe] = found.latency_ms.p50
        return [Timed(built=entry, ms=ms[entry.name]) for entry in built]

    def _say(self, kind: Any, message: str, seconds: float | None = None) -> None:
        self._on_event(Event(kind=kind, message=message, seconds=seconds))


def _located(entry: dict[str, Any], out: Path) -> Built:
    program = entry["program"]
    return decode(Built, {**entry, "program": {**program, "path": str(out / program["path"])}})


def _mixed(chosen: Sequence[Case]) -> list[Case]:
    """In an order in which every part has some of every family: parts are alike in length."""
    return sorted(chosen, key=lambda case: hashlib.sha256(case.name.encode()).digest())
