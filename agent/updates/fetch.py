"""Download a blob, or the rest of it: bounded in length, in time and from below in speed.

What was received lies in `<staging>/<sha256>.part`, and what the server calls that content in
`<sha256>.etag` beside it. Nothing of it is believed before the whole has the right hash.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

from agent import disk
from agent.errors import NetworkError, VerificationError
from agent.files import write_atomic
from agent.updates.blobs import Blobs
from agent.updates.source import Source

SLOW_S, SLOW_BYTES_PER_S = 60.0, 100.0
"""A server that sends less for so long only keeps the device busy."""
ATTEMPTS = 3
"""So often content with a wrong hash is fetched anew before the release is given up."""


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
    now: Callable[[], float] = time.monotonic,
) -> Path:
    """Have a blob here: at once if it is, from where it stopped if a part of it is.

    Args:
        wanted: what.
        source: from where.
        blobs: where it goes to, once its hash is right.
        staging: the folder for parts.
        deadline_s: of this attempt, in seconds.
        now: seconds.

    Raises:
        NetworkError: the server does not answer, is too slow, or sends too little.
        VerificationError: what came has another hash, each time; nothing of it is kept.
        OSError: the disk cannot be written.
    """
    if blobs.has(wanted.sha256, wanted.length):
        return blobs.path(wanted.sha256)
    part = _Part(staging / f"{wanted.sha256}.part", staging / f"{wanted.sha256}.etag")
    for attempt in range(ATTEMPTS):
        if part.length != wanted.length:
            _receive(wanted, source, part, deadline_s, now)
        try:
            # It hashes the whole from its first byte, whatever was there before.
            place = blobs.adopt(part.path, wanted.sha256, wanted.length)
        except VerificationError:
            part.forget()
            if attempt == ATTEMPTS - 1:
                raise
        else:
            disk.unlink(part.etag_path)
            return place
    raise AssertionError("the last attempt returns or raises")


@dataclasses.dataclass(frozen=True)
class _Part:
    path: Path
    etag_path: Path

    @property
    def length(self) -> int | None:
        return self.path.stat().st_size if self.path.is_file() else None

    @property
    def etag(self) -> str | None:
        try:
            return self.etag_path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None

    def forget(self) -> None:
        disk.unlink(self.path)
        disk.unlink(self.etag_path)


def _receive(
    wanted: Wanted, source: Source, part: _Part, deadline_s: float, now: Callable[[], float]
) -> None:
    if (part.length or 0) > wanted.length:
        part.forget()
    have = part.length or 0
    began = window = now()
    in_window = 0
    with source.open(wanted.path, offset=have, etag=part.etag if have else None) as stream:
        if stream.offset != have:
            part.forget()
            have = stream.offset
        if not have and stream.etag is not None:
            write_atomic(part.etag_path, stream.etag[:200].encode())
        # Not synced: `Blobs.adopt` does so once it is whole, and what a power cut takes of a part
        # is found by the hash and fetched anew.
        with disk.Writer(part.path, append=True) as writer:
            for chunk in stream.chunks:
                if have + len(chunk) > wanted.length:
                    raise _too_much(wanted)
                writer.write(chunk)
                have += len(chunk)
                in_window += len(chunk)
                moment = now()
                if moment - began > deadline_s:
                    raise _too_slow(wanted, have, f"{deadline_s:g} s were up")
                if moment - window >= SLOW_S:
                    rate = in_window / (moment - window)
                    if rate < SLOW_BYTES_PER_S:
                        raise _too_slow(wanted, have, f"{rate:.3g} bytes/s")
                    window, in_window = moment, 0
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
