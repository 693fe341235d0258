"""A repository on a static HTTP server, which may be slow, broken or not what it says.

urllib3 speaks HTTP. What it leaves open is decided here: redirects, ranges, encodings, and how long
one step may take.
"""

from __future__ import annotations

import contextlib
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
from collections.abc import Iterator
from typing import Any

from agent.errors import NetworkError, UsageError
from agent.updates.source import (
    CHUNK_BYTES,
    BusyError,
    MissingError,
    RangeError,
    Stream,
    too_slow,
)

CONNECT_S, READ_S = 10.0, 30.0
STEP_S = 60.0
"""The longest wait for an answer's head, or for the next piece of its body: a server that sends a
byte now and then would never make a read of the socket time out."""
REDIRECTS = 3
_SPARE_BYTES = 4096  # of an error page: read, so that the connection can be used again
_NUMBER = re.compile(r"[0-9]{1,15}")  # `str.isdigit` takes more than `int` does
_RANGE = re.compile(r"bytes +([0-9]{1,15})-[0-9]", re.IGNORECASE)
_ETAG = re.compile(r'(W/)?"[\x21\x23-\x7e\x80-\xff]{0,200}"')  # what may be sent back


class HttpSource:
    """A static server. Redirects are followed to the same origin alone."""

    def __init__(self, base: str, *, step_s: float = STEP_S) -> None:
        """`base` is the repository's address; `step_s` is for tests."""
        self._base = base.rstrip("/") + "/"
        self._watch = _Watch(step_s)
        self._pool = _pool(self._base, self._watch)

    @contextlib.contextmanager
    def open(self, path: str, *, offset: int = 0, etag: str | None = None) -> Iterator[Stream]:
        """See `Source`."""
        headers = {}
        if offset:
            headers["Range"] = f"bytes={offset}-"
            if etag is not None and etag.startswith('"'):
                # A weak etag is not allowed here, and would have the whole sent each time.
                headers["If-Range"] = etag
        with self._watch, self._asked(self._url(path), headers) as response:
            found = response.headers.get("ETag")
            found = found if found and _ETAG.fullmatch(found) else None
            begin = _begins_at(response, offset)
            if begin and None not in (etag, found) and etag != found:
                raise RangeError(
                    f"{path} is another file on the server than the one that was begun.",
                    cause="It was replaced there.",
                    remedy="It is fetched again from the beginning.",
                )
            yield Stream(offset=begin, chunks=self._chunks(response, path), etag=found)

    def _url(self, path: str) -> str:
        return urllib.parse.urljoin(self._base, urllib.parse.quote(path))

    @contextlib.contextmanager
    def _asked(self, url: str, headers: dict[str, str]) -> Iterator[Any]:
        for _ in range(1 + REDIRECTS):
            response = self._answer(url, headers)
            try:
                there = response.get_redirect_location()
                if not there:
                    _refuse(url, response)
                    yield response
                    return
            finally:
                # Given back to the pool if it was read to its end, closed otherwise: nobody waits
                # for the rest of a body that is not wanted.
                response.close()
            url = urllib.parse.urljoin(url, there)
            if _origin(url) != _origin(self._base):
                raise NetworkError(
                    f"The server sends {self._base} on to {url[:200]!r}, which is another origin.",
                    cause="A login page of a network, or a server that is not what it says.",
                    remedy="Name the repository's own address in the agent's configuration.",
                )
        raise _failed(url, "it redirects in a circle")

    def _answer(self, url: str, headers: dict[str, str]) -> Any:
        import urllib3

        try:
            parts = urllib.parse.urlsplit(url)
            with self._watch.step():
                response = self._pool.request(
                    "GET", parts._replace(scheme="", netloc="", fragment="").geturl(),
                    headers={**self._pool.headers, **headers},
                    preload_content=False, decode_content=False, redirect=False,
                )  # fmt: skip
                left = response.length_remaining
                if response.status >= 300 and left is not None and left <= _SPARE_BYTES:
                    response.read()
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise _failed(url, f"{type(error).__name__}: {error}") from error
        return response

    def _chunks(self, response: Any, path: str) -> Iterator[bytes]:
        import urllib3

        while True:
            try:
                with self._watch.step():
                    chunk = response.read1(CHUNK_BYTES)
            except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
                raise _failed(path, f"{type(error).__name__}: {error}") from error
            if self._watch.has_cut:
                raise too_slow(path, 0, "nothing useful came any more")
            if not chunk:
                return
            yield chunk


