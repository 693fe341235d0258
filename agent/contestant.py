"""The child that measures: it holds one loaded variant and answers the questions of `agent.bench`.

Every contestant has a process of its own, because two runtimes in one spoil each other. The
inputs are read and the runtime is imported first (where its session module has `import_runtime`),
so that the time of the load and the memory above the baseline are the variant's own.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.metadata
import os
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np

from agent import sessions
from agent.errors import VerificationError
from agent.manifest import Signature
from agent.processes import die_with, forget_peak, memory, serve, threads, tree_peak, usable_cpus
from agent.tensors import Array, read_tensors
from agent.variant import read_record

BOOTSTRAP = """\
import importlib.util, sys
sys.path[:] = [entry for entry in sys.path if entry]
spec = importlib.util.spec_from_file_location(
    "agent", sys.argv[1] + "/__init__.py", submodule_search_locations=[sys.argv[1]])
sys.modules["agent"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["agent"])
from agent.contestant import main
main(*map(int, sys.argv[2:]))
"""
"""Run by `python -c`; its arguments are our folder, the parent's process and two pipes.

It finds this package by its place. So any Python will do, whether Slipway is installed in it or
not; an `agent/` in the current folder or on the path does not get in the way; and nothing that
lies beside us, in a `site-packages` of another Python, comes into reach.
"""

MOST_INPUTS_BYTES = 64 << 20
"""What the inputs may weigh together: they count in the peak, and they stay in memory."""

_THREAD_VARIABLES = ("GOMP_", "KMP_", "MKL_", "OMP_", "OPENBLAS_", "TBB_")


def main(parent: int, questions: int, answers: int) -> None:
    """Serve until the parent closes the pipe."""
    die_with(parent)
    contestant = _Contestant()
    verbs = {
        "load": contestant.load,
        "warm": contestant.warm,
        "window": contestant.window,
        "memory": contestant.memory,
        "placement": contestant.placement,
        "close": contestant.close,
    }
    serve(verbs, questions=questions, answers=answers)


class _Contestant:
    """One variant, loaded once."""

    _session: sessions.CheckedSession
    _inputs: list[dict[str, Array]]

    def load(self, folder: str, inputs: str) -> dict[str, Any]:
        """Load the variant and run it once."""
        record = read_record(Path(folder))
        self._inputs = read_inputs(Path(inputs), record.signature)
        self._next = 0
        module = sessions.session_module(record.runtime.format)
        import_ms = None
        if hasattr(module, "import_runtime"):
            import_ms = _timed_ms(lambda: sessions.import_runtime(record.runtime.format))
        gc.collect()
        self._peak_before = tree_peak(os.getpid())
        self._baseline = memory(os.getpid())
        forget_peak()
        started = time.perf_counter_ns()
        self._session = sessions.load(folder)
        load_ms = (time.perf_counter_ns() - started) / 1e6
        first_run_ms = _timed_ms(lambda: self._session.run_unchecked(self._inputs[0]))
        return {
            "import_ms": import_ms,
            "load_ms": load_ms,
            "first_run_ms": first_run_ms,
            "versions": _versions(module.PACKAGE),
        }

    def warm(self, seconds: float) -> dict[str, Any]:
        """Run every input once, then on until the time is over.

        Returns:
            {runs, run_ms: the last run's time, nan: names of outputs that hold NaN}
        """
        bad: set[str] = set()
        for inputs in self._inputs:
            outputs = self._session.run_unchecked(inputs)
            bad.update(name for name, array in outputs.items() if _has_nan(array))
        runs, run_ms = len(self._inputs), 0.0
        deadline = time.perf_counter() + seconds
        while not run_ms or time.perf_counter() < deadline:
            run_ms = _timed_ms(lambda: self._session.run_unchecked(self._input()))
            runs += 1
        return {"runs": runs, "run_ms": run_ms, "nan": sorted(bad)}

    def window(self, seconds: float, settle_s: float, max_runs: int) -> dict[str, Any]:
        """Run back to back, at least once, and report each run's time.

        Runs of the first `settle_s` seconds do not count: after a pause the caches are another
        contestant's and the threads have to wake.
        """
        self._session.reset()
        gc.collect()
        gc.disable()  # its pauses are ours, not the runtime's
        try:
            clock, run = time.perf_counter_ns, self._session.run_unchecked
            settled = clock() + int(settle_s * 1e9)
            while clock() < settled:
                run(self._input())
            latencies: list[int] = []
            deadline = clock() + int(seconds * 1e9)
            while not latencies or (clock() < deadline and len(latencies) < max_runs):
                inputs = self._input()
                before = clock()
                run(inputs)
                latencies.append(clock() - before)
        finally:
            gc.enable()
        return {"latencies_ns": latencies}

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
            "placement": self._session.placement(),
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
        self._session.close()
        return {}

    def _input(self) -> dict[str, Array]:
        self._next = (self._next + 1) % len(self._inputs)
        return self._inputs[self._next]


def read_inputs(path: Path, signature: Signature) -> list[dict[str, Array]]:
    """The inputs of a file with keys `<nnnnn>/in/<name>`, checked, in their order.

    Raises:
        VerificationError: the file is broken or holds no inputs.
        UsageError: they do not fit the signature.
    """
    samples: dict[str, dict[str, Array]] = {}
    for key, array in read_tensors(path).items():
        index, _, rest = key.partition("/")
        if rest.startswith("in/"):
            samples.setdefault(index, {})[rest[len("in/") :]] = array
    if not samples:
        raise VerificationError(
            f"{path} holds no inputs.",
            cause="It is another file: inputs have keys such as 00000/in/NAME.",
            remedy="Use the golden data or the evaluation pack that `sdk build` wrote.",
        )
    chosen: list[dict[str, Array]] = []
    weight = 0
    for _, inputs in sorted(samples.items()):
        weight += sum(array.nbytes for array in inputs.values())
        if chosen and weight > MOST_INPUTS_BYTES:
            break
        copies = {name: np.array(array) for name, array in inputs.items()}  # off the mapped file
        chosen.append(sessions.check_inputs(signature, copies))
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
