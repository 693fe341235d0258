"""A line to a rig: bytes there and back. SSH gives one; so does any program that is started here.

Whatever reaches a device, and starts the runner there, is a driver: it opens such a line.
`hil.link` is the one for SSH; a device that `adb` reaches needs another, and nothing else here.
"""

from __future__ import annotations

import collections
import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Sequence
from typing import BinaryIO, Protocol

_LAST_WORDS = 64 << 10
_END_S = 5.0


class Line(Protocol):
    """Bytes there and back, in order, until it ends."""

    def write(self, content: bytes | memoryview) -> None:
        """Send all of it.

        Raises:
            OSError: the line has ended.
        """
        ...

    def readline(self) -> bytes:
        """The next line, with its end; nothing where the line has ended."""
        ...

    def read(self, length: int) -> bytes:
        """So many bytes; fewer where the line has ended."""
        ...

    def last_words(self) -> str:
        """What came beside: what the other side said to its terminal, the end of it."""
        ...

    def close(self) -> None:
        """End it; a second time does nothing."""
        ...


class Words:
    """Collects what comes beside, and keeps the end of it: nobody waits for a full pipe."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read
        self._kept: collections.deque[bytes] = collections.deque()
        self._length = 0
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def text(self, wait_s: float = 1.0) -> str:
        """What there is, once no more comes."""
        self._thread.join(wait_s)
        return b"".join(self._kept)[-_LAST_WORDS:].decode(errors="replace").strip()

    def _work(self) -> None:
        while True:
            try:
                piece = self._read(1 << 14)
            except (OSError, ValueError):
                return
            if not piece:
                return
            self._kept.append(piece)
            self._length += len(piece)
            while self._length - len(self._kept[0]) > _LAST_WORDS:
                self._length -= len(self._kept.popleft())


class LocalLine:
    """A program of this machine: for a runner without a network, and for tests."""

    def __init__(self, command: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            start_new_session=True,
        )  # fmt: skip
        self._words = Words(self._stream("stderr").read1)  # type: ignore[attr-defined]
        self._writes = False

    def write(self, content: bytes | memoryview) -> None:
        """See `Line`."""
        left = memoryview(content)
        self._writes = True
        while left:  # past the buffer, whose lock would keep `close` waiting for a full pipe
            left = left[os.write(self._stream("stdin").fileno(), left) :]
        self._writes = False

    def readline(self) -> bytes:
        """See `Line`."""
        return self._stream("stdout").readline()

    def read(self, length: int) -> bytes:
        """See `Line`."""
        return self._stream("stdout").read(length)

    def last_words(self) -> str:
        """See `Line`."""
        return self._words.text()

    def close(self) -> None:
        """See `Line`."""
        if self._writes:  # nobody takes it any more
            self._process.kill()
        with contextlib.suppress(OSError):
            self._stream("stdin").close()
        try:
            self._process.wait(timeout=_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        with contextlib.suppress(OSError):  # whoever it left behind holds the line open
            os.killpg(self._process.pid, signal.SIGKILL)
        self._words.text()  # whoever reads is at the end by now: nobody is closed under
        for name in ("stdout", "stderr"):
            self._stream(name).close()

    def _stream(self, name: str) -> BinaryIO:
        found: BinaryIO = getattr(self._process, name)
        return found
