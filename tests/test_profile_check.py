"""Which devices a profile describes, and what looks wrong in one that is legal."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import UsageError
from agent.manifest import Fingerprint, match
from profiles import Profile, all_profiles, find, parse
from sdk.profile_check import check_target, overlaps, suspicions, values
from tests.test_profiles import CARD, GOOD

SHIPPED = all_profiles(())
TARGETS = ("intel", "jetson", "server-gpu")
KIB, GIB = 1 << 10, 1 << 30


def _devices(profile: Profile) -> Iterator[Fingerprint]:
    """Every device that the profile's predicate and its facts describe."""
    paths = {*profile.match, *(f"identity.{key}" for key in ("arch", "isa", "cores", "sm"))}
    told = {path: values(profile, path) for path in sorted(paths)}
    known = {path: found for path, found in told.items() if found}
    for chosen in itertools.product(*known.values()):
        device = Fingerprint(identity={}, software={"runtimes": {}}, conditions={})
        for path, value in zip(known, chosen, strict=True):
            part, key = path.split(".", 1)
            getattr(device, part)[key] = value
        yield device


def _fitting(device: Fingerprint) -> list[str]:
    return [name for name, profile in SHIPPED.items() if match(profile.match, device)]


@pytest.mark.parametrize("profile", SHIPPED.values(), ids=SHIPPED)
def test_a_device_that_a_shipped_profile_describes_is_of_that_type_alone(profile: Profile) -> None:
    found = list(_devices(profile))
    assert found
    for device in found:
        assert _fitting(device) == [profile.name]


def test_no_two_shipped_profiles_overlap() -> None:
    pairs = itertools.combinations(SHIPPED.values(), 2)
    assert [(one.name, other.name) for one, other in pairs if overlaps(one, other)] == []


ARM = {"arch": "aarch64", "isa": ["asimd", "dotprod", "fp16"], "gpu": None, "sm": None}
ORIN = {**ARM, "soc": "nvidia,tegra234", "cores": 12}
X86 = {"arch": "x86_64", "isa": ["avx2", "fma"], "soc": "AMD EPYC 7B13", "cores": 8, "sm": None}
XEON = {
    **X86,
    "isa": ["amx_bf16", "amx_int8", "avx2", "avx512_vnni"],
    "soc": "Intel(R) Xeon(R) Platinum 8480+",
    "cores": 112,
}
SEEN = [
    # what reports this, its identity, the profiles that it is of
    ("an Orin Nano", {**ORIN, "cores": 6, "memory_bytes": 7802336 * KIB}, ["jetson-orin-nano-super"]),
    ("an Orin Nano at 7 W", {**ORIN, "cores": 4, "memory_bytes": 7802336 * KIB}, ["jetson-orin-nano-super"]),
    ("an Orin NX", {**ORIN, "cores": 8, "memory_bytes": 15 * GIB}, ["jetson-orin-nx-16gb"]),
    ("an AGX Orin 32 GB", {**ORIN, "memory_bytes": 30 * GIB}, []),
    ("an AGX Orin 64 GB", {**ORIN, "memory_bytes": 61 * GIB}, ["jetson-agx-orin-64gb"]),
    ("an AGX Orin at 15 W", {**ORIN, "cores": 4, "memory_bytes": 61 * GIB}, ["jetson-agx-orin-64gb"]),
    ("a Thor", {**ARM, "soc": "nvidia,tegra264", "memory_bytes": 122 * GIB}, ["jetson-agx-thor"]),
    ("half a Thor", {**ARM, "soc": "nvidia,tegra264", "memory_bytes": 61 * GIB}, []),
    ("a Pi of any size", {**ARM, "soc": "brcm,bcm2712", "memory_bytes": 2 * GIB}, ["raspberry-pi-5"]),
    ("a Pi 4", {**ARM, "soc": "brcm,bcm2711", "memory_bytes": 8 * GIB}, []),
    ("an L4 in some server", {**X86, "gpu": "NVIDIA L4"}, ["l4"]),
    ("an L4 in a Xeon", {**XEON, "gpu": "NVIDIA L4"}, ["l4", "xeon-sapphire-rapids"]),
    ("an L40", {**X86, "gpu": "NVIDIA L40"}, []),
    ("an A10G", {**X86, "gpu": "NVIDIA A10G"}, []),
    ("a server without a card", {**X86, "gpu": None}, []),
]  # fmt: skip


