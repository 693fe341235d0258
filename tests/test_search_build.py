"""The search on real toolchains: bounded, resumed, and never over the limit."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from agent.sessions import load
from sdk import api
from sdk.events import Event
from tests.test_build import FAST, SDK, onnx_project, sdk

pytestmark = [pytest.mark.toolchain, pytest.mark.long]


def test_a_budget_too_short_for_all_still_judges_the_baseline(tmp_path: Path) -> None:
    project = onnx_project(tmp_path / "project")
    summary = api.build(
        project, targets=["intel"], profiles=["host"], out=tmp_path / "out", budget_s=1.0
    )
    (result,) = summary.results
    assert result.verdict == "met"
    chosen = next(c for c in result.candidates if c.role == "chosen")
    assert chosen.precision == "f32"
    untried = [c for c in result.candidates if c.status == "planned"]
    assert untried
    assert all("budget" in c.reason for c in untried)
    assert result.search is not None
    assert result.search.untried == len(untried)
    assert sum(len(heat.tried) for heat in result.search.heats) == 1
    assert not result.search.ended


def test_a_limit_that_nothing_meets_is_unmet_however_long_the_search(tmp_path: Path) -> None:
    project = onnx_project(tmp_path / "project")
    summary = api.build(
        project,
        targets=["intel"],
        profiles=["host"],
        out=tmp_path / "out",
        limits={"latency_p50_ms": 1e-6},
        prune=False,
        budget_s=60.0,
    )
    (result,) = summary.results
    assert (result.verdict, result.selected) == ("unmet", None)


def test_throughput_is_found_in_batches_and_callers_and_a_limit_is_met_by_them(
    tmp_path: Path,
) -> None:
    project = onnx_project(tmp_path / "project")
    found = {}
    for name, options in {
        "plain": {"objective": "latency"},
        "throughput": {"objective": "throughput"},
    }.items():
        summary = api.build(
            project,
            targets=["intel"],
            profiles=["host"],
            out=tmp_path / name,
            budget_s=60.0,
            **options,
        )
        (result,) = summary.results
        found[name] = next(c for c in result.candidates if c.role == "chosen")
    one, many = found["plain"].throughput_per_s, found["throughput"].throughput_per_s
    assert found["plain"].evaluated_at == {"batch": 1}
    # So small a model spends its time on being called: more in one run are as many times as fast.
    assert found["throughput"].evaluated_at["batch"] > 1
    assert many > 1.5 * one
    assert any("in each run" in note for note in found["throughput"].notes)

    summary = api.build(
        project,
        targets=["intel"],
        profiles=["host"],
        out=tmp_path / "limited",
        limits={"throughput_per_s": 0.6 * many},
        budget_s=60.0,
    )
    (result,) = summary.results
    assert result.verdict == "met"
    record = json.loads(
        (tmp_path / "limited" / "net" / result.variant / "variant.json").read_text()
    )
    assert record["options"]["batch"] > 1
    variant = tmp_path / "limited" / "net" / result.variant
    session = load(variant)  # whoever loads it gets one session, and runs what it likes
    assert session.run({"x": np.zeros((3, 16), np.float32)})["y"].shape == (3, 4)


def test_where_a_dim_varies_a_form_for_its_opt_value_is_tried_and_measured(tmp_path: Path) -> None:
    project = onnx_project(tmp_path / "project")
    told = []
    for name, most in {"varying": 4, "still": 1}.items():
        text = (project / "sdk.toml").read_text()
        (project / "sdk.toml").write_text(re.sub(r"max = \d+", f"max = {most}", text))
        summary = api.build(
            project, targets=["intel"], profiles=["host"], out=tmp_path / name, budget_s=90.0
        )
        (result,) = summary.results
        told.append([c for c in result.candidates if "-static" in c.identifier])
    varying, still = told
    assert {c.toolchain for c in varying} <= {"openvino", "onnxruntime"}  # whichever leads
    assert {c.status for c in varying} == {"built"}
    measured = [c for c in varying if c.latency_ms is not None]
    assert measured
    for found in measured:
        assert any("compiled once more for batch 1;" in note for note in found.notes)
        assert found.numerics is not None
        assert found.numerics.cosine_min > 0.999
    assert still == []


def test_a_search_that_was_killed_goes_on_and_measures_nothing_twice(tmp_path: Path) -> None:
    project = onnx_project(tmp_path / "project")
    arguments = ["build", str(project), *FAST, "--out", str(tmp_path / "out"), "--budget", "20m"]
    log = tmp_path / "log.txt"
    with log.open("wb") as stream:
        process = subprocess.Popen([*SDK, *arguments], stdout=stream, stderr=stream)
        deadline = time.monotonic() + 300
        while "heat 1: " not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        time.sleep(1.0)
        process.send_signal(signal.SIGKILL)
        process.wait(30)
    first = log.read_text()
    again = sdk(*arguments)
    assert again.returncode == 0, again.stderr
    done = set(re.findall(r"\] (\S+) \(\d", first))
    begun = set(re.findall(r"lowering (\S+) \.\.\.", again.stderr))
    assert done
    assert not done & begun
    assert "cached: measuring" in again.stderr
    third = sdk(*arguments)
    assert "measuring" not in re.sub(r"cached: measuring", "", third.stderr)
    assert "lowering" not in third.stderr


def test_a_search_for_another_device_mends_and_ranks_and_proves_nothing(tmp_path: Path) -> None:
    project = onnx_project(tmp_path / "project")
    told: list[Event] = []
    summary = api.build(
        project,
        targets=["linux-arm"],
        out=tmp_path / "out",
        budget_s=120.0,
        on_event=told.append,
    )
    (result,) = summary.results
    assert result.verdict == "unproven"
    assert result.selected_by == "estimate"
    assert not any("measuring" in event.message for event in told)


def test_wrong_words_are_refused_before_anything_begins(tmp_path: Path) -> None:
    for arguments, telling in {
        ("--budget", "soon"): "--budget should be a time",
        ("--objective", "beauty"): "There is no objective 'beauty'",
        ("--speed", "--accuracy"): "--speed and --accuracy are both given",
    }.items():
        found = sdk("build", str(tmp_path), *arguments)
        assert found.returncode == 2
        assert telling in found.stderr


TRAP = """
import torch
from torch import nn


