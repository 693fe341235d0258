"""Download a blob, or the rest of it: bounded in length, in time and from below in speed.

What was received lies in `<staging>/<sha256>.part`, and what the server calls that content in
`<sha256>.etag` beside it. Nothing of it is believed before the whole has the right hash.
"""

from __future__ import annotations

import dataclasses
import stat
import time
from collections.abc import Callable
from pathlib import Path

from agent import disk
from agent.errors import NetworkError, VerificationError
from agent.files import write_atomic
from agent.updates.blobs import Blobs
from agent.updates.source import RangeError, Source, paced

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
        deadline_s: for all attempts of this call, in seconds.
        now: seconds.

    Raises:
        NetworkError: the server does not answer, is too slow, or sends too little; what came is
            kept, and the next call goes on from there.
        VerificationError: what came is something else, each time; nothing of it is kept.
        OSError: the disk cannot be written.
    """
    if blobs.has(wanted.sha256, wanted.length):
        return blobs.path(wanted.sha256)
    part = part_of(staging, wanted.sha256)
    until = now() + deadline_s
    for attempt in range(ATTEMPTS):
        try:
            if part.length != wanted.length:
                _receive(wanted, source, part, until - now(), now)
            # It hashes the whole from its first byte, whatever was there before.
            place = blobs.adopt(part.path, wanted.sha256, wanted.length)
        except (VerificationError, RangeError):
            part.forget()
            if attempt == ATTEMPTS - 1:
                raise
        else:
            disk.unlink(part.etag_path)
            return place
    raise AssertionError("the last attempt returns or raises")


@dataclasses.dataclass(frozen=True)
class Part:
    """What is here of a file that is not complete yet."""

    path: Path
    etag_path: Path

    @property
    def length(self) -> int | None:
        """Bytes; None where there is none, or something else of that name."""
        try:
            state = self.path.lstat()
        except OSError:
            return None
        own = stat.S_ISREG(state.st_mode) and state.st_nlink == 1
        return state.st_size if own else None

    @property
    def etag(self) -> str | None:
        """What the server called it."""
        try:
            return self.etag_path.read_text(encoding="latin-1") or None
        except OSError:
            return None

    def forget(self) -> None:
        """Begin anew."""
        disk.unlink(self.path)
        disk.unlink(self.etag_path)


def part_of(staging: Path, sha256: str) -> Part:
    """The part of a blob, there or not."""
    return Part(staging / f"{sha256}.part", staging / f"{sha256}.etag")


def _receive(
    wanted: Wanted, source: Source, part: Part, deadline_s: float, now: Callable[[], float]
) -> None:
    """Add to the part what the source sends, and never more than was signed."""
    have = part.length
    if have is None or have > wanted.length:
        part.forget()  # a link that somebody put there is not followed
        have = 0
    with source.open(wanted.path, offset=have, etag=part.etag if have else None) as stream:
        if stream.offset != have or not have:
            part.forget()
            have = stream.offset
            if stream.etag is not None and len(stream.etag) <= 200:
                write_atomic(part.etag_path, stream.etag.encode("latin-1", "replace"))
        # Not synced: `Blobs.adopt` does so once it is whole, and what a power cut takes of a part
        # is found by the hash and fetched anew.
        with disk.Writer(part.path, append=True) as writer:
            for chunk in paced(stream.chunks, wanted.path, deadline_s=deadline_s, now=now):
                if have + len(chunk) > wanted.length:
                    raise _too_much(wanted)
                writer.write(chunk)
                have += len(chunk)
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
