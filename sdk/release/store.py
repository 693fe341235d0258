"""A repository's files: a folder, or anything that fsspec reaches by a URL."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Protocol

from agent.errors import StorageError, UsageError
from agent.files import link_or_copy, storage_errors, write_atomic


class Store(Protocol):
    """Files by relative paths."""

    def read(self, path: str) -> bytes | None: ...
    def write(self, path: str, content: bytes) -> None: ...
    def has(self, path: str, length: int) -> bool: ...
    def put(self, path: str, source: Path) -> None: ...


def store_of(place: str) -> Store:
    """The store at a URL, or in a folder.

    Raises:
        UsageError: fsspec knows no such scheme, or lacks its package.
    """
    if "://" not in place:
        return FolderStore(Path(place))
    import fsspec

    try:
        system, root = fsspec.core.url_to_fs(place)
    except (ValueError, ImportError) as error:
        raise UsageError(
            f"The repository {place} cannot be opened: {error}.",
            cause="The scheme is misspelt, or the package that speaks it is not installed.",
            remedy="Name a folder, or install what fsspec asks for (s3fs, gcsfs, ...).",
        ) from error
    return UrlStore(system, root)


class FolderStore:
    """A folder: every file appears whole."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, path: str) -> bytes | None:
        """A file's content; None where there is none."""
        try:
            return (self.folder / path).read_bytes()
        except FileNotFoundError:
            return None

    def write(self, path: str, content: bytes) -> None:
        """Replace a file."""
        write_atomic(self.folder / path, content)

    def has(self, path: str, length: int) -> bool:
        """Whether a blob is there already, whole."""
        try:
            return (self.folder / path).stat().st_size == length
        except OSError:
            return False

    def put(self, path: str, source: Path) -> None:
        """Add a blob, which never changes."""
        place = self.folder / path
        with storage_errors(place):
            place.parent.mkdir(parents=True, exist_ok=True)
            beside = place.with_name(f".{place.name}.{os.getpid()}")
            beside.unlink(missing_ok=True)
            link_or_copy(source, beside)
            with beside.open("rb") as stream:
                os.fsync(stream.fileno())
            beside.replace(place)


class UrlStore:
    """An object store: its puts are whole or not there."""

    def __init__(self, system: Any, root: str) -> None:
        self._system = system
        self._root = root.rstrip("/")

    def read(self, path: str) -> bytes | None:
        """A file's content; None where there is none."""
        try:
            return bytes(self._system.cat_file(f"{self._root}/{path}"))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _unreachable(path, error) from error

    def write(self, path: str, content: bytes) -> None:
        """Replace a file."""
        try:
            self._make_parent(path)
            self._system.pipe_file(f"{self._root}/{path}", content)
        except OSError as error:
            raise _unreachable(path, error) from error

    def has(self, path: str, length: int) -> bool:
        """Whether a blob is there already, whole."""
        try:
            return int(self._system.size(f"{self._root}/{path}")) == length
        except (OSError, TypeError):
            return False

    def put(self, path: str, source: Path) -> None:
        """Add a blob."""
        try:
            self._make_parent(path)
            self._system.put_file(str(source), f"{self._root}/{path}")
        except OSError as error:
            raise _unreachable(path, error) from error

    def _make_parent(self, path: str) -> None:
        self._system.makedirs(f"{self._root}/{path}".rpartition("/")[0], exist_ok=True)


def _unreachable(path: str, error: OSError) -> StorageError:
    return StorageError(
        f"{path} cannot be read or written in the repository: {error}.",
        cause="The store is not reachable, or the credentials do not allow it.",
        remedy="Check the network and the credentials, then run the same command again.",
    )
