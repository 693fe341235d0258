"""A contest under way: contestants loaded one by one, then a window each in turn.

While one measures, all others are paused. `agent.bench` is the way in; here is how it is done.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agent.bootstrap import own_command
from agent.buckets import in_words
from agent.identity import Conditions, conditions_now
from agent.measurement import Failure, Measurement, Quantity, latency, ratio
from agent.processes import Child, ChildError
from agent.quantiles import is_stable
from agent.tensors import Array

OnEvent = Callable[[Mapping[str, Any]], None]

_FEWEST_ROUNDS = 3  # even of a model of many seconds a run, whatever the budget
BUSY = "the machine was busy or throttled: fixed work varied in speed"
_OVERDRAFT = 4  # a slow contestant may overspend while rounds are still few, but not endlessly


@dataclasses.dataclass(frozen=True)
class Contestant:
    """A variant to measure, and the Python that has its runtime."""

    name: str
    folder: Path
    python: str = sys.executable


@dataclasses.dataclass(frozen=True, kw_only=True)
class Budget:
    """How long to measure."""

    seconds_per_contestant: float = 3.0
    window_s: float = 0.15
    """One turn: long against a scheduler's time slice, short against what heats or slows."""
    settle_s: float = 0.02
    """The start of each turn that does not count."""
    warmup_s: float = 0.3
    min_runs: int = 100
    """A stable median ends the contest only when each contestant ran so often (p99 takes 459)."""
    max_runs: int = 100_000
    min_rounds: int = 9
    """The fewest turns whose 95 % interval leaves out the least and the greatest of them."""
    tolerance: float = 0.05
    """How far the latest windows, or the two halves of all, may differ and be stable."""
    stable_rounds: int = 5
    busy_tolerance: float = 0.2
    """How far a fixed piece of work may vary in speed before the machine counts as busy."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Race:
    """Who may be sent home before the contest ends: whoever is surely slower than the leader."""

    pace: tuple[str, ...]
    """Contestants that may lead. One that would not be chosen anyway must not send others home."""
    keep: tuple[str, ...] = ()
    """Contestants that stay to the end, however slow: others are held against them."""
    margin: float = 0.03
    """Slower by more than this, and surely: at the favourable end of the ratio's interval."""
    min_rounds: int = 6
    """The fewest turns whose least and greatest ratio are a 95 % interval (the sign test)."""
    by: Quantity = "latency"
    """What slower means: a run takes longer, or there are fewer of them in a second."""


@dataclasses.dataclass
class _Entrant:
    """One contestant while it is in the race."""

    child: Child
    loaded: dict[str, Any]
    conditions: Conditions
    run_ms: float
    windows: list[Array] = dataclasses.field(default_factory=list)
    medians: list[float] = dataclasses.field(default_factory=list)
    turns_ns: list[float] = dataclasses.field(default_factory=list)
    """Per run at the dims' opt values, all callers together."""
    runs: int = 0
    seconds: float = 0.0

    def add(self, latencies_ns: list[int], runs_per_s: float) -> None:
        """Take in one window."""
        window = np.asarray(latencies_ns, np.float64)
        self.windows.append(window)
        self.medians.append(float(np.median(window)))
        self.turns_ns.append(1e9 / (runs_per_s * self.loaded["runs_in_one"]))
        self.runs += len(window)
        self.seconds += len(window) / runs_per_s

    def paces(self, by: Quantity) -> list[float]:
        """Of each turn, what is to be small."""
        return self.medians if by == "latency" else self.turns_ns


