"""The one measuring harness: on the host, on a rig, on the device, always this code.

Each contestant is loaded in a process of its own. Then they take turns, A B C A B C, a window
each, while all others are paused, so that whatever the machine does meanwhile meets them alike.
It goes on until every median is stable or the budget ends, and then says which of the two it was.
docs/explanation/measuring.md is this page in words.
"""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path

from agent.arena import Arena, Budget, Contestant, OnEvent, Race
from agent.errors import ToolchainError, UsageError
from agent.measurement import (
    Comparison,
    Failure,
    Latency,
    Measurement,
    Quantity,
    Ratio,
    compare,
)


def contest(
    contestants: Sequence[Contestant],
    *,
    inputs: Path,
    log_folder: Path,
    budget: Budget | None = None,
    time_limit_s: float = 300.0,
    memory_limit_mib: int | None = None,
    on_event: OnEvent | None = None,
    race: Race | None = None,
) -> dict[str, Measurement | Failure]:
    """Measure variants of one model against each other.

    One that crashes, hangs or fails is a `Failure`, and the others go on. No process is left
    behind, whatever happens here.

    Args:
        contestants: with different names.
        inputs: safetensors with keys `<nnnnn>/in/<name>`, used in turn.
        log_folder: gets one `<name>.log` for each contestant, with all that its runtime prints.
        budget: how long to measure.
        time_limit_s: the longest that one load, or one window, may take.
        memory_limit_mib: the most that one contestant's process tree may use.
        on_event: is told {event: turn | started | loaded | window | left | failed, name, ...} as it
            happens; `turn` before a contestant is loaded or goes on.
        race: who may be sent home early; without, all stay to the end.

    Raises:
        UsageError: two contestants share a name, or there is no such file of inputs.
    """
    names = [contestant.name for contestant in contestants]
    if len(set(names)) != len(names):
        raise UsageError(f"Two contestants share a name: {sorted(names)}.", remedy="Name each.")
    if not inputs.is_file():
        raise UsageError(
            f"There are no inputs at {inputs}.",
            cause="Measuring takes real inputs; the build records some.",
            remedy="Name the golden data of the model's build folder.",
        )
    log_folder.mkdir(parents=True, exist_ok=True)
    with Arena(
        inputs=inputs.resolve(),
        log_folder=log_folder.resolve(),
        budget=budget or Budget(),
        time_limit_s=time_limit_s,
        memory_limit_bytes=None if memory_limit_mib is None else memory_limit_mib << 20,
        on_event=on_event,
        race=race,
    ) as arena:
        for contestant in contestants:
            arena.load(contestant)
        while arena.goes_on():
            arena.round()
        return arena.results(names)


def bench_one(
    folder: Path,
    *,
    inputs: Path,
    budget: Budget | None = None,
    log_folder: Path | None = None,
    time_limit_s: float = 300.0,
    memory_limit_mib: int | None = None,
) -> Measurement:
    """Measure one variant; arguments as for `contest`. Without a `log_folder` no log is kept.

    Raises:
        ToolchainError: it cannot be loaded or run here.
        UsageError: there is no such file of inputs.
    """
    with _folder_for_logs(log_folder) as logs:
        results = contest(
            [Contestant(folder.name, folder)],
            inputs=inputs,
            log_folder=Path(logs),
            budget=budget,
            time_limit_s=time_limit_s,
            memory_limit_mib=memory_limit_mib,
        )
    return _measured(results[folder.name])


def compare_folders(
    left: Path,
    right: Path,
    *,
    inputs: Path,
    budget: Budget | None = None,
    log_folder: Path | None = None,
) -> Comparison:
    """Measure two variants of one model in alternating windows; arguments as for `bench_one`.

    Raises:
        ToolchainError: one of them cannot be loaded or run here.
        UsageError: there is no such file of inputs.
    """
    names = (f"left {left.name}", f"right {right.name}")
    with _folder_for_logs(log_folder) as logs:
        results = contest(
            [Contestant(names[0], left), Contestant(names[1], right)],
            inputs=inputs,
            log_folder=Path(logs),
            budget=budget,
        )
    one, other = (
        dataclasses.replace(_measured(results[name]), name=folder.name)
        for name, folder in zip(names, (left, right), strict=True)
    )
    return Comparison(left=one, right=other, ratio=compare(one, other))


def _measured(result: Measurement | Failure) -> Measurement:
    if isinstance(result, Failure):
        own = result.error
        if own is not None and own["remedy"]:
            raise ToolchainError(
                f"{result.name} cannot be measured: {own['what']}",
                cause=own["cause"],
                remedy=own["remedy"],
            )
        raise ToolchainError(
            f"{result.name} cannot be measured ({result.kind}): {result.message}",
            cause="Its runtime failed on this machine.",
            remedy="Run `sdk doctor`, and `sdk verify` on the variant.",
        )
    return result


def _folder_for_logs(folder: Path | None) -> contextlib.AbstractContextManager[Path | str]:
    return tempfile.TemporaryDirectory() if folder is None else contextlib.nullcontext(folder)


__all__ = [
    "Budget",
    "Comparison",
    "Contestant",
    "Failure",
    "Latency",
    "Measurement",
    "Quantity",
    "Race",
    "Ratio",
    "bench_one",
    "compare",
    "compare_folders",
    "contest",
]
