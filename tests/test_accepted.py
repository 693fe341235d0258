"""What a build says of the one that was accepted before it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from agent.errors import LimitError
from sdk.accepted import accept, with_regressions
from sdk.summary import Summary
from tests import summaries
from tests.test_comparison import ELSEWHERE, NAME


def build(p50: float = 1.0, drop: float = 0.004, **changes: Any) -> Summary:
    candidate = summaries.measured(NAME, p50, drop, role="chosen", **changes)
    return summaries.summary(summaries.profile("intel-host", [candidate], NAME))


def note(old: Summary, new: Summary, folder: Path) -> str:
    accept(old, folder)
    (result,) = with_regressions(new, folder).results
    return result.notes[-1]


def test_without_an_accepted_build_nothing_is_said(tmp_path: Path) -> None:
    found = build()
    assert with_regressions(found, tmp_path) == found


CASES: dict[str, tuple[Summary, str]] = {
    "the same": (build(), "no worse than the build accepted of"),
    "a little slower": (build(1.05), "no worse than the build accepted of"),
    "slower": (build(1.5), "slower, p50 1 -> 1.5 ms"),
    "faster": (build(0.5), "no worse than"),
    "less accurate": (build(drop=0.1), "worse, drop 0.40 -> 10.00 %"),
    "larger": (build(size_bytes=40 << 20), "larger, size 12 -> 40 MiB"),
    "elsewhere": (dataclasses.replace(build(2.0), host=ELSEWHERE), "as far as they compare"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_later_build_tells_what_got_worse(name: str, tmp_path: Path) -> None:
    new, telling = CASES[name]
    assert telling in note(build(), new, tmp_path)


def test_a_verdict_that_fell_is_told(tmp_path: Path) -> None:
    old = build()
    worse = dataclasses.replace(
        old, results=(dataclasses.replace(old.results[0], verdict="unmet", selected=None),)
    )
    assert "unmet, was" in note(old, worse, tmp_path)


def test_what_has_no_variant_is_not_accepted(tmp_path: Path) -> None:
    old = build()
    none = dataclasses.replace(old.results[0], verdict="unmet", selected=None)
    with pytest.raises(LimitError, match="has no variant to accept"):
        accept(dataclasses.replace(old, results=(none,)), tmp_path)


def test_a_spoilt_record_counts_as_none(tmp_path: Path) -> None:
    found = build()
    accept(found, tmp_path)
    (file,) = tmp_path.rglob("*.json")
    file.write_bytes(b"{")
    assert with_regressions(found, tmp_path) == found
