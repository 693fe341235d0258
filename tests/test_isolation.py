"""A user's own `agent/` or `targets/` and ours do not meet."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import agent
from sdk.isolation import user_imports


def write_package(root: Path, name: str) -> None:
    (root / name).mkdir()
    (root / name / "__init__.py").write_text(f"OWNER = 'the user, {name}'\n")
    (root / name / "policy.py").write_text("ANSWER = 42\n")


def test_inside_the_users_package_answers_and_outside_ours(tmp_path: Path) -> None:
    write_package(tmp_path, "agent")
    with user_imports(tmp_path):
        from agent.policy import ANSWER  # type: ignore[import-not-found]

        import agent as theirs

        assert theirs.OWNER == "the user, agent"
        assert ANSWER == 42
    assert sys.modules["agent"] is agent
    assert "agent.policy" not in sys.modules
    from agent.errors import UsageError

    assert UsageError.exit_code == 2


def test_ours_is_found_inside_where_the_user_has_none(tmp_path: Path) -> None:
    with user_imports(tmp_path):
        import agent as found

        assert found is agent


def test_the_users_folder_hides_nothing_installed(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise RuntimeError('shadowed')\n")
    del sys.modules["json"]
    with user_imports(tmp_path):
        import json

        assert json.loads("1") == 1


def test_a_script_beside_its_own_agent_package_can_import_build(tmp_path: Path) -> None:
    write_package(tmp_path, "agent")
    write_package(tmp_path, "targets")
    script = tmp_path / "script.py"
    script.write_text("from sdk import build\nprint(build.__name__)\n")
    found = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip() == "build"


def test_the_module_command_works_beside_a_users_agent_package(tmp_path: Path) -> None:
    write_package(tmp_path, "agent")
    found = subprocess.run(
        [sys.executable, "-m", "sdk", "targets"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "NO_COLOR": "1"},
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert "intel" in found.stdout
