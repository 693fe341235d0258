"""Which variant runs: what fits, in which order, and when to step."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.manifest import Blob, Fingerprint, Gate, Manifest, Runtime, VariantEntry
from agent.updates.ladder import CALM_S, MOST_TRIED, Strain, needs_of, offer, step

DEVICE = Fingerprint(
    identity={"arch": "x86_64"}, software={"runtimes": {"onnxruntime": "1.30.1"}}, conditions={}
)
RUNTIMES = ("onnxruntime", "openvino")


def variant(name: str, **changes: Any) -> VariantEntry:
    entry = VariantEntry(
        id=f"net/intel-any/{name}",
        target="intel",
        profile="intel-any",
        role="chosen",
        rank=0,
        selection="rank",
        match={},
        runtime=Runtime(format="onnxruntime", at_least=None, below=None),
        options={},
        unpacked_bytes=10,
        files=(),
        floors=(),
        drop_max_ppm=None,
        gates=(),
        provenance={},
    )
    return dataclasses.replace(entry, **changes)


def release(*variants: VariantEntry) -> Manifest:
    return Manifest(
        version=1,
        model="net",
        release="1.0.0",
        release_counter=1,
        requires=(),
        inputs=(),
        outputs=(),
        dims={},
        golden=Blob(sha256="0" * 64, length=1),
        evaluation=None,
        variants=variants,
    )


def tried(*variants: VariantEntry, **options: Any) -> list[str]:
    found = offer(release(*variants), DEVICE, RUNTIMES, **options)
    return [entry.id.rpartition("/")[2] for entry in found.tried]


def test_by_rank_and_at_most_three() -> None:
    rungs = [variant(f"r{rank}", rank=rank) for rank in (3, 1, 0, 2)]
    assert tried(*rungs) == ["r0", "r1", "r2"]
    found = offer(release(*rungs), DEVICE, RUNTIMES)
    assert [entry.rank for entry in found.ladder] == [0, 1, 2, 3]
    assert not found.measures
    assert offer(release(variant("m", selection="measure")), DEVICE, RUNTIMES).measures


RUNS = [
    ("any version", None, None, True),
    ("from this one on", "1.30.1", None, True),
    ("from a later one on", "1.31", None, False),
    ("below this one", None, "1.30.1", False),
    ("below a later one", "1.20", "1.31", True),
]


@pytest.mark.parametrize(
    ("low", "high", "fits"), [case[1:] for case in RUNS], ids=[c[0] for c in RUNS]
)
def test_the_runtime_reads_the_file(low: str | None, high: str | None, fits: bool) -> None:
    asked = Runtime(format="onnxruntime", at_least=low, below=high)
    assert bool(tried(variant("v", runtime=asked))) == fits


def test_other_hardware_and_missing_runtimes_do_not_fit() -> None:
    assert not tried(variant("v", match={"identity.arch": "aarch64"}))
    assert not tried(variant("v", runtime=Runtime(format="tensorrt", at_least=None, below=None)))
    missing = Runtime(format="openvino", at_least="2026.1", below=None)
    assert not tried(variant("v", runtime=missing)), (
        "it is not installed, so its version is unknown"
    )


def test_the_profile_with_most_conditions_wins_then_the_name() -> None:
    near = variant("near", profile="b", match={"identity.arch": "x86_64"})
    assert tried(variant("far", profile="a"), near) == ["near"]
    assert tried(variant("b", profile="b"), variant("a", profile="a")) == ["a"]


def test_one_variant_alone_and_some_left_out() -> None:
    both = (variant("a"), variant("b", rank=1))
    assert tried(*both, only="net/intel-any/b") == ["b"]
    assert tried(*both, without=["net/intel-any/a"]) == ["b"]
    assert tried(*both, only="net/intel-any/c") == []


def test_what_a_variant_needs() -> None:
    gates = tuple(Gate(quantity="memory_peak_bytes", max=most) for most in (300, 200))
    assert needs_of(variant("v", gates=gates)) == 200
    assert needs_of(variant("v", unpacked_bytes=70)) == 140


def strained(free: int = 10, **changes: Any) -> Strain:
    return dataclasses.replace(
        Strain(available_bytes=free, reserve_bytes=50, hot=False, calm_s=0.0), **changes
    )


STEPS = [
    ("short of memory: down", [400, 100], 0, strained(), 0, ("down", 1)),
    ("hot: down", [400, 100], 0, strained(900, hot=True), 0, ("down", 1)),
    ("down past what is no lighter", [400, 400, 100], 0, strained(), 0, ("down", 2)),
    ("nothing is lighter", [100, 400], 0, strained(), 0, ("stay", 0)),
    ("the lightest already", [400, 100], 1, strained(), 0, ("stay", 1)),
    ("room, but not for long", [400, 100], 1, strained(900, calm_s=CALM_S - 1), 0, ("stay", 1)),
    ("room for long: up", [400, 100], 1, strained(900, calm_s=CALM_S), 0, ("up", 0)),
    ("there would be no room then", [400, 100], 1, strained(400, calm_s=CALM_S), 0, ("stay", 1)),
    ("it was chosen there", [400, 100], 1, strained(900, calm_s=CALM_S), 1, ("stay", 1)),
    (
        "up to where it was, no further",
        [400, 200, 100],
        2,
        strained(900, calm_s=CALM_S),
        1,
        ("up", 1),
    ),
]


@pytest.mark.parametrize(
    ("needs", "at", "strain", "best", "expected"),
    [case[1:] for case in STEPS],
    ids=[c[0] for c in STEPS],
)
def test_steps(
    needs: list[int], at: int, strain: Strain, best: int, expected: tuple[str, int]
) -> None:
    found = step(needs, at, strain, best)
    assert (found.move, found.rung) == expected
    assert found.reason or found.move == "stay"


@given(
    needs=st.lists(st.integers(0, 1000), min_size=1, max_size=MOST_TRIED),
    data=st.data(),
    free=st.integers(0, 3000),
    calm=st.sampled_from([0.0, CALM_S]),
    hot=st.booleans(),
)
def test_a_step_never_leads_straight_back(
    needs: list[int], data: st.DataObject, free: int, calm: float, hot: bool
) -> None:
    at = data.draw(st.integers(0, len(needs) - 1))
    best = data.draw(st.integers(0, at))
    strain = Strain(available_bytes=free, reserve_bytes=50, hot=hot, calm_s=calm)
    found = step(needs, at, strain, best)
    assert best <= found.rung < len(needs)
    if found.move == "down":
        assert needs[found.rung] < needs[at]
    if found.move == "up":
        left = dataclasses.replace(
            strain, available_bytes=free - max(0, needs[found.rung] - needs[at]), calm_s=0.0
        )
        assert step(needs, found.rung, left, best).move == "stay"
