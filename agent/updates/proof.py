"""What a preflight is asked and what it finds: what crosses the border to its process. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from agent.manifest import Floor, Gate
from agent.variant import VariantRecord

Stage = Literal["prepare", "golden", "accuracy", "memory", "speed"]
STAGES: tuple[Stage, ...] = ("prepare", "golden", "accuracy", "memory", "speed")
"""In this order, and each only if the one before found nothing wrong."""
HARNESS = 1.2
"""Measuring takes that many times the memory of what it measures."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Placed:
    """A variant whose files lie in a folder."""

    folder: Path
    record: VariantRecord


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
    """What to prove, and by what."""

    variant: Placed
    golden: Path
    """safetensors with the original's answers."""
    floors: tuple[Floor, ...]
    evaluation: Path | None
    metric: str | None
    higher_is_better: bool
    drop_max_ppm: int | None
    gates: tuple[Gate, ...]
    running: Placed | None
    """What runs now, to be measured beside it; None at a first install."""
    baseline: Placed | None
    """The release's own, where a gate is relative to it."""
    quiet: bool
    """Nothing else is at work here, so figures in seconds are the variant's own."""
    seconds_per_contestant: float
    memory_limit_mib: int | None
    """Of one variant's process tree."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """What one stage found."""

    reasons: tuple[str, ...] = ()
    """Why the variant may not run here; none: it may, as far as this stage looks."""
    notes: tuple[str, ...] = ()
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Proof:
    """What all stages found."""

    passed: bool
    stage: Stage
    """The last one that was begun."""
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """agreement {output: value}, drop {value, low, high, n}, memory_bytes, most_memory_bytes,
    measurement, ratio_to_running {value, low, high}, ratios_to_running {`latency@950`, `memory`}:
    those that were looked at."""

    @property
    def p50_ms(self) -> float:
        """The median latency; infinite where it was not measured."""
        measured = self.facts.get("measurement") or {}
        return float(measured.get("latency_ms", {}).get("p50", float("inf")))


def joined(proof: Proof, stage: Stage, found: Found) -> Proof:
    """The proof so far, and one stage more."""
    return dataclasses.replace(
        proof,
        stage=stage,
        passed=stage == STAGES[-1] and not found.reasons,
        reasons=(*proof.reasons, *found.reasons),
        notes=(*proof.notes, *found.notes),
        facts={**proof.facts, **found.facts},
    )


def room_to_measure(own_bytes: int, others: int, available_bytes: int) -> str | None:
    """Why a contest would take more memory than there is; None where there is enough.

    Args:
        own_bytes: what the variant's process took at most.
        others: how many are measured beside it, taken to be of its size.
        available_bytes: what the system could give without swapping.

    >>> room_to_measure(100, 1, 1000) is None
    True
    """
    takes = int((1 + others) * own_bytes * HARNESS)
    if takes <= available_bytes:
        return None
    return (
        f"measuring would take about {takes >> 20} MiB and {available_bytes >> 20} MiB could be "
        "had: its speed is left to the trial"
    )


def unmeasured(gates: Iterable[Gate], peak_bytes: int, why: str) -> Found:
    """What the gates say of a variant that is not measured: of its memory alone.

    Args:
        gates: of the manifest, and the assignment's own.
        peak_bytes: of a process that loaded it and ran the golden data.
        why: it is not measured.
    """
    reasons, notes = [], [why]
    for gate in gates:
        if gate.quantity != "memory_peak_bytes" or gate.ratio_to is not None:
            notes.append(f"{gate.quantity}: not measured, so this gate is not judged")
        elif gate.max is not None and peak_bytes > gate.max:
            reasons.append(f"{gate.quantity} is {peak_bytes}, the gate is {gate.max}")
    return Found(reasons=tuple(reasons), notes=tuple(notes))
