"""What was pushed to a rig: files by their hash, and folders put together from them.

A file that came in part is kept, and goes on from there the next time. What is whole is hashed once
more before it gets its name, so a name is never believed for what it does not hold.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from agent.disk import sync_folder
from agent.errors import StorageError, VerificationError
from agent.files import CHUNK_BYTES, link_or_copy, remove_tree, sha256_of, storage_errors
from agent.names import check_path

RESERVE_BYTES = 64 << 20
"""Left free on the rig's disk, whatever is pushed."""
_HASH = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[0-9a-f]{8,64}")


class Store:
    """The folder of a rig that holds files; one client at a time writes to it."""

    def __init__(self, home: Path) -> None:
        self._blobs, self._parts = home / "blobs", home / "parts"
        self._stage, self._runs = home / "stage", home / "runs"
        with storage_errors(home):
            for folder in (self._blobs, self._parts, self._stage, self._runs):
                folder.mkdir(parents=True, exist_ok=True)
        self._home = home

    def free_bytes(self) -> int:
        """Room on the disk beside what is kept free."""
        return max(0, shutil.disk_usage(self._home).free - RESERVE_BYTES)

    def missing(self, wanted: Mapping[str, int]) -> dict[str, int]:
        """Of files by their hash and length those that are not here -> how much of each is.

        Raises:
            VerificationError: a name is no hash.
            StorageError: they do not fit on the disk.
        """
        found = {}
        for sha256, length in wanted.items():
            if self._blob(sha256).is_file():
                os.utime(self._blob(sha256))
                continue
            part = self._parts / sha256
            have = part.stat().st_size if part.is_file() else 0
            found[sha256] = have if have <= length else 0
        needed, free = sum(wanted[name] - have for name, have in found.items()), self.free_bytes()
        if needed > free:
            raise StorageError(
                f"{needed / 2**20:.1f} MiB are to be pushed; {free / 2**20:.1f} MiB are free "
                f"there, beside {RESERVE_BYTES >> 20} MiB that are left free.",
                cause="The disk is small, or other work fills it.",
                remedy="Free some space there, or let it go: sdk hil doctor NAME --clean",
            )
        return found

    def put(
        self, sha256: str, offset: int, length: int, stream: BinaryIO, heard: Callable[[], None]
    ) -> bool:
        """Take bytes of a file from an offset on; whether it is whole now, and what it should be.

        Args:
            sha256: of the whole file.
            offset: where they begin: what is here of it already.
            length: how many come.
            stream: gives exactly so many.
            heard: is called whenever some came.

        Raises:
            VerificationError: that is not how much of it is here, or the whole is another file.
            StorageError: it cannot be written.
            EOFError: the line ended.
        """
        coming = _chunks(stream, length, heard)
        digest = hashlib.sha256()
        try:
            part = self._part(sha256, offset)
            with storage_errors(part), part.open("r+b") as out:
                while chunk := out.read(CHUNK_BYTES):
                    digest.update(chunk)
                for chunk in coming:
                    digest.update(chunk)
                    out.write(chunk)
                out.flush()
                os.fsync(out.fileno())
        except StorageError:
            _drain(coming)
            raise
        if digest.hexdigest() != sha256:
            part.unlink()
            return False
        with storage_errors(part):
            part.rename(self._blob(sha256))
        return True

    def sync(self) -> None:
        """Make the names of what was put durable."""
        with storage_errors(self._blobs):
            sync_folder(self._blobs)

    def stage(self, name: str, files: Mapping[str, str]) -> Path:
        """A folder of files that are here: relative path -> hash. One that is there is kept.

        Raises:
            VerificationError: a name leads elsewhere, or a file is not here.
        """
        if not _NAME.fullmatch(name):
            raise _no_name(name)
        folder = self._stage / name
        if folder.is_dir():
            if all((folder / check_path(path)).is_file() for path in files):
                return folder
            remove_tree(folder)
        beside = self._stage / f".{name}.{os.getpid()}"
        remove_tree(beside)
        with storage_errors(folder):
            for path, sha256 in files.items():
                place, blob = beside / check_path(path), self._blob(sha256)
                if not blob.is_file() or sha256_of(blob) != sha256:
                    blob.unlink(missing_ok=True)
                    raise VerificationError(
                        f"{path} of {name[:12]} is not here whole.",
                        cause="The disk is failing, or somebody cleaned up.",
                        remedy="Push it again.",
                    )
                place.parent.mkdir(parents=True, exist_ok=True)
                link_or_copy(blob, place)
            beside.rename(folder)
        return folder

    def staged(self, name: str) -> Path:
        """A folder that was put together.

        Raises:
            VerificationError: there is none of that name.
        """
        folder = self._stage / name
        if not _NAME.fullmatch(name) or not folder.is_dir():
            raise _no_name(name)
        return folder

    def run_folder(self) -> Path:
        """A new folder for one run."""
        taken = {path.name for path in self._runs.iterdir()}
        name = next(str(n) for n in range(1, 10**9) if str(n) not in taken)
        with storage_errors(self._runs):
            (self._runs / name).mkdir()
        return self._runs / name

    def clean(self, *, keep_bytes: int | None = None) -> list[str]:
        """Remove what others left: their runs, and files beyond a limit, the longest unused first.

        Returns:
            What was removed, for a person.
        """
        told = []
        runs = sorted(self._runs.iterdir())
        for folder in (*runs, *(path for path in self._stage.iterdir() if path.name[0] == ".")):
            remove_tree(folder)
        if runs:
            told.append(f"{len(runs)} runs that were cut off")
        freed = self._shrink(keep_bytes)
        if freed:
            told.append(f"{freed / 2**20:.0f} MiB that were not used for the longest time")
        return told

    def _shrink(self, keep_bytes: int | None) -> int:
        if keep_bytes is None:
            return 0
        found = [*self._blobs.iterdir(), *self._parts.iterdir()]
        files = sorted(((path.stat(), path) for path in found), key=lambda one: one[0].st_mtime)
        used = sum(state.st_size for state, _ in files)
        freed = 0
        for state, path in files:
            if used - freed <= keep_bytes:
                break
            path.unlink(missing_ok=True)
            freed += state.st_size
        if freed:  # what is staged holds the same files
            for folder in list(self._stage.iterdir()):
                remove_tree(folder)
        return freed

    def _blob(self, sha256: str) -> Path:
        if not _HASH.fullmatch(sha256):
            raise _no_name(sha256)
        return self._blobs / sha256

    def _part(self, sha256: str, offset: int) -> Path:
        self._blob(sha256)
        part = self._parts / sha256
        with storage_errors(part):
            part.touch()
            have = part.stat().st_size
            if offset == 0 and have:
                os.truncate(part, 0)
                have = 0
        if have != offset:
            raise VerificationError(
                f"{sha256[:12]} is to go on at {offset}, and {have} bytes of it are here.",
                cause="Another client has pushed it meanwhile.",
                remedy="Push it again.",
            )
        return part


