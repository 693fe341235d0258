"""The rules of the comparison with rivals: who counts, with which latency, and what is written."""

from __future__ import annotations

import dataclasses
import math
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import sessions
from agent.codec import decode, pretty
from benchmarks.rivals.contestant import extend
from benchmarks.rivals.figures import (
    AGAIN,
    OURS,
    Entry,
    Model,
    against_each,
    geometric_mean,
    held,
    near,
    over_limit,
    own_ms,
    single,
    solved,
    within,
)

POSITIVE = st.floats(1e-3, 1e3)


def entry(p50_ms: float | None, *, kept: bool = True, drop: float | None = 0.0) -> Entry:
    return Entry(p50_ms=p50_ms, within=kept and p50_ms is not None, drop=drop)


def model(entries: dict[str, Entry], *, repeats: tuple[dict[str, float], ...] = ()) -> Model:
    return Model(
        name="net",
        told="a net",
        metric="top1",
        limit=0.01,
        trap=True,
        alike=0.1,
        entries=entries,
        repeats=repeats,
        chosen="openvino-int8",
        precision="int8",
        verdict="met",
        search={"budget_s": 60, "spent_s": 40.0, "near_s": 20.0, "candidates": 9, "untried": 0},
    )


NET = model(
    {
        OURS: entry(1.0),
        AGAIN: entry(1.0),
        "torch eager": entry(8.0),
        "OpenVINO f32": entry(4.0),
        "NNCF int8": entry(0.5, kept=False, drop=0.3),
        "ONNX Runtime": entry(2.0),
        "ExecuTorch": entry(None),
    }
)


@given(st.lists(POSITIVE, min_size=1, max_size=20))
def test_a_geometric_mean_lies_between_the_least_and_the_greatest(values: list[float]) -> None:
    assert min(values) * (1 - 1e-9) <= geometric_mean(values) <= max(values) * (1 + 1e-9)


@given(POSITIVE, POSITIVE)
def test_turning_a_ratio_round_turns_the_geometric_mean_round(a: float, b: float) -> None:
    assert geometric_mean([a, b]) * geometric_mean([1 / a, 1 / b]) == pytest.approx(1.0)


def test_only_rivals_within_the_limit_count_and_the_fastest_comes_first() -> None:
    assert within(NET) == ["ONNX Runtime", "OpenVINO f32", "torch eager"]


@pytest.mark.parametrize(
    ("rival", "fallback", "counted"),
    [
        pytest.param("ONNX Runtime", "ONNX Runtime", (2.0, "ONNX Runtime"), id="within"),
        pytest.param("NNCF int8", "OpenVINO f32", (4.0, "OpenVINO f32"), id="over: own f32"),
        pytest.param("ExecuTorch", "ExecuTorch", (8.0, "torch eager"), id="no file: torch eager"),
        pytest.param("Olive", "ONNX Runtime", (8.0, "torch eager"), id="never made: torch eager"),
        pytest.param("NNCF int8", "ExecuTorch", (8.0, "torch eager"), id="over, and no f32"),
    ],
)
def test_a_single_rival_counts_with(rival: str, fallback: str, counted: tuple[float, str]) -> None:
    assert single(NET, rival, fallback) == counted


def test_against_each_is_the_geometric_mean_over_all_models() -> None:
    slow = dataclasses.replace(NET, entries={**NET.entries, "ONNX Runtime": entry(8.0)})
    found = against_each([NET, slow], {"ONNX Runtime": "ONNX Runtime"})
    assert found == {"ONNX Runtime": pytest.approx(math.sqrt(0.5 * 0.125))}


def test_the_best_rival_is_the_one_that_stays_best_over_all_contests() -> None:
    entries = {OURS: entry(1.0), AGAIN: entry(1.1), "a": entry(1.0), "b": entry(1.01)}
    again = {OURS: 1.0, AGAIN: 1.0, "a": 1.2, "b": 1.0}
    found = held(model(entries, repeats=(again, again)))
    assert found is not None
    assert found.rival == "b"
    assert found.ratio == pytest.approx(1.0)
    assert found.noise == pytest.approx(1.1)


@pytest.mark.parametrize(
    "entries",
    [
        pytest.param({"torch eager": entry(1.0)}, id="nothing of ours"),
        pytest.param({OURS: entry(1.0), "a": entry(1.0, kept=False)}, id="no rival in the limit"),
    ],
)
def test_nothing_is_held_against_nothing(entries: dict[str, Entry]) -> None:
    assert held(model(entries)) is None


def test_our_latency_is_that_of_both_processes() -> None:
    assert own_ms(model({OURS: entry(1.0), AGAIN: entry(4.0)})) == pytest.approx(2.0)


def test_ours_over_the_limit_is_counted() -> None:
    broken = model({OURS: entry(1.0, kept=False, drop=0.02)})
    assert over_limit([NET, broken]) == ["net"]


@pytest.mark.parametrize(
    ("changed", "precision", "expected"),
    [
        pytest.param({}, "int8", True, id="quantised and faster"),
        pytest.param({}, "f32", False, id="f32 itself"),
        pytest.param({OURS: entry(1.0, kept=False)}, "int8", False, id="over the limit"),
        pytest.param({"ONNX Runtime": entry(0.9)}, "int8", False, id="slower than f32"),
    ],
)
def test_a_trap_is_solved(changed: dict[str, Entry], precision: str, expected: bool) -> None:
    found = dataclasses.replace(NET, entries={**NET.entries, **changed}, precision=precision)
    assert solved(found, ("ONNX Runtime", "ExecuTorch", "torch eager")) is expected


