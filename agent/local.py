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
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from agent.errors import NetworkError, SlipwayError, UsageError, from_record, to_record
from agent.files import storage_error

HEALTH, AGENT = "health.sock", "agent.sock"
MOST_BYTES = 4096
MOST_REASON = 500
MOST_CALLS = 16
"""So many are heard in a row: whoever calls without an end cannot hold the agent up."""
_HEARS_S = 1.0
"""So long somebody may take to say one line, and to take the answer: the agent waits for nobody."""
_SAYS_S = 0.5
"""So long an application waits to be heard."""
_ASKS_S = 5.0
"""So long an operator waits to be heard; the answer takes as long as what is asked for."""

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
    with _connected(state / HEALTH, _SAYS_S) as line:
        told = dataclasses.replace(word, reason=plain(word.reason))
        line.sendall(_line(dataclasses.asdict(told)))


def ask(state: Path, request: Mapping[str, Any]) -> Any:
    """Ask the agent that is at work for something, and wait until it is done.

    Raises:
        NetworkError: no agent listens.
        SlipwayError: what the agent answers, of the kind that it was there.
    """
    with _connected(state / AGENT, _ASKS_S) as line, line.makefile("rb") as answers:
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


def plain(reason: str) -> str:
    """A reason as it is kept: short, and of printable characters alone."""
    return "".join(c if c.isprintable() else " " for c in reason[:MOST_REASON])


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
            heard_by: Any = key.fileobj
            for _ in range(MOST_CALLS):
                try:
                    line, _ = heard_by.accept()
                except OSError:  # nobody else, or gone again
                    break
                with line:
                    told = _heard(line)
                    if heard_by is self._agent:
                        answer = _line(_answer(told, do))
                        with contextlib.suppress(OSError):  # gone: it is done all the same
                            line.settimeout(_HEARS_S)
                            line.sendall(answer)
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
def _connected(path: Path, timeout_s: float) -> Iterator[socket.socket]:
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
            line.settimeout(timeout_s)
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
    return json.dumps(value, default=str, ensure_ascii=False).encode() + b"\n"


def _heard(line: socket.socket) -> dict[str, Any] | None:
    """What somebody says; None where that is no line of JSON, is too long, or takes too long."""
    content, until = b"", time.monotonic() + _HEARS_S
    with contextlib.suppress(OSError):
        while b"\n" not in content and len(content) < MOST_BYTES:
            line.settimeout(max(0.001, until - time.monotonic()))
            part = line.recv(MOST_BYTES - len(content))
            if not part:
                break
            content += part
    with contextlib.suppress(ValueError, RecursionError):
        told = json.loads(content.partition(b"\n")[0])
        return told if isinstance(told, dict) else None
    return None


def _word(told: Mapping[str, Any] | None) -> Word | None:
    if told is None or not isinstance(told.get("model"), str):
        return None
    good, reason = told.get("good"), told.get("reason", "")
    if not isinstance(good, bool) or not isinstance(reason, str):
        return None
    return Word(model=told["model"], good=good, reason=plain(reason))


def _answer(told: Mapping[str, Any] | None, do: Do) -> dict[str, Any]:
    try:
        if told is None:
            raise UsageError(
                "That is no request.",
                cause=f"A request is one line of JSON of at most {MOST_BYTES} bytes.",
                remedy="Ask by sdk-agent, or as the reference of the protocol says.",
            )
        return {"answer": do(told)}
    except SlipwayError as error:
        return {"error": to_record(error)}
    except OSError as error:
        return {"error": to_record(storage_error(error, Path(str(error.filename or "?"))))}
