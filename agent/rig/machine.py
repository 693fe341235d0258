"""One measurement at a time on one machine, whatever rigs and users it has."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO

from agent.boot import boot_id
from agent.errors import StorageError


class MachineLock:
    """A lock that is named after the machine's boot: two rigs of one machine share it."""

    def __init__(self, tell: Callable[[str], None], folder: Path = Path("/tmp")) -> None:  # noqa: S108
        self._tell = tell
        self._path = folder / f"slipway-measure-{boot_id() or 'machine'}.lock"
        self._stream: IO[bytes] | None = None

    def take(self, wait: Callable[[], None]) -> None:
        """Wait until nobody else measures here; `wait` is called between two looks."""
        try:
            if not self._path.exists():
                with contextlib.suppress(FileExistsError):
                    descriptor = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_RDONLY, 0o666)
                    os.fchmod(descriptor, 0o666)
                    os.close(descriptor)
            self._stream = self._path.open("rb")
        except OSError as error:
            raise StorageError(
                f"{self._path} cannot be opened: {error.strerror}.",
                cause="Another user made it, or /tmp cannot be written.",
                remedy="Remove it.",
            ) from error
        told = False
        while not locked(self._stream, keep=True):
            if not told:
                self._tell("waiting: something else measures on this machine")
                told = True
            wait()

    def release(self) -> None:
        """Let others measure."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None


def locked(stream: IO[bytes], *, keep: bool = False) -> bool:
    """Whether nobody has a lock on it; ours is kept only if wished."""
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    if not keep:
        fcntl.flock(stream, fcntl.LOCK_UN)
    return True
