"""The two sockets: what is heard, what is dropped, and that nobody can hold the agent up."""

from __future__ import annotations

import contextlib
import json
import socket
import stat
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import NetworkError, SlipwayError, StorageError, UsageError
from agent.local import AGENT, HEALTH, MOST_BYTES, MOST_CALLS, MOST_REASON, Listener, Word, ask, say

GOOD = Word(model="net", good=True, reason="20 runs")


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Listener]:
    found = Listener(tmp_path)
    yield found
    found.close()


def heard(listener: Listener, do: Any = None, timeout_s: float = 0.2) -> list[Word]:
    return list(listener.wait(timeout_s, do or _nothing))


def _nothing(request: Mapping[str, Any]) -> Any:
    raise AssertionError(f"nobody asked for {request}")


def send(path: Path, content: bytes) -> socket.socket:
    line = socket.socket(socket.AF_UNIX)
    line.connect(str(path))
    with contextlib.suppress(OSError):
        line.sendall(content)
    return line


def test_a_word_is_heard(tmp_path: Path, listener: Listener) -> None:
    say(tmp_path, GOOD)
    assert heard(listener) == [GOOD]
    assert heard(listener, timeout_s=0) == []


def test_words_are_kept_in_their_order(tmp_path: Path, listener: Listener) -> None:
    said = [Word(model="net", good=n % 2 == 0, reason=str(n)) for n in range(5)]
    for word in said:
        say(tmp_path, word)
    assert heard(listener) == said


def test_who_may_speak(tmp_path: Path, listener: Listener) -> None:
    assert stat.S_IMODE((tmp_path / HEALTH).stat().st_mode) == 0o660
    assert stat.S_IMODE((tmp_path / AGENT).stat().st_mode) == 0o600


MALFORMED = [
    ("nothing", b""),
    ("no JSON", b"good\n"),
    ("a list", b"[1]\n"),
    ("no model", b'{"good": true}\n'),
    ("a model that is no name", b'{"model": 3, "good": true}\n'),
    ("good is a number", b'{"model": "net", "good": 1}\n'),
    ("a reason that is no text", b'{"model": "net", "good": true, "reason": []}\n'),
    ("not UTF-8", b'{"model": "\xff", "good": true}\n'),
    ("nested for ever", b"[" * 4000 + b"\n"),
    ("too long", b'{"model": "net", "good": false, "reason": "' + b"x" * MOST_BYTES + b'"}\n'),
]


@pytest.mark.parametrize("content", [case[1] for case in MALFORMED], ids=[c[0] for c in MALFORMED])
def test_what_makes_no_sense_is_dropped(tmp_path: Path, listener: Listener, content: bytes) -> None:
    send(tmp_path / HEALTH, content).close()
    say(tmp_path, GOOD)
    assert heard(listener) == [GOOD]


@settings(max_examples=25)
@given(reason=st.text(max_size=2000))
def test_any_reason_arrives_short_and_printable(tmp_path_factory: Any, reason: str) -> None:
    folder = tmp_path_factory.mktemp("sockets")
    listener = Listener(folder)
    try:
        say(folder, Word(model="net", good=False, reason=reason))
        (word,) = heard(listener)
        assert len(word.reason) <= MOST_REASON
        assert word.reason.isprintable() or not word.reason
        if reason.isprintable():
            assert word.reason == reason[:MOST_REASON]
    finally:
        listener.close()


