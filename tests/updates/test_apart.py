"""A process that has left the network reaches nothing, and is otherwise what it was."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = """
import json, os, socket, sys
from agent.updates.apart import leave_network
port, folder, number = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
def connected():
    try:
        socket.create_connection(("127.0.0.1", port), 5).close()
    except OSError:
        return False
    return True
def in_a_child():
    child = os.fork()
    if child == 0:
        os._exit(0 if connected() else 1)
    return os.waitpid(child, 0)[1] == 0
connected()  # nobody may not read what that imports
if number:
    os.setgroups([])
    os.setgid(number)
    os.setuid(number)
told = {"before": connected() and in_a_child(), "user": [os.geteuid(), os.getegid()]}
told["refused"] = leave_network()
told["itself"], told["child"] = connected(), in_a_child()
told["user after"] = [os.geteuid(), os.getegid()]
with open(os.path.join(folder, "file"), "w") as stream:
    stream.write("mine")
print(json.dumps(told))
"""


@pytest.mark.parametrize("who", ["as it is", "nobody"])
def test_neither_it_nor_its_children_reach_anything(who: str, tmp_path: Path) -> None:
    if who == "nobody" and os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    number = 65534 if who == "nobody" else 0
    folder = tmp_path / "own"
    folder.mkdir()
    if number:
        for path in (tmp_path, tmp_path.parent, tmp_path.parents[1]):
            path.chmod(0o755)
        os.chown(folder, number, number)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-c", CODE, str(port), str(folder), str(number)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
        )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["before"]
    if told["refused"]:
        assert told["itself"]
        pytest.skip(f"this machine lets {who} have no network of its own: {told['refused']}")
    assert not told["itself"]
    assert not told["child"]
    assert told["user after"] == told["user"]
    assert (folder / "file").read_text() == "mine"
    assert (folder / "file").stat().st_uid == told["user"][0]
