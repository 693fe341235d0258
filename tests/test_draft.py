"""Profiles that are drafted from what a device tells: read back, checked, and fitting that device."""

from __future__ import annotations

from typing import Any

import pytest

from agent.errors import UsageError
from agent.identity import fingerprint
from agent.manifest import Fingerprint, match
from profiles.reader import read
from sdk.detect import profile_toml
from sdk.draft import draft


def _device(
    *, software: dict[str, Any] | None = None, mode: str | None = None, **identity: Any
) -> Fingerprint:
    return Fingerprint(
        identity={
            "arch": "aarch64", "soc": "rockchip,rk3588", "isa": ["asimd", "dotprod"], "cores": 8,
            "gpu": None, "sm": None, "memory_bytes": 8 << 30, "emulated": False, **identity,
        },
        software={"os": "debian 12", "jetpack": None, "runtimes": {"onnxruntime": "1.23.0"},
                  **(software or {})},
        conditions={"power_mode": mode, "governor": "performance"},
    )  # fmt: skip


CASES = {
    "an Arm board": (_device(), "linux-arm"),
    "one that tells little": (_device(soc=None, isa=[], memory_bytes=None), "linux-arm"),
    "a Jetson": (
        _device(soc="nvidia,tegra234", gpu="Orin", software={"jetpack": "6.2"}, mode="MAXN_SUPER"),
        "jetson",
    ),
    "a machine with a card": (
        _device(arch="x86_64", isa=["avx2"], soc="AMD EPYC", gpu="NVIDIA A30"), "server-gpu",
    ),
    "a PC": (_device(arch="x86_64", isa=["avx2", "avx_vnni"], soc="Intel N100"), "intel"),
    "a phone": (_device(software={"os": "android 14"}), "mobile"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_draft_fits_its_device_and_says_where_each_fact_is_from(name: str) -> None:
    device, target = CASES[name]
    made = draft("new-board", device, target=None, python="3.11", date="2026-11-22")
    assert made.target == target
    found = read(profile_toml(made), "draft.toml")
    assert match(found.match, device)
    assert not found.bandwidth_gb_s
    assert not any(engine.peak for engine in found.engines.values()), "nothing was measured"
    assert set(found.sources.values()) <= {"read from the device, 2026-11-22"}
    if target != "server-gpu":
        assert found.memory_bytes == device.identity["memory_bytes"]
    other = _device(
        arch=device.identity["arch"], soc="another", gpu="another", memory_bytes=1 << 30
    )
    assert not match(found.match, other) or name == "one that tells little"


def test_what_is_emulated_has_no_profile_of_its_own() -> None:
    with pytest.raises(UsageError, match="emulated"):
        draft("x", _device(emulated=True), target=None, python=None, date="2026-11-22")


def test_what_does_not_tell_its_cores_cannot_be_described() -> None:
    with pytest.raises(UsageError, match="does not tell"):
        draft("x", _device(cores=None), target=None, python=None, date="2026-11-22")


def test_this_machine_could_be_drafted() -> None:
    device = fingerprint()
    made = draft("here", device, target=None, python="3.11", date="2026-11-22")
    assert match(read(profile_toml(made), "x.toml").match, device)
