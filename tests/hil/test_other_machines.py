"""Rigs that are another machine: an arm64 one and an x86 one without VNNI, emulated by qemu."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path

import pytest

from agent.identity import fingerprint, isa_class
from hil import bench
from sdk import api
from sdk.on_rig import verify_on
from sdk.rigs import closest, reached
from sdk.summary import CandidateSummary
from tests.test_build import onnx_project

pytestmark = [pytest.mark.toolchain, pytest.mark.device, pytest.mark.long]
ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "docs" / "examples" / "no-vnni"


@contextmanager
def _up(kind: str, folder: Path) -> Iterator[Path]:
    """The inventory file of a rig that its script makes; skipped where it says that it cannot."""
    folder.chmod(0o755)
    script = ["bash", str(ROOT / "hil" / "rigs" / f"{kind}.sh")]
    made = subprocess.run(
        [*script, "up", str(folder)], check=False, capture_output=True, text=True,
        env=os.environ | {"PYTHON": sys.executable},
    )  # fmt: skip
    if made.returncode == 77:
        pytest.skip(f"{made.stderr.strip()} (tests/install-qemu.sh)")
    assert made.returncode == 0, made.stderr
    inventory = folder / "hil.toml"
    inventory.write_text(made.stdout)
    config = Path(os.environ["SLIPWAY_CONFIG"])
    config.mkdir(parents=True, exist_ok=True)
    (config / "known_hosts").write_bytes((folder / "known_hosts").read_bytes())
    try:
        yield inventory
    finally:
        subprocess.run([*script, "down", str(folder)], check=True)


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that a rig's user can reach, whatever pytest makes of its own."""
    with tempfile.TemporaryDirectory(prefix="slipway-rig-") as name:
        yield Path(name)


def test_an_arm64_rig_proves_answers_and_no_speed(place: Path, tmp_path: Path) -> None:
    project = onnx_project(tmp_path / "project")
    toml = project / "sdk.toml"
    toml.write_text(toml.read_text() + "[limits]\naccuracy_drop = 0.05\n")
    with _up("arm64", place) as inventory:
        with reached("arm64", inventory, lambda _: None, what="a test") as rig:
            device = bench.look(rig)
        identity = device.identity
        assert (identity["arch"], identity["emulated"]) == ("aarch64", True)
        assert identity["isa"] == ["asimd", "dotprod", "fp16"], "a Cortex-A76"
        assert {"onnxruntime", "openvino"} <= device.software["runtimes"].keys()
        fits = [one["profile"] for one in closest(device) if not one["differs"]]
        assert fits == ["raspberry-pi-5"]

        told: list[str] = []
        (result,) = api.build(
            project, targets=["linux-arm"], out=tmp_path / "out", rig="arm64", inventory=inventory,
            on_event=lambda event: told.append(event.message),
        ).results  # fmt: skip
        assert any("on arm64" in line for line in told)
        built = [one for one in result.candidates if one.status == "built"]
        kinds = {(one.toolchain, one.precision) for one in built}
        assert kinds >= set(product(("onnxruntime", "openvino"), ("f32", "int8")))
        for one in built:
            assert _accuracy(one) == ("emulated", "met")
            assert one.numerics is not None
            assert one.numerics.cosine_min > 0.99
            assert one.latency_ms is None, "an emulator has no speed"
        assert result.verdict == "met", "no limit asks for speed"
        assert result.selected_by == "estimate"

        toml.write_text(toml.read_text() + "latency_p90_ms = 1000\n")
        (result,) = api.build(
            project, targets=["linux-arm"], out=tmp_path / "out", rig="arm64", inventory=inventory
        ).results
        assert result.verdict == "unproven"

        chosen = tmp_path / "out" / "net" / "raspberry-pi-5" / "chosen"
        with reached("arm64", inventory, lambda _: None, what="a test") as rig:
            assert verify_on(rig, chosen, tmp_path / "timed", told.append)


def test_int8_that_saturates_without_vnni_is_caught_and_another_recipe_passes(
    place: Path, tmp_path: Path
) -> None:
    project = tmp_path / "project"
    shutil.copytree(EXAMPLE, project)
    subprocess.run([sys.executable, "make_model.py"], cwd=project, check=True)

    def build(profile: str, rig: str | None = None) -> dict[str, CandidateSummary]:
        (found,) = api.build(
            project, targets=["intel"], profiles=[profile], out=tmp_path / f"{profile}-{rig}",
            rig=rig, inventory=inventory,
        ).results  # fmt: skip
        return {f"{one.toolchain}-{one.precision}": one for one in found.candidates}

    with _up("haswell", place) as inventory:
        with reached("haswell", inventory, lambda _: None, what="a test") as rig:
            identity = bench.look(rig).identity
        assert identity["emulated"] is True
        assert identity["isa"] == ["avx2", "f16c", "fma"]
        plain, careful = build("cascade-lake", "haswell"), build("haswell", "haswell")
        if isa_class("x86_64", fingerprint().identity["isa"])[1:3] == ("vnni", "none"):
            here = build("cascade-lake")["onnxruntime-int8"]
            assert (here.status, _accuracy(here)) == ("built", ("host", "met"))

    assert _accuracy(plain["onnxruntime-int8"]) == ("host", "unmet")
    assert plain["onnxruntime-int8"].accuracy.drop > 0.05
    assert _accuracy(plain["onnxruntime-f32"]) == ("host", "unproven"), "not that profile's CPU"
    for name in ("onnxruntime-f32", "onnxruntime-int8", "openvino-int8"):
        assert (careful[name].status, _accuracy(careful[name])) == ("built", ("emulated", "met"))
        assert careful[name].latency_ms is None, "an emulator has no speed"


def _accuracy(candidate: CandidateSummary) -> tuple[str, str]:
    """Where the figure comes from, and what becomes of the limit on it."""
    assert candidate.accuracy is not None
    verdicts = {limit.name: limit.verdict for limit in candidate.limits}
    return candidate.accuracy.evidence, verdicts["accuracy_drop"]
