"""What an operator may ask beside what a release's signer did: tighter, and nothing looser."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from agent.errors import UsageError
from agent.manifest import Floor, Gate, Manifest, parse
from sdk.fleet.rules.gates import AdvanceIf, Quantity, StageGate
from sdk.fleet.rules.signed import check_not_looser
from tests.updates.fleet import write_build

RATIO = Gate(quantity="latency_us", ratio_max_permille=1100, ratio_to="running")
TAIL = Gate(quantity="latency_us", quantile_permille=950, max=5000)
PACE = Gate(quantity="throughput_milli_per_s", min=90_000)
MEMORY = Gate(quantity="memory_peak_bytes", ratio_max_permille=1200, ratio_to="running")
FLOORS = (
    Floor(output="y", metric="cosine", min_ppm=990_000),
    Floor(output="z", metric="equal_share", min_ppm=950_000),
)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """A release with two variants that nothing is asked of."""
    folder = write_build(tmp_path_factory.mktemp("build") / "b", {"best": b"1", "next": b"2"})
    return parse((folder / "manifest.json").read_bytes())


def signed(plain: Manifest, *each: dict[str, Any]) -> Manifest:
    """The same with these fields of its variants; those of one are of both."""
    told = each * (2 // len(each))
    variants = zip(plain.variants, told, strict=True)
    made = tuple(dataclasses.replace(variant, **more) for variant, more in variants)
    return dataclasses.replace(plain, variants=made)


def other(gate: Gate, **changes: Any) -> Gate:
    return dataclasses.replace(gate, **changes)


def stage(quantity: Quantity, limit_ppm: int, quantile_permille: int = 500) -> AdvanceIf:
    gate = StageGate(
        quantity=quantity, limit_ppm=limit_ppm, quantile_permille=quantile_permille
    )  # fmt: skip
    return AdvanceIf(gates=(gate,))


ALL = {"gates": (RATIO, TAIL, PACE, MEMORY), "floors": FLOORS, "drop_max_ppm": 20_000}
Case = tuple[tuple[dict[str, Any], ...], Gate | AdvanceIf, str]
TAKEN: dict[str, Case] = {
    "as tight": ((ALL,), RATIO, ""),
    "tighter": ((ALL,), other(RATIO, ratio_max_permille=1050), ""),
    "more throughput": ((ALL,), other(PACE, min=95_000), ""),
    "of another quantile": ((ALL,), other(RATIO, quantile_permille=990, ratio_max_permille=9999), ""),
    "over something else": ((ALL,), other(RATIO, ratio_to="baseline", ratio_max_permille=9999), ""),
    "of what was not asked for": ((ALL,), Gate(quantity="load_us", max=10**9), ""),
    "another bound": ((ALL,), Gate(quantity="memory_peak_bytes", max=10**12), ""),
    "tighter than one of its variants": (
        ({"gates": (RATIO,)}, {"gates": (other(RATIO, ratio_max_permille=1500),)}),
        other(RATIO, ratio_max_permille=1400), "",
    ),
    "of one variant nothing is asked": (
        ({"gates": (RATIO,)}, {"gates": ()}), other(RATIO, ratio_max_permille=9000), "",
    ),
    "a stage as tight": ((ALL,), stage("latency", 1_100_000), ""),
    "a stage's tail, which is bounded in seconds": ((ALL,), stage("latency", 9_000_000, 950), ""),
    "a stage's agreement of the worst output": ((ALL,), stage("agreement", 950_000), ""),
    "a stage's drop": ((ALL,), stage("drop", 20_000), ""),
    "a share confirmed": ((ALL,), stage("confirmed", 1), ""),
}  # fmt: skip
REFUSED: dict[str, Case] = {
    "a greater ratio": (
        (ALL,), other(RATIO, ratio_max_permille=1101), "ratio_max_permille: 1101 .* own, 1100",
    ),
    "a median by its number": (
        (ALL,), other(RATIO, quantile_permille=500, ratio_max_permille=1101), "1101 .* own, 1100",
    ),
    "a longer tail": ((ALL,), other(TAIL, max=5001), "latency_us, max: 5001 .* own, 5000"),
    "less throughput": ((ALL,), other(PACE, min=1), "milli_per_s, min: 1 .* own, 90000"),
    "looser than all of its variants": (
        ({"gates": (RATIO,)}, {"gates": (other(RATIO, ratio_max_permille=1500),)}),
        other(RATIO, ratio_max_permille=1501), "1501 .* own, 1500",
    ),
    "looser than the tightest of a variant": (
        ({"gates": (RATIO, other(RATIO, ratio_max_permille=1500))},),
        other(RATIO, ratio_max_permille=1200), "1200 .* own, 1100",
    ),
    "a stage's ratio": ((ALL,), stage("latency", 1_100_001), "1100001 .* own, 1100000"),
    "a stage's memory": ((ALL,), stage("memory", 1_300_000), "1300000 .* own, 1200000"),
    "a stage's agreement": ((ALL,), stage("agreement", 949_999), "949999 .* own, 950000"),
    "a stage's drop": ((ALL,), stage("drop", 20_001), "20001 .* own, 20000"),
}  # fmt: skip


def _check(plain: Manifest, case: Case) -> None:
    variants, asked, _ = case
    manifest = signed(plain, *variants)
    if isinstance(asked, Gate):
        check_not_looser(manifest, [asked], [])
    else:
        check_not_looser(manifest, [], [None, asked])


@pytest.mark.parametrize("name", TAKEN)
def test_what_tightens_or_says_something_else_is_taken(plain: Manifest, name: str) -> None:
    _check(plain, TAKEN[name])


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_looser_is_refused_with_both_values(plain: Manifest, name: str) -> None:
    with pytest.raises(UsageError, match=REFUSED[name][2]):
        _check(plain, REFUSED[name])
