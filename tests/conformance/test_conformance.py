"""The client that tuf-conformance drives: on our own repository always, by the suite if it is here.

RESULT.md has the last run by hand. To run it here: pip install
git+https://github.com/theupdateframework/tuf-conformance, and `faketime` from the distribution.
"""

from __future__ import annotations

import functools
import http.server
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sdk.release import ceremony
from tests.updates.fleet import MODEL, Fleet

HERE = Path(__file__).parent
(CASES,) = re.findall(r"^(\d+) passed", (HERE / "RESULT.md").read_text(), re.MULTILINE)
LACKING = [
    name
    for name, here in (
        ("the package tuf_conformance", importlib.util.find_spec("tuf_conformance")),
        ("the command faketime", shutil.which("faketime")),
    )
    if not here
]
SUITE = pytest.mark.long
if LACKING:
    SUITE = pytest.mark.skip(
        reason=f"tuf-conformance is not at hand ({', '.join(LACKING)}): its {CASES} cases were not "
        "run; the last run by hand is in tests/conformance/RESULT.md"
    )
Client = Callable[..., int]


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Not in the tests' output."""


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    fleet = Fleet(tmp_path / "fleet")
    fleet.publish("1.0.0")
    return fleet


@pytest.fixture
def address(fleet: Fleet) -> Iterator[str]:
    handler = functools.partial(_Quiet, directory=str(fleet.repo))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def client(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Client:
    from tests.conformance.client import main

    (tmp_path / "metadata").mkdir()
    (tmp_path / "targets").mkdir()

    def run(*arguments: str) -> int:
        options = ["--metadata-dir", str(tmp_path / "metadata")]
        if arguments[-1] != "init" and arguments[0] != "init":
            options += ["--metadata-url", f"{address}/metadata/"]
        if arguments[-1] == "download":
            options += ["--target-base-url", f"{address}/targets"]
            options += ["--target-dir", str(tmp_path / "targets")]
        monkeypatch.setattr(sys, "argv", ["client", *options, *arguments])
        return main()

    return run


def test_the_client_follows_our_own_repository(
    client: Client, fleet: Fleet, tmp_path: Path
) -> None:
    target = f"models/{MODEL}/1.0.0/manifest.json"
    assert client("init", str(fleet.repo / "metadata/1.root.json")) == 0
    assert client("refresh") == 0
    assert {path.name for path in (tmp_path / "metadata").glob("*.json")} == {
        "root.json", "timestamp.json", "snapshot.json", "targets.json",
    }  # fmt: skip
    assert client("--target-name", target, "download") == 0
    (found,) = (tmp_path / "targets").iterdir()
    (there,) = (fleet.repo / "targets" / "models" / MODEL / "1.0.0").iterdir()
    assert found.read_bytes() == there.read_bytes()
    ceremony.rotate(fleet.repository(), "root-1", "timestamp")
    assert client("refresh") == 0
    shutil.copy(fleet.repo / "metadata/1.root.json", fleet.repo / "metadata/timestamp.json")
    assert client("refresh") == 1
    assert client("--target-name", f"models/{MODEL}/9/manifest.json", "download") == 1


@SUITE
def test_the_suite_passes(tmp_path: Path) -> None:
    suite = importlib.util.find_spec("tuf_conformance")
    assert suite is not None
    assert suite.origin is not None
    path = os.pathsep.join([str(HERE.parent.parent), os.environ.get("PYTHONPATH", "")])
    found = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", str(Path(suite.origin).parent), "-q"),
            *("-p", "no:cacheprovider", "-c", os.devnull),
            *("--entrypoint", f"{sys.executable} -m tests.conformance.client"),
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout[-4000:] + found.stderr[-1000:]
    assert f"{CASES} passed" in found.stdout, found.stdout[-200:]
