"""`sdk fit --reports` and `sdk profiles diff`, as they are typed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agent.errors import LimitError, UsageError
from agent.folders import data_folder
from profiles import find
from sdk.catalog import Catalog
from sdk.cli.app import run
from sdk.learning.records import FILE_NAME, SCHEMA, Measured, Reports, reports_bytes
from sdk.project import profile_folders
from tests.learning.worlds import DEVICE, F32, OTHER, program, true_ms


def written(folder: Path, number: int, **change: Any) -> Path:
    """A build's folder with its reports: the model takes twice what the profile says."""
    measured = Measured(
        identifier="net/n100/openvino-f32", profile="n100", recipe=F32,
        ms=true_ms(program(number)), stable=True, notes=(),
    )  # fmt: skip
    values = {
        "schema": SCHEMA, "model": f"net-{number}", "device": "bench", "fingerprint": DEVICE,
        "program": program(number), "measured": (measured,), **change,
    }  # fmt: skip
    place = folder / f"net-{number}"
    place.mkdir(parents=True)
    (place / FILE_NAME).write_bytes(reports_bytes(Reports(**values)))
    return place


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    for name in ("CONFIG", "DATA"):
        monkeypatch.setenv(f"SLIPWAY_{name}", str(tmp_path / name.lower()))
    return [word for n in range(4) for word in ("--reports", str(written(tmp_path, n)))]


def test_reports_are_told_refused_and_written_to_a_copy(
    folders: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    strange = written(tmp_path / "strange", 9, device="bench-2", fingerprint=OTHER)
    command = ["fit", "--profile", "n100", *folders, "--reports", str(strange)]
    assert run([*command, "--dry-run"]) == 0
    said = capsys.readouterr()
    assert "1 -> 2" in said.out
    assert "4 of 5 reports count" in said.err
    assert "refused: bench-2 is another device: identity.soc is 'Intel(R) N200'" in said.err
    assert find("n100", profile_folders(tmp_path)).scales == ()
    assert run([*command, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    (entry,) = told["learnt"]
    assert (entry["used"], entry["models"], entry["missing"]) == (True, 4, 0)
    assert entry["new"]["error"] < 0.05 < entry["error_now"]
    (scale,) = find("n100", profile_folders(tmp_path)).scales
    assert (scale.reports, scale.devices) == (4, 1)


def test_old_and_new_stand_side_by_side(
    folders: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "board.toml"
    for count in (6, 8):
        command = ["fit", "--profile", "n100", *folders[:count]]
        assert run([*command, "--out", str(copy)]) == 0
    capsys.readouterr()
    assert run(["profiles", "diff", f"{copy}.old", str(copy), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["differences"]
    assert {"path": "fitted.openvino.cpu.scale.models", "left": "3", "right": "4"} in told
    assert not [entry for entry in told if not entry["path"].startswith("fitted.")]
    assert run(["profiles", "diff", "n100", str(copy)]) == 0
    assert "fitted.openvino.cpu.scale.date" in capsys.readouterr().out
    assert run(["profiles", "diff", "n100", "n100"]) == 0
    assert capsys.readouterr().out == "no difference\n"


def test_the_catalog_keeps_reports_and_says_which_are_missing(
    folders: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["fit", "--profile", "n100", "--reports", "catalog", "--dry-run"]
    assert run(command) == LimitError.exit_code
    assert "Nothing new was learnt" in capsys.readouterr().err
    content = (Path(folders[1]) / FILE_NAME).read_bytes()
    for _ in range(2):
        Catalog(data_folder()).keep_reports(content, program(0).digest)
    assert run(command) == 0
    assert "1 report of 1 model" in (told := capsys.readouterr().out)
    assert "2 more models would tell an interval (3 are needed)" in told


@pytest.mark.parametrize("content", ["", "{}", '{"schema": 2}', '{"schema": 1}', "[1]"])
def test_what_is_no_report_is_refused(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("reports.json", "measurements.jsonl"):
        file = tmp_path / name
        file.write_text(content or "\n")
        command = ["fit", "--profile", "n100", "--reports", str(file)]
        assert run(command) == UsageError.exit_code
        assert name in capsys.readouterr().err
    assert run([*command[:-1], str(tmp_path / "gone")]) == UsageError.exit_code
