"""A user's own score: what is said of one that is noisy."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdk import api
from sdk.scoring import noise_of_scores
from tests.test_build import onnx_project

SCORES = st.lists(st.floats(0.1, 100), min_size=1, max_size=20)


@given(SCORES)
def test_the_same_scores_twice_are_no_noise(scores: list[float]) -> None:
    assert noise_of_scores(scores, list(scores)) == ""
    assert noise_of_scores(scores, [score * (1 + 1e-7) for score in scores]) == ""


@given(SCORES, st.floats(0.01, 0.5))
def test_scores_that_differ_are_told_by_how_much(scores: list[float], share: float) -> None:
    told = noise_of_scores(scores, [score * (1 + share) for score in scores])
    (percent,) = re.findall(r"differ by (\S+) %", told)
    assert float(percent) == pytest.approx(100 * share, rel=0.06)  # two digits are told


def test_without_samples_there_is_nothing_to_say() -> None:
    assert noise_of_scores([], []) == ""


@pytest.mark.toolchain
def test_a_build_says_that_its_score_is_noisy(tmp_path: Path) -> None:
    project = onnx_project(tmp_path / "project")
    (project / "score.py").write_text(
        "import random\n\n\ndef score(session, split):\n"
        "    return [1 + random.random() for _ in split]\n"
    )
    with (project / "sdk.toml").open("a") as stream:
        stream.write('score = "score.py:score"\n')
    summary = api.build(
        project, targets=["intel"], profiles=["core-ultra-155h"], out=tmp_path / "out"
    )
    assert "noisy" in summary.accuracy_note