def test_clients_that_hang_are_not_waited_for(
    tmp_path: Path, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.local._HEARS_S", 0.2)
    hangs = send(tmp_path / HEALTH, b'{"model": "net"')
    stop = threading.Event()
    dribbles = send(tmp_path / HEALTH, b"")

    def dribble() -> None:
        with contextlib.suppress(OSError):
            while not stop.wait(0.05):
                dribbles.send(b" ")

    thread = threading.Thread(target=dribble)
    thread.start()
    say(tmp_path, GOOD)
    began = time.monotonic()
    try:
        assert heard(listener) == [GOOD]
        assert time.monotonic() - began < 5
    finally:
        stop.set()
        thread.join()
        hangs.close()
        dribbles.close()


def test_whoever_calls_without_an_end_is_not_heard_without_an_end(
    tmp_path: Path, listener: Listener
) -> None:
    calls = 0

    def again(request: Mapping[str, Any]) -> str:
        nonlocal calls
        calls += 1
        lines.append(send(tmp_path / AGENT, b'{"do": "once"}\n'))
        return "done"

    lines = [send(tmp_path / AGENT, b'{"do": "once"}\n')]
    heard(listener, again)
    assert calls == MOST_CALLS
    for line in lines:
        line.close()


def answered(listener: Listener, request: Mapping[str, Any], do: Any, state: Path) -> Any:
    """The answer of an agent that listens for a while."""
    found: list[Any] = []

    def client() -> None:
        try:
            found.append(ask(state, request))
        except SlipwayError as error:
            found.append(error)

    thread = threading.Thread(target=client)
    thread.start()
    heard(listener, do, timeout_s=10)
    thread.join(10)
    return found[0]


def test_a_request_is_answered(tmp_path: Path, listener: Listener) -> None:
    asked = {"do": "mark-good", "model": "net"}
    assert answered(listener, asked, lambda request: [request["do"]], tmp_path) == ["mark-good"]


REFUSALS = [
    UsageError("no", cause="because", remedy="do"),
    StorageError("full", cause="c", remedy="r"),
]


@pytest.mark.parametrize("error", REFUSALS)
def test_a_refusal_arrives_as_what_it_was(tmp_path: Path, listener: Listener, error: Any) -> None:
    def refuse(request: Mapping[str, Any]) -> None:
        raise error

    found = answered(listener, {}, refuse, tmp_path)
    assert type(found) is type(error)
    assert (found.what, found.cause, found.remedy) == (error.what, error.cause, error.remedy)


def test_a_failing_disk_is_told_and_does_not_end_the_agent(
    tmp_path: Path, listener: Listener
) -> None:
    def fail(request: Mapping[str, Any]) -> None:
        raise OSError(28, "No space left on device", "/some/where")

    found = answered(listener, {}, fail, tmp_path)
    assert isinstance(found, StorageError)
    assert "/some/where" in found.what


def test_a_request_that_makes_no_sense_is_answered_so(tmp_path: Path, listener: Listener) -> None:
    line = send(tmp_path / AGENT, b"what?\n")
    heard(listener)
    assert json.loads(line.makefile().readline())["error"]["what"] == "That is no request."
    line.close()


def test_an_agent_that_ends_in_the_middle_is_told(tmp_path: Path, listener: Listener) -> None:
    class Stopped(BaseException):
        pass

    def stop(request: Mapping[str, Any]) -> None:
        raise Stopped

    def guarded() -> Any:
        found: list[Any] = []

        def client() -> None:
            try:
                found.append(ask(tmp_path, {"do": "once"}))
            except NetworkError as error:
                found.append(error)

        thread = threading.Thread(target=client)
        thread.start()
        with pytest.raises(Stopped):
            heard(listener, stop, timeout_s=10)
        thread.join(10)
        return found[0]

    assert "ended before it answered" in guarded().what


def test_where_nobody_listens_that_is_told(tmp_path: Path) -> None:
    for call in (lambda: say(tmp_path, GOOD), lambda: ask(tmp_path, {})):
        with pytest.raises(NetworkError, match="No agent listens"):
            call()


def test_a_socket_that_a_killed_agent_left_is_taken_over(tmp_path: Path) -> None:
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(tmp_path / HEALTH))
    dead.close()
    with pytest.raises(NetworkError):
        say(tmp_path, GOOD)
    listener = Listener(tmp_path)
    say(tmp_path, GOOD)
    assert heard(listener) == [GOOD]
    listener.close()
    assert list(tmp_path.iterdir()) == []


def test_a_path_too_long_for_a_socket_is_told(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 100) / ("y" * 100)
    folder.mkdir(parents=True)
    with pytest.raises(UsageError, match="cannot listen"):
        Listener(folder)
