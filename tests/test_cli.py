"""The command line without any toolchain: help, names, mistakes and their exit codes."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from profiles import PACKAGE_FOLDER
from sdk.cli.app import run
from tests.projects import write_project

sys.path.insert(0, str(Path(__file__).parent.parent / "docs"))
from tables import VERBS


def sdk(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sdk", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env={**os.environ, "NO_COLOR": "1"},
    )


@pytest.mark.parametrize("verb", VERBS)
def test_help_ends_with_an_example_of_that_verb(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*verb.split(), "--help"]) == 0
    lines = capsys.readouterr().out.split("Example: ")
    assert len(lines) == 2, "help has one example, at its end"
    example = shlex.split(lines[1].replace("\n", " "))
    assert example[: 1 + len(verb.split())] == ["sdk", *verb.split()]


def test_every_verb_is_in_the_documented_list(capsys: pytest.CaptureFixture[str]) -> None:
    run(["--help"])
    text = capsys.readouterr().out.split("Commands:")[1]
    verbs = {
        line.split()[0] for line in text.splitlines() if line.startswith("  ") and line[2] != " "
    }
    verbs.discard("Example:")
    assert verbs == {verb.split()[0] for verb in VERBS}


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from sdk.cli.app import run; run(['--help']);"
        "print(sorted({'numpy', 'torch', 'rich.table', 'jinja2', 'sqlite_utils', 'profiles'}"
        " & set(sys.modules)), file=sys.stderr)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stderr.strip() in ("[]", "['profiles']")


MISTAKES: dict[str, tuple[list[str], int, str]] = {
    "an unknown verb": (["biuld"], 2, "biuld"),
    "an unknown option": (["build", "--fast"], 2, "--fast"),
    "no project": (["build", "nowhere"], 2, "sdk init"),
    "an unknown target": (["build", "good", "--target", "intle"], 2, "Did you mean 'intel'?"),
    "an unknown profile": (
        ["build", "good", "--target", "intel", "--profile", "core-ultra"],
        2,
        "core-ultra-155h",
    ),
    "a profile of another target": (
        ["build", "good", "--target", "intel", "--profile", "intel=a17-pro"],
        2,
        "belongs to mobile",
    ),
    "a target that is not built": (
        ["build", "good", "--target", "intel", "--profile", "mobile=a17-pro"],
        2,
        "--target mobile",
    ),
    "a profile whose target is not built": (
        ["build", "good", "--target", "jetson", "--profile", "raspberry-pi-5"],
        2,
        "--target linux-arm",
    ),
    "an unknown limit": (["build", "good", "--limit", "latency=3"], 2, "latency_p50_ms"),
    "a limit without a value": (["build", "good", "--limit", "size_mib"], 2, "size_mib=10"),
    "a limit that is a word": (["build", "good", "--limit", "size_mib=big"], 2, "but is 'big'"),
    "no jobs": (["build", "good", "--jobs", "0"], 2, "--jobs"),
    "a folder that holds no variant": (["bench", "good"], 2, "holds no variant"),
    "a profile that is not there": (["profiles", "show", "pixel"], 2, "known are"),
}


@pytest.mark.parametrize(("arguments", "code", "answer"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_has_an_answer_and_a_code(
    arguments: list[str], code: int, answer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    write_project(tmp_path / "good")
    monkeypatch.chdir(tmp_path)
    assert run([*arguments, "--dry-run"] if arguments[0] == "build" else arguments) == code
    said = capsys.readouterr().err
    assert answer in said
    assert "Traceback" not in said


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--debug", "build", "nowhere"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_bug_keeps_its_traceback_in_a_file_and_has_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> None:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr("targets.target_names", broken)
    assert run(["targets"]) == 1
    said = capsys.readouterr().err
    assert "bug in Slipway" in said
    kept = Path(said.split("The traceback is in ")[1].split(";")[0])
    assert "ZeroDivisionError: ours" in kept.read_text()
    kept.unlink()


def test_ctrl_c_has_code_130_and_says_that_the_next_run_resumes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("targets.target_names", interrupted)
    assert run(["targets"]) == 130
    assert "interrupted; the next run resumes" in capsys.readouterr().err


def test_dry_run_prints_the_candidates_and_builds_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_project(tmp_path / "good")
    arguments = ["build", str(folder), "--profile", "core-ultra-155h", "--dry-run", "--json"]
    assert run([*arguments, "--out", str(tmp_path / "out")]) == 0
    planned = json.loads(capsys.readouterr().out)
    identifiers = [entry["identifier"] for entry in planned]
    assert len(identifiers) == len(set(identifiers)) >= 8
    assert all(name.startswith("tiny/core-ultra-155h/") for name in identifiers)
    assert not (tmp_path / "out").exists()


def test_a_profile_of_the_projects_own_is_found_from_anywhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_project(tmp_path / "good")
    shipped = (PACKAGE_FOLDER / "linux-arm" / "raspberry-pi-5.toml").read_text(encoding="utf-8")
    own = shipped.replace('name = "raspberry-pi-5"', 'name = "my-board"')
    (folder / "profiles").mkdir()
    (folder / "profiles" / "my-board.toml").write_text(own, encoding="utf-8")
    build = ["build", str(folder), "--target", "linux-arm", "--profile", "my-board", "--dry-run"]
    assert run(build) == 0
    assert "tiny/my-board/onnxruntime-f32" in capsys.readouterr().out


def test_without_data_static_int8_is_refused_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_project(tmp_path / "bare", model="no_data")
    run(["build", str(folder), "--profile", "core-ultra-155h", "--dry-run", "--json"])
    planned = json.loads(capsys.readouterr().out)
    refused = [e for e in planned if "-int8-" in e["identifier"] and e["refused"]]
    assert any("calibrate" in entry["refused"] for entry in refused)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        *(
            (["--budget", bad], "a time above zero")
            for bad in ("0", "-5", "abc", "5m30", "nan", "")
        ),
        (["--objective", "fast"], "no objective 'fast'"),
        (["--speed", "--accuracy"], "both given"),
    ],
)
def test_a_dry_run_checks_what_the_build_would(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_project(tmp_path / "good")
    assert run(["build", str(folder), "-p", "core-ultra-155h", "--dry-run", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_a_dry_run_of_a_search_lists_its_first_heat(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_project(tmp_path / "good")
    told = {}
    for more in ((), ("--objective", "size"), ("--budget", "5m")):
        assert run(["build", str(folder), "-p", "host", "-t", "intel", "--dry-run", *more]) == 0
        found = capsys.readouterr()
        told[more] = {line.split("/")[2].split("  ")[0] for line in found.out.splitlines()}
    assert "the first heat" in found.err
    plain, small, searched = told.values()
    assert any("-weights-" in name for name in small - plain)
    assert any(name.startswith("aotinductor") for name in searched - plain)


def test_init_writes_a_project_once_and_replaces_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "My Model"
    assert run(["init", str(folder)]) == 0
    assert 'name = "my-model"' in (folder / "sdk.toml").read_text()
    assert run(["build", str(folder), "--profile", "core-ultra-155h", "--dry-run"]) == 0
    (folder / "model.py").write_text("mine")
    assert run(["init", str(folder)]) == 2
    assert (folder / "model.py").read_text() == "mine"
    assert "already has" in capsys.readouterr().err


def test_json_of_the_looking_verbs_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["doctor"], ["targets"], ["profiles", "list"], ["history"]):
        assert run([*arguments, "--json"]) == 0
        assert json.loads(capsys.readouterr().out) is not None


@pytest.mark.slow
def test_a_detected_profile_can_be_used_as_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_project(tmp_path / "good")
    monkeypatch.chdir(folder)
    assert run(["profiles", "detect", "--out", "profiles/my-desk.toml"]) == 0
    assert run(["profiles", "show", "my-desk"]) == 0
    assert run(["build", "--profile", "my-desk", "--dry-run"]) == 0
    assert "tiny/my-desk/" in capsys.readouterr().out


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("slipway-sdk 0.1.0")


def test_python_3_10_is_answered_with_what_is_needed() -> None:
    found = sdk("--version")
    assert found.returncode == 0
    code = "import sys; sys.version_info = (3, 10, 4); from sdk.cli import main; main()"
    old = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert old.returncode == 2
    assert "3.11 or newer, this is 3.10" in old.stderr


def test_where_only_the_agent_is_installed_sdk_says_what_to_install() -> None:
    code = "import sys; sys.modules['typer'] = None; from sdk.cli import main; main()"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert found.returncode == 2
    assert "needs the package typer" in found.stderr
    assert "Traceback" not in found.stderr
