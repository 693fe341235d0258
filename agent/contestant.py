"""The child that measures: it holds one loaded variant and answers the questions of `agent.bench`.

Every contestant has a process of its own, because two runtimes in one spoil each other. The
inputs are read and the runtime is imported first (where its session module has `import_runtime`),
so that the time of the load and the memory above the baseline are the variant's own.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import gc
import importlib.metadata
import os
import platform
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from agent import sessions
from agent.buckets import buckets_of
from agent.calls import batches, calls_of, runs_in_one
from agent.errors import VerificationError
from agent.manifest import Signature
from agent.processes import die_with, forget_peak, memory, serve, threads, tree_peak, usable_cpus
from agent.tensors import Array, by_sample, read_tensors
from agent.variant import read_record

MOST_INPUTS_BYTES = 64 << 20
"""What the inputs may weigh together: they count in the peak, and they stay in memory."""

_THREAD_VARIABLES = ("GOMP_", "KMP_", "MKL_", "OMP_", "OPENBLAS_", "TBB_")


def main(parent: str, questions: str, answers: str) -> None:
    """Serve until the parent closes the pipe; the arguments are numbers, of processes and pipes."""
    die_with(int(parent))
    contestant = _Contestant()
    verbs = {
        "load": contestant.load,
        "warm": contestant.warm,
        "window": contestant.window,
        "memory": contestant.memory,
        "placement": contestant.placement,
        "close": contestant.close,
    }
    serve(verbs, questions=int(questions), answers=int(answers))


class _Contestant:
    """One variant, loaded once for each caller that its record asks for."""

    _callers: list[_Caller]

    def load(self, folder: str, inputs: str) -> dict[str, Any]:
        """Load the variant and run it once."""
        record = read_record(Path(folder))
        samples = read_inputs(Path(inputs), record.signature)
        calls = calls_of(record.options)
        module = sessions.session_module(record.runtime.format)
        import_ms = None
        if hasattr(module, "import_runtime"):
            import_ms = _timed_ms(lambda: sessions.import_runtime(record.runtime.format))
        runs = _light(batches(samples, record.signature, calls))
        gc.collect()
        self._peak_before = tree_peak(os.getpid())
        self._baseline = memory(os.getpid())
        forget_peak()
        started = time.perf_counter_ns()
        self._callers = [
            _Caller(sessions.load(folder), runs, number) for number in range(calls.callers)
        ]
        load_ms = (time.perf_counter_ns() - started) / 1e6
        first_run_ms = _timed_ms(self._callers[0].run)
        return {
            "import_ms": import_ms,
            "load_ms": load_ms,
            "first_run_ms": first_run_ms,
            "callers": calls.callers,
            "batch": calls.batch,
            "buckets": buckets_of(record.options, record.signature),
            "runs_in_one": runs_in_one(calls, record.signature),
            "versions": _versions(module.PACKAGE),
        }

    def warm(self, seconds: float) -> dict[str, Any]:
        """Run every input once, then on until the time is over.

        Returns:
            {runs, run_ms: the last run's time, nan: names of outputs that hold NaN}
        """
        bad: set[str] = set()
        runs = 0
        for caller in self._callers:
            caller.run_all_forms()
            for outputs in caller.each():
                bad.update(name for name, array in outputs.items() if _has_nan(array))
                runs += 1
        run_ms = 0.0
        deadline = time.perf_counter() + seconds
        while not run_ms or time.perf_counter() < deadline:
            run_ms = _timed_ms(self._callers[runs % len(self._callers)].run)
            runs += 1
        return {"runs": runs, "run_ms": run_ms, "nan": sorted(bad)}

    def window(self, seconds: float, settle_s: float, max_runs: int) -> dict[str, Any]:
        """Run back to back, each caller at least once, and report each run's time.

        Runs of the first `settle_s` seconds do not count: after a pause the caches are another
        contestant's and the threads have to wake.

        Returns:
            {latencies_ns: of all callers, runs_per_s: all callers' together}
        """
        for caller in self._callers:
            caller.reset()
        gc.collect()
        gc.disable()  # its pauses are ours, not the runtime's
        try:
            found = self._side_by_side(seconds, settle_s, max_runs)
        finally:
            gc.enable()
        return {
            "latencies_ns": [time_ns for own in found for time_ns in own],
            # Of each caller by its own time: that the last runs end apart does not count.
            "runs_per_s": sum(len(own) / (sum(own) / 1e9) for own in found),
        }

    def _side_by_side(self, seconds: float, settle_s: float, max_runs: int) -> list[list[int]]:
        if len(self._callers) == 1:
            return [self._callers[0].window(seconds, settle_s, max_runs)]
        start = threading.Barrier(len(self._callers))

        def window(caller: _Caller) -> list[int]:
            start.wait()
            return caller.window(seconds, settle_s, max_runs)

        with concurrent.futures.ThreadPoolExecutor(len(self._callers)) as pool:
            return list(pool.map(window, self._callers))

    def memory(self) -> dict[str, Any]:
        """The peak of this process tree, and by how much the variant raised it."""
        peak = tree_peak(os.getpid())
        if peak is None or self._baseline is None:
            return {"peak_bytes": None, "increment_bytes": None}
        return {
            "peak_bytes": max(peak, self._peak_before or 0),
            "increment_bytes": max(0, peak - self._baseline),
        }

    def placement(self) -> dict[str, Any]:
        """What share of the graph runs where, and what this process runs under."""
        return {
            "placement": self._callers[0].placement(),
            "environment": {
                "python": platform.python_version(),
                "cpus": usable_cpus(),
                "threads": threads(os.getpid()),
                "variables": {
                    name: value
                    for name, value in sorted(os.environ.items())
                    if name.startswith(_THREAD_VARIABLES)
                },
            },
        }

    def close(self) -> dict[str, Any]:
        """Give the runtime's memory back."""
        for caller in self._callers:
            caller.close()
        return {}


class _Caller:
    """One that runs a session of its own back to back, through all inputs in turn."""

    def __init__(
        self, session: sessions.CheckedSession, runs: list[dict[str, Array]], number: int
    ) -> None:
        self._session = session
        self._runs = runs
        self._next = number % len(runs)
        self.placement, self.reset, self.close = session.placement, session.reset, session.close

    def run(self) -> dict[str, Array]:
        """Run the next input."""
        self._next = (self._next + 1) % len(self._runs)
        return self._session.run_unchecked(self._runs[self._next])

    def run_all_forms(self) -> None:
        """Of several forms, each that takes an input runs once: what waits holds memory too."""
        self._session.run_all_forms(self._runs[0])

    def each(self) -> Iterator[dict[str, Array]]:
        """Every input's outputs."""
        return map(self._session.run_unchecked, self._runs)

    def window(self, seconds: float, settle_s: float, max_runs: int) -> list[int]:
        """At least one run's time, in nanoseconds, after a start that does not count."""
        clock, run, runs = time.perf_counter_ns, self._session.run_unchecked, self._runs
        latencies: list[int] = []
        settled = clock() + int(settle_s * 1e9)
        index, count = self._next, len(runs)
        while clock() < settled:
            index = (index + 1) % count
            run(runs[index])
        deadline = clock() + int(seconds * 1e9)
        while not latencies or (clock() < deadline and len(latencies) < max_runs):
            index = (index + 1) % count
            inputs = runs[index]
            before = clock()
            run(inputs)
            latencies.append(clock() - before)
        self._next = index
        return latencies


def read_inputs(path: Path, signature: Signature) -> list[dict[str, Array]]:
    """The inputs of a file with keys `<nnnnn>/in/<name>`, checked, in their order.

    Raises:
        VerificationError: the file is broken or holds no inputs.
        UsageError: they do not fit the signature.
    """
    samples = by_sample(read_tensors(path), "in")
    if not samples:
        raise VerificationError(
            f"{path} holds no inputs.",
            cause="It is another file: inputs have keys such as 00000/in/NAME.",
            remedy="Use the golden data or the evaluation pack that `sdk build` wrote.",
        )
    # Copies, off the mapped file.
    copies = (
        {name: np.array(array) for name, array in own.items()} for _, own in sorted(samples.items())
    )
    return _light(sessions.check_inputs(signature, own) for own in copies)


def _light(samples: Iterable[dict[str, Array]]) -> list[dict[str, Array]]:
    """The first ones that weigh little enough together; one at least."""
    chosen: list[dict[str, Array]] = []
    weight = 0
    for inputs in samples:
        weight += sum(array.nbytes for array in inputs.values())
        if chosen and weight > MOST_INPUTS_BYTES:
            break
        chosen.append(inputs)
    return chosen


def _versions(package: str) -> dict[str, str]:
    versions = {"python": platform.python_version(), "numpy": np.__version__}
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        versions[package] = importlib.metadata.version(package)
    return versions


def _has_nan(array: Array) -> bool:
    return array.dtype.kind == "f" and bool(np.isnan(array).any())


def _timed_ms(action: Any) -> float:
    started = time.perf_counter_ns()
    action()
    return (time.perf_counter_ns() - started) / 1e6
