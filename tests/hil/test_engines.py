"""Engines that rigs build: once per software, told as it goes, timed for the next rig of the kind.

The builder is the stand-in for trtexec of tests/test_tensorrt_build.py: no engine is built here.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.errors import ToolchainError
from hil import engines
from hil.rig import Rig
from tests.hil.conftest import Started
from tests.test_tensorrt_build import StandIn, variant

pytestmark = pytest.mark.device


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return StandIn(folder)


@pytest.fixture
def onnx(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"a graph")
    return path


def test_an_engine_is_built_once_and_what_was_timed_goes_to_the_next_rig_of_the_kind(
    started: Started, stand_in: StandIn, onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, timed, told = variant(tmp_path, onnx), tmp_path / "timed", list[str]()

    def board(name: str) -> Rig:
        monkeypatch.setenv("SLIPWAY_CACHE", str(tmp_path / name / "cache"))
        rig = started(folder=tmp_path / name)
        rig.lease("a test", told.append, wait_s=5)
        return rig

    first = board("first")
    assert engines.prepare(first, folder, timed, told.append) is True
    assert engines.prepare(first, folder, timed, told.append) is False, "it is there"
    (kept,) = timed.iterdir()
    assert kept.read_bytes() == b"timed here;"
    assert any("builds the engine of model/test/tensorrt-gpu-f32" in line for line in told)

    assert engines.prepare(board("second"), folder, timed, told.append) is True
    assert [path.read_bytes() for path in timed.iterdir()] == [b"timed here;timed here;"]
    assert len(stand_in.calls()) == 2


def test_a_build_that_fails_says_what_the_builder_said(
    started: Started, stand_in: StandIn, onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLIPWAY_CACHE", str(tmp_path / "cache"))
    folder = variant(tmp_path, onnx)
    rig = started()
    rig.lease("a test", print, wait_s=5)
    stand_in.behave("refuses")
    with pytest.raises(ToolchainError, match="no importer for operator Foo"):
        engines.prepare(rig, folder, tmp_path / "timed", print)
    assert not (tmp_path / "timed").exists()
    stand_in.behave("works")
    assert engines.prepare(rig, folder, tmp_path / "timed", print) is True


def test_a_rig_without_a_builder_says_so(
    started: Started, onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLIPWAY_CACHE", str(tmp_path / "cache"))
    rig = started()
    rig.lease("a test", print, wait_s=5)
    with pytest.raises(ToolchainError, match="this machine has no TensorRT"):
        engines.prepare(rig, variant(tmp_path, onnx), tmp_path / "timed", print)
