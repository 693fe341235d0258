"""Names from elsewhere, before they become paths."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agent.errors import VerificationError
from agent.names import MOST_LENGTH, check_distinct, check_part, check_path

REFUSED = {
    "empty": "",
    "absolute": "/etc/passwd",
    "upwards": "../a",
    "upwards inside": "a/../../b",
    "itself": "./a",
    "a dot": ".",
    "hidden": ".ssh/id",
    "an empty part": "a//b",
    "a folder": "a/",
    "too deep": "a/b/c/d/e",
    "too long": "a" * (MOST_LENGTH + 1),
    "backslash": "a\\b",
    "drive": "C:a",
    "stream": "a:b",
    "null": "a\0b",
    "new line": "a\n",
    "control": "a\x1b[2J",
    "blank": "a b",
    "dot at the end": "a.",
    "option": "-rf",
    "option below": "a/-rf",
    "device": "con",
    "device with an ending": "a/LPT1.txt",
    "letters that look alike": "model.b\u0456n",
    "right to left": "a\u202eb",
    "half a character": "\ud800",
    "wide full stop": "\uff0e\uff0e/a",
    "digits of another script": "\u0661",
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_path_that_could_lead_elsewhere_is_refused(name: str) -> None:
    with pytest.raises(VerificationError, match="is not one that a release may hold"):
        check_path(REFUSED[name])


@pytest.mark.parametrize("name", ["a", "a/b/c/d", "model.onnx", "1.0.0+a", "best@01", "x=1", "_a"])
def test_a_plain_path_is_taken(name: str) -> None:
    assert check_path(name).as_posix() == name


def test_a_part_is_one_name() -> None:
    assert check_part("net") == "net"
    with pytest.raises(VerificationError):
        check_part("net/other")


@pytest.mark.parametrize(
    "names",
    [("a", "a"), ("a", "A"), ("a/b", "A/B"), ("a", "a/b"), ("A/b", "a"), ("a/b/c", "a/B")],
)
def test_paths_that_are_one_on_some_file_system_are_refused(names: tuple[str, ...]) -> None:
    for order in (names, names[::-1]):
        with pytest.raises(VerificationError, match="twice, or is a folder"):
            check_distinct(order)


def test_paths_that_differ_are_taken() -> None:
    check_distinct(["a/b", "a/c", "b", "c/a/b"])


@given(st.text(max_size=30) | st.from_regex(r"[./a\\-]{0,12}", fullmatch=True))
@example("a/../b")
def test_whatever_is_taken_stays_in_its_folder(name: str) -> None:
    try:
        found = check_path(name)
    except VerificationError:
        return
    root = Path("/slot")
    assert os.path.normpath(root / found) == f"/slot/{name}"
    assert name.isascii()
    assert name.isprintable()
