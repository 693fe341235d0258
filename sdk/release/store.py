"""A repository's files: a folder, or anything that fsspec reaches by a URL."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from agent import disk
from agent.errors import NetworkError, StorageError, UsageError, VerificationError
from agent.files import CHUNK_BYTES, make_folders, sha256_of, storage_errors, write_atomic

LOCK_S = 60.0
"""So long a command waits for another one that writes into the same folder."""
_SWEPT = ("metadata", "blobs/sha256")


class Store(Protocol):
    """Files by relative paths; each is whole or not there."""

    def read(self, path: str) -> bytes | None:
        """A file's content; None where there is none."""

    def pieces(self, path: str) -> Iterator[bytes]:
        """The same of a long file, a piece at a time; nothing where there is none."""

    def write(self, path: str, content: bytes) -> None:
        """Replace a file."""

    def has(self, path: str, length: int) -> bool:
        """Whether a file of this length is there."""

    def put(self, path: str, source: Path, sha256: str) -> None:
        """Add a file, which never changes.

        Raises:
            VerificationError: what was read of `source` has another hash; nothing was added.
        """

    def locked(self) -> contextlib.AbstractContextManager[None]:
        """Nobody else writes while inside, as far as that can be had."""


def store_of(place: str) -> Store:
    """The store at a URL, or in a folder.

    Raises:
        UsageError: fsspec knows no such scheme, or lacks its package.
    """
    if "://" not in place:
        return FolderStore(Path(place))
    import fsspec
    from fsspec.implementations.local import LocalFileSystem

    try:
        system, root = fsspec.core.url_to_fs(place)
    except (ValueError, ImportError) as error:
        raise UsageError(
            f"The repository {place} cannot be opened: {error}.",
            cause="The scheme is misspelt, or the package that speaks it is not installed.",
            remedy="Name a folder, or install what fsspec asks for (s3fs, gcsfs, ...).",
        ) from error
    if isinstance(system, LocalFileSystem):
        return FolderStore(Path(root))  # it writes whole files and can be locked
    return UrlStore(system, root)


