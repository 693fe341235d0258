"""Counting starts, and falling back where neither the agent nor its journal can help."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import agent.shim
from agent.shim import TRIAL, count_start, forget_starts, is_on_trial, starts_of

MODEL = "net"
_ISOLATED = """
import importlib.util, sys

class OnlyStandard:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in sys.stdlib_module_names:
            raise ImportError(f"{name} is not of the standard library")

sys.meta_path.insert(0, OnlyStandard())
spec = importlib.util.spec_from_file_location("shim", sys.argv[1])
shim = importlib.util.module_from_spec(spec)
spec.loader.exec_module(shim)
from pathlib import Path
shim.main(Path(sys.argv[2]), sys.argv[3], sys.argv[4:])
"""


def on_trial(state: Path, **changes: object) -> Path:
    """A model whose slot B is on trial."""
    model = state / "models" / MODEL
    for slot in "AB":
        (model / slot).mkdir(parents=True)
        (model / slot / "manifest.json").write_text("{}")
    (model / "current").symlink_to("B")
    (model / TRIAL).write_text(
        json.dumps({"slot": "B", "old": "A", "starts": 0, "most": 3, **changes})
    )
    return model


def current(model: Path) -> str:
    return str((model / "current").readlink())


def test_after_three_starts_without_a_good_run_the_fourth_falls_back(tmp_path: Path) -> None:
    model = on_trial(tmp_path)
    for starts in (1, 2, 3):
        assert count_start(model) is None
        assert starts_of(model) == starts
        assert current(model) == "B"
    assert count_start(model) == "3 starts and no good word: back to slot A"
    assert current(model) == "A"
    assert count_start(model) is None, "what runs now is not on trial"
    assert not is_on_trial(model)


def test_a_good_run_forgets_the_starts_before_it(tmp_path: Path) -> None:
    model = on_trial(tmp_path)
    for _ in range(4):
        assert count_start(model) is None
        assert count_start(model) is None
        forget_starts(model)
        assert starts_of(model) == 0
    assert current(model) == "B"


NOWHERE = [
    ("nothing worked before", {"old": None}),
    ("the old slot is incomplete", {"old": "A"}),
]


@pytest.mark.parametrize("case", NOWHERE, ids=[case[0] for case in NOWHERE])
def test_where_there_is_nothing_to_fall_back_to_it_stays(
    tmp_path: Path, case: tuple[str, dict]
) -> None:
    model = on_trial(tmp_path, **case[1])
    (model / "A" / "manifest.json").unlink()
    for _ in range(9):
        count_start(model)
    assert current(model) == "B"
    assert starts_of(model) == 9


MALFORMED = [
    b"",
    b"[]",
    b"null",
    b'{"slot": "B"}',
    b'{"slot": "../x", "old": "A", "starts": 0, "most": 3}',
    b'{"slot": "B", "old": "/etc", "starts": 9, "most": 3}',
    b'{"slot": "B", "old": ["A"], "starts": 9, "most": 3}',
    b'{"slot": "B", "old": "A", "starts": "many", "most": 3}',
    b'{"slot": "B", "old": "A", "starts": 1e999, "most": 3}',
    b"\xff\xfe",
    b"[" * 100_000,
]


@pytest.mark.parametrize("content", MALFORMED)
def test_a_file_that_makes_no_sense_counts_nothing(tmp_path: Path, content: bytes) -> None:
    model = on_trial(tmp_path)
    (model / TRIAL).write_bytes(content)
    assert count_start(model) is None
    forget_starts(model)
    assert (model / TRIAL).read_bytes() == content
    assert current(model) == "B"


def test_without_a_trial_nothing_is_counted_or_made(tmp_path: Path) -> None:
    assert count_start(tmp_path / "models" / MODEL) is None
    assert list(tmp_path.iterdir()) == []


def isolated(state: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """The shim alone, in a Python that can import nothing beside the standard library."""
    shim = agent.shim.__file__
    return subprocess.run(
        [sys.executable, "-I", "-S", "-c", _ISOLATED, shim, str(state), MODEL, *command],
        capture_output=True, text=True, check=False, timeout=60, cwd=state,
    )  # fmt: skip


def test_it_needs_the_standard_library_alone_and_becomes_the_command(tmp_path: Path) -> None:
    model = on_trial(tmp_path)
    code = "import os; print(os.environ['SLIPWAY_MODEL'], os.getpid()); raise SystemExit(5)"
    done = isolated(tmp_path, sys.executable, "-c", code)
    assert done.returncode == 5, done.stderr
    assert done.stdout.split()[0] == str(model / "current")
    assert starts_of(model) == 1
    for _ in range(3):
        done = isolated(tmp_path, sys.executable, "-c", "raise SystemExit(1)")
        assert done.returncode == 1
    assert "back to slot A" in done.stderr
    assert current(model) == "A"


ENDS = [
    ("there is no such command", "no-such-command", 127),
    ("it may not be run", "/etc/passwd", 126),
]


@pytest.mark.parametrize(("command", "code"), [case[1:] for case in ENDS], ids=[c[0] for c in ENDS])
def test_a_command_that_cannot_be_run_ends_as_a_shell_says_it(
    tmp_path: Path, command: str, code: int
) -> None:
    on_trial(tmp_path)
    done = isolated(tmp_path, command)
    assert done.returncode == code
    assert command in done.stderr
    assert "Traceback" not in done.stderr
