"""A build that compiles here and proves on a rig: a real SSH server, a real runtime."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from agent.errors import UsageError, to_record
from agent.folders import cache_folder
from agent.tensors import read_tensors, write_tensors
from hil.outcome import WrongAnswerError
from sdk import api
from sdk.assign import find_profile
from sdk.learning.gather import gather
from sdk.learning.records import FILE_NAME, parse_reports
from sdk.learning.scales import learn
from sdk.on_rig import verify_on
from sdk.rigs import reached
from sdk.summary import Summary
from tests.hil.conftest import Loopback
from tests.test_build import onnx_project

pytestmark = [pytest.mark.toolchain, pytest.mark.device]
SCORE = (
    "\n\ndef score(session, split):\n"
    "    return [float((session.run(x)['y'] >= 0).mean()) for _, x, _ in split]\n"
)


@pytest.fixture
def known(runtime: Loopback, reachable: Loopback) -> Loopback:
    """It has the runtime, and its key is known."""
    assert runtime is reachable
    return reachable


def _built(project: Path, rig: Loopback, out: Path, told: list[str] | None = None) -> Summary:
    return api.build(
        project, targets=["intel"], profiles=["host"], out=out, rig="loopback",
        inventory=rig.inventory_file,
        on_event=lambda event: (told if told is not None else []).append(event.message),
    )  # fmt: skip


@pytest.mark.long
def test_what_is_compiled_here_is_proven_there_and_kept(known: Loopback, tmp_path: Path) -> None:
    project, told = onnx_project(tmp_path / "project"), list[str]()
    (found,) = _built(project, known, tmp_path / "out", told).results
    assert (found.verdict, found.selected_by) == ("met", "measured")
    measured = [one for one in found.candidates if one.latency_ms is not None]
    assert len(measured) >= 2
    assert any("on loopback" in line for line in told)
    file = tmp_path / "out/net" / FILE_NAME
    kept = parse_reports(file.read_bytes(), str(file))
    assert (kept.device, len(kept.measured)) == ("loopback", len(measured))
    assert len(kept.program.costs) == 2, "a product and what is fused into it"
    timed = [one for one in measured if one.operators]
    assert {one.role for one in timed} >= {"chosen"}, "where its time goes on the rig"
    assert any("timing the operators" in line and "on loopback" in line for line in told)
    host = find_profile("intel", "host", project, cache_folder())
    reported = gather(kept.sightings(), host, unstable=True)
    assert not reported.refused, "the rig is this machine"
    learnt = learn(reported.observations, host, "2026-11-22")
    assert {one.toolchain for one in learnt if one.used} >= {"onnxruntime", "openvino"}
    again: list[str] = []
    _built(project, known, tmp_path / "out", again)
    assert not [line for line in again if "running" in line], "what was answered is kept"
    golden = next((tmp_path / "out").glob("**/golden.safetensors"))
    tensors = read_tensors(golden)
    golden.unlink()
    write_tensors(golden, ((name, -1 - array) for name, array in tensors.items()))
    (chosen,) = (tmp_path / "out").glob("**/chosen")
    with (
        reached("loopback", known.inventory_file, print, what="a test") as rig,
        pytest.raises(WrongAnswerError) as caught,
    ):
        verify_on(rig, chosen, tmp_path / "timed", told.append)
    assert caught.value.outcome == "wrong_answer"
    assert to_record(caught.value)["kind"] == "VerificationError", "its exit code crosses borders"


@pytest.mark.long
def test_a_score_function_is_given_what_the_rig_answered(known: Loopback, tmp_path: Path) -> None:
    project = onnx_project(tmp_path / "project")
    data, toml = project / "data.py", project / "sdk.toml"
    data.write_text(data.read_text() + SCORE)
    toml.write_text(toml.read_text() + 'score = "data.py:score"\n')
    (found,) = _built(project, known, tmp_path / "out").results
    assert found.verdict == "met"
    data.write_text(data.read_text().replace("session.run(x)", "session.run({'x': x['x'] * 2})"))
    (found,) = _built(project, known, tmp_path / "other").results
    assert found.verdict != "met"
    assert all("no sample's" in one.reason for one in found.candidates if one.status == "failed")


def test_a_rig_that_is_another_device_is_refused(known: Loopback, tmp_path: Path) -> None:
    project = onnx_project(tmp_path / "project")
    with pytest.raises(UsageError, match="is no n100"):
        api.build(
            project, targets=["intel"], profiles=["n100"], out=tmp_path / "out", rig="loopback",
            inventory=known.inventory_file,
        )  # fmt: skip
    with pytest.raises(UsageError, match="one device"):
        api.build(
            project, targets=["intel", "mobile"], out=tmp_path / "out", rig="loopback",
            inventory=known.inventory_file,
        )  # fmt: skip


@pytest.mark.long
def test_what_fails_there_has_its_log_beside_the_result_and_the_rig_is_put_aside(
    tmp_path: Path,
) -> None:
    rig, inventory = tmp_path / "rig", tmp_path / "hil.toml"
    inventory.write_text(
        '[rig.loopback]\ndriver = "command"\ncommand = ["env"]\n'
        f'python = "{sys.executable}"\nfolder = "{rig}"\n'
    )
    own = rig / "venv" / "bin" / "python"  # works once, for the look that the build begins with
    own.parent.mkdir(parents=True)
    own.write_text(
        f'#!/bin/sh\nif [ -e "{rig}/once" ]; then echo "no driver"; exit 7; fi\n'
        f'touch "{rig}/once"\nexec {sys.executable} "$@"\n'
    )
    own.chmod(0o755)
    told: list[str] = []
    (found,) = api.build(
        onnx_project(tmp_path / "project"), targets=["intel"], profiles=["host"],
        out=tmp_path / "out", rig="loopback", inventory=inventory,
        on_event=lambda event: told.append(event.message),
    ).results  # fmt: skip
    failed = [one for one in found.candidates if "[crashed]" in (one.reason or "")]
    assert failed
    logs = list((tmp_path / "out").glob("*/logs/*.log")) or list(
        (tmp_path / "out").glob("**/*.log")
    )
    assert len(logs) >= len(failed)
    assert all("no driver" in log.read_text() for log in logs)
    assert any("is put aside" in line for line in told)
    assert "exit status 7" in (rig / "lease" / "aside.json").read_text()
