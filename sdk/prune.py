"""What is not worth building: candidates whose estimate breaks a limit even at its best. Pure.

A candidate is pruned only where the favourable bound of its estimate breaks an absolute limit on
size, memory, latency or throughput. Nothing is pruned because another one looks better: the fastest
by estimate is often not the fastest. And while a limit is relative to the baseline, no f32
candidate is pruned, since one of them is the baseline.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from sdk.estimate import Interval, bounds, file_bytes
from sdk.limits import KINDS, Bounded, LimitVerdict, judge, overall
from sdk.plan import Candidate, Planned
from sdk.result import Result
from targets.interface import Program

RELATIVE = ("speedup", "memory_reduction", "size_reduction")
_MIB = 1 << 20


def with_disproofs(
    planned: Sequence[Planned], program: Program, limits: Mapping[str, float]
) -> tuple[Planned, ...]:
    """The same candidates, each with the limit that it cannot meet, if there is one."""
    needs_baseline = any(name in limits for name in RELATIVE)
    return tuple(
        entry
        if entry.refusal is not None
        or (needs_baseline and entry.candidate.recipe.precision == "f32")
        else dataclasses.replace(entry, disproof=disproof(entry.candidate, program, limits))
        for entry in planned
    )


def disproof(
    candidate: Candidate, program: Program, limits: Mapping[str, float]
) -> LimitVerdict | None:
    """The first limit that even the favourable bound breaks; its note tells the bound."""
    predicted = bounds(program, candidate.profile, candidate.recipe)
    figures: dict[str, Bounded | None] = {
        "size_mib": _bounded(file_bytes(program, candidate.recipe), 1 / _MIB),
        "peak_memory_mib": _bounded(predicted.peak_memory_bytes, 1 / _MIB),
        # One caller: no more runs per second than the shortest latency allows.
        "throughput_per_s": _inverse(predicted.latency_ms),
    }
    for name, limit in limits.items():
        # The median's lower bound holds for every higher quantile.
        latency = _bounded(predicted.latency_ms) if name.startswith("latency_") else None
        figure = latency or figures.get(name)
        if figure is None:
            continue
        verdict = judge(name, limit, figure)
        if verdict.verdict == "unmet":
            at_most = KINDS[name].at_most
            best = f"at least {figure.low:.4g}" if at_most else f"at most {figure.high:.4g}"
            return dataclasses.replace(verdict, note=best)
    return None


def reason(found: LimitVerdict) -> str:
    """A disproof in words."""
    return f"{found.name} would be {found.note}, the limit is {found.limit:.4g} (estimate)"


def audit(planned: Sequence[Planned], results: Sequence[Result]) -> str | None:
    """What pruning would have cost a build that did without; None if it had dropped nothing."""
    dropped = {entry.candidate.identifier for entry in planned if entry.disproof}
    if not dropped:
        return None
    kept = [
        result.candidate.recipe.name
        for result in results
        if result.candidate.identifier in dropped
        and result.status == "built"
        and overall(result.verdicts) != "unmet"
    ]
    found = f"pruning would have dropped {len(dropped)} candidate{'s' * (len(dropped) > 1)}; "
    if not kept:
        return found + "none of them turned out to meet the limits"
    return found + f"{len(kept)} of them turned out to break no limit: {', '.join(kept)}"


def _bounded(found: Interval | None, scale: float = 1.0) -> Bounded | None:
    if found is None:
        return None
    return Bounded(
        value=found.value * scale,
        low=found.low * scale,
        high=found.high * scale,
        evidence="estimate",
    )


def _inverse(latency_ms: Interval | None) -> Bounded | None:
    if latency_ms is None:
        return None
    return Bounded(
        value=1000 / latency_ms.value,
        low=1000 / latency_ms.high,
        high=1000 / latency_ms.low,
        evidence="estimate",
    )
