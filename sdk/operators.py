"""A step: where a variant's time goes, operator by operator, in a process of its own."""

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


def profile_operators(payload: dict[str, Any], out: Path) -> dict[str, Any]:
    """Profile the variant in `payload["variant"]` on the inputs in `payload["inputs"]`.

    Returns:
        {operators: a list of `agent.sessions.OperatorTime`, or None where the runtime is silent}
    """
    del out
    folder = Path(payload["variant"])
    record = read_record(folder)
    samples = read_inputs(Path(payload["inputs"]), record.signature)
    as_called = list(batches(samples, record.signature, calls_of(record.options)))
    found = profile(folder, as_called, runs=RUNS)
    return {
        "operators": None if found is None else [dataclasses.asdict(one) for one in found[:KEPT]]
    }
