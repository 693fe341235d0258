"""Where a variant's time goes, operator by operator: on the build machine and on a rig alike."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from agent.calls import batches, calls_of
from agent.contestant import read_inputs
from agent.sessions import profile
from agent.variant import read_record

RUNS = 20
"""Enough for a median; a trace of more of a large graph only costs time."""
KEPT = 40
"""Operators that are told: the rest of a large graph are thousandths of its time."""


def profile_operators(variant: Path, inputs: Path) -> list[dict[str, Any]] | None:
    """The slowest operators of a variant, each an `agent.sessions.OperatorTime`.

    Args:
        variant: its folder.
        inputs: safetensors with keys `<nnnnn>/in/<name>`; used in turn, as the variant is called.

    Returns:
        None where the runtime is silent.
    """
    record = read_record(variant)
    samples = read_inputs(inputs, record.signature)
    as_called = list(batches(samples, record.signature, calls_of(record.options)))
    found = profile(variant, as_called, runs=RUNS)
    return None if found is None else [dataclasses.asdict(one) for one in found[:KEPT]]
