"""Whoever sends the server what no agent would: it is refused, and nothing has changed."""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import requests
from http_message_signatures import HTTPMessageSigner, HTTPSignatureKeyResolver, algorithms
from urllib3.exceptions import ProtocolError

from agent.codec import encode
from agent.updates.request import COMPONENTS, content_digest
from agent.updates.wire import Reports, StateOf
from sdk.fleet.web.connection import MOST_HEAD_BYTES, Connection
from tests.fleet.client import Client
from tests.fleet.dump import dump
from tests.fleet.world import Device, World, doing, listening, runs

GROUP = "line-3"


class Hasty(Connection):
    """The same connection, with less patience: tests have none."""

    head_s = 1.0
    stalled_s = 1.0

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.timeout_keep_alive = 1


@pytest.fixture
def world(tmp_path: Path, database: str) -> Iterator[World]:
    """A server that waits two seconds for a body, and not longer."""
    made = World(tmp_path, database, slow_s=2.0)
    yield made
    made.close()


@pytest.fixture
def client(world: World) -> Iterator[Client]:
    with listening(world, Hasty) as address, Client(address, world) as made:
        yield made


@pytest.fixture
def device(client: Client) -> Device:
    """A device that has polled."""
    found = client.enrolled(GROUP)
    client.poll(found)
    return found


def _flipped(text: str, at: int) -> str:
    """The text with one letter that is another, which a header may hold all the same."""
    return text[:at] + ("A" if text[at] != "A" else "B") + text[at + 1 :]


