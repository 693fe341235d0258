"""Many small variants of different models, measured one after the other.

A contest answers which of a few variants is faster, and takes a process for each. Here hundreds
are measured for what each takes by itself, so all of one runtime share a process: loaded, warmed,
timed, closed, then the next. There are never two runtimes in one process. What the machine did
meanwhile does not meet all alike, so each one's figure is kept only if a fixed piece of work took
as long right before and after it as it did at its best; if not, it is measured again, and after
some tries the note says that the machine was busy.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from agent.arena import Budget, spin_ms
from agent.bootstrap import own_command
from agent.identity import conditions_now
from agent.measurement import Failure, Measurement, latency
from agent.processes import Child, ChildError
from agent.quantiles import is_stable
from agent.tensors import Array
from agent.variant import read_record

SERIES_BUDGET = Budget(
    seconds_per_contestant=0.12,
    window_s=0.015,
    settle_s=0.0,
    warmup_s=0.06,
    min_runs=7,
    min_rounds=5,
    stable_rounds=5,
)
"""Short: of hundreds, the fit averages what a longer one would settle."""
BUSY = "the machine was busy or throttled: fixed work varied in speed"
_TRIES = 2
_FEWEST_ROUNDS = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Item:
    """One variant of a series, with inputs of its own."""

    name: str
    folder: Path
    inputs: Path


def series(
    items: Iterable[Item],
    *,
    log_folder: Path,
    budget: Budget = SERIES_BUDGET,
    time_limit_s: float = 120.0,
    python: str = sys.executable,
) -> Iterator[Measurement | Failure]:
    """Measure variants one after the other, and tell each result as it comes.

    Memory is not told: the process has held others before. Neither is a first run that would have
    to start a runtime.

    Args:
        items: best in order of their runtime: a change of it takes a new process.
        log_folder: gets what the runtimes print.
        budget: for each; turns are not shared, so `settle_s` may be 0.
        time_limit_s: the longest that a load or a window may take.
        python: the interpreter that has the runtimes.
    """
    log_folder.mkdir(parents=True, exist_ok=True)
    with _Series(log_folder, budget, time_limit_s, python) as running:
        for item in items:
            yield running.measure(item)


class _Series:
    """The process of the present runtime."""

    def __init__(self, log_folder: Path, budget: Budget, time_limit_s: float, python: str) -> None:
        self._log_folder = log_folder
        self._budget = budget
        self._time_limit_s = time_limit_s
        self._python = python
        self._child: Child | None = None
        self._format = ""
        self._best_spin = float("inf")

    def __enter__(self) -> _Series:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def measure(self, item: Item) -> Measurement | Failure:
        """The item's result; a process that failed is ended, and the next item gets a new one."""
        try:
            runtime = read_record(item.folder).runtime.format
            if self._child is None or runtime != self._format:
                self._start(runtime)
            return self._measured(item)
        except ChildError as error:
            self._end()
            return Failure(name=item.name, kind=error.kind, message=str(error))

    def _measured(self, item: Item) -> Measurement | Failure:
        before = conditions_now()
        loaded = self._ask("load", folder=str(item.folder.resolve()), inputs=str(item.inputs))
        warm = self._ask("warm", seconds=self._budget.warmup_s)
        if warm["nan"]:
            self._ask("close")
            message = f"NaN in its output {', '.join(warm['nan'])}."
            return Failure(name=item.name, kind="wrong_answer", message=message)
        windows, quiet = self._windows()
        placed = self._ask("placement")
        self._ask("close")
        medians = [float(np.median(window)) for window in windows]
        stable = quiet and self._stable(medians)
        runs, nanoseconds = sum(map(len, windows)), sum(float(w.sum()) for w in windows)
        return Measurement(
            name=item.name,
            latency_ms=latency(windows, stable=stable),
            import_ms=loaded["import_ms"],
            load_ms=loaded["load_ms"],
            first_run_ms=loaded["first_run_ms"],
            throughput_per_s=runs / nanoseconds * 1e9,
            callers=1,
            memory_peak_bytes=None,
            memory_increment_bytes=None,
            placement=placed["placement"],
            conditions_before=before,
            conditions_after=conditions_now(),
            versions=loaded["versions"],
            environment=placed["environment"],
            windows_ms=tuple(median / 1e6 for median in medians),
            turns_ms=tuple(float(window.mean()) / 1e6 for window in windows),
            notes=() if quiet else (BUSY,),
        )

    def _windows(self) -> tuple[list[Array], bool]:
        """The windows of a try in which the machine was quiet, else of the fastest one."""
        tries = []
        for _ in range(_TRIES):
            first = self._spin()
            windows = self._one_try()
            slowest = max(first, self._spin())
            if slowest <= self._best_spin * (1.0 + self._budget.busy_tolerance):
                return windows, True
            tries.append(windows)
        return min(tries, key=lambda found: float(np.median(np.concatenate(found)))), False

    def _one_try(self) -> list[Array]:
        budget, windows = self._budget, list[Array]()
        seconds, runs = 0.0, 0
        while True:
            answer = self._ask(
                "window",
                seconds=budget.window_s,
                settle_s=budget.settle_s,
                max_runs=budget.max_runs,
            )
            window = np.asarray(answer["latencies_ns"], np.float64)
            windows.append(window)
            runs += len(window)
            seconds += float(window.sum()) / 1e9
            if len(windows) < _FEWEST_ROUNDS:
                continue
            if seconds >= budget.seconds_per_contestant:
                return windows
            medians = [float(np.median(found)) for found in windows]
            enough = len(windows) >= budget.min_rounds and runs >= budget.min_runs
            if enough and self._stable(medians):
                return windows

    def _stable(self, medians: list[float]) -> bool:
        budget = self._budget
        return is_stable(
            medians, tolerance=budget.tolerance, last=min(budget.stable_rounds, len(medians))
        )

    def _spin(self) -> float:
        found = spin_ms()
        self._best_spin = min(self._best_spin, found)
        return found

    def _ask(self, verb: str, **arguments: Any) -> dict[str, Any]:
        assert self._child is not None
        return self._child.ask({"verb": verb, **arguments}, time_limit_s=self._time_limit_s)

    def _start(self, runtime: str) -> None:
        self._end()
        self._format = runtime
        self._child = Child(
            own_command("agent.contestant", python=self._python),
            log=self._log_folder / f"{runtime}.log",
            folder=self._log_folder,
        )

    def _end(self) -> None:
        if self._child is not None:
            with contextlib.suppress(ChildError):
                self._child.end()
            self._child = None
