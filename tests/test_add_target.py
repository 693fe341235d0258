"""A target of somebody else's: one module, one profile, one line of metadata; nothing here changes.

docs/how-to/add-a-target.md tells the same in words and shows these very files.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_build import onnx_project

pytestmark = pytest.mark.toolchain

HOW_TO = Path(__file__).parent.parent / "docs" / "how-to" / "add-a-target.md"


def shown_files() -> dict[str, str]:
    """File name -> content, of the page's blocks that name a file."""
    found = re.findall(
        r"^```\w+ file=(\S+)\n(.*?)^```$", HOW_TO.read_text(), re.MULTILINE | re.DOTALL
    )
    return dict(found)


def install(folder: Path, project: Path) -> dict[str, str]:
    """Put the page's module where pip would, and its profile into the project."""
    for name, text in shown_files().items():
        place = (project if name.startswith("profiles/") else folder) / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    metadata = folder / "kiosk-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: kiosk\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[slipway.targets]\nkiosk = kiosk_target\n")
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": path}


def test_a_target_from_another_distribution_is_built_for(tmp_path: Path) -> None:
    project = onnx_project(tmp_path / "project")
    (tmp_path / "site").mkdir()
    environment = install(tmp_path / "site", project)

    def sdk(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-P", "-m", "sdk", *arguments]
        return subprocess.run(
            command, env=environment, cwd=project, capture_output=True, text=True, check=False
        )

    assert "kiosk " in sdk("targets").stdout
    checked = sdk("profiles", "check", "profiles/kiosk-2026.toml")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    built = sdk("build", "--target", "kiosk", "--out", str(tmp_path / "out"))
    assert built.returncode == 0, built.stderr
    summary = json.loads((tmp_path / "out" / "net" / "summary.json").read_text())
    (result,) = summary["results"]
    assert (result["target"], result["profile"]) == ("kiosk", "kiosk-2026")
    assert result["verdict"] == "unproven"
    assert {c["status"] for c in result["candidates"]} == {"built"}
    assert sdk("build", "--target", "kiosk", "--profile", "host").returncode == 2
