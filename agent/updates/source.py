"""Where a repository's files come from: a folder or a static HTTP server.

Nothing here is trusted. A stream says how long it claims to be and where it begins; what comes out
of it counts only by its hash.
"""

from __future__ import annotations

import contextlib
import dataclasses
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from agent.errors import NetworkError, UsageError

CHUNK_BYTES = 1 << 16
CONNECT_S, READ_S = 10.0, 30.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stream:
    """A file on its way."""

    offset: int
    """Where it begins: a server may ignore that only the rest was asked for."""
    chunks: Iterator[bytes]
    etag: str | None
    """Names this content, as far as the server tells."""


class MissingError(NetworkError):
    """There is no such file."""


class BusyError(NetworkError):
    """The server asks to come again later.

    Attributes:
        after_s: not before so many seconds; None if it does not say.
    """

    def __init__(self, what: str, after_s: float | None) -> None:
        super().__init__(
            what, cause="Too many devices ask at once.", remedy="It is tried again by itself."
        )
        self.after_s = after_s


class Source(Protocol):
    """A repository's files by their paths."""

    def open(
        self, path: str, *, offset: int = 0, etag: str | None = None
    ) -> contextlib.AbstractContextManager[Stream]:
        """A file from `offset` on, if it is still the one of that etag; else from its beginning.

        Raises:
            MissingError: there is none.
            NetworkError: it cannot be read.
        """
        ...


def source_of(place: str) -> Source:
    """The source at a URL or in a folder.

    Raises:
        UsageError: it is neither.
    """
    scheme = urllib.parse.urlsplit(place).scheme
    if scheme in ("http", "https"):
        return HttpSource(place)
    folder = Path(urllib.parse.urlsplit(place).path if scheme == "file" else place)
    if not folder.is_dir():
        raise UsageError(
            f"The repository {place!r} is no folder and no http address.",
            cause="It is misspelt, or not mounted.",
            remedy="Correct `repository` in the agent's configuration.",
        )
    return FolderSource(folder)


def read_short(source: Source, path: str, most: int) -> bytes:
    """A short file; of one that is longer than `most` only a little more than that.

    Raises:
        MissingError: there is none.
        NetworkError: it cannot be read.
    """
    content = b""
    with source.open(path) as stream:
        for chunk in stream.chunks:
            content += chunk
            if len(content) > most:
                break
    return content


class FolderSource:
    """A folder on this machine, such as a stick or a mounted share."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextlib.contextmanager
    def open(self, path: str, *, offset: int = 0, etag: str | None = None) -> Iterator[Stream]:
        """See `Source`; the etag is the file's time and size."""
        try:
            with (self._folder / path).open("rb") as stream:
                state = (self._folder / path).stat()
                own = f"{state.st_mtime_ns}-{state.st_size}"
                begin = offset if offset <= state.st_size and etag in (None, own) else 0
                stream.seek(begin)
                chunks = iter(lambda: stream.read(CHUNK_BYTES), b"")
                yield Stream(offset=begin, chunks=chunks, etag=own)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise MissingError(
                f"The repository has no {path}.",
                cause="It was not published there, or not copied whole.",
                remedy="Copy the repository again.",
            ) from error
        except OSError as error:
            raise NetworkError(
                f"{self._folder / path} cannot be read: {error.strerror}.",
                cause="The share or the stick is gone, or may not be read.",
                remedy="Mount it again; it is tried again by itself.",
            ) from error


class HttpSource:
    """A static server. Redirects are followed to the same origin alone."""

    def __init__(self, base: str) -> None:
        import urllib3

        self._base = base.rstrip("/") + "/"
        self._origin = urllib.parse.urlsplit(self._base)[:2]
        self._pool = urllib3.PoolManager(
            timeout=urllib3.Timeout(connect=CONNECT_S, read=READ_S),
            retries=False,
            # What is compressed on the way could grow without bound.
            headers={"Accept-Encoding": "identity", "User-Agent": "slipway-agent"},
        )

    @contextlib.contextmanager
    def open(self, path: str, *, offset: int = 0, etag: str | None = None) -> Iterator[Stream]:
        """See `Source`."""
        headers = {}
        # A `%` stays: python-tuf has quoted roles' names already, and no path of ours has one.
        if offset:
            headers["Range"] = f"bytes={offset}-"
            if etag is not None:
                headers["If-Range"] = etag
        with self._asked(self._base + urllib.parse.quote(path, safe="/%"), headers) as response:
            yield Stream(
                offset=_begins_at(response, offset),
                chunks=_chunks(response, path),
                etag=response.headers.get("ETag"),
            )

    @contextlib.contextmanager
    def _asked(self, url: str, headers: dict[str, str]) -> Iterator[Any]:
        import urllib3

        for _ in range(4):
            try:
                response = self._pool.request(
                    "GET", url, headers={**self._pool.headers, **headers},
                    preload_content=False, redirect=False,
                )  # fmt: skip
            except urllib3.exceptions.HTTPError as error:
                raise _failed(url, f"{type(error).__name__}: {error}") from error
            try:
                there = response.get_redirect_location()
                if not there:
                    _refuse(url, response)
                    yield response
                    return
            finally:
                # Not returned to the pool: what is left of a body that was not wanted is not read.
                response.close()
            url = urllib.parse.urljoin(url, there)
            if urllib.parse.urlsplit(url)[:2] != self._origin:
                raise NetworkError(
                    f"The server sends {self._base} on to {url}, which is another origin.",
                    cause="A login page of a network, or a server that is not what it says.",
                    remedy="Name the repository's own address in the agent's configuration.",
                )
        raise _failed(url, "it redirects in a circle")


def _begins_at(response: Any, offset: int) -> int:
    """Where the body begins; an answer that says nothing sensible is taken from the start."""
    if response.status != 206:
        return 0
    said = str(response.headers.get("Content-Range", ""))
    begin = said.removeprefix("bytes ").partition("-")[0]
    if not begin.isdigit() or int(begin) != offset:
        raise NetworkError(
            f"The server sent {said!r} for the bytes from {offset} on.",
            cause="A proxy or the server mixes up ranges.",
            remedy="It is tried again from the beginning.",
        )
    return offset


def _refuse(url: str, response: Any) -> None:
    status = response.status
    if status in (200, 206):
        return
    if status in (404, 403, 410):
        raise MissingError(
            f"The server has no {url} ({status}).",
            cause="It was not published there.",
            remedy="Publish it, or correct `repository` in the agent's configuration.",
        )
    if status in (429, 503):
        after = str(response.headers.get("Retry-After", ""))
        seconds = float(after) if after.isdigit() else None
        raise BusyError(f"The server is busy ({status}) and gave no {url}.", seconds)
    if status == 416:
        raise NetworkError(
            f"The server has less of {url} than there is here already (416).",
            cause="The file was changed there.",
            remedy="It is tried again from the beginning.",
        )
    raise _failed(url, f"it answered {status}")


def _chunks(response: Any, path: str) -> Iterator[bytes]:
    import urllib3

    try:
        while chunk := response.read1(CHUNK_BYTES):
            yield chunk
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise _failed(path, f"{type(error).__name__}: {error}") from error


def _failed(url: str, why: str) -> NetworkError:
    return NetworkError(
        f"{url} cannot be fetched: {why[:300]}.",
        cause="The network or the server is down.",
        remedy="It is tried again by itself, and goes on where it was.",
    )