class _Watch:
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

    def over(self, line: socket.socket) -> socket.socket:
        """Watch a connection from its first byte on."""
        if self._line is not None:
            self._line.close()
        self._line = line.dup()  # TLS takes the first descriptor over
        weakref.finalize(self, self._line.close)
        return line

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """What is waited for inside has so much time."""
        self._due = time.monotonic() + self._step_s
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


def _pool(base: str, watch: _Watch) -> Any:
    """Connections to one origin that are watched; one may serve several requests."""
    import urllib3

    scheme, host, port = _origin(base)
    if not host or port is None:
        raise UsageError(
            f"The repository's address {base!r} names no host, or no port that could be.",
            cause="It is misspelt.",
            remedy="Correct `repository` in the agent's configuration.",
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
        def __init__(self, *args: Any, watch: _Watch, **options: Any) -> None:
            super().__init__(*args, **options)
            self._watch = watch

        def _new_conn(self) -> socket.socket:
            return self._watch.over(super()._new_conn())

    class Secure(HTTPSConnection):
        def __init__(self, *args: Any, watch: _Watch, **options: Any) -> None:
            super().__init__(*args, **options)
            self._watch = watch

        def _new_conn(self) -> socket.socket:
            return self._watch.over(super()._new_conn())

    class PlainPool(urllib3.HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(urllib3.HTTPSConnectionPool):
        ConnectionCls = Secure

    return {"http": PlainPool, "https": SecurePool}


def _origin(url: str) -> tuple[str, str | None, int | None]:
    """Scheme, host and port, as browsers compare them; of nonsense, one that equals no other."""
    parts = urllib.parse.urlsplit(url)
    try:
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        port = None
    return parts.scheme, parts.hostname, port


def _begins_at(response: Any, offset: int) -> int:
    """Where the body begins: 0 where the server ignores what was asked."""
    if response.status != 206:
        return 0
    said = str(response.headers.get("Content-Range", ""))
    found = _RANGE.match(said)
    if found is None or int(found[1]) != offset:
        raise RangeError(
            f"The server sent {said[:80]!r} for the bytes from {offset} on.",
            cause="A proxy or the server mixes up ranges.",
            remedy="It is fetched again from the beginning.",
        )
    return offset


def _refuse(url: str, response: Any) -> None:
    status = response.status
    encoding = str(response.headers.get("Content-Encoding", "identity")).strip().lower()
    if status in (200, 206):
        if encoding not in ("", "identity"):
            raise NetworkError(
                f"The server sent {url} as {encoding[:40]!r}, which was not asked for.",
                cause="It compresses what it serves, or a proxy on the way does.",
                remedy="Switch compression off for the repository; it is tried again by itself.",
            )
        return
    if status in (404, 403, 410):
        raise MissingError(
            f"The server has no {url} ({status}).",
            cause="It was not published there.",
            remedy="Publish it, or correct `repository` in the agent's configuration.",
        )
    if status in (429, 503):
        raise BusyError(f"The server is busy ({status}) and gave no {url}.", _after_s(response))
    if status == 416:
        raise RangeError(
            f"The server has less of {url} than there is here already (416).",
            cause="The file was changed there.",
            remedy="It is fetched again from the beginning.",
        )
    raise _failed(url, f"it answered {status}")


def _after_s(response: Any) -> float | None:
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


def _failed(url: str, why: str) -> NetworkError:
    return NetworkError(
        f"{url} cannot be fetched: {why[:300]}.",
        cause="The network or the server is down.",
        remedy="It is tried again by itself, and goes on where it was.",
    )
