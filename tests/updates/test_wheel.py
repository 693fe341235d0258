"""What a device gets: the wheel with one runtime, in an environment with nothing else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sdk.release.assign import assignment_for
from sdk.release.package import export
from tests.toolchains.cases import VENDOR_WARNINGS
from tests.updates.devices import fresh_fleet
from tests.updates.fleet import GROUP, MODEL, Fleet
from tests.updates.test_real import ENTRY, Kit, build, kit

pytestmark = [pytest.mark.toolchain, pytest.mark.long, *VENDOR_WARNINGS]

ROOT = Path(__file__).parents[2]
PACKAGES = ("sdk", "targets", "agent", "profiles", "hil")
NEVER = ("torch", "typer", "onnx", "nncf", "executorch", "scipy", "optuna")
RUN = """
import json, sys
import numpy
from agent.sessions import active
inputs = {name: numpy.array(told, "float32") for name, told in json.loads(sys.argv[2]).items()}
with active(sys.argv[1]) as session:
    print(json.dumps({name: array.tolist() for name, array in session.run(inputs).items()}))
"""

__all__ = ["kit"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that nothing that lies about in the checkout comes along."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in PACKAGES:
        shutil.copytree(
            ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
        )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(out), str(source)]
    subprocess.run(pip, check=True)
    (found,) = out.glob("*.whl")
    return found


class Device:
    """An environment, a home and a state folder of its own."""

    def __init__(self, folder: Path, wheel: Path, extra: str) -> None:
        self.state = folder / "state"
        self.bin = folder / "venv" / "bin"
        home = folder / "home"
        home.mkdir(parents=True)
        kept = {name: os.environ[name] for name in os.environ if name.startswith("PIP_")}
        path = f"{self.bin}{os.pathsep}{os.defpath}"
        self.env = {**kept, "HOME": str(home), "PATH": path, "SLIPWAY_STATE": str(self.state)}
        subprocess.run([sys.executable, "-m", "venv", str(self.bin.parent)], check=True)
        what = ["-c", str(ROOT / "constraints.txt"), f"slipway-sdk[{extra}] @ {wheel.as_uri()}"]
        self.run("python", "-m", "pip", "install", "-q", *what)

    def run(self, *command: str, code: int = 0) -> str:
        """What a command says; it has to end with `code`."""
        done = subprocess.run(
            command, env=self.env, capture_output=True, text=True, cwd=self.env["HOME"], check=False
        )
        assert done.returncode == code, (command, done.stdout, done.stderr)
        return done.stdout or done.stderr


def released(fleet: Fleet, kit: Kit, runtime: str) -> Path:
    """A package with a real model for one runtime."""
    published = fleet.publish("1.0.0", build(kit, fleet.folder / "built", {"only": runtime}))
    out = fleet.folder / "net-1.0.0.zip"
    export(fleet.repository(), assignment_for(published, group=GROUP), out)
    return out


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_the_wheel_and_one_runtime_are_all_that_a_device_needs(
    wheel: Path, kit: Kit, tmp_path: Path, runtime: str
) -> None:
    fleet = fresh_fleet(tmp_path)
    package = released(fleet, kit, runtime)
    device = Device(tmp_path / "machine", wheel, f"rt-{runtime}")
    listed = json.loads(device.run("python", "-m", "pip", "list", "--format", "json"))
    names = {one["name"].lower() for one in listed}
    assert not names & set(NEVER)
    assert "numpy" in names

    device.run("sdk-agent", "trust", str(fleet.repo / "metadata" / "1.root.json"))
    (device.state / "agent.toml").write_text(f'group = "{GROUP}"\nreserve_mib = 0\n')
    device.run("sdk-agent", "doctor")
    told = json.loads(device.run("sdk-agent", "install", str(package), "--json"))
    assert told["state"] == "TRIAL", told
    device.run("sdk-agent", "mark-good", MODEL)
    (model,) = json.loads(device.run("sdk-agent", "status", "--json"))["models"]
    assert model["release"] == "1.0.0"
    sample = ENTRY.sample(seed=0)
    told = json.dumps({name: array.tolist() for name, array in sample.items()})
    answers = json.loads(device.run("python", "-c", RUN, MODEL, told))
    for name, right in ENTRY.eager(sample).items():
        np.testing.assert_allclose(answers[name], right, rtol=1e-3, atol=1e-4)
    assert "pip install" in device.run("sdk", "--help", code=2), "the build side is not here"
