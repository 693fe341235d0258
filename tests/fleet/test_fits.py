"""Which devices can run a release, by a table, and whatever devices say that they are."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.manifest import Fingerprint, Manifest, Runtime, parse
from sdk.fleet.hardware import hardware_of
from sdk.fleet.rules.fits import Kind, fit, why_not, words
from tests.updates.fleet import write_build

ARM = {"identity.arch": "aarch64", "identity.memory_bytes": {"min": 1 << 30}}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """A release with one variant, for ARM devices with a GiB and onnxruntime from 1.20 to 2."""
    build = write_build(tmp_path_factory.mktemp("fits") / "build", {"best": b"x"}, match=ARM)
    found = parse((build / "manifest.json").read_bytes())
    runtime = Runtime(format="onnxruntime", at_least="1.20", below="2")
    (variant,) = found.variants
    return dataclasses.replace(found, variants=(dataclasses.replace(variant, runtime=runtime),))


def _print(arch: Any = "aarch64", memory: Any = 4 << 30, runtimes: Any = None) -> Fingerprint:
    told = {"onnxruntime": "1.31.0"} if runtimes is None else runtimes
    return Fingerprint(
        identity={"arch": arch, "memory_bytes": memory, "soc": "test"},
        software={"runtimes": told},
        conditions={},
    )


HARDWARE = "no variant is for its hardware (aarch64, test)"
CASES: dict[str, tuple[Fingerprint, str]] = {
    "it fits": (_print(), ""),
    "another architecture": (
        _print("x86_64"), "no variant is for its hardware (x86_64, test)",
    ),
    "too little memory": (_print(memory=1 << 29), HARDWARE),
    "memory that is no number": (_print(memory="much"), HARDWARE),
    "no runtime": (_print(runtimes={}), "it lacks the runtime (onnxruntime)"),
    "runtimes that are no table": (_print(runtimes=["x"]), "it lacks the runtime (onnxruntime)"),
    "an old runtime": (
        _print(runtimes={"onnxruntime": "1.19"}),
        "its runtime is of another version than the variants need (onnxruntime)",
    ),
    "a runtime without a version": (
        _print(runtimes={"onnxruntime": None}),
        "its runtime is of another version than the variants need (onnxruntime)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_why_a_device_cannot_run_a_release_is_said(manifest: Manifest, name: str) -> None:
    device, why = CASES[name]
    assert why_not(manifest, device) == why


def test_devices_are_counted_by_reason_and_unknown_ones_are_not_ruled_out(
    manifest: Manifest,
) -> None:
    kinds = [
        Kind(fingerprint_sha256="a", fingerprint=_print(), count=3),
        Kind(fingerprint_sha256="b", fingerprint=_print(memory=0), count=2),
        Kind(fingerprint_sha256="c", fingerprint=_print(memory=1), count=5),
        Kind(fingerprint_sha256="d", fingerprint=_print(runtimes={}), count=1),
        Kind(fingerprint_sha256=None, fingerprint=None, count=4),
    ]
    found = fit(manifest, kinds)
    assert (found.fits, found.unknown, found.unfit) == (3, 4, ("b", "c", "d"))
    assert found.reasons == {HARDWARE: 7, "it lacks the runtime (onnxruntime)": 1}
    assert words(found) == [
        f"7 devices: {HARDWARE}",
        "1 devices: it lacks the runtime (onnxruntime)",
        "4 devices: it has not told what it is yet",
    ]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=300),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
PRINTS = st.builds(
    Fingerprint,
    identity=st.dictionaries(
        st.sampled_from(["arch", "soc", "cores", "gpu", "sm", "isa", "memory_bytes"]), JSON
    ),
    software=st.dictionaries(st.sampled_from(["os", "runtimes", "driver", "jetpack"]), JSON),
    conditions=st.just({}),
)


@given(PRINTS)
def test_whatever_a_device_says_it_is_no_operator_is_in_its_way(
    manifest: Manifest, device: Fingerprint
) -> None:
    assert len(why_not(manifest, device)) < 300
    assert len(hardware_of(device)) <= 100


@pytest.mark.slow
@given(PRINTS)
def test_a_device_makes_no_hardware_name_up(device: Fingerprint) -> None:
    from profiles import all_profiles

    known = set(all_profiles(()))
    assert hardware_of(device) in known | {"unknown", "x86_64", "aarch64", "armv7l", "riscv64"}
