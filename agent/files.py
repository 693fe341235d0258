"""Every durable file operation: write beside, fsync, rename, fsync the folder.

A reader sees the old content or the new one, never half of either, whatever is killed when.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from agent import disk
from agent.errors import StorageError

CHUNK_BYTES = 1 << 20
_LEFT_BEHIND = re.compile(r"\..+\.([0-9a-f]{8}|link)")
"""What `write_atomic` and `point_link` begin with."""


def sha256_of(path: Path) -> str:
    """Hex digest of a file's content."""
    with path.open("rb") as stream:
        return sha256_of_stream(stream)


def sha256_of_stream(stream: IO[bytes]) -> str:
    """Hex digest of all that is left to be read."""
    digest = hashlib.sha256()
    while chunk := stream.read(CHUNK_BYTES):
        digest.update(chunk)
    return digest.hexdigest()


def write_atomic(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Replace `path` by `content`, durably.

    Raises:
        StorageError: the disk is full, or the folder cannot be written.
    """
    with storage_errors(path):
        make_folders(path.parent)
        beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            with disk.Writer(beside, mode=mode) as stream:
                stream.write(content)
                stream.sync()
            disk.rename(beside, path)
        except BaseException:
            with contextlib.suppress(OSError):
                disk.unlink(beside)
            raise
        disk.sync_folder(path.parent)


def make_folders(folder: Path, mode: int = 0o755) -> None:
    """Make a folder and what is missing above it, each durable in its parent."""
    if folder.is_dir():
        return
    make_folders(folder.parent)
    if disk.mkdir(folder, mode):
        disk.sync_folder(folder.parent)


def move_folder(source: Path, destination: Path) -> None:
    """Rename a finished folder into place, durably; one that is already there is kept.

    Content under one name is always the same (names carry a digest), so the first one wins.
    """
    with storage_errors(destination):
        destination.parent.mkdir(parents=True, exist_ok=True)
        for path in source.rglob("*"):
            if path.is_file():
                with path.open("rb") as stream:
                    os.fsync(stream.fileno())
        try:
            source.rename(destination)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            shutil.rmtree(source)
        disk.sync_folder(destination.parent)


def link_or_copy(source: Path, destination: Path) -> None:
    """Give a file that never changes a second name; a copy where the file system has no links."""
    try:
        os.link(source, destination)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EEXIST):
            raise
        shutil.copyfile(source, destination)


def share(source: Path, destination: Path) -> None:
    """Give a durable file that never changes a second name; a durable copy where that cannot be.

    The name itself is durable once its folder is synced.
    """
    try:
        disk.link(source, destination)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EXDEV, errno.EMLINK, errno.ENOTSUP):
            raise
        with source.open("rb") as stream, disk.Writer(destination, mode=0o444) as copy:
            while chunk := stream.read(CHUNK_BYTES):
                copy.write(chunk)
            copy.sync()


def settle(folder: Path) -> None:
    """Make durable what a folder holds after whoever wrote there was killed, and clear up after it.

    A process that ended between a rename and the sync that follows has left a name that everybody
    sees and a power cut takes away: whoever goes on from there would build on it.
    """
    with storage_errors(folder):
        for entry in sorted(folder.iterdir()):
            if _LEFT_BEHIND.fullmatch(entry.name) and (entry.is_symlink() or entry.is_file()):
                disk.unlink(entry)
        disk.sync_folder(folder)


def remove_tree(folder: Path) -> None:
    """Remove a folder and all in it; one that is not there is no error.

    This is not made durable: after a power cut some of it may be back.

    Raises:
        StorageError: some of it cannot be removed.
    """
    try:
        entries = list(os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return
    with storage_errors(folder):
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                remove_tree(Path(entry.path))
            else:
                disk.unlink(Path(entry.path))
        disk.rmdir(folder)


def point_link(link: Path, target: str) -> None:
    """Make `link` a symbolic link to `target` (relative to the link), replacing it atomically.

    One process at a time: its caller holds a lock.
    """
    with storage_errors(link):
        beside = link.with_name(f".{link.name}.link")
        disk.unlink(beside)
        disk.symlink(target, beside)
        disk.rename(beside, link)
        disk.sync_folder(link.parent)


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn an OSError inside into a StorageError that says what to do about `path`."""
    try:
        yield
    except OSError as error:
        raise storage_error(error, path) from error


def storage_error(error: OSError, path: Path) -> StorageError:
    """The StorageError for one OSError."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(
            f"No space left while writing {path}.",
            cause="The disk or the quota is full.",
            remedy="Free some space and run the same command again: it resumes.",
        )
    return StorageError(
        f"Cannot write {path}: {error.strerror or error}.",
        cause="The folder is read-only, belongs to somebody else, or is not a folder.",
        remedy="Choose a folder that you can write, or mend its permissions.",
    )