class Arena:
    """The contest under way. Whatever ends it, its children end with it."""

    def __init__(
        self,
        *,
        inputs: Path,
        log_folder: Path,
        budget: Budget,
        time_limit_s: float,
        memory_limit_bytes: int | None,
        on_event: OnEvent | None,
        race: Race | None = None,
    ) -> None:
        self._inputs = inputs
        self._log_folder = log_folder
        self._budget = budget
        self._time_limit_s = time_limit_s
        self._memory_limit_bytes = memory_limit_bytes
        self._tell = on_event or (lambda _: None)
        self._children = contextlib.ExitStack()
        self._race = race
        self._running: dict[str, _Entrant] = {}
        self._sent_home: dict[str, Measurement] = {}
        self._failures: dict[str, Failure] = {}
        self._spins: list[float] = []

    def __enter__(self) -> Arena:
        return self

    def __exit__(self, *_: object) -> None:
        self._children.close()

    def load(self, contestant: Contestant) -> None:
        """Start, load and warm one contestant, and pause it."""
        name = contestant.name
        self._tell({"event": "turn", "name": name})
        before = conditions_now()
        try:
            child = self._start(contestant)
        except ChildError as error:
            self._fail(name, error.kind, str(error), error.error)
            return
        self._tell({"event": "started", "name": name, "pid": child.pid})
        try:
            folder, inputs = str(contestant.folder.resolve()), str(self._inputs)
            loaded = self._ask(child, "load", folder=folder, inputs=inputs)
            warm = self._ask(child, "warm", seconds=self._budget.warmup_s)
        except ChildError as error:
            child.end()  # now: it may be spinning, or hold what the others need
            self._fail(name, error.kind, str(error), error.error)
            return
        if warm["nan"]:
            child.end()
            self._fail(name, "wrong_answer", f"NaN in its output {', '.join(warm['nan'])}.")
            return
        child.pause()
        self._running[name] = _Entrant(child, loaded, before, warm["run_ms"])
        self._tell({"event": "loaded", "name": name, "load_ms": loaded["load_ms"]})

    def _start(self, contestant: Contestant) -> Child:
        child = Child(
            own_command("agent.contestant", python=contestant.python),
            log=self._log_folder / log_name(contestant.name),
            folder=self._log_folder,
            memory_limit_bytes=self._memory_limit_bytes,
        )
        self._children.callback(child.end)
        return child

    def goes_on(self) -> bool:
        """Is another round wanted?"""
        entrants = list(self._running.values())
        if not entrants:
            return False
        budget = self._budget
        rounds = len(entrants[0].windows)
        spent = max(entrant.seconds for entrant in entrants)
        if rounds < _FEWEST_ROUNDS:
            return True
        if spent >= _OVERDRAFT * budget.seconds_per_contestant:
            return False
        return rounds < budget.min_rounds or not all(
            entrant.seconds >= budget.seconds_per_contestant
            or entrant.runs >= budget.max_runs
            or (entrant.runs >= budget.min_runs and self._stable(entrant))
            for entrant in entrants
        )

    def round(self) -> None:
        """One window of each, all others paused."""
        self._spins.append(spin_ms())
        for name, entrant in list(self._running.items()):
            # A single run longer than a window settles nothing: it would only double the time.
            settle_s = self._budget.settle_s if entrant.run_ms < self._budget.window_s * 1e3 else 0
            self._resume(name, entrant)
            try:
                answer = self._ask(
                    entrant.child,
                    "window",
                    seconds=self._budget.window_s,
                    settle_s=settle_s,
                    max_runs=self._budget.max_runs,
                )
            except ChildError as error:
                self._fail(name, error.kind, str(error), error.error)
                continue
            entrant.child.pause()
            entrant.add(answer["latencies_ns"], answer["runs_per_s"])
            self._tell(
                {
                    "event": "window",
                    "name": name,
                    "round": len(entrant.windows),
                    "median_ms": entrant.medians[-1] / 1e6,
                }
            )
        if self._race is not None:
            self._send_home(self._race)

    def results(self, names: Sequence[str]) -> dict[str, Measurement | Failure]:
        """Everyone's result, in the order of the names."""
        measured = dict(self._sent_home)
        for name, entrant in list(self._running.items()):
            self._resume(name, entrant)
            try:
                measured[name] = self._measurement(name, entrant)
            except ChildError as error:
                self._fail(name, error.kind, str(error), error.error)
            entrant.child.end()
        return {name: measured.get(name) or self._failures[name] for name in names}

    def _resume(self, name: str, entrant: _Entrant) -> None:
        """It is told first: whoever listens knows in whose turn a machine went."""
        self._tell({"event": "turn", "name": name})
        entrant.child.resume()

    def _send_home(self, race: Race) -> None:
        """End whoever is surely slower than the leader; what was measured of them is kept."""
        pace = [name for name in race.pace if name in self._running]
        if not pace:
            return
        leader = min(pace, key=lambda name: float(np.median(self._running[name].paces(race.by))))
        own = self._running[leader].paces(race.by)
        for name, entrant in list(self._running.items()):
            if name in (leader, *race.keep) or len(entrant.medians) < race.min_rounds:
                continue
            behind = ratio(entrant.paces(race.by), own)
            if behind.low <= 1 + race.margin:
                continue
            told = f"left after {behind.rounds} turns: at least {behind.low:.2f} x {leader}"
            self._resume(name, entrant)
            try:
                self._sent_home[name] = self._measurement(name, entrant, told)
            except ChildError as error:
                self._fail(name, error.kind, str(error), error.error)
                continue
            entrant.child.end()
            del self._running[name]
            self._tell({"event": "left", "name": name, "leader": leader, "ratio": behind.value})

    def _measurement(self, name: str, entrant: _Entrant, *told: str) -> Measurement:
        memory = self._ask(entrant.child, "memory")
        placed = self._ask(entrant.child, "placement")
        self._ask(entrant.child, "close")
        stable, notes = self._stable(entrant), [*_called(entrant.loaded), *told]
        if not stable and not told:
            notes.append("the windows' medians had not settled when the budget ended")
        if is_busy(self._spins, tolerance=self._budget.busy_tolerance):
            stable = False
            notes.append(BUSY)
        return Measurement(
            name=name,
            latency_ms=latency(entrant.windows, stable=stable),
            import_ms=entrant.loaded["import_ms"],
            load_ms=entrant.loaded["load_ms"],
            first_run_ms=entrant.loaded["first_run_ms"],
            throughput_per_s=entrant.runs * entrant.loaded["runs_in_one"] / entrant.seconds,
            callers=entrant.loaded["callers"],
            batch=entrant.loaded["batch"],
            memory_peak_bytes=memory["peak_bytes"],
            memory_increment_bytes=memory["increment_bytes"],
            placement=placed["placement"],
            conditions_before=entrant.conditions,
            conditions_after=conditions_now(),
            versions=entrant.loaded["versions"],
            environment=placed["environment"],
            windows_ms=tuple(median / 1e6 for median in entrant.medians),
            turns_ms=tuple(turn / 1e6 for turn in entrant.turns_ns),
            notes=tuple(notes),
        )

    def _ask(self, child: Child, verb: str, **arguments: Any) -> dict[str, Any]:
        return child.ask({"verb": verb, **arguments}, time_limit_s=self._time_limit_s)

    def _stable(self, entrant: _Entrant) -> bool:
        return is_stable(
            entrant.medians, tolerance=self._budget.tolerance, last=self._budget.stable_rounds
        )

    def _fail(
        self, name: str, kind: Any, message: str, error: dict[str, str] | None = None
    ) -> None:
        entrant = self._running.pop(name, None)
        if entrant is not None:
            entrant.child.end()
        self._failures[name] = Failure(name=name, kind=kind, message=message, error=error)
        self._tell({"event": "failed", "name": name, "kind": kind, "message": message})


def log_name(contestant: str) -> str:
    """The file, of the folder for logs, that a contestant prints into."""
    return re.sub(r"[^\w.+-]", "_", contestant) + ".log"


def _called(loaded: Mapping[str, Any]) -> Iterator[str]:
    """How it was called, where that is not one at a time."""
    if loaded["callers"] > 1:
        yield f"{loaded['callers']} callers at a time, each with a session of its own"
    if loaded["batch"] is not None:
        yield f"{loaded['batch']} in each run"
    if loaded["buckets"]:
        yield (
            f"compiled once more for {in_words(loaded['buckets'])}; its time at other sizes is not "
            "in these figures"
        )


def is_busy(spins: Sequence[float], *, tolerance: float) -> bool:
    """Did a fixed piece of work vary in speed over the rounds? Single outliers do not count."""
    slow, fast = np.quantile(spins, 0.9), np.quantile(spins, 0.1)
    return bool(slow > fast * (1.0 + tolerance))


def spin_ms() -> float:
    """The best time, of five, of a fixed piece of work of this process: the CPU's present speed."""
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter_ns()
        sum(range(20_000))
        best = min(best, (time.perf_counter_ns() - started) / 1e6)
    return best