class Trap(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.large = nn.Conv2d(16, 8, 1)
        self.fragile = nn.Conv2d(8, 16, 1)
        self.third = nn.Conv2d(16, 64, 3, padding=1)
        self.last = nn.Linear(64, 8)
        with torch.no_grad():
            self.large.weight[0] *= 1000
            self.fragile.weight[:, 0] /= 1000

    def forward(self, image):
        x = torch.relu(self.fragile(self.large(torch.relu(self.first(image)))))
        return self.last(torch.relu(self.third(x)).mean(dim=(2, 3)))


def make():
    torch.manual_seed(0)
    return Trap()
"""
TRAP_DATA = """
import numpy as np


def samples():
    random = np.random.default_rng(1)
    for i in range(300):
        yield f"s{i}", {"image": random.standard_normal((1, 3, 16, 16)).astype(np.float32)}
"""
TRAP_PROJECT = """
[model]
name = "trap"
source = "model.py:make"

[[inputs]]
name = "image"
dtype = "float32"
shape = [1, 3, 16, 16]

[data]
samples = "data.py:samples"

[limits]
accuracy_drop = 0.001
"""


def test_a_phone_gets_int8_that_keeps_what_is_fragile_in_floats(tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    for name, text in {
        "model.py": TRAP,
        "data.py": TRAP_DATA,
        "sdk.toml": TRAP_PROJECT,
    }.items():
        (project / name).write_text(text)
    summary = api.build(project, targets=["mobile"], out=tmp_path / "out", budget_s=600.0)
    (result,) = summary.results
    int8 = next(c for c in result.candidates if c.identifier.rsplit("-", 1)[0].endswith("int8"))
    assert int8.accuracy is not None
    assert int8.accuracy.drop > 0.001
    assert int8.identifier not in result.ladder
    # The profile has no rates, so nothing says that it is faster: the phone tries both.
    assert (result.verdict, result.selected_by) == ("unproven", "estimate")
    ladder = {c.identifier: c for c in result.candidates if c.identifier in result.ladder}
    f32 = next(c for c in ladder.values() if c.precision == "f32")
    first = next(c for name, c in ladder.items() if "int8-mixed" in name)
    assert first.accuracy.drop < 0.001
    assert first.size_bytes < 0.6 * f32.size_bytes