def test_a_changed_byte_in_any_header_or_the_body_is_not_signed(
    client: Client, world: World, device: Device
) -> None:
    content, headers = device.signed("/v1/poll", device.poll(boot_id="another boot"))
    before = dump(world)
    signed = [name for name in headers if name != "Content-Type"]
    assert len(signed) == 4
    for name in signed:
        for at in range(0, len(headers[name]), max(1, len(headers[name]) // 12)):
            forged = {**headers, name: _flipped(headers[name], at)}
            assert client.ask("POST", "/v1/poll", content, forged).status == 401, (name, at)
    for at in range(0, len(content), len(content) // 12):
        forged_content = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
        found = client.ask("POST", "/v1/poll", forged_content, headers)
        assert found.status in (400, 401), at
    assert dump(world) == before
    assert client.ask("POST", "/v1/poll", content, headers).status == 200


def test_what_was_sent_before_or_out_of_order_is_refused(
    client: Client, world: World, device: Device
) -> None:
    early = device.signed("/v1/poll", device.poll(boot_id="early"))
    late = device.signed("/v1/poll", device.poll(boot_id="late"))
    report = device.signed("/v1/reports", Reports(reports=(device.report("a-1", "TRIAL"),)))
    state = "/v1/actions/a-1/state"
    told = device.signed(state, encode(StateOf(state="TRIAL", journal_seq=2)))
    for path, request in (
        ("/v1/poll", late), ("/v1/reports", report), (state, told),
    ):  # fmt: skip
        assert client.ask("POST", path, *request).status == 200
    before = dump(world)
    for path, request in (
        ("/v1/poll", early), ("/v1/poll", late), ("/v1/reports", report), (state, told),
    ):  # fmt: skip
        found = client.ask("POST", path, *request)
        assert (found.status, found.code) == (409, "replayed")
        assert found.json["request_seq"] == device.seq
    assert dump(world) == before


def test_a_request_counts_at_its_own_address_alone(
    client: Client, world: World, device: Device
) -> None:
    body = device.poll()
    before = dump(world)
    for path, method in (("/v1/reports", "POST"), ("/v1/poll", "PUT"), ("/v1/poll?", "POST")):
        content, headers = device.signed(path, body, method=method)
        assert client.ask("POST", "/v1/poll", content, headers).status == 401
    elsewhere = Device(fleet="another-server", key=device.key, seq=90)
    found = client.signed(elsewhere, "/v1/poll", body)
    assert (found.status, found.code) == (401, "unsigned")
    assert dump(world) == before


class _Key(HTTPSignatureKeyResolver):
    def __init__(self, device: Device) -> None:
        self._device = device

    def resolve_private_key(self, key_id: str) -> Any:  # noqa: ARG002
        return self._device.key

    def resolve_public_key(self, key_id: str) -> Any:  # noqa: ARG002
        return self._device.key.public_key()


Changed = dict[str, Any]
FORMS: dict[str, tuple[Changed, bool]] = {
    "as it has to be": ({}, True),
    "another order": ({"covered_component_ids": (*COMPONENTS[1:], COMPONENTS[0])}, False),
    "without the query": ({"covered_component_ids": COMPONENTS[:2] + COMPONENTS[3:]}, False),
    "without the digest": (
        {"covered_component_ids": ("@method", "@path", "@query", "slipway-request-seq")}, False,
    ),
    "without the number": ({"covered_component_ids": COMPONENTS[:4]}, False),
    "with more": ({"covered_component_ids": (*COMPONENTS, "@authority")}, False),
    "nothing at all": ({"covered_component_ids": ()}, False),
    "for another server": ({"tag": "elsewhere"}, False),
    "without a tag": ({"tag": None}, False),
    "with an end": ({"expires": True}, False),
    "another label": ({"label": "sig1"}, False),
    "without a name of the algorithm": ({"include_alg": False}, False),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_what_another_library_signs_counts_in_the_one_form(client: Client, name: str) -> None:
    changed, is_taken = FORMS[name]
    device = client.enrolled()
    content = json.dumps(encode(device.poll())).encode()
    message = requests.Request(
        "POST", f"{client.address}/v1/poll", data=content,
        headers={
            "Content-Type": "application/json", "Content-Digest": content_digest(content),
            "Slipway-Request-Seq": "1",
        },
    ).prepare()  # fmt: skip
    import datetime as dt

    now = dt.datetime.now()  # noqa: DTZ005  as that library takes it
    how: dict[str, Any] = {
        "key_id": device.device_id, "created": now, "label": "slipway", "tag": device.fleet,
        "covered_component_ids": COMPONENTS, "include_alg": True, **changed,
    }  # fmt: skip
    if how.get("expires"):
        how["expires"] = now + dt.timedelta(seconds=60)
    signer = HTTPMessageSigner(signature_algorithm=algorithms.ED25519, key_resolver=_Key(device))
    signer.sign(message, use_existing_digest=True, **how)
    headers = {str(name): str(value) for name, value in message.headers.items()}
    found = client.ask("POST", "/v1/poll", content, headers)
    assert found.status == (200 if is_taken else 401), found.content


def _connected(client: Client) -> socket.socket:
    host, port = client.address.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=15.0)


def _answered(line: socket.socket) -> bytes:
    """All that comes until the other end closes."""
    found = b""
    try:
        while piece := line.recv(65536):
            found += piece
    except ConnectionError:
        pass
    return found


HEAD = b"POST /v1/poll HTTP/1.1\r\nHost: x\r\n"


def test_a_body_that_says_it_is_short_and_is_not_is_not_read(
    client: Client, world: World, device: Device
) -> None:
    before = dump(world)
    with closing(_connected(client)) as line:
        line.sendall(HEAD + b"Content-Length: 10\r\n\r\n" + b"x" * 10 + b"y" * 500_000)
        found = _answered(line)
    assert found.startswith(b"HTTP/1.1 400")
    with closing(_connected(client)) as line:
        line.sendall(HEAD + b"Content-Length: 99999999999999999999999999\r\n\r\n")
        assert _answered(line)[:12] in (b"HTTP/1.1 400", b"HTTP/1.1 413")
    with closing(_connected(client)) as line:
        line.sendall(HEAD + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
        assert b"400" in _answered(line)[:12]
    assert dump(world) == before


@pytest.mark.parametrize("path", ["/v1/poll", "/v1/reports", "/v1/enroll", "/v1/admin/groups"])
def test_an_endless_body_is_cut_off(client: Client, world: World, path: str) -> None:
    before = dump(world)
    piece = b"10000\r\n" + b"[" * 0x10000 + b"\r\n"
    with closing(_connected(client)) as line:
        line.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\n".encode())
        line.sendall(f"Authorization: Bearer {client.world.keys['default', 'admin']}\r\n".encode())
        line.sendall(b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
        sent = 0
        try:
            while sent < 1024:
                line.sendall(piece)
                sent += 1
        except ConnectionError:
            pass
        found = _answered(line)
    assert found == b"" or found.startswith(b"HTTP/1.1 413")
    assert sent < 1024
    assert dump(world) == before


def test_a_packed_body_is_not_unpacked(client: Client, world: World, device: Device) -> None:
    before = dump(world)
    bomb = gzip.compress(b"0" * (64 << 20))
    _, headers = device.signed("/v1/poll", device.poll())
    for encoding in ("gzip", "deflate", "br", "gzip, identity", "x"):
        packed = {**headers, "Content-Encoding": encoding}
        for path in ("/v1/poll", "/v1/reports", "/v1/enroll"):
            found = client.ask("POST", path, bomb, packed)
            assert (found.status, found.code) == (415, "encoded")
    assert client.ask("POST", "/v1/poll", bomb, headers).status in (400, 401)
    assert dump(world) == before


DRIBBLES: dict[str, tuple[bytes, bytes]] = {
    "nothing": (b"", b""),
    "a head": (b"", b"G"),
    "headers": (b"GET /healthz HTTP/1.1\r\n", b"a: b\r\n"),
    "empty lines": (b"", b"\r\n"),
    "empty lines after a request": (b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", b"\r\n"),
    "a body": (HEAD + b"Content-Length: 1000\r\n\r\n", b"["),
    "a body in chunks": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n[\r\n"),
    "a body that nobody reads": (
        b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n", b"[",
    ),
    "half a body, and then nothing": (HEAD + b"Content-Length: 1000\r\n\r\n[[[", b""),
}  # fmt: skip


@pytest.mark.parametrize("name", DRIBBLES)
def test_whoever_dribbles_is_not_waited_for(client: Client, name: str) -> None:
    begin, piece = DRIBBLES[name]
    with closing(_connected(client)) as line:
        line.sendall(begin)
        line.settimeout(0.3)
        until = time.monotonic() + 6.0
        is_open = True
        while is_open and time.monotonic() < until:
            try:
                line.sendall(piece)
                is_open = bool(line.recv(65536))
            except TimeoutError:
                continue
            except ConnectionError:
                is_open = False
    assert not is_open


def test_whoever_takes_no_answer_is_given_up(client: Client, world: World) -> None:
    blob = world.fleet.repo / "blobs" / "sha256" / ("a" * 64)
    blob.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(b"0" * (64 << 20))
    with closing(_connected(client)) as line:
        line.sendall(b"GET /v1/repo/default/blobs/sha256/%s HTTP/1.1\r\n" % (b"a" * 64))
        line.sendall(b"Host: x\r\n\r\n")
        time.sleep(3.0)
        assert len(_answered(line)) < 64 << 20
    assert client.ask("GET", f"/v1/repo/default/blobs/sha256/{'a' * 64}").status == 200


def _polled(client: Client, device: Device) -> float:
    """When to poll next, as a device asks: again, if a line that was kept is gone meanwhile."""
    for _ in range(3):
        with contextlib.suppress(ProtocolError):
            return client.poll(device).next_poll_s
    raise AssertionError("no poll was answered")


def test_a_poll_is_answered_beside_a_thousand_idle_connections(
    client: Client, device: Device
) -> None:
    lines = [_connected(client) for _ in range(1000)]
    try:
        for line in lines[::2]:
            line.sendall(b"POST /v1/poll HTTP/1.1\r\nHos")
        assert _polled(client, device) > 0
        time.sleep(2.0)
        for line in lines:
            assert _answered(line) == b""
    finally:
        for line in lines:
            line.close()
    assert client.poll(device).next_poll_s > 0


GARBAGE = [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)),
    b"GET / HTTP/9.9\r\n\r\n",
    b"\x00" * 1000,
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET http://[::1 HTTP/1.1\r\n\r\n",
    b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST /v1/poll HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    b"POST /v1/poll HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
    b"POST /v1/poll HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"GET /healthz HTTP/1.1\r\nHost: x\r\nBad Header: y\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
    b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
]


def test_garbage_is_answered_or_cut_off_also_behind_a_request(
    client: Client, world: World, device: Device
) -> None:
    before = dump(world)
    good = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    for garbage in GARBAGE:
        with closing(_connected(client)) as line:
            line.sendall(good + garbage)
            found = _answered(line)
            assert b'{"alive":true}' in found or found.startswith(b"HTTP/1.1 400"), garbage
            assert b" 500 " not in found, garbage
            assert b"Traceback" not in found
    assert dump(world) == before
    assert client.poll(device).next_poll_s > 0


def test_many_requests_in_one_piece_are_answered_in_order(client: Client) -> None:
    with closing(_connected(client)) as line:
        line.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 199)
        line.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert _answered(line).count(b'{"alive":true}') == 200


def test_a_head_without_end_is_cut_off(client: Client, device: Device) -> None:
    with closing(_connected(client)) as line:
        line.sendall(HEAD)
        sent = 0
        try:
            while sent < 64 * MOST_HEAD_BYTES:
                line.sendall(b"x-%d: " % sent + b"y" * 8000 + b"\r\n")
                sent += 8000
            pytest.fail("all of it was taken")
        except ConnectionError:
            pass
    _, headers = device.signed("/v1/poll", device.poll())
    headers["Signature-Input"] = "slipway=" + "x" * 60_000
    assert client.ask("POST", "/v1/poll", b"{}", headers).status in (400, 401)
    assert client.poll(device).next_poll_s > 0


OUTSIDE = [
    "/v1/repo/default/../../keys/timestamp.json",
    "/v1/repo/default/%2e%2e/keys/timestamp.json",
    "/v1/repo/default/metadata/%2e%2e/%2e%2e/keys/timestamp.json",
    "/v1/repo/default/metadata%2f..%2f..%2fkeys%2ftimestamp.json",
    "/v1/repo/default//etc/passwd",
    "/v1/repo/default/metadata//timestamp.json",
    "/v1/repo/default/./metadata/timestamp.json",
    "/v1/repo/default/metadata/timestamp.json%00",
    "/v1/repo/default/metadata/timestamp.json/",
    "/v1/repo/default/metadata/.lock",
    "/v1/repo/default/.git/config",
    "/v1/repo/default/metadata",
    "/v1/repo/default/",
    "/v1/repo/default/metadata/%EF%BC%91.root.json",
    "/v1/repo/default/metadata/\uff11.root.json",
    "/v1/repo/default/metadata/1.ro%C3%B6t.json",
    "/v1/repo/default/metadata\\1.root.json",
    "/v1/repo/../default/metadata/timestamp.json",
    "/v1/repo/%2e/metadata/timestamp.json",
    "/v1/repo/nobody/metadata/timestamp.json",
    "/v1/repo/default/blobs/sha256/" + "g" * 64,
    "/v1/repo/default/blobs/sha256/" + "A" * 64,
    "/v1/repo/default/assignments/" + "a" * 32 + ".json",
    "/v1/repo/default/changes/1.json",
    "/v1/repo/default/" + "a/" * 2000,
]


def test_nothing_but_the_repository_is_served(client: Client, world: World) -> None:
    assert client.ask("GET", "/v1/repo/default/metadata/timestamp.json").status == 200
    for path in OUTSIDE:
        raw = path.encode()
        with closing(_connected(client)) as line:
            line.sendall(b"GET " + raw + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            found = _answered(line)
        assert found[:12] in (b"HTTP/1.1 404", b"HTTP/1.1 400"), (path, found[:200])
        assert str(world.folder).encode() not in found


def test_no_key_lies_where_it_is_served(client: Client, world: World) -> None:
    served = [
        client.ask("GET", f"/v1/repo/default/{place.relative_to(world.fleet.repo)}")
        for place in sorted(world.fleet.repo.rglob("*")) if place.is_file()
    ]  # fmt: skip
    contents = b"".join(one.content for one in served if one.status == 200)
    assert contents
    for key in (world.fleet.folder / "keys").rglob("*"):
        if key.is_file() and b"PRIVATE" in key.read_bytes():
            assert key.read_bytes() not in contents


def test_a_link_that_leads_out_of_the_repository_is_not_followed(
    client: Client, world: World, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("a secret")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / ("d" * 64)).write_text("a secret")
    blobs = world.fleet.repo / "blobs" / "sha256"
    blobs.mkdir(parents=True, exist_ok=True)
    (blobs / ("a" * 64)).symlink_to(secret)
    (blobs / ("b" * 64)).symlink_to("b" * 64)
    (blobs / ("c" * 64)).mkdir()
    for name in "abc":
        found = client.ask("GET", f"/v1/repo/default/blobs/sha256/{name * 64}")
        assert found.status == 404, name
    targets = world.fleet.repo / "targets" / "models" / "out"
    targets.parent.mkdir(parents=True, exist_ok=True)
    targets.symlink_to(tmp_path / "outside")
    (tmp_path / "outside" / "1").mkdir()
    manifest = tmp_path / "outside" / "1" / f"{'e' * 64}.manifest.json"
    manifest.write_text("a secret")
    path = f"/v1/repo/default/targets/models/out/1/{manifest.name}"
    assert client.ask("GET", path).status == 404


RANGES = {
    "bytes=0-3": 206, "bytes=-3": 206, "bytes=2-": 206, "bytes=9-9": 206, "bytes=0-99": 206,
    "bytes=999999999-": 416, "bytes=5-2": 400, "bytes=x": 400, "lines=0-3": 400, "bytes=": 400,
    "bytes=-": 400, "bytes=0-1,3-4": 400, "bytes=" + "0-1," * 5000 + "0-1": 400,
    "bytes=" + "9" * 400 + "-": 400, "bytes=0x1-2": 400, "bytes=+1-2": 400, "bytes=1 - 2": 400,
}  # fmt: skip


def test_ranges_are_taken_or_refused(client: Client, world: World) -> None:
    place = world.fleet.repo / "blobs" / "sha256" / ("a" * 64)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(b"0123456789")
    for told, status in RANGES.items():
        found = client.ask(
            "GET", f"/v1/repo/default/blobs/sha256/{'a' * 64}", headers={"Range": told}
        )
        assert found.status == status, told
        assert len(found.content) < 1000
        if status == 400:
            assert found.json["error"]["code"] == "malformed", told


NASTY = '=cmd()|\' /C calc\'!A0\r\n{"level": "error"}\x1b[2J\u202e\u2028<script>\x00'


def test_what_a_device_says_is_data_in_logs_tables_and_numbers(
    client: Client, world: World
) -> None:
    world.fleet.publish("1.0.0", world.fleet.build("b"))
    device = client.enrolled(GROUP)
    rollout = client.do("POST", "/rollouts", {"model": "net", "release": "1.0.0", "group": GROUP})[
        "rollout"
    ]
    client.poll(device)
    action = f"{rollout}-{device.device_id}"
    found = client.signed(
        device, "/v1/poll",
        device.poll(
            agent=NASTY, boot_id=NASTY, models=(runs("a" * 64, NASTY[:-1], release=NASTY),),
            actions=(doing(action, "FAILED", 3, NASTY), doing(NASTY, "FAILED", 3, NASTY)),
        ),
    )  # fmt: skip
    assert found.status == 200, found.content
    report = device.report(action, "FAILED", reason=NASTY)
    taken = client.signed(device, "/v1/reports", Reports(reports=(report,)))
    assert taken.json["results"] == ["stored"]
    for what in ("devices", "reports"):
        table = client.admin("GET", f"/export/{what}?form=csv").content.decode()
        import csv
        import io

        head, row = csv.reader(io.StringIO(table))
        assert len(head) == len(row)
        assert not [cell for cell in row if cell.startswith(("=", "+", "@", "\t", "\r"))]
        lines = client.admin("GET", f"/export/{what}").content.decode()
        assert len(lines.splitlines()) == 1
        assert "cmd()" in lines
    told = client.ask("GET", "/metrics").content.decode()
    for name in ("cmd", "script", device.device_id, rollout, "net"):
        assert name not in told
    assert "cmd" in client.admin("GET", f"/rollouts/{rollout}").content.decode()


def test_a_log_line_is_one_line_whatever_was_sent(
    client: Client, capfd: pytest.CaptureFixture[str]
) -> None:
    import logging

    from sdk.fleet.serve import JsonLines

    record = logging.LogRecord("slipway.fleet", 20, "", 0, "refused", (), None)
    record.path, record.what = f"/v1/{NASTY}", NASTY
    line = JsonLines().format(record)
    assert "\n" not in line
    assert line.isascii()
    assert "\x1b" not in line
    assert json.loads(line)["what"] == NASTY


SPOILT: dict[str, Callable[[Device], Any]] = {
    "a NUL in a name": lambda device: device.poll(boot_id="a\0b"),
    "a number beyond every column": lambda device: device.poll(metadata_version=1 << 70),
    "a number beyond a small column": lambda device: device.poll(reports_waiting=1 << 40),
    "a number below zero": lambda device: device.poll(metadata_age_s=-(1 << 70)),
    "an action's number": lambda device: device.poll(actions=(doing("a", "TRIAL", 1 << 70),)),
    "a model twice": lambda device: device.poll(models=(runs("a" * 64), runs("b" * 64))),
    "no list": lambda device: {**encode(device.poll()), "models": "x"},
    "a float": lambda device: {**encode(device.poll()), "reports_waiting": 1.5},
    "a fingerprint without end": lambda device: device.poll(
        fingerprint_sha256="0" * 64, fingerprint=device.print
    ),
    "a list": lambda _: [1],
    "nothing": lambda _: None,
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_spoilt_poll_is_refused_and_the_next_one_counts(client: Client, name: str) -> None:
    device = client.enrolled()
    found = client.signed(device, "/v1/poll", SPOILT[name](device))
    assert found.status in (200, 400), found.content
    assert client.poll(device).next_poll_s > 0


ENVELOPES: dict[str, Any] = {
    "empty": {},
    "no text": {"payload": 1, "payloadType": 2, "signatures": 3},
    "no signature": {"payload": "", "payloadType": "x", "signatures": []},
    "deep": {"payload": base64.b64encode(b"[" * 100_000).decode(), "payloadType": "x",
             "signatures": [{"keyid": "x", "sig": "eA=="}]},
    "a signature that is none": {"payload": "eA==", "payloadType": "x", "signatures": [None]},
}  # fmt: skip
SIGNED = {
    "deep": b"[" * 100_000,
    "half a character": b'{"version": "\\ud800"}',
    "no JSON": b"\xff\xfe",
    "a number": b"1",
    "a name twice": b'{"version": 1, "version": 2}',
}


def test_reports_that_are_none_are_refused_one_by_one(client: Client, world: World) -> None:
    from agent.codec import pre_authentication
    from agent.updates.report import REPORT_TYPE

    device = client.enrolled()
    envelopes = list(ENVELOPES.values())
    for payload in SIGNED.values():
        sig = device.key.sign(pre_authentication(REPORT_TYPE, payload))
        envelopes.append(
            {
                "payload": base64.b64encode(payload).decode(),
                "payloadType": REPORT_TYPE,
                "signatures": [{"keyid": "x", "sig": base64.b64encode(sig).decode()}],
            }
        )
    good = device.report("a-1", "TRIAL")
    long = device.report("a-2", "TRIAL", manifest_sha256="x" * 5000)
    body = Reports(reports=(*envelopes, good, long))
    found = client.signed(device, "/v1/reports", body).json["results"]
    assert found[-2] == "stored"
    assert all(one.startswith("refused: ") for one in [*found[:-2], found[-1]])


ODD: dict[str, tuple[str, str, str]] = {
    "a NUL in a word": ("POST", "/devices/{device}/reject", '{"why": "a\\u0000b"}'),
    "half a character": ("POST", "/devices/{device}/reject", '{"why": "\\ud800"}'),
    "a NUL in a place": ("GET", "/devices?after=%00", ""),
    "half a character in a place": ("GET", "/devices?after=%ff%ed%a0%80", ""),
    "a NUL in a name": ("GET", "/rollouts/%00", ""),
    "time without end": ("POST", "/rollouts", '{"stages": [{"share": 1, "timeout_s": Infinity}]}'),
    "a rest without end": ("POST", "/rollouts", '{"stages": [{"share": 1, "soak_s": Infinity}]}'),
    "no number": ("POST", "/rollouts", '{"stages": [{"share": 1, "soak_s": NaN}]}'),
    "no share": ("POST", "/rollouts", '{"halt_if": [{"share": NaN}]}'),
    "devices without end": ("POST", "/rollouts", '{"stages": [{"count": 1%s}]}' % ("0" * 400)),
    "time for a token": ("POST", "/tokens", '{"valid_s": NaN}'),
    "deep": ("POST", "/groups", '{"name": ' + "[" * 100_000),
    "twice": ("POST", "/groups", '{"name": "a", "name": "b"}'),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_what_an_operator_sends_is_done_or_refused_and_shown_afterwards(
    client: Client, world: World, device: Device, name: str
) -> None:
    world.fleet.publish("1.0.0", world.fleet.build("b"))
    method, path, content = ODD[name]
    if path == "/rollouts":
        content = '{"model": "net", "release": "1.0.0", ' + content[1:]
    found = client.ask(
        method, f"/v1/admin{path.format(device=device.device_id)}", content.encode(),
        {
            "Authorization": f"Bearer {world.keys['default', 'admin']}",
            "Content-Type": "application/json",
        },
    )  # fmt: skip
    assert found.status in (200, 400, 404, 422), found.content
    for shown in ("/status", "/rollouts", "/devices", "/audit", "/tokens"):
        assert client.admin("GET", shown, role="admin").status == 200
