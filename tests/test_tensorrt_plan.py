"""What each generation of TensorRT is told, as tables; no TensorRT is needed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.engine_plan import (
    EngineSettings,
    dla_in,
    generation_of,
    plan_engine,
    settings_of,
    shape_ranges,
    trtexec_arguments,
    trtexec_release,
)
from agent.errors import ToolchainError, UsageError
from agent.manifest import Signature, TensorSpec

IMAGE = TensorSpec(name="image", dtype="float32", shape=("batch", 3, "side", "side"))
SCALE = TensorSpec(name="scale", dtype="float32", shape=(1,))
OUTPUT = TensorSpec(name="output", dtype="float32", shape=("batch", 10))
DYNAMIC = Signature(
    inputs=(IMAGE, SCALE), outputs=(OUTPUT,), dims={"batch": (1, 4, 8), "side": (64, 96, 128)}
)
FIXED = Signature(inputs=(SCALE,), outputs=(), dims={})


def arguments(release: str, signature: Signature = FIXED, **settings: Any) -> list[str]:
    plan = plan_engine(EngineSettings(**settings), signature, release)
    return trtexec_arguments(plan, onnx="m.onnx", engine="e.plan", timing_cache="t.cache")


COMMON = ["--onnx=m.onnx", "--saveEngine=e.plan", "--skipInference"]
CACHE = "--timingCacheFile=t.cache"


@pytest.mark.parametrize(
    ("release", "settings", "expected"),
    [
        # f32: TF32 is cleared unless it is wanted
        ("8.6.1", {}, ["--noTF32", CACHE]),
        ("10.3.0", {}, ["--stronglyTyped", "--noTF32", CACHE]),
        ("11.1.0", {}, ["--noTF32", CACHE]),
        ("8.6.1", {"tf32": True}, [CACHE]),
        ("10.3.0", {"tf32": True}, ["--stronglyTyped", CACHE]),
        ("11.1.0", {"tf32": True}, [CACHE]),
        # narrow types: flags for 8.6, the graph alone for 10 and 11
        ("8.6.1", {"types": ("f16",), "tf32": True}, ["--fp16", CACHE]),
        ("8.6.2", {"types": ("int8",), "tf32": True}, ["--int8", CACHE]),
        ("8.6.2", {"types": ("f16", "int8"), "tf32": True}, ["--fp16", "--int8", CACHE]),
        ("10.3.0", {"types": ("f16", "int8"), "tf32": True}, ["--stronglyTyped", CACHE]),
        ("10.16.2.10", {"types": ("f16", "fp8"), "tf32": True}, ["--stronglyTyped", CACHE]),
        ("11.4.0.106", {"types": ("f16", "fp8"), "tf32": True}, [CACHE]),
        # memory and the cache
        (
            "10.3.0",
            {"workspace_mib": 2048, "tf32": True, "timing_cache": False},
            ["--stronglyTyped", "--memPoolSize=workspace:2048"],
        ),
        # DLA: by flags up to 10.7, by the graph from 11.4.1
        (
            "8.6.1",
            {"types": ("f16",), "tf32": True, "dla_core": 0, "gpu_fallback": True},
            ["--fp16", "--allowGPUFallback", "--useDLACore=0", CACHE],
        ),
        (
            "10.3.0",
            {"types": ("f16",), "tf32": True, "dla_core": 1, "gpu_fallback": True},
            ["--fp16", "--allowGPUFallback", "--useDLACore=1", CACHE],
        ),
        (
            "11.4.1",
            {"types": ("f16", "int8"), "tf32": True, "dla_core": 0, "gpu_fallback": True},
            ["--allowGPUFallback", "--useDLACore=0", CACHE],
        ),
    ],
)
def test_trtexec_is_called_as_each_generation_wants_it(
    release: str, settings: dict[str, Any], expected: list[str]
) -> None:
    assert arguments(release, **settings) == COMMON + expected


@pytest.mark.parametrize("release", ["8.6.1", "10.3.0", "11.1.0"])
def test_shape_ranges_name_the_inputs_that_vary(release: str) -> None:
    found = [entry for entry in arguments(release, DYNAMIC) if "Shapes" in entry]
    assert found == [
        "--minShapes=image:1x3x64x64",
        "--optShapes=image:4x3x96x96",
        "--maxShapes=image:8x3x128x128",
    ]


@pytest.mark.parametrize(
    ("release", "network", "flags"),
    [
        ("8.6.1", ("EXPLICIT_BATCH",), ("FP16", "INT8")),
        ("10.3.0", ("STRONGLY_TYPED",), ()),
        ("11.1.0", (), ()),
    ],
)
def test_the_package_is_told_the_same_as_trtexec(
    release: str, network: tuple[str, ...], flags: tuple[str, ...]
) -> None:
    plan = plan_engine(EngineSettings(types=("f16", "int8")), DYNAMIC, release)
    assert plan.network_flags == network
    assert plan.builder_flags == flags
    assert plan.cleared_flags == ("TF32",)
    assert plan.ranges["image"] == ((1, 3, 64, 64), (4, 3, 96, 96), (8, 3, 128, 128))


@pytest.mark.parametrize(
    ("release", "settings", "telling"),
    [
        ("8.5.2", {}, "8.5.2"),
        ("9.3.0", {}, "9.3.0"),
        ("12.0", {}, "12.0"),
        ("", {}, "engines are built by 8.6, 10 and 11"),
        ("8.6.1", {"types": ("fp8",)}, "fp8"),
        ("10.3.0", {"types": ("fp8",), "dla_core": 0}, "fp8"),
        ("10.16.2.10", {"types": ("f16",), "dla_core": 0}, "no DLA"),
        ("11.1.0", {"types": ("f16",), "dla_core": 0}, "no DLA"),
    ],
)
def test_what_a_release_cannot_build_is_refused(
    release: str, settings: dict[str, Any], telling: str
) -> None:
    with pytest.raises(ToolchainError, match=telling) as caught:
        plan_engine(EngineSettings(**settings), FIXED, release)
    assert caught.value.cause
    assert caught.value.remedy


@pytest.mark.parametrize("name", ["a:b", "a,b", "a'b", 'a"b'])
def test_a_name_that_trtexec_would_misread_is_refused(name: str) -> None:
    spec = TensorSpec(name=name, dtype="float32", shape=("batch",))
    signature = Signature(inputs=(spec,), outputs=(), dims={"batch": (1, 1, 2)})
    with pytest.raises(UsageError, match="trtexec takes no input of the name"):
        arguments("10.3.0", signature)


@pytest.mark.parametrize(
    ("options", "telling"),
    [
        ({"device": 0}, "device"),
        ({"builder": {"tf23": True}}, "tf23"),
        ({"builder": {}, "release": "10.3", "sm": "8.7", "check": {}, "more": 1}, "more"),
    ],
)
def test_an_option_that_is_not_known_is_refused(options: dict[str, Any], telling: str) -> None:
    with pytest.raises(UsageError, match=telling):
        settings_of(options)


def test_options_come_back_from_json_as_they_were() -> None:
    builder = {"types": ["f16", "int8"], "workspace_mib": 512, "tf32": True, "dla_core": None}
    found = settings_of({"release": "10.3.0", "sm": "8.7", "builder": builder})
    assert found == EngineSettings(types=("f16", "int8"), workspace_mib=512, tf32=True)


@pytest.mark.parametrize(
    ("printed", "release"),
    [
        ("&&&& RUNNING TensorRT.trtexec [TensorRT v8601] # trtexec --help\n=== Model", "8.6.1"),
        ("&&&& RUNNING TensorRT.trtexec [TensorRT v100300] # /usr/bin/trtexec", "10.3.0"),
        ("&&&& RUNNING TensorRT.trtexec [TensorRT v101600] [b10] # trtexec", "10.16.0"),
        ("&&&& RUNNING TensorRT.trtexec [TensorRT v110100] [b7] # trtexec", "11.1.0"),
        ("bash: trtexec: cannot execute binary file", None),
        ("[TensorRT v]", None),
        ("", None),
    ],
)
def test_trtexec_tells_its_release(printed: str, release: str | None) -> None:
    assert trtexec_release(printed) == release


@pytest.mark.parametrize(
    ("release", "has"),
    [("8.6.1", True), ("10.3.0", True), ("10.7.0", True), ("10.8.0", False), ("10.16.1", False),
     ("11.0", False), ("11.4.0.106", False), ("11.4.1", True), ("11.5", True)],
)  # fmt: skip
def test_the_dla_was_gone_for_a_while(release: str, has: bool) -> None:
    assert dla_in(release) is has


@given(
    st.lists(
        st.lists(st.one_of(st.integers(1, 9), st.sampled_from(["a", "b"])), max_size=4),
        max_size=4,
    ),
    st.lists(st.integers(1, 50), min_size=3, max_size=3).map(sorted),
    st.lists(st.integers(1, 50), min_size=3, max_size=3).map(sorted),
)
def test_ranges_are_in_order_and_leave_fixed_sizes_alone(
    shapes: list[list[Any]], a: list[int], b: list[int]
) -> None:
    signature = Signature(
        inputs=tuple(
            TensorSpec(name=f"x{index}", dtype="float32", shape=tuple(shape))
            for index, shape in enumerate(shapes)
        ),
        outputs=(),
        dims={"a": (a[0], a[1], a[2]), "b": (b[0], b[1], b[2])},
    )
    found = shape_ranges(signature)
    assert set(found) == {spec.name for spec in signature.inputs if set(spec.shape) & {"a", "b"}}
    for spec in signature.inputs:
        if spec.name not in found:
            continue
        least, usual, most = found[spec.name]
        assert len(least) == len(spec.shape)
        for low, middle, high, size in zip(least, usual, most, spec.shape, strict=True):
            assert low <= middle <= high
            assert isinstance(size, str) or low == high == size


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 30))
def test_a_generation_is_found_for_the_releases_that_are_known_and_no_others(
    major: int, minor: int, patch: int
) -> None:
    release = f"{major}.{minor}.{patch}"
    if major in (10, 11) or (major == 8 and minor >= 6):
        assert generation_of(release) == major
    else:
        with pytest.raises(ToolchainError):
            generation_of(release)
