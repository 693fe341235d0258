"""What a user's code reads is known, and their own line is named when it fails."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from agent.errors import CaptureError
from sdk.usercode import file_state, folder_state, load_function, user_line


def recorded(tmp_path: Path, body: str) -> dict[str, Any]:
    """The depfile of a process that runs `body` in a user's model.py."""
    (tmp_path / "model.py").write_text(textwrap.dedent(body))
    code = (
        "import sys, json; from pathlib import Path; from agent.codec import encode;"
        "from sdk.usercode import Recorder, load_function; from sdk.isolation import user_imports;"
        "root = Path(sys.argv[1]); recorder = Recorder(ignored=(root / 'out',));\n"
        "with user_imports(root): load_function(root, 'model.py', 'make', 'model.source')()\n"
        "print(json.dumps(encode(recorder.depfile())))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    return dict(json.loads(found.stdout))


def test_files_that_are_imported_opened_or_listed_are_known(tmp_path: Path) -> None:
    (tmp_path / "helpers.py").write_text("from more import B\nA = B\n")
    (tmp_path / "more.py").write_text("B = 1\n")
    (tmp_path / "labels.txt").write_text("cat\n")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "1.png").write_bytes(b"")
    found = recorded(
        tmp_path,
        """
        from pathlib import Path
        import helpers
        def make():
            here = Path(__file__).parent
            (here / "labels.txt").read_text()
            list((here / "images").glob("*.png"))
            (here / "written.txt").write_text("by the model")
        """,
    )
    names = {Path(path).name for path in found["files"]}
    assert names == {"model.py", "helpers.py", "more.py", "labels.txt"}
    assert [Path(path).name for path in found["folders"]] == ["images"]


def test_a_module_that_comes_from_its_bytecode_is_known_by_its_source(tmp_path: Path) -> None:
    (tmp_path / "helpers.py").write_text("A = 1\n")
    body = "import helpers\ndef make(): pass\n"
    recorded(tmp_path, body)
    assert "helpers.py" in {Path(path).name for path in recorded(tmp_path, body)["files"]}


def test_imported_packages_are_known_with_their_versions(tmp_path: Path) -> None:
    found = recorded(tmp_path, "import numpy\ndef make(): pass\n")
    assert found["packages"]["numpy"]


def test_states_differ_when_content_or_names_do(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("one")
    before, listed = file_state(file), folder_state(tmp_path)
    file.write_text("two")
    assert file_state(file) != before
    assert folder_state(tmp_path) == listed
    (tmp_path / "b.txt").write_text("")
    assert folder_state(tmp_path) != listed
    file.unlink()
    assert file_state(file) == ""


def test_a_function_that_is_not_there_is_answered_with_those_that_are(tmp_path: Path) -> None:
    (tmp_path / "model_a.py").write_text("def make_model(): pass\n")
    with pytest.raises(CaptureError, match="it has make_model"):
        load_function(tmp_path, "model_a.py", "make", "model.source")


def test_an_import_that_raises_names_the_users_line(tmp_path: Path) -> None:
    (tmp_path / "model_b.py").write_text("x = 1\ny = x / 0\n")
    with pytest.raises(CaptureError) as found:
        load_function(tmp_path, "model_b.py", "make", "model.source")
    assert f"{tmp_path / 'model_b.py'}:2" in found.value.what
    assert "y = x / 0" in found.value.cause


def test_the_users_innermost_line_is_found_through_a_chain_of_errors(tmp_path: Path) -> None:
    (tmp_path / "chain.py").write_text(
        "import json\ndef outer():\n    try:\n        json.loads('{')\n"
        "    except ValueError as error:\n        raise RuntimeError('no') from error\n"
    )
    outer = load_function(tmp_path, "chain.py", "outer", "x")
    with pytest.raises(RuntimeError) as found:
        outer()
    assert user_line(found.value, tmp_path) == f"{tmp_path / 'chain.py'}:4"
