"""Where a repository's files come from: a folder or a static HTTP server.

Nothing here is trusted. A stream says where it begins; what comes out of it counts only by its
hash. Whatever a server does, reading it ends: each read, each answer and each file has its time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import stat
import time
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Protocol

from agent.errors import NetworkError, UsageError

CHUNK_BYTES = 1 << 16
SHORT_S = 600.0
"""The longest that a short file, such as metadata, may take."""
SLOW_S, SLOW_BYTES_PER_S = 60.0, 100.0
"""A server that sends less for so long only keeps the device busy."""


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


class RangeError(NetworkError):
    """The rest of a file cannot be had from where it was left off; perhaps the whole can."""


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
            RangeError: it cannot be had from there on.
            NetworkError: it cannot be read.
        """
        ...


def source_of(place: str) -> Source:
    """The source at a URL or in a folder.

    Raises:
        UsageError: it is neither.
    """
    url = urllib.parse.urlsplit(place)
    if url.scheme in ("http", "https"):
        from agent.updates.http_source import HttpSource

        return HttpSource(place)
    folder = Path(urllib.parse.unquote(url.path) if url.scheme == "file" else place)
    if not folder.is_dir():
        raise UsageError(
            f"The repository {place!r} is no folder and no http address.",
            cause="It is misspelt, or not mounted.",
            remedy="Correct `repository` in the agent's configuration.",
        )
    return FolderSource(folder)


def read_short(
    source: Source, path: str, most: int, *, now: Callable[[], float] = time.monotonic
) -> bytes:
    """A short file; of one that is longer than `most` only a little more than that.

    Raises:
        MissingError: there is none.
        NetworkError: it cannot be read, or takes longer than `SHORT_S`.
    """
    content = bytearray()
    with source.open(path) as stream:
        for chunk in paced(stream.chunks, path, deadline_s=SHORT_S, now=now):
            content += chunk
            if len(content) > most:
                break
    return bytes(content)


def paced(
    chunks: Iterator[bytes], what: str, *, deadline_s: float, now: Callable[[], float]
) -> Iterator[bytes]:
    """The same chunks, as long as they come fast enough.

    Args:
        chunks: of a stream.
        what: they are of, for a person.
        deadline_s: for all of them together, in seconds.
        now: seconds.

    Raises:
        NetworkError: the time is up, or less than `SLOW_BYTES_PER_S` came for `SLOW_S`.
    """
    began = window = now()
    have = in_window = 0
    for chunk in chunks:
        yield chunk
        have += len(chunk)
        in_window += len(chunk)
        moment = now()
        if moment - began > deadline_s:
            raise too_slow(what, have, f"its {deadline_s:.0f} s are up")
        if moment - window >= SLOW_S:
            rate = in_window / (moment - window)
            if rate < SLOW_BYTES_PER_S:
                raise too_slow(what, have, f"{rate:.3g} bytes/s")
            window, in_window = moment, 0


def open_regular(path: Path) -> IO[bytes]:
    """A file to read; never a pipe or a device, which might not answer.

    Raises:
        OSError: it is none, or cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise IsADirectoryError(f"{path} is no regular file")
    return os.fdopen(descriptor, "rb")


class FolderSource:
    """A folder on this machine, such as a stick or a mounted share."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextlib.contextmanager
    def open(self, path: str, *, offset: int = 0, etag: str | None = None) -> Iterator[Stream]:
        """See `Source`; the etag is the file's time and size."""
        place = self._folder / path
        # Errors of whoever reads are not this folder's: only what is done here is translated.
        with _folder_errors(place):
            stream = open_regular(place)
        with stream:
            with _folder_errors(place):
                state = os.fstat(stream.fileno())
                own = f"{state.st_mtime_ns}-{state.st_size}"
                begin = offset if offset <= state.st_size and etag in (None, own) else 0
                stream.seek(begin)
            yield Stream(offset=begin, chunks=_pieces(stream, place), etag=own)


def _pieces(stream: IO[bytes], place: Path) -> Iterator[bytes]:
    while True:
        with _folder_errors(place):
            chunk = stream.read(CHUNK_BYTES)
        if not chunk:
            return
        yield chunk


@contextlib.contextmanager
def _folder_errors(place: Path) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise MissingError(
            f"The repository has no {place.name} in {place.parent}.",
            cause="It was not published there, or not copied whole.",
            remedy="Copy the repository again.",
        ) from error
    except OSError as error:
        raise NetworkError(
            f"{place} cannot be read: {error.strerror}.",
            cause="The share or the stick is gone, or may not be read.",
            remedy="Mount it again; it is tried again by itself.",
        ) from error


def too_slow(what: str, have: int, why: str) -> NetworkError:
    """The error of a stream that came to nothing in its time."""
    came = f"{have} bytes came, " if have else ""
    return NetworkError(
        f"{what} is too slow: {came}{why}.",
        cause="The line or the server is overloaded, or the server holds devices up.",
        remedy="It is tried again by itself, and goes on where it was.",
    )
