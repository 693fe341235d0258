"""What `sdk fit` writes, says and exits with, for each way that its fits were judged.

The measuring takes a quarter of an hour, and tests/test_fit_run.py does some of it for real; here
its outcome is given.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import sdk.steps.fit
from agent.identity import fingerprint
from profiles import Fitted, parse
from sdk.cli.app import run
from sdk.detect import detect
from sdk.fit_judgement import Judged
from targets import target


def _block(toolchain: str) -> Fitted:
    return Fitted(
        toolchain=toolchain, engine="cpu", ms={"request": 1.0}, kinds=("f32",), rows=900,
        held_out=90, error=0.12, low=0.9, high=1.1, date="2026-11-21", device="ab", tools={},
    )  # fmt: skip


def _used(toolchain: str) -> Judged:
    return Judged(
        toolchain=toolchain, engine="cpu", used=True, reason="better", rows=900, held_out=90,
        error=0.12, error_before=0.54, before="data sheet", errors_before={"data sheet": 0.54},
        block=_block(toolchain),
    )  # fmt: skip


def _refused(toolchain: str) -> Judged:
    return Judged(
        toolchain=toolchain, engine="cpu", used=False, reason="no better", rows=900, held_out=90,
        error=0.31, error_before=0.24, before="earlier fit", errors_before={"earlier fit": 0.24},
        kept="earlier fit",
    )  # fmt: skip


def _host_target() -> str:
    arch = fingerprint().identity["arch"]
    return next(name for name in ("intel", "linux-arm") if arch == target(name).HOST_ARCH)


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> list[Judged]:
    """What the measuring will say."""
    outcome: list[Judged] = []
    monkeypatch.setattr(sdk.steps.fit, "fit_profile", lambda *_, **__: tuple(outcome))
    return outcome


@pytest.mark.slow
def test_a_fit_that_is_better_is_kept_and_another_is_named(
    judged: list[Judged], capsys: Any, tmp_path: Path
) -> None:
    judged += [_refused("onnxruntime"), _used("openvino")]
    out = tmp_path / "mine.toml"
    assert run(["fit", "--target", _host_target(), "--out", str(out)]) == 0
    told = capsys.readouterr()
    assert "warning: onnxruntime on cpu: the new fit is off by 31 %" in told.err
    assert "--fresh --toolchain onnxruntime" in told.err
    assert "openvino on cpu: the new fit is off by 12 %" in told.err
    assert "onnxruntime on cpu" not in told.out
    assert [entry.toolchain for entry in detect(_host_target()).fitted] == ["openvino"]
    assert parse(out.read_text(), str(out)).fitted == (_block("openvino"),)


@pytest.mark.slow
def test_where_no_fit_is_better_nothing_is_written(
    judged: list[Judged], capsys: Any, tmp_path: Path
) -> None:
    before = detect(_host_target())
    judged += [_refused("onnxruntime"), _refused("openvino")]
    out = tmp_path / "mine.toml"
    assert run(["fit", "--target", _host_target(), "--out", str(out), "--json"]) == 3
    told = capsys.readouterr()
    assert "error: None of 2 new fits is used: nothing is written." in told.err
    found = json.loads(told.out)
    assert [
        (e["toolchain"], e["error"], e["error_before"], e["used"], e["reason"]) for e in found
    ] == [
        ("onnxruntime", 0.31, 0.24, False, "no better"),
        ("openvino", 0.31, 0.24, False, "no better"),
    ]
    assert not out.exists()
    assert detect(_host_target()) == before
