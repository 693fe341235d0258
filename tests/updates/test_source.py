"""Where bytes come from: a folder, and a server that may do anything."""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from agent.errors import NetworkError, UsageError
from agent.updates.http_source import HttpSource
from agent.updates.source import (
    CHUNK_BYTES,
    SHORT_S,
    SLOW_S,
    BusyError,
    FolderSource,
    MissingError,
    RangeError,
    paced,
    read_short,
    source_of,
)
from tests.updates.server import Answer, Line, Request, Server, answers

NAME, CONTENT = "metadata/a.json", b"0123456789" * 10


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    folder = tmp_path / "repo"
    (folder / "metadata").mkdir(parents=True)
    (folder / NAME).write_bytes(CONTENT)
    found = Server(folder)
    yield found
    found.stop()


def test_a_file_is_read_from_a_folder_and_from_a_server(server: Server) -> None:
    for source in (source_of(str(server.folder)), source_of(server.url)):
        assert read_short(source, NAME, 1000) == CONTENT
        with source.open(NAME, offset=30) as stream:
            assert stream.offset == 30
            assert b"".join(stream.chunks) == CONTENT[30:]
        with pytest.raises(MissingError):
            read_short(source, "metadata/none.json", 1000)


def test_names_are_quoted_on_the_way(server: Server) -> None:
    odd = "metadata/1.model-a+b@c=d%20.json"
    (server.folder / odd).write_bytes(b"odd")
    assert read_short(HttpSource(server.url), odd, 10) == b"odd"


def test_one_connection_serves_several_requests_missing_files_too(server: Server) -> None:
    lines = set()

    def static(request: Request, line: Line) -> None:
        lines.add(id(line))
        server.static(request, line)

    server.always = static
    source = HttpSource(server.url)
    for path in (NAME, "none", NAME, "none", NAME):
        try:
            assert read_short(source, path, 1000) == CONTENT
        except MissingError:
            assert path == "none"
    assert (len(server.requests), len(lines)) == (5, 1)


def _to(place: str) -> Answer:
    return answers("302 Found", Location=place)


def test_a_redirect_within_the_origin_is_followed(server: Server) -> None:
    server.script = [_to(f"/repo/{NAME}?again"), server.static]
    assert read_short(HttpSource(server.url), NAME, 1000) == CONTENT


@pytest.mark.parametrize(
    ("place", "why"),
    [
        ("http://localhost:{port}/repo/" + NAME, "another origin"),
        ("http://127.0.0.1:1/repo/" + NAME, "another origin"),
        ("https://127.0.0.1:{port}/repo/" + NAME, "another origin"),
        ("file:///etc/passwd", "another origin"),
        ("//evil.example/x", "another origin"),
        ("http://127.0.0.1:99999999/x", "another origin"),
        ("http://127.0.0.1:{port}@evil.example/x", "another origin"),
        ("/repo/" + NAME, "in a circle"),
        ("", "answered 302"),
    ],
)
def test_a_redirect_elsewhere_or_in_a_circle_is_refused(
    server: Server, place: str, why: str
) -> None:
    port = server.url.rpartition(":")[2].partition("/")[0]
    server.always = _to(place.format(port=port))
    with pytest.raises(NetworkError, match=why):
        read_short(HttpSource(server.url), NAME, 1000)
    assert len(server.requests) <= 4


@pytest.mark.parametrize(
    ("said", "after_s"),
    [
        ("7", 7.0),
        ("Thu, 01 Jan 1970 00:01:40 GMT", 100.0),  # the server's own clock says 0
        ("Wed, 31 Dec 1969 23:00:00 GMT", 0.0),
        ("\xb2", None),
        ("-5", None),
        ("9" * 5000, None),
        ("soon", None),
    ],
)
def test_a_busy_server_says_when_to_come_again(
    server: Server, said: str, after_s: float | None
) -> None:
    server.script = [
        answers("429 Too Many Requests", Retry_After=said),
        answers("503 Service Unavailable", b"busy", Retry_After=said),
    ]
    source = HttpSource(server.url)
    for _ in range(2):
        with pytest.raises(BusyError) as found:
            read_short(source, NAME, 1000)
        assert found.value.after_s == after_s
    assert read_short(source, NAME, 1000) == CONTENT


