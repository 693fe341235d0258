"""What a user may demand of a variant, and when a demand is met, unmet or unproven. Pure.

Weaker evidence can disprove, never prove: a figure from another machine or an estimate makes a
limit `unmet` when even its favourable bound breaks it, and leaves it `unproven` otherwise.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping
from typing import Literal

from agent.errors import UsageError

Verdict = Literal["met", "unmet", "unproven"]
Evidence = Literal["device", "emulated", "host", "estimate"]

DEFAULT_ACCURACY_DROP = 0.02
"""Where no limit on accuracy is given, a drop of at most 2 % is."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LimitKind:
    """One thing that can be limited."""

    unit: str
    at_most: bool
    """True: the value may not exceed the limit; False: it may not fall below it."""
    is_fraction: bool
    help: str


KINDS: dict[str, LimitKind] = {
    "latency_p50_ms": LimitKind(
        unit="ms", at_most=True, is_fraction=False, help="median latency at the dims' opt values"
    ),
    "latency_p90_ms": LimitKind(
        unit="ms", at_most=True, is_fraction=False, help="90 % of runs are at least this fast"
    ),
    "latency_p95_ms": LimitKind(
        unit="ms", at_most=True, is_fraction=False, help="95 % of runs are at least this fast"
    ),
    "latency_p99_ms": LimitKind(
        unit="ms", at_most=True, is_fraction=False, help="99 % of runs are at least this fast"
    ),
    "throughput_per_s": LimitKind(
        unit="/s", at_most=False, is_fraction=False, help="runs per second at the dims' opt values"
    ),
    "peak_memory_mib": LimitKind(
        unit="MiB", at_most=True, is_fraction=False, help="peak memory of the process tree"
    ),
    "size_mib": LimitKind(
        unit="MiB", at_most=True, is_fraction=False, help="all files of the variant together"
    ),
    "accuracy_drop": LimitKind(
        unit="", at_most=True, is_fraction=True, help="relative to the original; 0.02 is 2 %"
    ),
    "sqnr_min_db": LimitKind(
        unit="dB", at_most=False, is_fraction=False, help="signal to quantisation noise"
    ),
    "speedup": LimitKind(
        unit="x", at_most=False, is_fraction=False, help="baseline's median / variant's median"
    ),
    "memory_reduction": LimitKind(
        unit="", at_most=False, is_fraction=True, help="0.5: half the baseline's increment"
    ),
    "size_reduction": LimitKind(
        unit="", at_most=False, is_fraction=True, help="0.5: half the baseline's size"
    ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bounded:
    """A figure with its confidence bounds and where it comes from."""

    value: float
    low: float
    high: float
    evidence: Evidence


@dataclasses.dataclass(frozen=True, kw_only=True)
class LimitVerdict:
    """One limit of one candidate: the demand, the figure, and the answer."""

    name: str
    limit: float
    value: float | None
    verdict: Verdict
    evidence: Evidence | None
    note: str = ""


def check_limit(name: str, value: object, where: str) -> float:
    """The limit as a number.

    Raises:
        UsageError: unknown name, not a number, or out of range; `where` names the file and key.
    """
    if name not in KINDS:
        close = difflib.get_close_matches(name, KINDS, n=1)
        raise UsageError(
            f"{where}: there is no limit {name!r}; known are {', '.join(KINDS)}.",
            cause=f"Did you mean {close[0]!r}?" if close else "The name is misspelt.",
            remedy="Use one of the known limits.",
        )
    kind = KINDS[name]
    number = float(value) if isinstance(value, (int, float)) else math.nan
    top = 1.0 if kind.is_fraction else math.inf
    if isinstance(value, bool) or not math.isfinite(number) or not 0 <= number <= top:
        form = "a fraction from 0 to 1" if kind.is_fraction else "a number that is not negative"
        raise UsageError(
            f"{where}: {name} should be {form}, but is {value!r}.",
            cause=f"{name}: {kind.help}.",
            remedy="Correct the value.",
        )
    return number


def judge(
    name: str,
    limit: float,
    figure: Bounded | None,
    *,
    proving: tuple[Evidence, ...] = ("device",),
    note: str = "",
) -> LimitVerdict:
    """Hold one figure against one limit.

    Args:
        name: a key of `KINDS`.
        limit: the demand.
        figure: None where nothing is known, which is unproven.
        proving: the kinds of evidence that can prove this limit; all others only disprove.
        note: what a person should know about the figure.
    """
    if figure is None:
        return LimitVerdict(
            name=name, limit=limit, value=None, verdict="unproven", evidence=None, note=note
        )
    worst, best = (figure.high, figure.low) if KINDS[name].at_most else (figure.low, figure.high)
    holds = worst <= limit if KINDS[name].at_most else worst >= limit
    breaks = best > limit if KINDS[name].at_most else best < limit
    verdict: Verdict = "unproven"
    if breaks:
        verdict = "unmet"
    elif holds and figure.evidence in proving:
        verdict = "met"
    return LimitVerdict(
        name=name,
        limit=limit,
        value=figure.value,
        verdict=verdict,
        evidence=figure.evidence,
        note=note,
    )


def overall(verdicts: tuple[LimitVerdict, ...]) -> Verdict:
    """Limits are joint: one that is unmet spoils all, one that is unproven leaves all unproven."""
    found = {verdict.verdict for verdict in verdicts}
    return "unmet" if "unmet" in found else "unproven" if "unproven" in found else "met"


def with_default(
    limits: Mapping[str, float],
    default: float = DEFAULT_ACCURACY_DROP,
    most: float | None = None,
) -> dict[str, float]:
    """The limits, with the default on accuracy where none is given.

    Args:
        limits: as given.
        default: of the accuracy drop, a fraction.
        most: tightens the limit on the accuracy drop, given or not; it never loosens one.
    """
    found = dict(limits)
    if "accuracy_drop" not in limits and "sqnr_min_db" not in limits:
        found["accuracy_drop"] = default
    if most is not None:
        found["accuracy_drop"] = min(most, found.get("accuracy_drop", most))
    return found
