"""A static HTTP server in a thread whose every answer a test can script, byte by byte.

Without a script it serves a folder, with ranges and etags. `requests` are those that came,
`body_bytes` how many bytes of bodies were sent.
"""

from __future__ import annotations

import contextlib
import dataclasses
import email.utils
import hashlib
import socket
import socketserver
import ssl
import struct
import threading
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any


@dataclasses.dataclass(frozen=True)
class Request:
    """What came, headers by their lower-case names."""

    path: str
    headers: dict[str, str]

    @property
    def begin(self) -> int:
        """Of the range that is asked for."""
        return int(self.headers.get("range", "bytes=0-")[6:].partition("-")[0])


class Line:
    """The connection, for an answer to write to."""

    def __init__(self, server: Server, connection: socket.socket) -> None:
        self._server = server
        self.connection = connection
        self.open = True

    def head(self, status: str, **headers: object) -> None:
        """The first lines; `Content_Length=5` is a header of that name."""
        lines = [f"HTTP/1.1 {status}", f"Date: {email.utils.formatdate(0, usegmt=True)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.raw("\r\n".join([*lines, "", ""]).encode("latin-1"))

    def body(self, data: bytes) -> None:
        """A piece of the body; counted."""
        self.raw(data)
        self._server.body_bytes += len(data)

    def raw(self, data: bytes) -> None:
        """Anything."""
        self.connection.sendall(data)

    def close(self) -> None:
        """As a server that ends in good order."""
        self.open = False

    def reset(self) -> None:
        """As one that crashes: what is still on the way is lost."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.open = False


Answer = Callable[[Request, Line], None]


class Server:
    """Serves a folder under `/repo/`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.requests: list[Request] = []
        self.body_bytes = 0
        self.script: list[Answer] = []
        """Each is the answer to one request of `scripted`, in this order."""
        self.always: Answer | None = None
        """The answer to all further ones."""
        self.scripted = ""
        """What the path of a request holds that the script is for."""
        self._context: ssl.SSLContext | None = None
        self._port = 0
        self._inner: Any = None
        self.start()

    @property
    def url(self) -> str:
        """Of the repository."""
        return f"http{'s' if self._context else ''}://127.0.0.1:{self._port}/repo"

    @property
    def paths(self) -> list[str]:
        """What was asked for."""
        return [request.path for request in self.requests]

    def encrypt(self, certificate: Path) -> None:
        """Speak TLS from now on."""
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate)

    def start(self) -> None:
        """Listen, at the port of the last time."""
        server = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with contextlib.suppress(OSError):
                    server._talk(self.request)

        class Inner(socketserver.ThreadingTCPServer):
            allow_reuse_address = True
            daemon_threads = True

        self._inner = Inner(("127.0.0.1", self._port), Handler)
        self._port = self._inner.server_address[1]
        threading.Thread(target=self._inner.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        """Listen no more; what is being answered goes on."""
        self._inner.shutdown()
        self._inner.server_close()

    def _talk(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._context is not None:
            connection = self._context.wrap_socket(connection, server_side=True)
        line = Line(self, connection)
        with connection, connection.makefile("rb") as stream:
            while line.open and (first := stream.readline()):
                headers = {}
                while text := stream.readline().decode("latin-1").strip():
                    name, _, value = text.partition(":")
                    headers[name.lower()] = value.strip()
                url = urllib.parse.urlsplit(first.decode().split()[1]).path
                path = urllib.parse.unquote(url).removeprefix("/repo/")
                request = Request(path, headers)
                self.requests.append(request)
                self._answer_to(request)(request, line)

    def _answer_to(self, request: Request) -> Answer:
        if self.scripted not in request.path:
            return self.static
        if self.script:
            return self.script.pop(0)
        return self.always or self.static

    def static(self, request: Request, line: Line) -> None:
        """The file, as a well-behaved server sends it."""
        try:
            content = (self.folder / request.path).read_bytes()
        except OSError:
            line.head("404 Not Found", Content_Length=9)
            line.raw(b"not found")
            return
        etag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        if "range" not in request.headers or request.headers.get("if-range", etag) != etag:
            line.head("200 OK", Content_Length=len(content), ETag=etag)
            line.body(content)
        elif request.begin >= len(content):
            line.head("416 Range Not Satisfiable", Content_Length=0)
        else:
            rest = content[request.begin :]
            said = f"bytes {request.begin}-{len(content) - 1}/{len(content)}"
            line.head(
                "206 Partial Content", Content_Length=len(rest), ETag=etag, Content_Range=said
            )
            line.body(rest)


def answers(status: str, body: bytes = b"", **headers: object) -> Answer:
    """An answer of that status."""

    def answer(_: Request, line: Line) -> None:
        line.head(status, **{"Content_Length": len(body), **headers})
        line.body(body)

    return answer
