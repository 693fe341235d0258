"""What others on this device may say to the agent: two sockets in its state folder.

    health.sock  0660  how the application is: {"model": "minilm", "good": false, "reason": "..."}
    agent.sock   0600  what an operator asks:  {"do": "rollback", "model": "minilm", ...}

One JSON line each; `agent.sock` answers with one. So who may write there may speak, and what may be
asked is a closed list. Words outside a trial change nothing; a bad one within it takes the release
back.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import selectors
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from agent.errors import NetworkError, SlipwayError, UsageError, from_record, to_record

HEALTH, AGENT = "health.sock", "agent.sock"
MOST_BYTES = 4096
MOST_REASON = 500
_HEARS_S = 1.0
"""So long somebody may take to say one line: the agent waits for nobody."""

Do = Callable[[Mapping[str, Any]], Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Word:
    """What somebody said of a model."""

    model: str
    good: bool
    reason: str = ""


def say(state: Path, word: Word) -> None:
    """Tell the agent how the application is.

    Raises:
        NetworkError: no agent listens.
    """
    with _connected(state / HEALTH) as line:
        line.sendall(_line(dataclasses.asdict(word)))


def ask(state: Path, request: Mapping[str, Any]) -> Any:
    """Ask the agent that is at work for something, and wait until it is done.

    Raises:
        NetworkError: no agent listens.
        SlipwayError: what the agent answers, of the kind that it was there.
    """
    with _connected(state / AGENT) as line, line.makefile("rb") as answers:
        line.sendall(_line(request))
        line.settimeout(None)
        told = answers.readline()
    if not told:
        raise NetworkError(
            "The agent ended before it answered.",
            cause="It was stopped, or failed.",
            remedy="sdk-agent status says how far it came; a start of the agent goes on there.",
        )
    answer = json.loads(told)
    if "error" in answer:
        raise from_record(answer["error"])
    return answer["answer"]


class Listener:
    """The agent's end of both."""

    def __init__(self, state: Path) -> None:
        """Take both sockets' places: whoever has the folder's lock is the only agent."""
        self._health = _listening(state / HEALTH, 0o660)
        self._agent = _listening(state / AGENT, 0o600)
        self._paths = (state / HEALTH, state / AGENT)
        self._selector = selectors.DefaultSelector()
        for one in (self._health, self._agent):
            self._selector.register(one, selectors.EVENT_READ)

    def wait(self, timeout_s: float, do: Do) -> Iterator[Word]:
        """What was said until then; sooner if somebody speaks. What makes no sense is dropped.

        Args:
            timeout_s: seconds.
            do: is called with each request, and its answer or its SlipwayError is sent back.
        """
        for key, _ in self._selector.select(timeout_s):
            with contextlib.suppress(BlockingIOError):
                while True:
                    line, _ = key.fileobj.accept()  # type: ignore[union-attr]
                    with line, contextlib.suppress(OSError):
                        line.settimeout(_HEARS_S)
                        told = _heard(line)
                        if key.fileobj is self._agent:
                            line.sendall(_line(_answer(told, do)))
                        elif (word := _word(told)) is not None:
                            yield word

    def close(self) -> None:
        """Stop listening."""
        self._selector.close()
        for one, path in zip((self._health, self._agent), self._paths, strict=True):
            one.close()
            with contextlib.suppress(OSError):
                path.unlink()


@contextlib.contextmanager
def _connected(path: Path) -> Iterator[socket.socket]:
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
            line.settimeout(5.0)
            line.connect(_short(path))
            yield line
    except OSError as error:
        raise NetworkError(
            f"No agent listens at {path}: {error.strerror or error}.",
            cause="It is not running, runs with another state folder, or belongs to another user.",
            remedy="Start it: sdk-agent run",
        ) from error


def _listening(path: Path, mode: int) -> socket.socket:
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        one.bind(_short(path))
    except OSError as error:
        one.close()
        raise UsageError(
            f"The agent cannot listen at {path}: {error.strerror or error}.",
            cause="The path of the state folder is too long for a socket, or its file system has "
            "none.",
            remedy="Name another state folder: --state DIR",
        ) from error
    path.chmod(mode)
    one.listen(16)
    one.settimeout(0)
    return one


def _short(path: Path) -> str:
    """The path from here, where that is shorter: a socket's may have 107 bytes (unix(7))."""
    whole = str(path.absolute())
    with contextlib.suppress(ValueError):
        near = str(path.absolute().relative_to(Path.cwd()))
        return min(whole, near, key=len)
    return whole


def _line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, default=str).encode() + b"\n"


def _heard(line: socket.socket) -> dict[str, Any] | None:
    content = b""
    with contextlib.suppress(OSError):
        while b"\n" not in content and len(content) < MOST_BYTES:
            part = line.recv(MOST_BYTES - len(content))
            if not part:
                break
            content += part
    with contextlib.suppress(ValueError, RecursionError):
        told = json.loads(content)
        return told if isinstance(told, dict) else None
    return None


def _word(told: Mapping[str, Any] | None) -> Word | None:
    if told is None or not isinstance(told.get("model"), str):
        return None
    good, reason = told.get("good"), told.get("reason", "")
    if not isinstance(good, bool) or not isinstance(reason, str):
        return None
    plain = "".join(c if c.isprintable() else " " for c in reason[:MOST_REASON])
    return Word(model=told["model"], good=good, reason=plain)


def _answer(told: Mapping[str, Any] | None, do: Do) -> dict[str, Any]:
    try:
        if told is None:
            raise UsageError("That is no request: one line of JSON is.")
        return {"answer": do(told)}
    except SlipwayError as error:
        return {"error": to_record(error)}