@pytest.mark.parametrize("status", ["500 Oops", "502 Bad", "401 Who", "204 Empty", "304 Same"])
def test_any_other_answer_is_an_error_of_the_network(server: Server, status: str) -> None:
    server.script = [answers(status)]
    with pytest.raises(NetworkError, match=f"answered {status[:3]}"):
        read_short(HttpSource(server.url), NAME, 1000)


@pytest.mark.parametrize("coding", ["gzip", "GZIP", "br", "deflate, gzip", "x-unknown"])
def test_what_is_compressed_on_the_way_is_not_unpacked(server: Server, coding: str) -> None:
    server.script = [answers("200 OK", b"\x1f\x8b" + bytes(50), Content_Encoding=coding)]
    with pytest.raises(NetworkError, match="not asked for"):
        read_short(HttpSource(server.url), NAME, 1000)
    assert server.requests[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize(
    "said",
    [
        "bytes 31-99/100",
        "bytes 0-99/100",
        "bytes */100",
        "30",
        "bytes \xb3-",
        "items 30-99/100",
        "",
    ],
)
def test_a_wrong_range_is_told_apart(server: Server, said: str) -> None:
    server.script = [answers("206 Partial Content", CONTENT[30:], Content_Range=said)]
    with (
        pytest.raises(RangeError, match="for the bytes from 30 on"),
        HttpSource(server.url).open(NAME, offset=30),
    ):
        pass


def test_a_part_of_another_file_is_told_apart(server: Server) -> None:
    said = answers("206 Partial Content", CONTENT[30:], Content_Range="bytes 30-99/100", ETag='"b"')
    server.script = [said]
    with pytest.raises(RangeError), HttpSource(server.url).open(NAME, offset=30, etag='"a"'):
        pass


def test_a_weak_etag_does_not_have_the_whole_sent_again(server: Server) -> None:
    weak = 'W/"weak"'
    said = answers("206 Partial Content", CONTENT[30:], Content_Range="bytes 30-99/100", ETag=weak)
    server.script = [said]
    with HttpSource(server.url).open(NAME, offset=30, etag=weak) as stream:
        assert stream.offset == 30
    assert "if-range" not in server.requests[0].headers


def test_an_etag_that_no_header_may_hold_is_not_kept(server: Server) -> None:
    server.script = [answers("200 OK", CONTENT, ETag='"a"\r\n X-Injected: "1"')]
    with HttpSource(server.url).open(NAME) as stream:
        assert stream.etag is None


def _slow_head(_: Request, line: Line) -> None:
    line.raw(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    for _i in range(2000):
        line.raw(b"x")
        time.sleep(0.01)


def _slow_trailer(_: Request, line: Line) -> None:
    line.head("200 OK", Transfer_Encoding="chunked")
    line.raw(b"4\r\ngood\r\n0\r\n")
    for i in range(2000):
        line.raw(f"X-{i}: 1\r\n".encode())
        time.sleep(0.01)


def _silent(_: Request, line: Line) -> None:
    line.head("200 OK", Content_Length=10)
    line.raw(b"12345")
    time.sleep(3)


@pytest.mark.parametrize("answer", [_slow_head, _slow_trailer, _silent])
def test_a_server_cannot_hold_a_device_up_by_single_bytes(server: Server, answer: Answer) -> None:
    server.script = [answer]
    began = time.monotonic()
    with pytest.raises(NetworkError):
        read_short(HttpSource(server.url, step_s=0.2), NAME, 1000)
    assert time.monotonic() - began < 3
    assert read_short(HttpSource(server.url), NAME, 1000) == CONTENT


def _many_headers(_: Request, line: Line) -> None:
    line.raw(b"HTTP/1.1 200 OK\r\n" + b"X-A: 1\r\n" * 5000 + b"\r\n")


def _long_header(_: Request, line: Line) -> None:
    line.raw(b"HTTP/1.1 200 OK\r\nX-A: " + b"a" * 200_000 + b"\r\n\r\n")


def _no_http(_: Request, line: Line) -> None:
    line.raw(b"220 mail.example ESMTP\r\n\r\n")
    line.close()


def _bad_chunk(_: Request, line: Line) -> None:
    line.head("200 OK", Transfer_Encoding="chunked")
    line.raw(b"-5\r\nhello\r\nzz\r\n")
    line.close()


def _two_lengths(_: Request, line: Line) -> None:
    line.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\nhello")
    line.close()


@pytest.mark.parametrize(
    "answer", [_many_headers, _long_header, _no_http, _bad_chunk, _two_lengths]
)
def test_nonsense_is_an_error_of_the_network(server: Server, answer: Answer) -> None:
    server.script = [answer]
    with pytest.raises(NetworkError):
        read_short(HttpSource(server.url), NAME, 1000)


def test_of_a_file_that_is_too_long_only_a_little_more_is_read(server: Server) -> None:
    (server.folder / NAME).write_bytes(bytes(50 * CHUNK_BYTES))
    for source in (HttpSource(server.url), FolderSource(server.folder)):
        assert len(read_short(source, NAME, 100)) <= 100 + CHUNK_BYTES


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.s = 0.0

    def __call__(self) -> float:
        return self.s


@pytest.mark.parametrize(
    ("bytes_per_s", "ends_after_s"), [(1, SLOW_S), (99, SLOW_S), (101, SHORT_S), (10_000, SHORT_S)]
)
def test_a_stream_is_ended_that_is_too_slow_or_too_long(
    bytes_per_s: int, ends_after_s: float
) -> None:
    clock = Clock()

    def endless() -> Iterator[bytes]:
        while True:
            clock.s += 1
            yield bytes(bytes_per_s)

    with pytest.raises(NetworkError, match="too slow"):
        for _ in paced(endless(), "it", deadline_s=SHORT_S, now=clock):
            pass
    assert ends_after_s <= clock.s <= ends_after_s + 1


def test_metadata_that_is_dribbled_is_given_up(server: Server) -> None:
    clock = Clock()

    def dribble(_: Request, line: Line) -> None:
        line.head("200 OK", Content_Length=5000)
        for _i in range(5000):
            line.body(b"x")
            time.sleep(0.0005)

    def now() -> float:
        clock.s += 1
        return clock.s

    server.script = [dribble]
    with pytest.raises(NetworkError, match="too slow"):
        read_short(HttpSource(server.url), NAME, 10_000, now=now)


def test_what_goes_wrong_for_the_reader_is_not_blamed_on_the_folder(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    for error in (OSError(28, "No space left"), FileNotFoundError(2, "gone")):
        with pytest.raises(type(error)), FolderSource(tmp_path).open("a"):
            raise error


def test_a_folder_holds_files_and_nothing_that_could_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder", "none", "none/below"):
        with pytest.raises(MissingError):
            read_short(FolderSource(tmp_path), name, 10)


def test_a_place_is_a_folder_or_an_address(tmp_path: Path) -> None:
    (tmp_path / "with space").mkdir()
    assert isinstance(source_of((tmp_path / "with space").as_uri()), FolderSource)
    for place in (str(tmp_path / "none"), "ftp://host/x", "http://", "http://host:99999999/"):
        with pytest.raises(UsageError):
            source_of(place)


# TLS.


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """Of 127.0.0.1, signed by itself, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = dt.datetime.now(tz=dt.timezone.utc)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    plain = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path = tmp_path / "certificate.pem"
    path.write_bytes(plain + made.public_bytes(serialization.Encoding.PEM))
    return path


def test_a_server_with_a_certificate_that_is_trusted_is_read(
    server: Server, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.encrypt(certificate)
    with pytest.raises(NetworkError, match="CERTIFICATE_VERIFY_FAILED"):
        read_short(HttpSource(server.url), NAME, 1000)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    source = HttpSource(server.url)
    assert read_short(source, NAME, 1000) == CONTENT
    assert read_short(source, NAME, 1000) == CONTENT


def test_a_handshake_that_hangs_is_cut(certificate: Path) -> None:
    """TLS is shaken hands by many reads, each of which may be in time."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def dribble() -> None:
            line, _ = listener.accept()
            with line, contextlib.suppress(OSError):
                line.sendall(b"\x16\x03\x03\x40\x00")  # a record of 16 KiB follows
                for _i in range(2000):
                    line.sendall(b"x")
                    time.sleep(0.01)

        thread = threading.Thread(target=dribble)
        thread.start()
        began = time.monotonic()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(NetworkError):
            read_short(HttpSource(url, step_s=0.2), NAME, 1000)
        assert time.monotonic() - began < 3
        thread.join()
