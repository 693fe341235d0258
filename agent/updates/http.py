"""HTTP as the agent speaks it, to one server that may be slow, broken or not what it says.

urllib3 does the talking. Here are its connections, which are cut when a step takes too long, and
short questions to a server whose answers have an end.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import email.utils
import functools
import math
import re
import socket
import threading
import time
import urllib.parse
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

from agent.errors import NetworkError, UsageError
from agent.updates.source import CHUNK_BYTES, too_slow

CONNECT_S, READ_S = 10.0, 30.0
STEP_S = 60.0
"""The longest wait for an answer's head, or for the next piece of its body: a server that sends a
byte now and then would never make a read of the socket time out."""
CALL_S = 60.0
"""The longest that a question may take with all of its answer."""
ANSWER_BYTES = 1 << 20
"""No answer to a question is longer."""
_NUMBER = re.compile(r"[0-9]{1,15}")  # `str.isdigit` takes more than `int` does


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reply:
    """What a server answered."""

    status: int
    content: bytes
    after_s: float | None
    """`Retry-After`: not before so many seconds."""


class Caller:
    """Asks one server short questions; nothing is followed, and nothing asked twice."""

    def __init__(self, base: str) -> None:
        """`base` is an address on the server: its origin counts.

        Raises:
            UsageError: it names no host.
        """
        self._watch = Watch(STEP_S)
        self._base = base
        self._pool = pool_of(base, self._watch)

    def ask(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        *,
        limit_s: float = CALL_S,
    ) -> Reply:
        """The answer to one request, whatever its status.

        Args:
            method: such as `POST`.
            path: from the origin on, with its query.
            body: JSON, if anything.
            headers: beside the usual ones.
            limit_s: seconds, for all of it.

        Raises:
            NetworkError: there is none in time, it is too long, or compressed.
        """
        import urllib3

        url = urllib.parse.urljoin(self._base, path)
        until = time.monotonic() + limit_s
        sent = {**self._pool.headers, **(headers or {})}
        if body:
            sent["Content-Type"] = "application/json"
        with self._watch:
            try:
                with self._watch.step(limit_s):
                    response = self._pool.request(
                        method, path, body=body, headers=sent,
                        timeout=urllib3.Timeout(
                            connect=min(CONNECT_S, limit_s), read=min(READ_S, limit_s)
                        ),
                        preload_content=False, decode_content=False, redirect=False,
                    )  # fmt: skip
                try:
                    check_encoding(url, response)
                    content = self._content(response, url, until)
                finally:
                    response.close()
            except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
                raise failed(url, f"{type(error).__name__}: {error}") from error
        return Reply(status=response.status, content=content, after_s=after_s(response))

    def _content(self, response: Any, url: str, until: float) -> bytes:
        content = bytearray()
        while True:
            left = until - time.monotonic()
            if left <= 0 or self._watch.has_cut:
                raise too_slow(url, len(content), "its time is up")
            with self._watch.step(left):
                chunk = response.read1(CHUNK_BYTES)
            if not chunk:
                return bytes(content)
            content += chunk
            if len(content) > ANSWER_BYTES:
                raise failed(url, f"the answer has more than {ANSWER_BYTES} bytes")


class Watch:
    """Cuts the connection when one step takes too long, whatever is being waited for.

    The time limits of a socket are for one read of it. An answer's head, a TLS handshake or a
    trailer may take any number of reads, which happen in libraries.
    """

    def __init__(self, step_s: float) -> None:
        self.has_cut = False
        self._step_s = step_s
        self._due = math.inf
        self._line: socket.socket | None = None
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._closes: weakref.finalize[..., Watch] | None = None

    def over(self, line: socket.socket) -> socket.socket:
        """Watch a connection from its first byte on."""
        if self._closes is not None:
            self._closes()
        self._line = line.dup()  # TLS takes the first descriptor over
        self._closes = weakref.finalize(self, self._line.close)
        return line

    @contextlib.contextmanager
    def step(self, limit_s: float = math.inf) -> Iterator[None]:
        """What is waited for inside has so much time, and no more than `limit_s` seconds."""
        self._due = time.monotonic() + min(self._step_s, limit_s)
        try:
            yield
        finally:
            self._due = math.inf

    def __enter__(self) -> None:
        self.has_cut = False
        self._over.clear()
        self._thread = threading.Thread(target=self._look, name="slipway-watch", daemon=True)
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(min(1.0, self._step_s / 4)):
            if time.monotonic() >= self._due and self._line is not None:
                self.has_cut = True
                with contextlib.suppress(OSError):
                    self._line.shutdown(socket.SHUT_RDWR)


def pool_of(base: str, watch: Watch) -> Any:
    """Connections to one origin that are watched; one may serve several requests."""
    import urllib3

    scheme, host, port = origin_of(base)
    if not host or port is None:
        raise UsageError(
            f"The address {base!r} names no host, or no port that could be.",
            cause="It is misspelt.",
            remedy="Correct `repository` in the agent's configuration, or the server's address.",
        )
    return _pools()[scheme](
        host,
        port,
        timeout=urllib3.Timeout(connect=CONNECT_S, read=READ_S),
        retries=False,
        # What is compressed on the way could grow without bound.
        headers={"Accept-Encoding": "identity", "User-Agent": "slipway-agent"},
        watch=watch,
    )


@functools.cache
def _pools() -> dict[str, Any]:
    """urllib3's pools, whose connections are watched from their first byte on."""
    import urllib3
    from urllib3.connection import HTTPConnection, HTTPSConnection

    class Plain(HTTPConnection):
        def __init__(self, *args: Any, watch: Watch, **options: Any) -> None:
            super().__init__(*args, **options)
            self._watch = watch

        def _new_conn(self) -> socket.socket:
            return self._watch.over(super()._new_conn())

    class Secure(HTTPSConnection):
        def __init__(self, *args: Any, watch: Watch, **options: Any) -> None:
            super().__init__(*args, **options)
            self._watch = watch

        def _new_conn(self) -> socket.socket:
            return self._watch.over(super()._new_conn())

    class PlainPool(urllib3.HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(urllib3.HTTPSConnectionPool):
        ConnectionCls = Secure

    return {"http": PlainPool, "https": SecurePool}


def origin_of(url: str) -> tuple[str, str | None, int | None]:
    """Scheme, host and port, as browsers compare them; of nonsense, one that equals no other."""
    parts = urllib.parse.urlsplit(url)
    try:
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        port = None
    return parts.scheme, parts.hostname, port


def check_encoding(url: str, response: Any) -> None:
    """Refuse an answer that is compressed: it could grow without bound.

    Raises:
        NetworkError: it is.
    """
    encoding = str(response.headers.get("Content-Encoding", "identity")).strip().lower()
    if encoding not in ("", "identity"):
        raise NetworkError(
            f"The server sent {url} as {encoding[:40]!r}, which was not asked for.",
            cause="It compresses what it serves, or a proxy on the way does.",
            remedy="Switch compression off for the repository; it is tried again by itself.",
        )


def after_s(response: Any) -> float | None:
    """`Retry-After`: seconds, or a date by the server's own clock."""
    said = str(response.headers.get("Retry-After", "")).strip()
    if _NUMBER.fullmatch(said):
        return float(said)
    try:
        until = email.utils.parsedate_to_datetime(said)
        here = email.utils.parsedate_to_datetime(str(response.headers.get("Date", "")))
        return max(0.0, (until - here) / dt.timedelta(seconds=1))
    except (ValueError, TypeError, OverflowError):
        return None


def failed(url: str, why: str) -> NetworkError:
    """The error of a question that got no answer of use."""
    return NetworkError(
        f"{url} cannot be fetched: {why[:300]}.",
        cause="The network or the server is down.",
        remedy="It is tried again by itself, and goes on where it was.",
    )