@pytest.mark.parametrize(
    ("identity", "expected"), [case[1:] for case in SEEN], ids=[case[0] for case in SEEN]
)
def test_what_devices_report_is_told_apart(identity: dict[str, Any], expected: list[str]) -> None:
    device = Fingerprint(identity=identity, software={}, conditions={})
    assert _fitting(device) == expected


def _found(text: str, *others: Profile) -> dict[str, str]:
    profile = parse(text, "board.toml")
    return {s.path: f"{s.what} {s.remedy}" for s in suspicions(profile, others, targets=TARGETS)}


BOARD = GOOD.replace('"A board"', '"Another board"').replace('name = "board"', 'name = "other"')
OTHER = parse(BOARD, "other.toml")
TOO_FAST = 'f16 = { value = 1000, source = "x" }\nint8 = { value = 4000,'
CASES = [
    # what it is, old text, new text, the path, what is said
    ("a name that no build reads", 'name = "board"', 'name = "intel-host"', "name", "this file"),
    ("an engine without a rate", "[engines.gpu]", "[engines.dla]\ntitle = 'x'\n[engines.gpu]", "engines.dla.peak", "estimated"),
    ("a sparse rate", "f16 = { value = 1000,", TOO_FAST, "engines.gpu.peak.int8", "4.0 times the rate of f16"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "path", "said"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_what_looks_wrong_is_said(old: str, new: str, path: str, said: str) -> None:
    assert old in GOOD
    found = _found(GOOD.replace(old, new, 1))
    assert set(found) == {path}
    assert said in found[path]


@pytest.mark.parametrize(
    ("target", "cause"),
    [
        ("intle", "Did you mean 'intel'?"),
        ("linux", "Did you mean 'linux-arm'?"),
        ("kiosk", "not installed"),
    ],
)
def test_a_target_that_is_not_there_is_an_error(target: str, cause: str) -> None:
    profile = parse(GOOD.replace('target = "intel"', f'target = "{target}"'), "board.toml")
    with pytest.raises(UsageError, match=f"target is '{target}'; known are intel") as told:
        check_target(profile, ("intel", "linux-arm", "mobile"))
    assert cause in told.value.cause


def test_a_good_profile_is_not_suspected() -> None:
    assert _found(GOOD) == {}
    assert _found(CARD) == {}


def test_a_dense_rate_of_twice_is_not_suspected() -> None:
    rates = 'f16 = { value = 1000, source = "x" }\nint8 = { value = 2004,'
    assert _found(GOOD.replace("f16 = { value = 1000,", rates)) == {}


def test_a_profile_that_hides_another_is_told_where_that_is() -> None:
    hidden = dataclasses.replace(OTHER, name="board", match={"identity.soc": "x"})
    found = _found(GOOD, hidden)
    assert set(found) == {"name"}
    assert "other.toml" in found["name"]


def test_two_profiles_for_one_device_are_told_with_the_winner() -> None:
    found = _found(GOOD, OTHER)
    assert "fits devices of other too; there board would win" in found["match"]
    more = dataclasses.replace(OTHER, match={**OTHER.match, "identity.emulated": False})
    assert "there other would win" in _found(GOOD, more)["match"]


OVERLAPS: list[tuple[str, dict[str, Any], dict[str, Any], bool]] = [
    ("the same chip", {"identity.soc": "a"}, {"identity.soc": "a"}, True),
    ("another chip", {"identity.soc": "a"}, {"identity.soc": "b"}, False),
    ("one of two chips", {"identity.soc": ["a", "b"]}, {"identity.soc": ["b", "c"]}, True),
    ("memory that meets", {"identity.memory_bytes": {"min": 5}}, {"identity.memory_bytes": {"below": 6}}, True),
    ("memory that touches", {"identity.memory_bytes": {"min": 5}}, {"identity.memory_bytes": {"below": 5}}, False),
    ("a range in a range", {"identity.cores": {"min": 1, "below": 9}}, {"identity.cores": {"min": 3, "below": 4}}, True),
    ("versions that meet", {"software.jetpack": {"min": "6", "below": "7"}}, {"software.jetpack": {"min": "6.2"}}, True),
    ("versions that do not", {"software.jetpack": {"below": "7"}}, {"software.jetpack": {"min": "7"}}, False),
    ("a runtime", {"software.runtimes.a.b": {"min": "1"}}, {"software.runtimes.a.b": "2"}, True),
    ("flags that a device could both have", {"identity.isa": {"has": ["avx2"]}}, {"identity.isa": {"has": ["fma"]}}, True),
    ("one more condition", {"identity.soc": "a"}, {"identity.soc": "a", "identity.gpu": "g"}, True),
    ("nothing in common", {"identity.soc": "a"}, {"identity.gpu": "g"}, False),
    ("the facts beside the predicate", {"identity.soc": "a"}, {"identity.cores": 4}, True),
    ("other facts", {"identity.soc": "a"}, {"identity.cores": 5}, False),
    ("what firmware leaves of the memory", {"identity.soc": "a"}, {"identity.memory_bytes": {"below": 8 << 30}}, True),
]  # fmt: skip


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [case[1:] for case in OVERLAPS],
    ids=[case[0] for case in OVERLAPS],
)
def test_profiles_overlap_where_a_described_device_fits_both(
    one: dict[str, Any], other: dict[str, Any], expected: bool
) -> None:
    first, second = (dataclasses.replace(OTHER, match=predicate) for predicate in (one, other))
    assert overlaps(first, second) is expected
    assert overlaps(second, first) is expected


_bounds = st.fixed_dictionaries(
    {}, optional={"min": st.integers(0, 9), "below": st.integers(1, 10)}
).filter(lambda bounds: bounds and bounds.get("min", 0) < bounds.get("below", 11))
_numbers = st.integers(0, 9) | st.lists(st.integers(0, 9), min_size=1, max_size=3) | _bounds
_words = st.sampled_from("abc") | st.lists(st.sampled_from("abc"), min_size=1, max_size=2)
_predicates = st.fixed_dictionaries(
    {"identity.soc": _words, "identity.cores": _numbers, "identity.memory_bytes": _numbers}
)


@given(_predicates, _predicates, st.sampled_from("abc"), st.integers(0, 9), st.integers(0, 9))
def test_a_device_that_fits_two_profiles_makes_them_overlap(
    one: dict[str, Any], other: dict[str, Any], soc: str, cores: int, memory: int
) -> None:
    identity = {"soc": soc, "cores": cores, "memory_bytes": memory}
    device = Fingerprint(identity=identity, software={}, conditions={})
    if match(one, device) and match(other, device):
        first, second = (dataclasses.replace(OTHER, match=predicate) for predicate in (one, other))
        assert overlaps(first, second)


@pytest.mark.parametrize("profile", SHIPPED.values(), ids=SHIPPED)
def test_shipped_profiles_are_suspected_of_missing_rates_only(profile: Profile) -> None:
    others = [other for other in SHIPPED.values() if other is not profile]
    targets = tuple({other.target for other in SHIPPED.values()})
    found = list(suspicions(profile, others, targets=targets))
    assert all(s.path.endswith(".peak") and "is missing" in s.what for s in found)


def test_the_sparse_rates_of_a_jetson_would_be_suspected() -> None:
    orin = find("jetson-agx-orin-64gb", ())
    gpu = orin.engines["gpu"]
    sparse = dataclasses.replace(gpu.peak["int8"], value=170_000.0)
    marketing = dataclasses.replace(gpu, peak={**gpu.peak, "int8": sparse})
    wrong = dataclasses.replace(orin, engines={**orin.engines, "gpu": marketing})
    found = [s.path for s in suspicions(wrong, [], targets=("jetson",))]
    assert found == ["engines.gpu.peak.int8"]
