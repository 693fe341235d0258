"""Capture: good projects become programs, bad ones an error that names the user's own line."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.errors import CaptureError, SlipwayError, UsageError
from agent.manifest import Fingerprint
from agent.tensors import read_tensors
from sdk.cache import Cache
from sdk.capture import capture
from sdk.events import Event
from sdk.project_reader import load_project
from sdk.samples import StoredSamples
from sdk.steps import capture as step
from sdk.steps.runner import Runner
from sdk.workers import Limits, Workers
from tests.projects import PROJECTS, write_project

pytestmark = pytest.mark.toolchain

GOOD = ("tiny_cnn", "two_inputs", "dynamic_sequence", "detector", "no_data", "with_checkpoint")


@pytest.fixture(autouse=True)
def forget_user_modules() -> Iterator[None]:
    """A step is a process; here many run in one."""
    import sys

    yield
    for name in [n for n in sys.modules if n.startswith("_slipway_user_")]:
        del sys.modules[name]
    for name in ("helpers", "model", "data"):
        sys.modules.pop(name, None)


def captured(folder: Path, out: Path) -> dict[str, Any]:
    out.mkdir(exist_ok=True)
    return capture({"project": str(folder)}, out)


def test_weights_count_once_and_only_if_they_are_used() -> None:
    import torch
    from torch import nn

    from sdk.capture.torch_model import _weight_bytes

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(100, 16)
            self.back = nn.Linear(16, 100, bias=False)
            self.back.weight = self.words.weight
            self.unused = nn.Linear(1000, 1000)
            self.register_buffer("scale", torch.ones(16))

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.back(self.words(ids) * self.scale)

    program = torch.export.export(Net().eval(), (torch.zeros(2, 3, dtype=torch.int64),))
    assert _weight_bytes(program) == 4 * (100 * 16 + 16)


@pytest.mark.parametrize("name", GOOD)
def test_a_good_project_becomes_a_program(name: str, tmp_path: Path) -> None:
    found = captured(write_project(tmp_path / "p", model=name), tmp_path / "out")
    assert (tmp_path / "out" / found["program"]["path"]).is_file()
    assert found["program"]["signature"]["outputs"]
    assert sum(cost["flops"] for cost in found["program"]["costs"]) > 0
    assert found["program"]["weight_bytes"] > 0
    alive, at_max = (
        found["program"][name] for name in ("activation_bytes", "activation_bytes_at_max")
    )
    assert 0 < alive < at_max  # every one of them has a dim that varies
    if name in ("no_data", "with_checkpoint"):
        assert found["metric"] is None
        assert sum(found["samples"].values()) == 0
    else:
        assert found["samples"]["final"] >= 149


def test_an_exported_program_becomes_a_program(tmp_path: Path) -> None:
    import torch
    from torch import nn

    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5)).eval()
    batch = torch.export.Dim("batch", min=1, max=4)
    example = torch.rand(2, 1, 8, 8)
    program = torch.export.export(net, (example,), dynamic_shapes=({0: batch},))
    folder = tmp_path / "p"
    folder.mkdir()
    torch.export.save(program, folder / "net.pt2")
    (folder / "sdk.toml").write_text('[model]\nname = "net"\nsource = "net.pt2"\n')
    found = captured(folder, tmp_path / "out")
    (taken,) = found["program"]["signature"]["inputs"]
    assert taken["shape"] == ["dim0", 1, 8, 8]
    for sample in StoredSamples(tmp_path / "out" / "golden.safetensors"):
        (image,), (answer,) = sample.inputs.values(), sample.outputs.values()
        np.testing.assert_allclose(
            answer, net(torch.from_numpy(np.array(image))).detach().numpy(), atol=1e-5
        )


def test_the_golden_data_holds_the_originals_answers_at_all_bounds(tmp_path: Path) -> None:
    found = captured(write_project(tmp_path / "p", model="dynamic_sequence"), tmp_path / "out")
    dims = found["program"]["signature"]["dims"]
    samples = list(StoredSamples(tmp_path / "out" / "golden.safetensors"))
    spec = found["program"]["signature"]["inputs"][0]
    for axis, name in enumerate(spec["shape"]):
        if isinstance(name, str):
            sizes = {sample.inputs[spec["name"]].shape[axis] for sample in samples}
            assert {dims[name][0], dims[name][2]} <= sizes
    assert all(sample.outputs for sample in samples)


def test_the_bench_inputs_are_real_and_at_opt(tmp_path: Path) -> None:
    found = captured(write_project(tmp_path / "p", model="tiny_cnn"), tmp_path / "out")
    opt = found["program"]["signature"]["dims"]["batch"][1]
    arrays = read_tensors(tmp_path / "out" / "bench.safetensors")
    assert len(arrays) >= 4
    assert all(array.shape[0] == opt and np.any(array) for array in arrays.values())


def test_the_digest_is_the_programs_and_not_the_files(tmp_path: Path) -> None:
    folder = write_project(tmp_path / "p", model="tiny_cnn")
    first = captured(folder, tmp_path / "a")["program"]["digest"]
    assert captured(folder, tmp_path / "b")["program"]["digest"] == first


BAD = {
    "factory_raises": (CaptureError, "no such layer: conv9", "model.py:2"),
    "factory_returns_string": (CaptureError, "returned str", ""),
    "pickle_checkpoint": (UsageError, "run code when they are read", ""),
    "disguised_pickle": (CaptureError, "safetensors", ""),
    "weights_mismatch": (CaptureError, "do not fit the model", ""),
    "weights_incomplete": (CaptureError, "missing", ""),
    "data_dependent_control_flow": (CaptureError, "torch.where", "helpers.py:2"),
    "unregistered_op": (CaptureError, "register", "model.py:"),
    "nan_output": (CaptureError, "NaN", ""),
    "nondeterministic": (CaptureError, "differs between two runs", ""),
    "wrong_shape_data": (CaptureError, "shape", ""),
    "wrong_dtype_data": (CaptureError, "dtype", ""),
    "empty_data": (CaptureError, "no samples", ""),
    "raising_data": (CaptureError, "raised after", "data.py:"),
    "duplicate_ids": (CaptureError, "twice", ""),
    "nan_data": (CaptureError, "NaN", ""),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_project_is_answered_with_its_cause_and_line(name: str, tmp_path: Path) -> None:
    kind, words, line = BAD[name]
    folder = write_project(tmp_path / "p", model=name)
    with pytest.raises(SlipwayError) as found:
        captured(folder, tmp_path / "out")
    assert type(found.value) is kind
    assert words in str(found.value)
    assert line in found.value.what
    assert found.value.remedy
    assert not list(tmp_path.rglob("pickle-was-run"))


def test_every_bad_project_of_the_tests_is_tried_here() -> None:
    good = {*GOOD, "helper_module", "own_agent_package", "registered_custom_op"}
    assert set(PROJECTS) == good | set(BAD)


def test_a_registered_custom_operator_goes_through(tmp_path: Path) -> None:
    """In a process, as a build does it: torch crashes when one process registers a name twice."""
    folder = write_project(tmp_path / "p", model="registered_custom_op")
    (tmp_path / "step").mkdir()
    found = Workers(tmp_path).run("capture", {"project": str(folder)}, tmp_path / "step", Limits())
    assert isinstance(found, dict), found
    assert len(found["program"]["custom_ops"]) == 1
    assert found["program"]["source"] == "model.py"


def test_a_users_own_agent_package_is_theirs(tmp_path: Path) -> None:
    import agent.errors

    captured(write_project(tmp_path / "p", model="own_agent_package"), tmp_path / "out")
    assert agent.errors.CaptureError is CaptureError


class Watched(Runner):
    """A runner of one project's steps that keeps what was said."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.said: list[Event] = []
        device = Fingerprint(identity={}, software={}, conditions={})
        super().__init__(
            load_project(folder),
            Cache(cache),
            Workers(cache),
            device,
            fresh=False,
            on_event=self.said.append,
        )


