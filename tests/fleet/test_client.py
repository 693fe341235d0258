"""The client of the admin API: what each refusal becomes, and servers that are none."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.errors import NetworkError, SlipwayError, UsageError, VerificationError
from sdk.cli.fleet_watch import looks
from sdk.fleet.client import FleetClient
from tests.fleet.client import Client
from tests.fleet.world import World

KEY = "slipway-api-0123456789"


@pytest.fixture
def database(tmp_path: Path) -> str:
    """Which database answers makes no difference here."""
    return f"sqlite:///{tmp_path / 'fleet.db'}"


@pytest.fixture
def operator(client: Client, world: World) -> Iterator[FleetClient]:
    with FleetClient(client.address, world.keys["default", "operator"]) as made:
        yield made


@contextlib.contextmanager
def answering(content: bytes) -> Iterator[str]:
    """A server that says the same to whoever comes, once."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(content)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread.join(10.0)


def http(status: str, body: bytes, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def refusal(status: str, code: str) -> bytes:
    told = {"code": code, "what": "It cannot be.", "cause": "It is so.", "remedy": "Wait."}
    return http(status, json.dumps({"error": told}).encode())


def test_a_long_list_is_followed_to_its_end_and_no_further_than_asked(
    client: Client, operator: FleetClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(5):
        client.enrolled()
    monkeypatch.setattr("sdk.fleet.client.PAGE", 2)
    every = [one["id"] for one in operator.pages("devices")]
    assert every == sorted(every)
    assert len(every) == 5
    assert [one["id"] for one in operator.pages("devices", most=3)] == every[:3]
    assert list(operator.pages("devices", most=0)) == []


REFUSALS: dict[str, tuple[tuple[str, ...], Any, type[SlipwayError], str]] = {
    "malformed": (("POST", "groups"), {"name": "no name"}, UsageError, "body.name"),
    "missing": (("GET", "rollouts", "r1"), None, UsageError, "There is no rollout 'r1'"),
    "no such address": (("GET", "nothing"), None, UsageError, "nothing at this address"),
    "impossible": (
        ("POST", "rollouts"),
        {"model": "net", "release": "9.9.9"},
        UsageError,
        "9.9.9",
    ),
    "role": (("GET", "audit"), None, VerificationError, "takes the role admin"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_the_server_refuses_is_said_in_its_words(operator: FleetClient, name: str) -> None:
    (method, *path), body, kind, words = REFUSALS[name]
    with pytest.raises(kind, match=re.escape(words)) as caught:
        operator.ask(method, *path, body=body)
    assert type(caught.value) is kind


def test_a_name_cannot_leave_its_place_in_the_address(operator: FleetClient) -> None:
    with pytest.raises(UsageError):
        operator.ask("DELETE", "groups", "../api-keys/x?y=#")


def test_an_unknown_key_is_refused(client: Client) -> None:
    with (
        FleetClient(client.address, KEY) as stranger,
        pytest.raises(VerificationError, match="not known here"),
    ):
        stranger.ask("GET", "status")


ANSWERS: dict[str, tuple[bytes, type[SlipwayError], str]] = {
    "conflict": (refusal("409 Conflict", "conflict"), UsageError, "It cannot be"),
    "busy": (refusal("429 Too Many Requests", "busy"), NetworkError, "It cannot be"),
    "slow": (refusal("408 Request Timeout", "slow"), NetworkError, "It cannot be"),
    "a bug": (refusal("500 Internal Server Error", "bug"), NetworkError, "It cannot be"),
    "down": (refusal("503 Service Unavailable", "down"), NetworkError, "It cannot be"),
    "a proxy's page": (http("502 Bad Gateway", b"<html>"), NetworkError, "it answered 502"),
    "a list": (http("400 Bad Request", b"[]"), NetworkError, "it answered 400"),
    "no words": (http("404 Not Found", b'{"error": {}}'), NetworkError, "it answered 404"),
    "a page": (http("200 OK", b"<html>"), NetworkError, "no JSON"),
    "elsewhere": (
        http("307 Temporary Redirect", b"", "Location: http://127.0.0.1:9/v1"),
        NetworkError,
        "it answered 307",
    ),
    "nothing": (b"", NetworkError, "cannot be reached"),
    "no HTTP": (b"220 mail.example.org ESMTP\r\n", NetworkError, "cannot be reached"),
    "half of it": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
        NetworkError,
        "cannot be reached",
    ),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_whatever_answers_becomes_an_error_that_says_so(name: str) -> None:
    content, kind, words = ANSWERS[name]
    with (
        answering(content) as address,
        FleetClient(address, KEY) as made,
        pytest.raises(kind, match=words) as caught,
    ):
        made.ask("GET", "status")
    assert caught.value.remedy


def test_a_long_answer_that_is_cut_off_is_no_answer() -> None:
    content = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\na,b\r\n"
    with (
        answering(content) as address,
        FleetClient(address, KEY) as made,
        pytest.raises(NetworkError, match="ended too early"),
    ):
        list(made.stream("export", "devices"))


def test_nobody_at_the_address_is_said_with_how_to_start_a_server() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with (
        FleetClient(f"http://127.0.0.1:{port}", KEY) as made,
        pytest.raises(NetworkError) as caught,
    ):
        made.ask("GET", "status")
    assert "sdk fleet serve" in caught.value.remedy


@pytest.mark.parametrize(
    "server",
    ["", "fleet", "ftp://x", "http://", "http://x:99999", "http://x:0", "http://x/?a=1",
     "http://u:p@x", "http://[::1", "file:///etc/passwd"],
)  # fmt: skip
def test_what_is_no_address_is_refused(server: str) -> None:
    with pytest.raises(UsageError, match="no server's address"):
        FleetClient(server, KEY)


@pytest.mark.parametrize("key", ["", "secret", "slipway-api-", f"{KEY}\r\nX: y", f"{KEY} x", "é"])
def test_what_is_no_key_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(UsageError) as caught:
        FleetClient("http://127.0.0.1:1", key)
    assert KEY not in str(caught.value)


def test_a_server_that_is_away_for_a_while_is_waited_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    answers = iter([1, NetworkError("It is away."), NetworkError("It is away."), 2])

    def ask() -> int:
        found = next(answers)
        if isinstance(found, NetworkError):
            raise found
        return found

    asked = looks(ask, 0.0)
    assert [next(asked), next(asked)] == [1, 2]
    assert capsys.readouterr().err.count("It is away. Waiting for it.") == 1


def test_a_server_that_never_answered_is_not_waited_for() -> None:
    def ask() -> int:
        raise NetworkError("It is away.")

    with pytest.raises(NetworkError):
        next(looks(ask, 0.0))