class FolderStore:
    """A folder: every file appears whole, and durably."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._held = 0

    def read(self, path: str) -> bytes | None:
        """See `Store`."""
        with _readable(self.folder / path):
            try:
                return (self.folder / path).read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                return None

    def pieces(self, path: str) -> Iterator[bytes]:
        """See `Store`."""
        with _readable(self.folder / path):
            try:
                stream = (self.folder / path).open("rb")
            except (FileNotFoundError, NotADirectoryError):
                return
            with stream:
                while piece := stream.read(CHUNK_BYTES):
                    yield piece

    def write(self, path: str, content: bytes) -> None:
        """See `Store`."""
        write_atomic(self.folder / path, content)

    def has(self, path: str, length: int) -> bool:
        """See `Store`."""
        try:
            return (self.folder / path).stat().st_size == length
        except OSError:
            return False

    def put(self, path: str, source: Path, sha256: str) -> None:
        """See `Store`. A copy, not a link: a build that is edited must not edit a release."""
        place = self.folder / path
        beside = place.with_name(f".{place.name}.part")
        digest = hashlib.sha256()
        with storage_errors(place):
            make_folders(place.parent)
            disk.unlink(beside)
            try:
                with source.open("rb") as stream, disk.Writer(beside, mode=0o444) as copy:
                    while piece := stream.read(CHUNK_BYTES):
                        digest.update(piece)
                        copy.write(piece)
                    copy.sync()
                if digest.hexdigest() != sha256:
                    raise changed(source, digest.hexdigest(), sha256)
                disk.rename(beside, place)
            except BaseException:
                with contextlib.suppress(OSError):
                    disk.unlink(beside)
                raise
            disk.sync_folder(place.parent)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """See `Store`.

        Raises:
            StorageError: another process holds it for too long.
        """
        if self._held:
            self._held += 1
            try:
                yield
            finally:
                self._held -= 1
            return
        with storage_errors(self.folder):
            make_folders(self.folder.absolute())
            # The folder itself: no file of ours in what is served, and a full disk is no matter.
            descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._wait_for(descriptor)
            self._sweep()
            self._held = 1
            yield
        finally:
            self._held = 0
            os.close(descriptor)

    def _wait_for(self, descriptor: int) -> None:
        until = time.monotonic() + LOCK_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if time.monotonic() < until:
                    time.sleep(0.05)
                    continue
                raise StorageError(
                    f"The repository {self.folder} is held by another process, for more than "
                    f"{LOCK_S:g} s.",
                    cause="Another sdk command writes into it.",
                    remedy="Wait for it, then run the same command again.",
                ) from error
            else:
                return

    def _sweep(self) -> None:
        """Remove what commands that were killed have left; nobody else writes now."""
        for name in _SWEPT:
            with contextlib.suppress(OSError):
                for entry in os.scandir(self.folder / name):
                    if entry.name.startswith(".") and entry.is_file(follow_symlinks=False):
                        disk.unlink(Path(entry.path))


class UrlStore:
    """An object store: its puts are whole or not there. It cannot be locked."""

    def __init__(self, system: Any, root: str) -> None:
        self._system = system
        self._root = root.rstrip("/")

    def read(self, path: str) -> bytes | None:
        """See `Store`."""
        with _reachable(path):
            try:
                return bytes(self._system.cat_file(f"{self._root}/{path}"))
            except FileNotFoundError:
                return None

    def pieces(self, path: str) -> Iterator[bytes]:
        """See `Store`."""
        with _reachable(path):
            try:
                stream = self._system.open(f"{self._root}/{path}", "rb")
            except FileNotFoundError:
                return
            with stream:
                while piece := stream.read(CHUNK_BYTES):
                    yield piece

    def write(self, path: str, content: bytes) -> None:
        """See `Store`."""
        with _reachable(path):
            self._make_parent(path)
            self._system.pipe_file(f"{self._root}/{path}", content)

    def has(self, path: str, length: int) -> bool:
        """See `Store`."""
        with _reachable(path):
            try:
                return int(self._system.size(f"{self._root}/{path}") or 0) == length
            except FileNotFoundError:
                return False

    def put(self, path: str, source: Path, sha256: str) -> None:
        """See `Store`."""
        before = source.stat()
        found = sha256_of(source)
        if found != sha256:
            raise changed(source, found, sha256)
        with _reachable(path):
            self._make_parent(path)
            self._system.put_file(str(source), f"{self._root}/{path}")
        after = source.stat()
        if (before.st_mtime_ns, before.st_size) != (after.st_mtime_ns, after.st_size):
            with contextlib.suppress(Exception):
                self._system.rm_file(f"{self._root}/{path}")
            raise changed(source, "changed on the way", sha256)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """See `Store`: here it is only looked, right before the timestamp, who else has written."""
        yield

    def _make_parent(self, path: str) -> None:
        self._system.makedirs(f"{self._root}/{path}".rpartition("/")[0], exist_ok=True)


def changed(source: Path, found: str, wanted: str) -> VerificationError:
    """What is to be published is not what was built."""
    return VerificationError(
        f"{source} has sha256 {found[:18]}…, the manifest says {wanted[:16]}….",
        cause="The file was changed after the build.",
        remedy="Nothing was published. Run `sdk build` again: what is cached costs nothing.",
    )


@contextlib.contextmanager
def _readable(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{place} cannot be read: {error.strerror or error}.",
            cause="The disk fails, or the file belongs to somebody else.",
            remedy="Mend its permissions, or restore the repository from a backup.",
        ) from error


@contextlib.contextmanager
def _reachable(path: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        # Each kind of store has errors of its own, which are no OSError.
        raise NetworkError(
            f"{path} cannot be read or written in the repository: {type(error).__name__}: "
            f"{str(error)[:300]}.",
            cause="The store is not reachable, or the credentials do not allow it.",
            remedy="Check the network and the credentials, then run the same command again.",
        ) from error