EDITS = {
    "a line of an imported helper": ("helpers.py", "SCALE = 2.0", "SCALE = 3.0", True),
    "a line of the data": ("data.py", "\n", "\n# another\n", True),
    "a limit": ("sdk.toml", "accuracy_drop = 0.05", "accuracy_drop = 0.04", False),
    "the data's version": ("sdk.toml", 'version = "1"', 'version = "2"', True),
    "a file that nothing reads": ("notes.txt", "", "hello", False),
}


def test_what_was_read_decides_what_is_captured_again(tmp_path: Path) -> None:
    folder, cache = write_project(tmp_path / "p", model="helper_module"), tmp_path / "cache"
    first = step.capture(Watched(folder, cache))
    again = Watched(folder, cache)
    assert step.capture(again) == first
    assert [event.kind for event in again.said] == ["cached"]
    (folder / "build").mkdir()
    for edit, (name, old, new, captures_again) in EDITS.items():
        text = (folder / name).read_text() if (folder / name).exists() else ""
        assert old in text
        (folder / name).write_text(text.replace(old, new, 1))
        edited = Watched(folder, cache)
        step.capture(edited)
        assert ("start" in [event.kind for event in edited.said]) == captures_again, edit


def test_a_changed_checkpoint_is_captured_again(tmp_path: Path) -> None:
    import safetensors.numpy

    folder = write_project(tmp_path / "p", model="with_checkpoint")
    first = step.capture(Watched(folder, tmp_path / "cache"))
    file = next(folder.glob("*.safetensors"))
    weights = {name: array * 1.5 for name, array in safetensors.numpy.load_file(file).items()}
    os.utime(file)
    safetensors.numpy.save_file(weights, file)
    second = step.capture(Watched(folder, tmp_path / "cache"))
    assert second.program.digest != first.program.digest
