"""The fleet server as it is run: `sdk fleet serve` in a process of its own, which can be killed."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.fleet.client import Client
from tests.updates.devices import fresh_fleet
from tests.updates.fleet import PASSPHRASE, Fleet

_SERVING = re.compile(r"serving default at (http://\S+)")


class Process:
    """One server over a folder's repository; started again, it listens at the same port."""

    def __init__(self, folder: Path, database: str, fleet: Fleet | None = None) -> None:
        self.folder = folder
        self.database = database
        self.fleet = fleet or fresh_fleet(folder)
        self.log: list[str] = []
        self.keys: dict[tuple[str, str], str] = {}
        """As a world has them; of a first start there is an admin's."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self.address = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it; it answers when this returns."""
        program = "from sdk.cli import main; main()"
        command = [
            *(sys.executable, "-c", program, "fleet", "serve", "--port", str(self.port)),
            *("--repo", str(self.fleet.repo), "--keys", str(self.fleet.folder / "keys")),
            *("--db", self.database, "--poll", "2"),
        ]
        self._process = subprocess.Popen(
            command, cwd=self.folder, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
            text=True, env={**os.environ, "SLIPWAY_PASSPHRASE": PASSPHRASE, "COLUMNS": "200"},
        )  # fmt: skip
        serving = threading.Event()
        self._reader = threading.Thread(target=self._read, args=(self._process, serving))
        self._reader.start()
        assert serving.wait(60), "\n".join(self.log)
        key = self.folder / "default.key"
        if key.exists():
            self.keys = dict.fromkeys(
                [("default", role) for role in ("viewer", "operator", "admin")],
                key.read_text().strip(),
            )

    def client(self) -> Client:
        """A connection to it."""
        world: Any = self
        return Client(self.address, world)

    def kill(self) -> None:
        """Have it end at once, in whatever it is doing."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """Ask it to stop; its exit status."""
        return self._end(signal.SIGTERM)

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self) -> int:
        """Until it has ended; its exit status."""
        assert self._process is not None
        status = self._process.wait(30)
        assert self._reader is not None
        self._reader.join(10)
        return status

    def _end(self, number: int) -> int:
        if self._process is None or self._process.poll() is not None:
            return 0 if self._process is None else self.wait()
        self._process.send_signal(number)
        return self.wait()

    def _read(self, process: subprocess.Popen[str], serving: threading.Event) -> None:
        assert process.stderr is not None
        with process.stderr as lines:
            for line in lines:
                self.log.append(line.rstrip("\n"))
                if _SERVING.search(line):
                    serving.set()
        serving.set()


@contextlib.contextmanager
def started(folder: Path, database: str, fleet: Fleet | None = None) -> Iterator[Process]:
    """A server that is there until it is done with."""
    process = Process(folder, database, fleet)
    try:
        process.start()
        yield process
    finally:
        process.kill()


def within(seconds: float, ask: Any) -> Any:
    """What `ask` returns once that is true; at most so long."""
    until = time.monotonic() + seconds
    while True:
        found = ask()
        if found:
            return found
        assert time.monotonic() < until, f"not within {seconds} s"
        time.sleep(0.05)
