"""Eight rigs that are one machine, from one client: all succeed, and none measures beside another."""

from __future__ import annotations

import concurrent.futures
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.bench import Budget, Measurement
from agent.tensors import write_tensors
from hil import bench
from hil.reach import Place
from hil.rig import Rig
from tests.hil.conftest import Loopback
from tests.hil.variants import tiny_onnx

pytestmark = [pytest.mark.device, pytest.mark.toolchain, pytest.mark.long]
RIGS = 8


def test_eight_rigs_of_one_machine_measure_one_after_another(
    runtime: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variant = tiny_onnx(tmp_path)
    inputs = tmp_path / "inputs.safetensors"
    write_tensors(inputs, [("00000/in/x", np.ones((1, 8), np.float32))])
    spans: dict[str, tuple[float, float]] = {}
    run = Rig.run

    def noted(rig: Rig, kind: str, *arguments: Any, **asked: Any) -> dict[str, Any]:
        found = run(rig, kind, *arguments, **asked)
        if kind == "contest":
            spans[rig.name] = (found["began_s"], found["ended_s"])
        return found

    monkeypatch.setattr(Rig, "run", noted)

    def measure(place: Place) -> Measurement:
        with place.leased("me@here", lambda _: None, wait_s=60) as rig:
            found = bench.contest(
                rig, {"a": variant}, inputs=inputs, budget=Budget(seconds_per_contestant=0.3)
            )["a"]
        assert isinstance(found, Measurement), found
        return found

    places = _places(runtime, tmp_path)
    with concurrent.futures.ThreadPoolExecutor(RIGS) as pool:
        found = list(pool.map(measure, places))
    assert all(one.latency_ms.p50 > 0 for one in found)
    assert len(spans) == RIGS
    ordered = sorted(spans.values())
    for (_, ended_s), (began_s, _) in itertools.pairwise(ordered):
        assert began_s >= ended_s, "two measured at the same time"


def _places(loopback: Loopback, folder: Path) -> list[Place]:
    """This machine by eight names, each with a folder and so a lease of its own; one runtime."""
    import dataclasses

    entry = loopback.entry
    return [
        Place(
            entry=dataclasses.replace(
                entry, name=f"rig-{number}", folder=f"{entry.folder}/{number}",
                python=f"{entry.folder}/venv/bin/python",
            ),
            inventory=loopback.inventory,
            known_hosts=loopback.known_hosts,
        )
        for number in range(RIGS)
    ]  # fmt: skip
