"""Download a blob, or the rest of it: bounded in length, in time and from below in speed."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

from agent import disk
from agent.blobs import Blobs
from agent.errors import NetworkError, VerificationError
from agent.source import Source

SLOW_S, SLOW_BYTES_PER_S = 60.0, 100.0
"""A server that sends less for so long only keeps the device busy."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wanted:
    """A file of a repository, as a signed manifest names it."""

    path: str
    sha256: str
    length: int


def blob_path(sha256: str) -> str:
    """Where a repository keeps a blob."""
    return f"blobs/sha256/{sha256}"


def fetch(
    wanted: Wanted,
    source: Source,
    blobs: Blobs,
    staging: Path,
    *,
    deadline_s: float,
    etag: str | None = None,
    on_etag: Callable[[str | None], None] = lambda _: None,
    on_bytes: Callable[[int], None] = lambda _: None,
    now: Callable[[], float] = time.monotonic,
) -> Path:
    """Have a blob here: at once if it is, from where it stopped if a part of it is.

    Args:
        wanted: what.
        source: from where.
        blobs: where it goes to, once its hash is right.
        staging: the folder for parts.
        deadline_s: of this attempt, in seconds.
        etag: of the content that the part is of, as `on_etag` was told.
        on_etag: is told what the server calls this content, before any of it is kept.
        on_bytes: is told how many bytes are here, for progress.
        now: seconds.

    Raises:
        NetworkError: the server does not answer, is too slow, or sends too much.
        VerificationError: what came has another hash; nothing of it is kept.
        OSError: the disk cannot be written.
    """
    if blobs.has(wanted.sha256, wanted.length):
        return blobs.path(wanted.sha256)
    part = staging / f"{wanted.sha256}.part"
    have = part.stat().st_size if part.is_file() else 0
    if have > wanted.length:
        disk.unlink(part)
        have = 0
    if have < wanted.length or not part.exists():
        _receive(wanted, source, part, have, deadline_s, etag, on_etag, on_bytes, now)
    return blobs.adopt(part, wanted.sha256, wanted.length)


def _receive(
    wanted: Wanted,
    source: Source,
    part: Path,
    have: int,
    deadline_s: float,
    etag: str | None,
    on_etag: Callable[[str | None], None],
    on_bytes: Callable[[int], None],
    now: Callable[[], float],
) -> None:
    began = window = now()
    in_window = 0
    with source.open(wanted.path, offset=have, etag=etag) as stream:
        if stream.offset != have:
            disk.unlink(part)
            have = stream.offset
        if stream.etag != etag:
            on_etag(stream.etag)
        with disk.Writer(part, append=True) as writer:
            try:
                for chunk in stream.chunks:
                    have += len(chunk)
                    if have > wanted.length:
                        raise _too_much(wanted)
                    writer.write(chunk)
                    on_bytes(have)
                    in_window += len(chunk)
                    moment = now()
                    if moment - began > deadline_s:
                        raise _too_slow(wanted, have, f"{deadline_s:g} s were up")
                    if moment - window >= SLOW_S:
                        rate = in_window / (moment - window)
                        if rate < SLOW_BYTES_PER_S:
                            raise _too_slow(wanted, have, f"{rate:.3g} bytes/s")
                        window, in_window = moment, 0
            finally:
                writer.sync()
        disk.sync_folder(part.parent)
    if have < wanted.length:
        raise NetworkError(
            f"{wanted.path} ended after {have} of {wanted.length} bytes.",
            cause="The connection was cut, or the server's file is.",
            remedy="It is tried again by itself, and goes on where it was.",
        )


def _too_much(wanted: Wanted) -> VerificationError:
    return VerificationError(
        f"{wanted.path} is longer than the {wanted.length} bytes that were signed.",
        cause="The server's file is another one, or the server means harm.",
        remedy="Nothing was activated. Ask whoever runs the server.",
    )


def _too_slow(wanted: Wanted, have: int, why: str) -> NetworkError:
    return NetworkError(
        f"{wanted.path} is too slow: {have} of {wanted.length} bytes, {why}.",
        cause="The line or the server is overloaded, or the server holds devices up.",
        remedy="It is tried again by itself, and goes on where it was.",
    )
