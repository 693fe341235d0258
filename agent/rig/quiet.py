"""Heat and clocks around a measurement: wait until it is quiet, and say when a machine slowed down.

A machine that is hot from the run before gives that run's figure again; one that slows down in the
middle gives nobody's.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from agent.identity import Conditions, conditions_now

if TYPE_CHECKING:
    from agent.measurement import Measurement

STEADY_C = 1.0
"""A zone that changes by less in `STEADY_S` seconds is steady."""
STEADY_S = 3.0
MOST_WAIT_S = 120.0
_COUNTERS = "sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/*_throttle_count"


def wait_for_quiet(
    wait: Callable[[float], None],
    now: Callable[[], Conditions] = conditions_now,
    most_s: float = MOST_WAIT_S,
) -> str:
    """Wait until no zone changes its temperature any more.

    Args:
        wait: sleeps so many seconds.
        now: reads the machine.
        most_s: it is given up after this.

    Returns:
        What is to be said of it: nothing where it is steady, or where no zone tells anything.
    """
    before = now().temperatures_c
    waited = 0.0
    while before and waited < most_s:
        wait(STEADY_S)
        waited += STEADY_S
        after = now().temperatures_c
        if is_steady(before, after):
            return ""
        before = after
    return f"after {waited:.0f} s its temperature still changed" if before else ""


def is_steady(before: dict[str, float], after: dict[str, float]) -> bool:
    """Whether no zone became hotter or colder.

    >>> is_steady({"cpu": 40.0}, {"cpu": 40.4}), is_steady({"cpu": 40.0}, {"cpu": 43.0})
    (True, False)
    """
    both = before.keys() & after.keys()
    return all(abs(after[zone] - before[zone]) < STEADY_C for zone in both)


class Throttle:
    """What the kernel counts of clocks that heat has slowed, from now on."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._before = self._count()
        self._began = time.monotonic()

    def told(self) -> str:
        """What slowed down meanwhile; nothing where nothing did, or nothing tells."""
        more = sum(self._count()) - sum(self._before)
        if more <= 0:
            return ""
        seconds = time.monotonic() - self._began
        return f"the clock was throttled {more} times in {seconds:.0f} s: the machine is too hot"

    def _count(self) -> Sequence[int]:
        found = []
        for path in sorted(self._root.glob(_COUNTERS)):
            try:
                found.append(int(path.read_text()))
            except (OSError, ValueError):
                continue
        return found


def with_throttling(found: Measurement, throttled: str) -> Measurement:
    """A measurement that says it is not stable, if the machine slowed down in it."""
    if not throttled:
        return found
    return dataclasses.replace(
        found,
        latency_ms=dataclasses.replace(found.latency_ms, stable=False),
        notes=(*found.notes, throttled),
    )
