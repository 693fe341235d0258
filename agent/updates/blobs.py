"""Files by the hash of their content: `blobs/sha256/<hex>`, each written once and never changed."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import IO

from agent import disk
from agent.errors import VerificationError
from agent.files import sha256_of, sha256_of_stream

_HEX = re.compile(r"[0-9a-f]{64}")


class Blobs:
    """The store."""

    def __init__(self, folder: Path) -> None:
        """`folder` is `blobs/sha256`, and exists."""
        self.folder = folder

    def path(self, sha256: str) -> Path:
        """Where a blob lies, or would.

        Raises:
            VerificationError: that is no sha256.
        """
        if not _HEX.fullmatch(sha256):
            raise VerificationError(
                f"{sha256[:80]!r} is no sha256.",
                cause="The manifest was made by something else.",
                remedy="Nothing was written. Ask whoever published the release.",
            )
        return self.folder / sha256

    def has(self, sha256: str, length: int) -> bool:
        """Whether it is here, by its name and length; its content is hashed before it is used."""
        try:
            return self.path(sha256).stat().st_size == length
        except OSError:
            return False

    def drop_damaged(self, sha256: str) -> bool:
        """Hash a blob that was here before, and remove it if it is not what it was.

        Slots keep their links to it: what they hold is looked at apart.

        Returns:
            Whether it was removed.
        """
        try:
            if sha256_of(self.path(sha256)) == sha256:
                return False
        except FileNotFoundError:
            return False
        disk.unlink(self.path(sha256))
        return True

    def adopt(self, part: Path, sha256: str, length: int) -> Path:
        """Take a finished download under its hash.

        It is made durable here and not by who wrote it: that may have been an agent that was
        killed before it could, and a hash is of what the memory holds, not the disk.

        Raises:
            VerificationError: its content is something else; the download is removed.
            OSError: the disk cannot be written.
        """
        place = self.path(sha256)
        with _opened(part) as stream:
            found = sha256_of_stream(stream)
            state = os.fstat(stream.fileno())
            if (found, state.st_size) != (sha256, length):
                disk.unlink(part)
                raise _changed(f"{state.st_size} bytes with sha256 {found[:16]}… came", sha256)
            os.fchmod(stream.fileno(), 0o444)
            disk.sync_file(part, stream.fileno())
            disk.rename(part, place)
            # What has the name now is what was hashed: somebody may have swapped it in between.
            if not os.path.samestat(place.lstat(), state):
                disk.unlink(place)
                raise _changed("Another file was put there while it was verified", sha256)
        disk.sync_folder(self.folder)
        return place

    def sweep(self, wanted: Collection[str]) -> int:
        """Remove all other blobs; the bytes that this frees where no slot links them.

        Removing is not made durable: a blob that comes back is only swept again.
        """
        freed = 0
        with os.scandir(self.folder) as entries:
            found = [(entry.name, entry.stat(follow_symlinks=False).st_size) for entry in entries]
        for name, size in found:
            if name not in wanted:
                disk.unlink(self.folder / name)
                freed += size
        return freed


def _opened(part: Path) -> IO[bytes]:
    try:
        return os.fdopen(os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb")
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        disk.unlink(part)
        raise _changed("A link was put there", part.stem) from error


def _changed(what: str, sha256: str) -> VerificationError:
    return VerificationError(
        f"{what} in the place of sha256 {sha256[:16]}….",
        cause="The server, the line or somebody on this device changed it.",
        remedy="Nothing was activated; it is fetched again at the next attempt.",
    )
