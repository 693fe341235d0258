"""A line between a device and a server that a test may slow down, hold up, or lead elsewhere."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable

_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: closing is a reset."""
_CHUNK = 4096


@dataclasses.dataclass
class Rule:
    """Holds up the first request that has these bytes in it, or its answer, until it may go on."""

    match: str
    mode: str
    """`request`: it never reaches the server; `answer`: the device never has the answer; `late`:
    it has it late."""
    after: int = 0
    """So many bytes of the answer come through first."""
    found: threading.Event = dataclasses.field(default_factory=threading.Event)
    hit: threading.Event = dataclasses.field(default_factory=threading.Event)
    go: threading.Event = dataclasses.field(default_factory=threading.Event)

    def holds(self) -> bool:
        """Wait until the test has done what it wanted to; whether the connection ends then."""
        self.hit.set()
        self.go.wait(60.0)
        return self.mode != "late"


class Proxy:
    """Listens at an address of its own, and passes bytes on to another one."""

    def __init__(self, target: tuple[str, int], host: str = "127.0.0.1", port: int = 0) -> None:
        self.target = target
        self.bytes_per_s: float | None = None
        """Of what the server answers, in each connection; None: as fast as it comes."""
        self.rule: Rule | None = None
        self.watches: Callable[[bytes], None] = lambda _: None
        """Is told what devices send, before it is passed on."""
        self._listener = socket.create_server((host, port))
        self._threads: list[threading.Thread] = []
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._begin(self._accept)

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    @property
    def url(self) -> str:
        return f"http://{self._listener.getsockname()[0]}:{self.port}"

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for line in self._open:
                _end(line)
        for thread in self._threads:
            thread.join(20.0)

    def _begin(self, work: Callable[..., None], *about: object) -> None:
        thread = threading.Thread(target=work, args=about, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                device, _ = self._listener.accept()
            except OSError:
                return
            self._begin(self._serve, device)

    def _serve(self, device: socket.socket) -> None:
        with device:
            try:
                server = socket.create_connection(self.target, timeout=10.0)
            except OSError:
                device.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                return
            with server:
                server.settimeout(None)
                with self._lock:
                    self._open |= {device, server}
                held: list[Rule] = []
                up = threading.Thread(target=self._up, args=(device, server, held), daemon=True)
                up.start()
                self._down(server, device, held)
                up.join()
                with self._lock:
                    self._open -= {device, server}

    def _up(self, device: socket.socket, server: socket.socket, held: list[Rule]) -> None:
        with contextlib.suppress(OSError):
            while content := device.recv(_CHUNK):
                self.watches(content)
                rule = self.rule
                if rule and rule.match.encode() in content and not rule.found.is_set():
                    rule.found.set()
                    if rule.mode != "request":
                        held.append(rule)
                    elif rule.holds():
                        break
                server.sendall(content)
        _end(server)

    def _down(self, server: socket.socket, device: socket.socket, held: list[Rule]) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while content := server.recv(_CHUNK):
                passed = passed + len(content) if held else 0
                if held and passed > held[0].after and held.pop().holds():
                    break
                device.sendall(content)
                if self.bytes_per_s is not None:
                    time.sleep(len(content) / self.bytes_per_s)
        _end(server)
        _end(device)


def _end(line: socket.socket) -> None:
    with contextlib.suppress(OSError):
        line.shutdown(socket.SHUT_RDWR)


def main(host: str, port: str, target_port: str, bytes_per_s: str) -> None:
    """A line in a process of its own: told rules and `go` on stdin, it says `hit` on stdout."""
    proxy = Proxy(("127.0.0.1", int(target_port)), host, int(port))
    proxy.bytes_per_s = float(bytes_per_s)
    _say("ready")
    for line in sys.stdin:
        if line.strip() == "go":
            if proxy.rule is not None:
                proxy.rule.go.set()
            continue
        proxy.rule = rule = Rule(**json.loads(line))
        threading.Thread(target=_tell, args=(rule,), daemon=True).start()
    proxy.close()


def _tell(rule: Rule) -> None:
    rule.hit.wait()
    _say("hit")


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
