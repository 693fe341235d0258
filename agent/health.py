"""How the application tells whether what runs is well: a word through a local socket.

One JSON line: `{"model": "minilm", "good": false, "reason": "..."}`. The socket lies in the state
folder, so who may write there may speak. Words outside a trial are kept in the report and change
nothing; a bad one within it takes the release back.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import selectors
import socket
from collections.abc import Iterator
from pathlib import Path

from agent.errors import NetworkError

SOCKET = "health.sock"
MOST_BYTES = 4096
MOST_REASON = 500


@dataclasses.dataclass(frozen=True, kw_only=True)
class Word:
    """What somebody said of a model."""

    model: str
    good: bool
    reason: str


def say(state: Path, word: Word) -> None:
    """Tell the agent.

    Raises:
        NetworkError: no agent listens.
    """
    content = json.dumps(dataclasses.asdict(word)).encode()[: MOST_BYTES - 1] + b"\n"
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
            line.settimeout(5.0)
            line.connect(str(state / SOCKET))
            line.sendall(content)
    except OSError as error:
        raise NetworkError(
            f"No agent listens at {state / SOCKET}: {error.strerror or error}.",
            cause="It is not running, or runs with another state folder.",
            remedy="Start it: sdk-agent run",
        ) from error


class Listener:
    """The agent's end."""

    def __init__(self, state: Path) -> None:
        self._path = state / SOCKET
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(str(self._path))
        self._path.chmod(0o660)
        self._socket.listen(16)
        self._socket.setblocking(False)

    def wait(self, timeout_s: float) -> Iterator[Word]:
        """What was said until then; sooner if somebody speaks. What makes no sense is dropped."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._socket, selectors.EVENT_READ)
            if not selector.select(timeout_s):
                return
        with contextlib.suppress(BlockingIOError):
            while True:
                line, _ = self._socket.accept()
                with line:
                    line.settimeout(1.0)
                    word = _heard(line)
                if word is not None:
                    yield word

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()


def _heard(line: socket.socket) -> Word | None:
    content = b""
    try:
        while b"\n" not in content and len(content) < MOST_BYTES:
            part = line.recv(MOST_BYTES - len(content))
            if not part:
                break
            content += part
        told = json.loads(content)
        reason = "".join(c if c.isprintable() else " " for c in str(told.get("reason", "")))
        if not isinstance(told["good"], bool):
            return None
        return Word(model=str(told["model"]), good=told["good"], reason=reason[:MOST_REASON])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