def receive(path: Path, length: int, stream: BinaryIO, heard: Callable[[], None]) -> None:
    """Write what comes to a file that is only read after this.

    Raises:
        StorageError: it cannot be written; all of it was read past.
        EOFError: the line ended.
    """
    coming = _chunks(stream, length, heard)
    try:
        with storage_errors(path), path.open("wb") as out:
            out.writelines(coming)
    except StorageError:
        _drain(coming)
        raise


def skip(stream: BinaryIO, length: int, heard: Callable[[], None]) -> None:
    """Read past what is not to be stored, so that the next request is found."""
    _drain(_chunks(stream, length, heard))


def _chunks(stream: BinaryIO, length: int, heard: Callable[[], None]) -> Iterator[bytes]:
    """So many bytes of a stream; `heard` is called with each piece.

    Raises:
        EOFError: it ended before.
    """
    left = length
    while left:
        chunk = stream.read(min(left, CHUNK_BYTES))
        if not chunk:
            raise EOFError
        left -= len(chunk)
        heard()
        yield chunk


def _drain(coming: Iterator[bytes]) -> None:
    for _ in coming:
        pass


def _no_name(name: str) -> VerificationError:
    return VerificationError(
        f"{name[:80]!r} names nothing on this rig.",
        cause="It was cleaned up, or the request was made by hand.",
        remedy="Push it again.",
    )
