"""A repository on a static HTTP server, which may be slow, broken or not what it says.

What HTTP leaves open is decided here: redirects, ranges, and what an answer's status means.
"""

from __future__ import annotations

import contextlib
import re
import urllib.parse
from collections.abc import Iterator
from typing import Any

from agent.errors import NetworkError
from agent.updates.http import (
    STEP_S,
    Watch,
    after_s,
    check_encoding,
    failed,
    origin_of,
    pool_of,
)
from agent.updates.source import (
    CHUNK_BYTES,
    BusyError,
    MissingError,
    RangeError,
    Stream,
    too_slow,
)

REDIRECTS = 3
_SPARE_BYTES = 4096  # of an error page: read, so that the connection can be used again
_RANGE = re.compile(r"bytes +([0-9]{1,15})-[0-9]", re.IGNORECASE)
_ETAG = re.compile(r'(W/)?"[\x21\x23-\x7e\x80-\xff]{0,200}"')  # what may be sent back


class HttpSource:
    """A static server. Redirects are followed to the same origin alone."""

    def __init__(self, base: str, *, step_s: float = STEP_S) -> None:
        """`base` is the repository's address; `step_s` is for tests."""
        self._base = base.rstrip("/") + "/"
        self._watch = Watch(step_s)
        self._pool = pool_of(self._base, self._watch)

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
            if origin_of(url) != origin_of(self._base):
                raise NetworkError(
                    f"The server sends {self._base} on to {url[:200]!r}, which is another origin.",
                    cause="A login page of a network, or a server that is not what it says.",
                    remedy="Name the repository's own address in the agent's configuration.",
                )
        raise failed(url, "it redirects in a circle")

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
            raise failed(url, f"{type(error).__name__}: {error}") from error
        return response

    def _chunks(self, response: Any, path: str) -> Iterator[bytes]:
        import urllib3

        while True:
            try:
                with self._watch.step():
                    chunk = response.read1(CHUNK_BYTES)
            except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
                raise failed(path, f"{type(error).__name__}: {error}") from error
            if self._watch.has_cut:
                raise too_slow(path, 0, "nothing useful came any more")
            if not chunk:
                return
            yield chunk


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
    if status in (200, 206):
        check_encoding(url, response)
        return
    if status in (404, 403, 410):
        raise MissingError(
            f"The server has no {url} ({status}).",
            cause="It was not published there.",
            remedy="Publish it, or correct `repository` in the agent's configuration.",
        )
    if status in (429, 503):
        raise BusyError(f"The server is busy ({status}) and gave no {url}.", after_s(response))
    if status == 416:
        raise RangeError(
            f"The server has less of {url} than there is here already (416).",
            cause="The file was changed there.",
            remedy="It is fetched again from the beginning.",
        )
    raise failed(url, f"it answered {status}")
