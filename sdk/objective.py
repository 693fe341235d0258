"""What is to be least, among all variants that keep the limits. Pure."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from agent.bench import Quantity  # numpy comes with it, which `sdk --help` can do without

Objective = Literal["latency", "throughput", "memory", "size", "balanced"]
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figures:
    """What an objective looks at; None where it is not known."""

    latency: float | None
    """In milliseconds, or over anything that is the same for all that are compared."""
    memory_bytes: int | None
    """The increment over the loaded runtime."""
    size_bytes: int | None
    """All files together."""
    per_run: float | None = None
    """The throughput's inverse, in the latency's unit: time per run, all callers together."""


_SMALLNESS = ("size_mib", "peak_memory_mib", "size_reduction", "memory_reduction")


def must_be_small(objective: Objective, limits: Iterable[str]) -> bool:
    """Whether recipes that only make files smaller are worth trying."""
    return objective in ("memory", "size", "balanced") or any(n in _SMALLNESS for n in limits)


def is_speed(objective: Objective) -> bool:
    """Whether what is surely slower than another has surely lost to it."""
    return objective in ("latency", "throughput")


def quantity(objective: Objective) -> Quantity:
    """What slower means."""
    return "throughput" if objective == "throughput" else "latency"


def cost(objective: Objective, own: Figures, baseline: Figures | None) -> float:
    """How a variant does; less is better, infinite where nothing is known.

    `balanced` is the geometric mean of the ratios to the baseline in latency, memory and size, of
    those that are known of both.
    """
    if objective == "throughput":
        return _known(own.per_run)
    if objective == "memory":
        return _known(own.memory_bytes)
    if objective == "size":
        return _known(own.size_bytes)
    if objective == "balanced" and baseline is not None:
        ratios = [
            _known(one) / _known(other)
            for one, other in (
                (own.latency, baseline.latency),
                (own.memory_bytes, baseline.memory_bytes),
                (own.size_bytes, baseline.size_bytes),
            )
            if one and other
        ]
        return math.exp(sum(map(math.log, ratios)) / len(ratios)) if ratios else math.inf
    return _known(own.latency)


def in_words(objective: Objective, own: Figures, baseline: Figures | None) -> str:
    """What the objective looks at, as a person says it.

    >>> in_words("size", Figures(latency=1.0, memory_bytes=None, size_bytes=3 << 19), None)
    '1.5 MiB of files'
    """
    found = cost(objective, own, baseline)
    what = {
        "memory": "MiB of memory over the loaded runtime",
        "size": "MiB of files",
        "balanced": "of the baseline's latency, memory and size",
    }.get(objective, "ms")
    if not math.isfinite(found):
        return f"its {objective} is not known"
    return f"{found / (1 << 20) if what.startswith('MiB') else found:.3g} {what}"


def _known(value: float | None) -> float:
    return math.inf if value is None else float(value)