@pytest.mark.parametrize(
    ("heats", "expected"),
    [
        pytest.param([(1.0, 10.0), (0.52, 5.0), (0.5, 30.0)], 15.0, id="close before the end"),
        pytest.param([(None, 10.0), (1.0, 5.0)], 15.0, id="nothing kept the limits at first"),
        pytest.param([(None, 10.0)], None, id="nothing ever did"),
        pytest.param([], None, id="no heats"),
    ],
)
def test_the_time_to_come_near(
    heats: list[tuple[float | None, float]], expected: float | None
) -> None:
    assert near(heats) == expected


def test_a_saved_result_reads_back_the_same() -> None:
    import json

    walked = {"chosen": "openvino-int8-mixed3", "p50_ms": 0.9, "candidates": 40}
    searched = {"ended": True, "untried": 0, "spent_s": 31.5}
    saved = dataclasses.replace(NET, exhaustive=walked, search=searched)
    assert decode(Model, json.loads(pretty(saved))) == saved


def test_a_rival_over_the_limit_stands_in_brackets_and_one_without_a_file_has_a_dash() -> None:
    from benchmarks.rivals.page import everybody, summary

    (row,) = [line for line in everybody([NET]).splitlines() if line.startswith("| `net`")]
    assert "(0.500)" in row
    assert "| 2.000 |" in row
    assert row.endswith(" |")
    text = summary([NET])
    assert "| ours / best rival per model, geometric mean | 0.500 |" in text
    assert "| ours / NNCF int8 for everything | 0.250 |" in text


WALKS: dict[str, tuple[Any, bool]] = {
    "nobody walked": (None, True),
    "f32 is the best": ({"precision": "f32", "p50_ms": 1.0, "f32_ms": 1.0}, False),
    "int8 is faster": (
        {"precision": "int8", "p50_ms": 0.9, "high_ms": 0.95, "f32_ms": 1.0, "f32_low_ms": 0.97},
        True,
    ),
    "faster by less than the noise": (
        {"precision": "f16", "p50_ms": 0.99, "high_ms": 1.02, "f32_ms": 1.0, "f32_low_ms": 0.98},
        False,
    ),
}


@pytest.mark.parametrize("name", WALKS)
def test_a_trap_counts_where_the_walk_found_what_is_really_faster(name: str) -> None:
    from benchmarks.rivals.page import winnable

    walked, counts = WALKS[name]
    assert winnable(dataclasses.replace(NET, exhaustive=walked)) is counts


def test_the_exhaustive_walk_tries_every_setting_and_every_number_of_groups() -> None:
    from benchmarks.rivals.exhaustive import all_moves, all_to_rank
    from targets.interface import Sensitivity
    from tests.test_search import VNNI, begin, losing, program

    standing = begin(losing(5))
    (root,) = all_to_rank(standing)
    groups = tuple(
        Sensitivity(operators=(f"conv{n}",), error=1.0 / (n + 1), work=0.25) for n in range(4)
    )
    moves = all_moves(standing, program(), VNNI, {root.digest: groups}, 0)
    kept = [move.kept for move in moves if move.kind == "mixed"]
    assert kept == [1, 2, 3]
    assert {move.kind for move in moves} == {"mixed", "setting", "tuning"}


def test_the_plot_is_svg_with_a_mark_for_each_contestant() -> None:
    from benchmarks.rivals.page import plot, x_of

    root = ElementTree.fromstring(plot([NET]))
    titles = [found.text for found in root.iter("{http://www.w3.org/2000/svg}title")]
    assert "ours: 0.50" in titles
    assert "NNCF int8: 0.25, over the accuracy limit" in titles
    assert x_of(0.01) == x_of(0.5) < x_of(1.0) < x_of(32.0) == x_of(1000.0)


def test_every_rival_falls_back_on_f32_of_its_own_runtime() -> None:
    from benchmarks.rivals.makers import RIVALS
    from benchmarks.rivals.page import F32

    for rival in RIVALS.values():
        assert RIVALS[rival.fallback].format == rival.format
        assert rival.fallback in F32


def test_the_benchmarks_session_is_found_beside_the_agents() -> None:
    before = list(sessions.__path__)
    try:
        extend()
        extend()
        assert len(sessions.__path__) == len(before) + 1
        assert sessions.session_module("pytorch").PACKAGE == "torch"
    finally:
        sessions.__path__[:] = before


@pytest.mark.slow
def test_what_is_given_and_what_is_held_out_are_different_digits() -> None:
    from benchmarks.rivals.data import digits

    given_labels, held_labels = (digits((1, 8, 8), part=p, copies=1) for p in ("given", "held out"))
    assert len(given_labels) + len(held_labels) + 600 == 1797
    first = {row.tobytes() for row in given_labels.inputs["image"]}
    assert not first & {row.tobytes() for row in held_labels.inputs["image"]}


def test_spreading_channels_leaves_the_function_as_it_is() -> None:
    import torch

    from benchmarks.rivals.nets import Separable, spread

    torch.manual_seed(0)
    net = Separable().eval()
    image = torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        before = net(image)
        norms = [m for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        spread(net, [torch.rand(m.num_features).mul(5).exp() for m in norms[:-1]])
        np.testing.assert_allclose(net(image).numpy(), before.numpy(), rtol=1e-3, atol=1e-5)


def test_a_model_says_what_it_is_given_as_bytes_or_as_caches(tmp_path: Path) -> None:
    from benchmarks.rivals.data import Samples, load_samples

    made = Samples(
        inputs={
            "image": np.array([[[[0, 255]]]], np.uint8),
            "keys": np.ones((1, 2, 3, 4, 5), np.float32),
        },
        labels=np.array([7]),
    )
    made.save(tmp_path)
    (one,) = load_samples(tmp_path)
    assert list(one) == ["image", "keys"]
    assert one["image"].tolist() == [[[[-1.0, 1.0]]]]
    assert one["keys"].shape == (2, 3, 4, 5)
