"""`match` and the PEP 440 keys under it, held against `packaging`."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from packaging.version import InvalidVersion, Version

from agent.codec import encode
from agent.manifest import Fingerprint, match
from agent.versions import version_key

DEVICE = Fingerprint(
    identity={
        "arch": "aarch64",
        "soc": "nvidia,tegra234",
        "isa": ["asimd", "dotprod", "fp16"],
        "gpu": None,
        "sm": "8.7",
        "memory_bytes": 8 << 30,
        "emulated": False,
    },
    software={
        "os": "ubuntu 22.04",
        "driver": "540.4.0",
        "jetpack": "6.2.1",
        "runtimes": {"onnxruntime": "1.23.2", "my.runtime": "2.0"},
    },
    conditions={"power_mode": "MAXN_SUPER", "governor": None},
)


@pytest.mark.parametrize(
    ("predicate", "fits"),
    [
        pytest.param({}, True, id="no condition fits all"),
        pytest.param({"identity.arch": "aarch64"}, True, id="equal"),
        pytest.param({"identity.arch": "x86_64"}, False, id="not equal"),
        pytest.param({"identity.arch": ["x86_64", "aarch64"]}, True, id="one of"),
        pytest.param({"identity.arch": []}, False, id="one of none"),
        pytest.param({"identity.isa": {"has": ["fp16", "dotprod"]}}, True, id="has all"),
        pytest.param({"identity.isa": {"has": "fp16"}}, True, id="has one"),
        pytest.param({"identity.isa": {"has": ["fp16", "i8mm"]}}, False, id="lacks one"),
        pytest.param({"identity.memory_bytes": {"min": 8 << 30}}, True, id="min is inclusive"),
        pytest.param({"identity.memory_bytes": {"below": 8 << 30}}, False, id="below is not"),
        pytest.param({"software.jetpack": {"min": "6.2", "below": "7"}}, True, id="versions"),
        pytest.param({"software.jetpack": {"min": "6.10"}}, False, id="versions are not text"),
        pytest.param({"software.jetpack": {"min": 6}}, False, id="a number is no version"),
        pytest.param({"software.os": {"min": "22.04"}}, False, id="not a version"),
        pytest.param({"software.runtimes.onnxruntime": {"min": "1.23"}}, True, id="a runtime"),
        pytest.param({"software.runtimes.my.runtime": "2.0"}, True, id="a name with a dot"),
        pytest.param({"software.runtimes.openvino": {"min": "1"}}, False, id="no such runtime"),
        pytest.param({"identity.gpu": "NVIDIA L4"}, False, id="null is nothing"),
        pytest.param({"identity.gpu": None}, False, id="null is unknown"),
        pytest.param({"identity.colour": "red"}, False, id="unknown path"),
        pytest.param({"nonsense": 1}, False, id="unknown root"),
        pytest.param({"identity.arch.x": "aarch64"}, False, id="a path through a scalar"),
        pytest.param({"identity.memory_bytes": {"max": 1}}, False, id="unknown operator"),
        pytest.param({"identity.memory_bytes": {}}, False, id="no operator"),
        pytest.param({"identity.emulated": False}, True, id="boolean"),
        pytest.param({"identity.emulated": 0}, False, id="a number is no boolean"),
        pytest.param({"identity.memory_bytes": {"min": True}}, False, id="nor the reverse"),
        pytest.param({"identity.arch": "aarch64", "identity.sm": "7.2"}, False, id="all must hold"),
    ],
)
def test_a_predicate_fits_or_does_not(predicate: dict[str, Any], fits: bool) -> None:
    assert match(predicate, DEVICE) is fits


_leaves = st.none() | st.booleans() | st.integers() | st.text(max_size=8)
_conditions = (
    _leaves
    | st.lists(_leaves, max_size=3)
    | st.dictionaries(
        st.sampled_from(["min", "below", "has", "other"]), _leaves | st.lists(_leaves, max_size=3)
    )
)
_paths = st.text(max_size=20) | st.sampled_from(
    [f"identity.{key}" for key in DEVICE.identity]
    + [f"software.{key}" for key in DEVICE.software]
    + ["software.runtimes.onnxruntime", "software.runtimes."]
)


@given(st.dictionaries(_paths, _conditions, max_size=3))
def test_any_predicate_has_an_answer_and_it_survives_json(predicate: dict[str, Any]) -> None:
    again = Fingerprint(**json.loads(json.dumps(encode(DEVICE))))
    assert match(json.loads(json.dumps(predicate)), again) == match(predicate, DEVICE)


@given(st.dictionaries(_paths, _conditions, max_size=2), _paths, _conditions)
def test_one_more_condition_never_fits_more(
    predicate: dict[str, Any], path: str, condition: Any
) -> None:
    if path not in predicate and match({**predicate, path: condition}, DEVICE):
        assert match(predicate, DEVICE)


_numbers = st.integers(0, 30)
_versions = st.builds(
    "".join,
    st.tuples(
        st.sampled_from(["", "v", "1!"]),
        st.lists(_numbers, min_size=1, max_size=4).map(lambda ns: ".".join(map(str, ns))),
        st.sampled_from(["", "a1", "b2", "rc3", ".alpha.4", "-preview5", "c", "_beta"]),
        st.sampled_from(["", ".post1", "-2", "rev3", ".r4", "_post"]),
        st.sampled_from(["", ".dev0", "dev7", "-dev_8"]),
        st.sampled_from(["", "+cpu", "+cu126.local", "+1", "+local-2_x"]),
    ),
)


@example("1.0.dev1", "1.0a1")
@example("1.0", "1.0.post1.dev1")
@example("1.0+cpu", "1.0")
@example("1.0.0", "1")
@given(_versions, _versions)
def test_versions_compare_as_packaging_says(left: str, right: str) -> None:
    ours, theirs = version_key(left), version_key(right)
    assert ours is not None
    assert theirs is not None
    assert (ours < theirs) == (Version(left) < Version(right))
    assert (ours == theirs) == (Version(left) == Version(right))


@given(st.text(alphabet="0123456789.abcdevprostlu+-_! v", max_size=12))
def test_the_same_texts_are_versions_as_for_packaging(text: str) -> None:
    try:
        Version(text)
        accepted = True
    except InvalidVersion:
        accepted = False
    assert (version_key(text) is not None) is accepted


@given(_versions, _versions, _versions)
def test_min_and_below_are_what_they_say(value: str, low: str, high: str) -> None:
    device = Fingerprint(identity={}, software={"jetpack": value}, conditions={})
    fits = match({"software.jetpack": {"min": low, "below": high}}, device)
    assert fits is (Version(low) <= Version(value) < Version(high))
