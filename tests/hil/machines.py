"""A rig that is a machine of its own: its link can be cut and slowed, and it can hang or be reset."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

from hil.inventory import RigEntry, parse_inventory
from hil.reach import Place
from tests.hil.conftest import SCRIPT


class Machine:
    """Made by `hil/rigs/loopback.sh up FOLDER --netns NAME`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        found = self._script("up", "--netns", f"slipway-rig-{os.getpid()}")
        if found.returncode == 77:
            pytest.skip(found.stderr.strip())
        assert found.returncode == 0, found.stderr
        self._told = found.stdout

    def place(self, **changes: object) -> Place:
        """Where it is; by another address, or without its switch, where that is changed."""
        import dataclasses

        inventory = parse_inventory(self._told, self.folder / "hil.toml")
        entry: RigEntry = dataclasses.replace(inventory.rig("loopback"), **changes)  # type: ignore[arg-type]
        return Place(entry=entry, inventory=inventory, known_hosts=self.folder / "known_hosts")

    @property
    def boot_id(self) -> str:
        return (self.folder / "boot_id").read_text().strip()

    def link(self, state: str) -> None:
        self._done("link", state)

    def power(self, state: str) -> None:
        self._done("power", state)

    def freeze(self) -> None:
        self._done("freeze")

    def known_at(self, port: int) -> None:
        """The same key at a proxy of this machine."""
        path = self.folder / "known_hosts"
        line = path.read_text().splitlines()[0].split(" ", 1)[1]
        path.write_text(f"{path.read_text()}[127.0.0.1]:{port} {line}\n")

    def processes(self) -> list[str]:
        """What runs there of a client's."""
        name = (self.folder / "netns").read_text().strip()
        pids = subprocess.run(
            ["ip", "netns", "pids", name], check=True, capture_output=True, text=True
        ).stdout.split()
        found = []
        for pid in pids:
            with contextlib.suppress(OSError):
                line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
                if line and "sshd" not in line:
                    found.append(line)
        return found

    def quiet(self) -> bool:
        """Whether nothing of a client's runs there, within a few seconds."""
        until = time.monotonic() + 15
        while self.processes() and time.monotonic() < until:
            time.sleep(0.1)
        return not self.processes()

    def down(self) -> None:
        self._done("down")

    def _done(self, verb: str, *arguments: str) -> None:
        found = self._script(verb, *arguments)
        assert found.returncode == 0, found.stderr

    def _script(self, verb: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", str(SCRIPT), verb, str(self.folder), *arguments], check=False,
            capture_output=True, text=True,
        )  # fmt: skip


class SlowLine:
    """A TCP proxy of this machine that lets so many bytes through in a second, each way."""

    def __init__(self, host: str, port: int, bytes_per_s: float) -> None:
        self._to, self._rate = (host, port), bytes_per_s
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def close(self) -> None:
        for one in self._open:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._to, timeout=5)
                far.settimeout(None)
                self._open += [near, far]
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=self._pass, args=(one, other), daemon=True).start()

    def _pass(self, one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := one.recv(1 << 14):
                time.sleep(len(piece) / self._rate)
                other.sendall(piece)
        for end in (one, other):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
