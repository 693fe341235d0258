"""Every operation of ours that changes a disk, one system call each.

What has to survive a power cut is put together from these in `agent.files`, and nothing else in
the agent changes files. An observer is told of each operation before and after it: tests end the
process there, let it fail, or record it and ask what a power cut could have left.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

Kind = Literal[
    "create", "write", "sync", "rename", "link", "symlink", "unlink", "mkdir", "rmdir",
    "sync_folder", "commit",
]  # fmt: skip
Moment = Literal["before", "after"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Operation:
    """One change, as an observer is told of it."""

    kind: Kind
    path: Path
    """What is made, changed or removed; of a `rename` or `link`, the new name."""
    source: Path | None = None
    """Of a `rename` or `link`, the old name."""
    target: str | None = None
    """Of a `symlink`, what it says."""
    data: bytes = b""
    """Of a `write`, what is added at the end."""


Observer = Callable[[Operation, Moment], None]
_observers: list[Observer] = []


@contextlib.contextmanager
def observed(observer: Observer) -> Iterator[None]:
    """Tell an observer of every operation while inside."""
    _observers.append(observer)
    try:
        yield
    finally:
        _observers.remove(observer)


@contextlib.contextmanager
def told(operation: Operation) -> Iterator[None]:
    """Tell of an operation that is done inside; `agent.updates.journal` uses it for its commits."""
    for observer in _observers:
        observer(operation, "before")
    yield
    for observer in _observers:
        observer(operation, "after")


class Writer:
    """A file that is written from its end on; `sync` makes its content durable, not its name.

    An error of `sync` or of closing means that the content may be lost whatever is tried again, so
    the file is to be abandoned.
    """

    def __init__(self, path: Path, *, append: bool = False, mode: int = 0o644) -> None:
        """Create the file, which must not exist; with `append` it may, and is continued.

        Raises:
            OSError: it exists, is a link, or cannot be written.
        """
        self.path = path
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        flags |= os.O_APPEND if append else os.O_EXCL
        exists = append and path.exists()
        with contextlib.nullcontext() if exists else told(Operation(kind="create", path=path)):
            self._descriptor = os.open(path, flags, mode)

    def write(self, data: bytes) -> None:
        """Add to the end."""
        with told(Operation(kind="write", path=self.path, data=bytes(data))):
            left = memoryview(data)
            while left:
                left = left[os.write(self._descriptor, left) :]

    def sync(self) -> None:
        """Make what was written durable."""
        sync_file(self.path, self._descriptor)

    def close(self) -> None:
        """Give the descriptor back; some file systems tell of a failed write only here."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def sync_file(path: Path, descriptor: int) -> None:
    """Make the content of an open file durable, whoever wrote it and when."""
    with told(Operation(kind="sync", path=path)):
        os.fsync(descriptor)


def rename(source: Path, path: Path) -> None:
    """Give `source` the name `path`; what had it is gone."""
    with told(Operation(kind="rename", path=path, source=source)):
        source.rename(path)


def link(source: Path, path: Path) -> None:
    """A second name for a file."""
    with told(Operation(kind="link", path=path, source=source)):
        os.link(source, path)


def symlink(target: str, path: Path) -> None:
    """A symbolic link that says `target`."""
    with told(Operation(kind="symlink", path=path, target=target)):
        path.symlink_to(target)


def unlink(path: Path) -> None:
    """Remove a name; one that is not there is no error."""
    if not path.is_symlink() and not path.exists():
        return
    with told(Operation(kind="unlink", path=path)):
        path.unlink(missing_ok=True)


def mkdir(path: Path, mode: int = 0o755) -> bool:
    """Make a folder in one that is there; False if it is there already."""
    if path.is_dir():
        return False
    try:
        with told(Operation(kind="mkdir", path=path)):
            path.mkdir(mode=mode)
    except FileExistsError:  # somebody else was faster
        if not path.is_dir():
            raise
        return False
    return True


def rmdir(path: Path) -> None:
    """Remove an empty folder."""
    with told(Operation(kind="rmdir", path=path)):
        path.rmdir()


def sync_folder(path: Path) -> None:
    """Make a folder's entries durable; file systems that cannot do it are let be."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with told(Operation(kind="sync_folder", path=path)):
            os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
