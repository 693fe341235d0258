"""The loop closed, as the example shows it: real builds, a real server, three real agents."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "docs/examples/onnx-only"


@pytest.mark.long
@pytest.mark.toolchain
def test_a_class_slower_than_its_profile_gets_another_variant(tmp_path: Path) -> None:
    if not (EXAMPLE / "digits-mlp.onnx").is_file():
        subprocess.run([sys.executable, "make_model.py"], cwd=EXAMPLE, check=True)
    found = subprocess.run(
        [sys.executable, "refit.py", str(tmp_path)], cwd=EXAMPLE, check=False, timeout=400,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert found.returncode == 0, found.stdout
    said = found.stdout
    first, second = (line for line in said.splitlines() if "chosen by estimate" in line)
    assert "/openvino-" in first
    assert "/onnxruntime-" in second
    assert "9 reports" in said
    assert "from 3 devices" in said
    assert said.count("the rollout is finished") == 2
    assert said.count("the rollout is reverted") == 1, "a gate took the slow one back"
