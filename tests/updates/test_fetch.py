"""A download, whatever the server, the line and the disk do to it.

In each case the device tries as often as it would by itself. It never has a wrong byte under a
blob's name, never writes more than was signed, and goes on where it was.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent import disk
from agent.disk import Moment, Operation
from agent.errors import NetworkError, SlipwayError, VerificationError
from agent.updates.blobs import Blobs
from agent.updates.fetch import ATTEMPTS, Wanted, blob_path, fetch, part_of
from agent.updates.http_source import HttpSource
from agent.updates.source import CHUNK_BYTES, BusyError, FolderSource, Source
from tests.updates.server import Answer, Line, Request, Server, answers

pytestmark = pytest.mark.usefixtures("without_fsync")

CONTENT = random.Random(5).randbytes(4 * CHUNK_BYTES + 777)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
WANTED = Wanted(path=blob_path(SHA256), sha256=SHA256, length=len(CONTENT))
CUT = 100_000


class Site:
    """A server with one blob, and a device that wants it."""

    def __init__(self, folder: Path) -> None:
        repo = folder / "repo"
        (repo / "blobs/sha256").mkdir(parents=True)
        (repo / WANTED.path).write_bytes(CONTENT)
        self.server = Server(repo)
        self.server.scripted = "blobs/"
        (folder / "blobs").mkdir()
        self.blobs = Blobs(folder / "blobs")
        self.staging = folder / "staging"
        self.staging.mkdir(mode=0o700)
        self.part = part_of(self.staging, SHA256)

    def fetch(self, source: Source | None = None, **options: object) -> Path:
        """One attempt, as the agent makes it."""
        chosen = {"deadline_s": 60.0, **options}
        own = source or HttpSource(self.server.url, step_s=5)
        return fetch(WANTED, own, self.blobs, self.staging, **chosen)  # type: ignore[arg-type]

    def attempts(self, most: int = 8) -> list[str]:
        """How attempts ended until it was here."""
        ends = []
        for _ in range(most):
            try:
                self.fetch()
            except SlipwayError as error:
                ends.append(type(error).__name__)
            else:
                return [*ends, "done"]
            assert not list(self.blobs.folder.iterdir())
        return ends

    def has_it(self) -> bool:
        """The right content, to be read alone, and nothing beside it."""
        place = self.blobs.path(SHA256)
        assert not list(self.staging.iterdir())
        assert place.lstat().st_mode & 0o777 == 0o444
        return place.read_bytes() == CONTENT


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    found = Site(tmp_path)
    sizes: dict[Path, int] = {}

    def never_more_than_signed(operation: Operation, moment: Moment) -> None:
        if moment == "before" and operation.kind == "write" and operation.path == found.part.path:
            before = operation.path.stat().st_size
            sizes[operation.path] = before + len(operation.data)
            assert sizes[operation.path] <= len(CONTENT)

    with disk.observed(never_more_than_signed):
        yield found
    found.server.stop()


def _truncated(_: Request, line: Line) -> None:
    line.head("200 OK", Content_Length=len(CONTENT), ETag='"a"')
    line.body(CONTENT[:CUT])
    line.close()
    line.connection.shutdown(2)


def _without_length(_: Request, line: Line) -> None:
    line.head("200 OK")
    line.body(CONTENT[:CUT])
    line.connection.shutdown(2)
    line.close()


def _chunked(cut: int | None) -> Answer:
    def answer(_: Request, line: Line) -> None:
        line.head("200 OK", Transfer_Encoding="chunked")
        for at in range(0, cut or len(CONTENT), 50_000):
            piece = CONTENT[at : at + 50_000]
            line.raw(f"{len(piece):x}\r\n".encode())
            line.body(piece)
            line.raw(b"\r\n")
        if cut is None:
            line.raw(b"0\r\n\r\n")
        else:
            line.close()
            line.connection.shutdown(2)

    return answer


def _lying(said: object, body: bytes) -> Answer:
    def answer(_: Request, line: Line) -> None:
        line.head("200 OK", Content_Length=said)
        line.body(body)
        line.close()
        line.connection.shutdown(2)

    return answer


def _range(said: str, begin: int) -> Answer:
    def answer(_: Request, line: Line) -> None:
        rest = CONTENT[begin:]
        line.head("206 Partial Content", Content_Length=len(rest), Content_Range=said)
        line.body(rest)

    return answer


def _whole(_: Request, line: Line) -> None:
    line.head("200 OK", Content_Length=len(CONTENT), ETag='"other"')
    line.body(CONTENT)


WRONG = bytes(len(CONTENT))
N = "NetworkError"
CASES: dict[str, tuple[list[Answer], list[str]]] = {
    "all is well": ([], []),
    "truncated": ([_truncated], [N]),
    "truncated, again and again": ([_truncated] * 3, [N] * 3),
    "ends early without a length": ([_without_length], [N]),
    "chunked": ([_chunked(None)], []),
    "chunked and cut": ([_chunked(100_000)], [N]),
    "says more than it sends": ([_lying(len(CONTENT) + 5, CONTENT)], [N]),
    "says less than it sends": ([_lying(CUT, CONTENT)], [N]),
    "says nonsense of its length": ([_lying("many", CONTENT[:CUT])], [N]),
    "says less than nothing": ([_lying(-5, CONTENT[:CUT])], [N]),
    "whole for a part": ([_truncated, _whole], [N]),
    "range off by one": ([_truncated, _range(f"bytes {CUT + 1}-9/9", CUT + 1)], [N]),
    "range from the start": ([_truncated, _range("bytes 0-9/9", 0)], [N]),
    "range without a beginning": ([_truncated, _range("bytes */9", CUT)], [N]),
    "range of no number": ([_truncated, _range("bytes \xb2-9/9", CUT)], [N]),
    "no range at all": ([_truncated, _range("", CUT)], [N]),
    "less than is here": ([_truncated, answers("416 Range Not Satisfiable")], [N]),
    "a range that was not asked for": ([_range("bytes 0-9/9", 0)], []),
    "busy": ([answers("429 Too Many Requests", Retry_After=7)], ["BusyError"]),
    "busy in the middle": ([_truncated, answers("503 Busy")], [N, "BusyError"]),
    "broken inside": ([answers("500 Oops")] * 2, [N] * 2),
    "not there for a while": ([answers("404 Not Found")], ["MissingError"]),
    "sent elsewhere": ([answers("302 Found", Location="http://evil.example/x")], [N]),
    "sent in a circle": ([answers("302 Found", Location="/repo/" + WANTED.path)] * 4, [N]),
    "sent on to itself": ([answers("307 Later", Location="/repo/" + WANTED.path)], []),
    "compressed": ([answers("200 OK", CONTENT, Content_Encoding="gzip")], [N]),
    "wrong once": ([answers("200 OK", WRONG)], []),
    "too long once": ([answers("200 OK", CONTENT + b"x")], []),
    "wrong part, then right": ([_truncated, _range(f"bytes {CUT}-9/9", CUT - 1)], [N]),
    "a login page": ([answers("200 OK", b"<html>please log in</html>")], [N]),
    "nothing": ([answers("200 OK")], [N]),
}


@pytest.mark.parametrize("name", CASES)
def test_a_download_comes_to_its_end(site: Site, name: str) -> None:
    script, ends = CASES[name]
    site.server.script = list(script)
    assert site.attempts() == [*ends, "done"]
    assert not site.server.script
    assert site.has_it()


def _reset_after(site: Site, at: int) -> Answer:
    def answer(_: Request, line: Line) -> None:
        line.head("200 OK", Content_Length=len(CONTENT))
        line.body(CONTENT[:at])
        until = time.monotonic() + 5
        while (site.part.length or 0) < at and time.monotonic() < until:
            time.sleep(0.005)  # a reset takes back what was not read yet
        line.reset()

    return answer


@pytest.mark.parametrize("at", [0, 1, *range(CHUNK_BYTES, len(CONTENT), CHUNK_BYTES)])
def test_a_reset_at_each_block_loses_nothing(site: Site, at: int) -> None:
    site.server.script = [_reset_after(site, at)]
    assert site.attempts() == ["NetworkError", "done"]
    assert site.has_it()
    assert site.server.requests[-1].begin == at
    until = time.monotonic() + 5  # the server counts when it has sent, which the client may outrun
    while site.server.body_bytes < len(CONTENT) and time.monotonic() < until:
        time.sleep(0.005)
    assert site.server.body_bytes == len(CONTENT)


def test_what_was_received_is_not_sent_again(site: Site) -> None:
    for _ in range(3):
        site.server.script.append(_resumed_and_cut)
    assert site.attempts() == ["NetworkError"] * 3 + ["done"]
    assert site.has_it()
    assert [request.begin for request in site.server.requests] == [0, 60_000, 120_000, 180_000]
    assert site.server.body_bytes == len(CONTENT)


def _resumed_and_cut(request: Request, line: Line) -> None:
    rest = CONTENT[request.begin :]
    said = f"bytes {request.begin}-{len(CONTENT) - 1}/{len(CONTENT)}"
    status = "206 Partial Content" if request.begin else "200 OK"
    line.head(status, Content_Length=len(rest), Content_Range=said)
    line.body(rest[:60_000])
    line.close()
    line.connection.shutdown(2)


def test_a_part_of_another_file_is_not_continued(site: Site) -> None:
    site.server.script = [_truncated]  # its etag is not the one that the file has later
    assert site.attempts() == ["NetworkError", "done"]
    assert site.server.requests[1].headers["if-range"] == '"a"'
    assert site.server.body_bytes == CUT + len(CONTENT)
    assert site.has_it()


def test_a_server_that_is_started_anew_is_found_again(site: Site) -> None:
    site.server.script = [_reset_after(site, CUT)]
    source = HttpSource(site.server.url)
    with pytest.raises(NetworkError):
        site.fetch(source)
    site.server.stop()
    with pytest.raises(NetworkError):
        site.fetch(source)
    site.server.start()
    site.fetch(source)
    assert site.has_it()
    assert site.server.requests[-1].begin == CUT


def _endless(_: Request, line: Line) -> None:
    line.head("200 OK")
    with contextlib.suppress(OSError):
        while True:
            line.body(bytes(CHUNK_BYTES))


@pytest.mark.parametrize(
    "wrong", [answers("200 OK", WRONG), answers("200 OK", WRONG * 2), _endless]
)
def test_a_server_that_always_sends_something_else_is_refused(site: Site, wrong: Answer) -> None:
    site.server.always = wrong
    with pytest.raises(VerificationError):
        site.fetch()
    assert len(site.server.requests) == ATTEMPTS
    assert not list(site.staging.iterdir())
    site.server.always = None
    site.fetch()
    assert site.has_it()


def test_a_part_that_was_spoilt_on_the_disk_is_found(site: Site) -> None:
    site.server.script = [_resumed_and_cut]
    assert site.attempts(1) == ["NetworkError"]
    site.part.path.write_bytes(bytes(60_000))
    assert site.attempts() == ["done"]
    assert [request.begin for request in site.server.requests] == [0, 60_000, 0]
    assert site.has_it()


def test_a_part_that_is_too_long_is_begun_anew(site: Site) -> None:
    site.part.path.write_bytes(CONTENT + b"x")
    assert site.attempts() == ["done"]
    assert site.has_it()


class Clock:
    """A second passes each time that somebody looks."""

    def __init__(self) -> None:
        self.s = 0.0

    def __call__(self) -> float:
        self.s += 1
        return self.s


def test_a_server_that_dribbles_is_given_up_and_resumed(site: Site) -> None:
    def dribble(_: Request, line: Line) -> None:
        line.head("200 OK", Content_Length=len(CONTENT))
        with contextlib.suppress(OSError):
            for at in range(5000):
                line.body(CONTENT[at : at + 1])
                time.sleep(0.0005)

    clock = Clock()
    site.server.script = [dribble]
    with pytest.raises(NetworkError, match="too slow"):
        site.fetch(now=clock)
    assert clock.s < 80
    kept = site.part.length
    assert kept
    site.fetch()
    assert site.server.requests[-1].begin == kept
    assert site.has_it()


def test_the_time_for_all_attempts_is_bounded(site: Site) -> None:
    site.server.always = _endless
    began = time.monotonic()
    with pytest.raises((NetworkError, VerificationError)):
        site.fetch(deadline_s=0.2)
    assert time.monotonic() - began < 5


def test_a_file_takes_little_memory_however_long_it_is(site: Site) -> None:
    site.fetch()  # imports what there is to import
    (site.blobs.folder / SHA256).unlink()
    big = CONTENT * 20
    found = Wanted(path="blobs/big", sha256=hashlib.sha256(big).hexdigest(), length=len(big))
    (site.server.folder / found.path).write_bytes(big)
    tracemalloc.start()
    try:
        source = FolderSource(site.server.folder)
        with disk.observed(lambda *_: None):
            fetch(found, source, site.blobs, site.staging, deadline_s=60)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < len(big) / 2


def test_an_empty_file_is_fetched(site: Site) -> None:
    empty = Wanted(path="blobs/e", sha256=hashlib.sha256(b"").hexdigest(), length=0)
    (site.server.folder / empty.path).write_bytes(b"")
    place = fetch(empty, HttpSource(site.server.url), site.blobs, site.staging, deadline_s=9)
    assert place.read_bytes() == b""


def test_a_disk_that_is_full_is_not_an_error_of_the_network(site: Site) -> None:
    def full(operation: Operation, moment: Moment) -> None:
        if moment == "before" and operation.kind == "write" and operation.path.suffix == ".part":
            raise OSError(28, "No space left on device")

    for source in (HttpSource(site.server.url), FolderSource(site.server.folder)):
        with disk.observed(full), pytest.raises(OSError, match="No space"):
            site.fetch(source)
    site.fetch()
    assert site.has_it()


def test_busy_is_told_with_its_time(site: Site) -> None:
    site.server.script = [answers("429 Too Many Requests", Retry_After=90)]
    with pytest.raises(BusyError) as found:
        site.fetch()
    assert found.value.after_s == 90


# What somebody else on the device may do to a file between its verification and its use.


def _swap(part: Path, place: Path) -> None:
    del place
    (part.parent / "evil").write_bytes(WRONG)
    (part.parent / "evil").replace(part)


def _link(part: Path, place: Path) -> None:
    evil = place.parent.parent / "evil"
    evil.write_bytes(CONTENT)
    part.unlink()
    part.symlink_to(evil)


@pytest.mark.parametrize("act", [_swap, _link])
def test_a_file_that_is_swapped_after_it_was_hashed_is_not_taken(
    site: Site, act: Callable[[Path, Path], None]
) -> None:
    acted = []

    def attack(operation: Operation, moment: Moment) -> None:
        adopts = operation.kind == "rename" and operation.path.name == SHA256
        if adopts and moment == "before" and not acted:
            acted.append(True)
            assert operation.source is not None
            act(operation.source, operation.path)

    with disk.observed(attack):
        site.fetch()
    assert acted
    assert site.has_it()
    assert len(site.server.requests) == 2


def test_a_part_that_is_a_link_is_not_followed(site: Site, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    for content in (b"short", CONTENT, CONTENT[:CUT]):
        victim.write_bytes(content)
        site.part.path.symlink_to(victim)
        site.fetch()
        assert victim.read_bytes() == content
        assert site.has_it()
        assert not site.blobs.path(SHA256).is_symlink()
        site.blobs.path(SHA256).unlink()


def test_a_part_that_is_a_second_name_of_a_file_is_not_written_to(
    site: Site, tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(CONTENT[:CUT])
    os.link(victim, site.part.path)
    site.fetch()
    assert victim.read_bytes() == CONTENT[:CUT]
    assert site.has_it()


def test_what_is_adopted_is_never_a_link(site: Site, tmp_path: Path) -> None:
    (tmp_path / "right").write_bytes(CONTENT)
    site.part.path.symlink_to(tmp_path / "right")
    with pytest.raises(VerificationError, match="link"):
        site.blobs.adopt(site.part.path, SHA256, len(CONTENT))
    assert not list(site.blobs.folder.iterdir())
