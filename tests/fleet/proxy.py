"""A line between a device and a server that a test may slow down, cut, or lead elsewhere."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator

_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: closing is a reset."""
_CHUNK = 4096


class Proxy:
    """Listens at an address of its own, and passes bytes on to another one."""

    def __init__(self, target: tuple[str, int], host: str = "127.0.0.1", port: int = 0) -> None:
        self.target = target
        self.bytes_per_s: float | None = None
        """Of what the server answers, in each connection; None: as fast as it comes."""
        self.cut_after: int | None = None
        """So many bytes of an answer come through a connection, then it is reset."""
        self.watches: Callable[[bytes], None] = lambda _: None
        """Is told what devices send, before it is passed on."""
        self.cuts = 0
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

    def cut(self) -> None:
        """Reset every connection."""
        with self._lock:
            for line in self._open:
                with contextlib.suppress(OSError):
                    line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                    line.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
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
                up = threading.Thread(target=self._up, args=(device, server), daemon=True)
                up.start()
                self._down(server, device)
                up.join()
                with self._lock:
                    self._open -= {device, server}

    def _up(self, device: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while content := device.recv(_CHUNK):
                self.watches(content)
                server.sendall(content)
        _end(server)

    def _down(self, server: socket.socket, device: socket.socket) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while content := server.recv(_CHUNK):
                most = self.cut_after
                if most is not None and passed + len(content) > most:
                    device.sendall(content[: max(0, most - passed)])
                    self.cuts += 1
                    device.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                    break
                device.sendall(content)
                passed += len(content)
                if self.bytes_per_s is not None:
                    time.sleep(len(content) / self.bytes_per_s)
        _end(server)
        _end(device)


def _end(line: socket.socket) -> None:
    with contextlib.suppress(OSError):
        line.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def proxied(url: str) -> Iterator[Proxy]:
    """A line to the server at an address."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    made = Proxy((host, int(port)))
    try:
        yield made
    finally:
        made.close()
