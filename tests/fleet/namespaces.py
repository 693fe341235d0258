"""A server and devices that each have a network of their own, whose links can be cut."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.fleet.agents import ROOT
from tests.updates.fleet import PASSPHRASE

HOST, SERVER_PORT, FIRST_PORT = "10.231.7.1", 8000, 8001
BYTES_PER_S = 2_000_000.0
"""Of each line: a download lasts long enough to be cut."""


def check_namespaces() -> None:
    """Skip where there are none, and say what is missing."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    if shutil.which("ip") is None:
        pytest.skip("network namespaces need `ip`: apt-get install iproute2")
    name = f"slipway-{os.getpid()}-try"
    commands = [["netns", "add", name], ["-n", name, "link", "add", "name", "b", "type", "bridge"]]
    found = [
        subprocess.run(["ip", *command], capture_output=True, check=False) for command in commands
    ]
    subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
    for one in found:
        if one.returncode != 0:
            pytest.skip(f"no network namespaces here: {one.stderr.decode().strip()}")


class Network:
    """A namespace with a bridge for the server, and one with a link to it for each device."""

    def __init__(self, devices: int) -> None:
        base = f"slipway-{os.getpid()}"
        self.server = f"{base}-s"
        self.devices = [f"{base}-{number}" for number in range(devices)]
        self._ip("netns", "add", self.server)
        self._ip("-n", self.server, "link", "set", "lo", "up")
        self._ip("-n", self.server, "link", "add", "name", "bridge", "type", "bridge")
        self._ip("-n", self.server, "addr", "add", f"{HOST}/24", "dev", "bridge")
        self._ip("-n", self.server, "link", "set", "bridge", "up")
        for number, name in enumerate(self.devices):
            self._ip("netns", "add", name)
            self._ip(
                "-n", self.server, "link", "add", "name", f"v{number}", "type", "veth",
                "peer", "name", "eth0", "netns", name,
            )  # fmt: skip
            self._ip("-n", self.server, "link", "set", f"v{number}", "master", "bridge", "up")
            self._ip("-n", name, "link", "set", "lo", "up")
            self._ip("-n", name, "addr", "add", f"10.231.7.{10 + number}/24", "dev", "eth0")
            self._ip("-n", name, "link", "set", "eth0", "up")

    def link(self, number: int, state: str) -> None:
        """Cut a device's link (`down`), or restore it (`up`)."""
        self._ip("-n", self.server, "link", "set", f"v{number}", state)

    def close(self) -> None:
        for name in (*self.devices, self.server):
            subprocess.run(["ip", "netns", "del", name], check=True)

    def _ip(self, *arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True)


def inside(name: str) -> tuple[str, ...]:
    """What begins a command in a namespace."""
    return ("ip", "netns", "exec", name)


class Line:
    """A device's way to the server: a proxy in the server's namespace."""

    def __init__(self, network: Network, number: int) -> None:
        self.port = FIRST_PORT + number
        self.url = f"http://{HOST}:{self.port}"
        about = [HOST, str(self.port), str(SERVER_PORT), str(BYTES_PER_S)]
        code = "import sys; from tests.fleet.proxy import main; main(*sys.argv[1:])"
        self._process = subprocess.Popen(
            [*inside(network.server), sys.executable, "-c", code, *about], cwd=ROOT, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        self._heard("ready")

    def holds(self, match: str, mode: str, after: int) -> None:
        """Hold up the next request or answer with this in it; tests/fleet/proxy.py has the modes."""
        self._say(json.dumps({"match": match, "mode": mode, "after": after}))

    def hit(self) -> None:
        """Wait until something is held up."""
        self._heard("hit")

    def go(self) -> None:
        """What is held up goes on, or its connection ends."""
        self._say("go")

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def _heard(self, wanted: str) -> None:
        assert self._process.stdout is not None
        assert self._process.stdout.readline().strip() == wanted


class Desk:
    """`sdk fleet` in the server's namespace."""

    def __init__(self, network: Network, folder: Path) -> None:
        self._inside, self._folder = inside(network.server), folder
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "SLIPWAY_PASSPHRASE": PASSPHRASE,
            "SLIPWAY_SERVER": f"http://127.0.0.1:{SERVER_PORT}",
        }

    def __call__(self, *arguments: str) -> Any:
        key = (self._folder / "default.key").read_text().strip()
        done = subprocess.run(
            [*self._inside, sys.executable, "-m", "sdk", "fleet", *arguments, "--json"],
            cwd=self._folder, env={**self.environment, "SLIPWAY_API_KEY": key},
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def serving(self, log: Path, *arguments: str) -> subprocess.Popen[bytes]:
        """The server at work, as an operator starts it."""
        program: Sequence[str] = (sys.executable, "-m", "sdk", "fleet", "serve")
        with log.open("ab") as stream:
            return subprocess.Popen(
                [*self._inside, *program, *arguments, "--port", str(SERVER_PORT)],
                cwd=self._folder, env=self.environment, stdout=stream, stderr=stream,
            )  # fmt: skip
