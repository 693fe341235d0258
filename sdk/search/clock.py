"""A budget of seconds."""

from __future__ import annotations

import dataclasses
import math
import re
import time

from agent.errors import UsageError

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clock:
    """Counts down from when it was made. All times are in seconds."""

    budget_s: float
    started: float = dataclasses.field(default_factory=time.monotonic)

    def spent(self) -> float:
        """Since the start."""
        return time.monotonic() - self.started

    def left(self) -> float:
        """Until the budget ends; never negative."""
        return max(0.0, self.budget_s - self.spent())

    def share(self, parts: int) -> Clock:
        """A clock for the next one of `parts` that are to have the rest in equal shares."""
        return Clock(budget_s=self.left() / max(1, parts))


def seconds(text: str) -> float:
    """Read `90s`, `10m`, `1h30m`, `2h`, or a bare number of seconds.

    Raises:
        UsageError: it is none of these, or not above zero.
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)([smh])", text)
    if parts and "".join(number + unit for number, unit in parts) == text:
        found = sum(float(number) * _UNITS[unit] for number, unit in parts)
    else:
        try:
            found = float(text)
        except ValueError:
            found = math.nan
    if not 0 < found < math.inf:
        raise UsageError(
            f"--budget should be a time above zero, but is {text!r}.",
            cause="A time is a number and s, m or h: 90s, 10m, 1h30m.",
            remedy="Write, for example, --budget 10m",
        )
    return found


def counted(number: int, noun: str) -> str:
    """`1 heat`, `2 heats`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def spoken(duration_s: float) -> str:
    """`45 s`, `3 min 20 s`, `1 h 5 min`."""
    whole = round(duration_s)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
