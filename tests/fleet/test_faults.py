"""The server as it is run, killed, starved and doubled: what it has acknowledged stays, once."""

# ruff: noqa: B023  what is made in a loop is called in the same round

from __future__ import annotations

import contextlib
import dataclasses
import json
import random
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import sqlalchemy as sa
import urllib3

from agent.updates.wire import Reports, StateOf
from sdk.fleet import tables as t
from sdk.fleet.database import open_database, reading
from tests.fleet.client import Client, Got
from tests.fleet.postgres import Cluster, fresh_database
from tests.fleet.process import Process, started, within
from tests.fleet.world import Device, doing

GROUP = "line-3"


def _rows(database: str, wanted: Any) -> list[Any]:
    engine = open_database(database)
    try:
        with reading(engine) as connection:
            return list(connection.execute(wanted).all())
    finally:
        engine.dispose()


class Loader:
    """A device in a thread: it polls, reports and tells states, and notes what was acknowledged."""

    def __init__(self, process: Process, device: Device, chance: random.Random) -> None:
        self.device = device
        self.acknowledged = 0
        """The highest number that was answered with 200."""
        self.reported: list[str] = []
        """Actions whose report was taken."""
        self.odd: list[Any] = []
        """Answers that nobody should get."""
        self._number = 0
        self._stops = threading.Event()
        self._process, self._chance = process, chance
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def stop(self) -> None:
        self._stops.set()
        self._thread.join(60)
        assert not self._thread.is_alive()

    def _work(self) -> None:
        with self._process.client() as client:
            while not self._stops.is_set():
                try:
                    self._ask(client)
                except urllib3.exceptions.HTTPError:
                    time.sleep(0.02)

    def _ask(self, client: Client) -> None:
        device, action = self.device, ""
        kind = self._chance.choice(("poll", "report", "state"))
        if kind == "report":
            self._number += 1
            action = f"own-{self._number}"
            body = Reports(reports=(device.report(action, "TRIAL"),))
            found = client.signed(device, "/v1/reports", body)
        elif kind == "state":
            found = client.state(device, "own-1", StateOf(state="TRIAL", journal_seq=1))
        else:
            found = client.signed(device, "/v1/poll", device.poll())
        if found.status == 200:
            self.acknowledged = device.seq
            if action:
                self.reported.append(action)
        elif found.status == 503:
            time.sleep(0.02)
        else:
            self.odd.append((found.status, found.content))


@contextlib.contextmanager
def _loaded(process: Process, count: int = 4) -> Iterator[list[Loader]]:
    with process.client() as client:
        devices = [client.enrolled(GROUP) for _ in range(count)]
    loaders = [
        Loader(process, device, random.Random(number)) for number, device in enumerate(devices)
    ]
    try:
        yield loaders
    finally:
        for loader in loaders:
            loader.stop()


def _hold(process: Process, loaders: list[Loader]) -> None:
    """Whatever was acknowledged is there, once; and every device goes on."""
    for loader in loaders:
        assert loader.odd == []
        device = loader.device
        (presence,) = _rows(
            process.database, t.presence.select().where(t.presence.c.device_id == device.device_id)
        )
        assert loader.acknowledged <= presence.request_seq <= device.seq
        stored = [
            row.action_id
            for row in _rows(
                process.database, t.report.select().where(t.report.c.device_id == device.device_id)
            )
        ]
        assert len(stored) == len(set(stored))
        assert set(loader.reported) <= set(stored)
        with process.client() as client:
            assert client.poll(device, boot_id="afterwards").next_poll_s > 0


@pytest.mark.long
def test_a_server_that_is_killed_under_load_loses_nothing_that_it_acknowledged(
    tmp_path: Path, database: str
) -> None:
    with started(tmp_path, database) as process:
        with _loaded(process) as loaders:
            for _ in range(4):
                least = [len(loader.reported) + 4 for loader in loaders]
                within(30, lambda: all(
                    len(loader.reported) >= count
                    for loader, count in zip(loaders, least, strict=True)
                ))  # fmt: skip
                process.kill()
                process.start()
            time.sleep(0.5)
        _hold(process, loaders)


def test_a_server_that_is_asked_to_stop_answers_what_is_under_way(
    tmp_path: Path, database: str
) -> None:
    with started(tmp_path, database) as process:
        with process.client() as client:
            device = client.enrolled(GROUP)
        content, headers = device.signed("/v1/poll", device.poll())
        with socket.create_connection(("127.0.0.1", process.port), timeout=15) as line:
            told = {**headers, "Host": "x", "Content-Length": str(len(content))}
            head = "".join(f"{name}: {value}\r\n" for name, value in told.items())
            line.sendall(f"POST /v1/poll HTTP/1.1\r\n{head}\r\n".encode() + content[:10])
            time.sleep(0.3)
            process.signal(signal.SIGTERM)
            time.sleep(0.3)
            line.sendall(content[10:])
            assert line.recv(65536).startswith(b"HTTP/1.1 200")
        assert process.wait() in (0, -signal.SIGTERM)
        assert not any("Traceback" in text for text in process.log)
    (row,) = _rows(database, sa.select(t.presence.c.request_seq))
    assert row.request_seq == 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of a few MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(place)],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def _fill(place: Path) -> Path:
    filler = place / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while file.write(b"0" * 4096):
            pass
    return filler


@pytest.mark.slow
def test_a_full_disk_is_said_and_nothing_is_half_written(tmp_path: Path, small_disk: Path) -> None:
    database = f"sqlite:///{small_disk / 'fleet.db'}"
    with started(tmp_path, database) as process, process.client() as client:
        device = client.enrolled(GROUP)
        client.poll(device)
        filler = _fill(small_disk)
        stored, refused = set(), 0
        for number in range(200):
            report = device.report(f"a-{number}", "TRIAL", reason="x" * 1900)
            found = client.signed(device, "/v1/reports", Reports(reports=(report,)))
            if found.status == 200:
                stored.add(f"a-{number}")
                continue
            assert (found.status, found.code) == (503, "down"), found.content
            assert found.headers["retry-after"]
            refused += 1
            if refused > 3:
                break
        assert refused > 3
        assert client.ask("GET", "/healthz").status == 200
        assert client.admin("POST", "/groups", {"name": "x"}).status in (200, 503)
        filler.unlink()
        report = device.report("afterwards", "TRIAL")
        found = client.signed(device, "/v1/reports", Reports(reports=(report,)))
        assert found.json == {"results": ["stored"]}
        rows = {row.action_id for row in _rows(database, t.report.select())}
        assert rows == stored | {"afterwards"}
        assert _rows(database, sa.text("pragma integrity_check")) == [("ok",)]
        assert client.poll(device).next_poll_s > 0


@pytest.mark.slow
@pytest.mark.postgresql
def test_a_database_that_goes_and_comes_back_needs_no_restart(tmp_path: Path) -> None:
    cluster = Cluster()
    try:
        database = f"{cluster.start()}/postgres"
        with started(tmp_path, database) as process, process.client() as client:
            device = client.enrolled(GROUP)
            client.poll(device)
            for mode in ("fast", "immediate"):
                cluster.stop(mode)
                for _ in range(3):
                    found = client.signed(device, "/v1/poll", device.poll())
                    assert (found.status, found.code) == (503, "down"), found.content
                    assert found.headers["retry-after"]
                assert client.ask("GET", "/readyz").status == 503
                assert client.ask("GET", "/healthz").status == 200
                assert client.admin("GET", "/devices").status == 503
                assert client.ask("GET", "/metrics").status == 200
                cluster.start()
                assert client.poll(device).next_poll_s > 0
                assert client.ask("GET", "/readyz").status == 200
            assert not any("Traceback" in line for line in process.log)
    finally:
        cluster.remove()


@dataclasses.dataclass
class Pair:
    """Two servers over one database."""

    first: Process
    second: Process

    def both(self, ask: Callable[[Client], Got]) -> list[Got]:
        """What each answers, asked at the same time."""
        ready = threading.Barrier(2)

        def go(process: Process) -> Got:
            with process.client() as client:
                client.ask("GET", "/healthz")
                ready.wait()
                return ask(client)

        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(go, (self.first, self.second)))


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with fresh_database() as database:
        (tmp_path / "one").mkdir()
        (tmp_path / "two").mkdir()
        with (
            started(tmp_path / "one", database) as first,
            started(tmp_path / "two", database, first.fleet) as second,
        ):
            second.keys = first.keys
            yield Pair(first, second)


@pytest.mark.slow
@pytest.mark.postgresql
def test_two_servers_over_one_database_are_one(pair: Pair) -> None:
    database = pair.first.database
    with pair.first.client() as one, pair.second.client() as two:
        pair.first.fleet.publish("1.0.0", pair.first.fleet.build("b"))
        device = one.enrolled(GROUP)
        for _ in range(10):  # a request counts once, whoever is asked
            content, headers = device.signed("/v1/poll", device.poll())
            found = pair.both(lambda client: client.ask("POST", "/v1/poll", content, headers))
            assert sorted(got.status for got in found) == [200, 409]
        for number in range(10):  # a device may be answered by either
            assert (one, two)[number % 2].poll(device).next_poll_s > 0
        for number in range(5):  # a report is kept once
            report = device.report(f"a-{number}", "TRIAL")
            asked = [device.signed("/v1/reports", Reports(reports=(report,))) for _ in range(2)]
            pair.both(lambda client: client.ask("POST", "/v1/reports", *asked.pop()))
        assert len(_rows(database, t.report.select())) == 5
        for _ in range(5):  # a token lets one device in
            token = one.do("POST", "/tokens", {"group": GROUP})["token"]
            found = pair.both(lambda client: client.enroll(Device(), token=token))
            assert sorted(got.status for got in found) == [200, 401], [got.content for got in found]
        for _ in range(5):  # a device that asks twice is there once
            new = Device()
            body = json.dumps(new.enrolment()).encode()
            kind = {"Content-Type": "application/json"}
            found = pair.both(lambda client: client.ask("POST", "/v1/enroll", body, kind))
            assert [got.status for got in found] == [200, 200], [got.content for got in found]
        for number in range(5):  # and so is a group
            name = {"name": f"g-{number}"}
            found = pair.both(lambda client: client.admin("POST", "/groups", name))
            assert [got.status for got in found] == [200, 200], [got.content for got in found]
        for number in range(5):
            name = {"group": f"h-{number}"}
            found = pair.both(lambda client: client.admin("POST", "/tokens", name))
            assert [got.status for got in found] == [200, 200], [got.content for got in found]
        for _ in range(5):
            key = {"public_key": random.randbytes(32).hex(), "group": GROUP}
            found = pair.both(lambda client: client.admin("POST", "/announced-keys", key))
            assert [got.status for got in found] == [200, 200], [got.content for got in found]


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.postgresql
def test_two_servers_hand_work_out_once_and_move_a_rollout_on_once(pair: Pair) -> None:
    with pair.first.client() as first, pair.second.client() as two:
        one = first
        pair.first.fleet.publish("1.0.0", pair.first.fleet.build("b"))
        devices = [one.enrolled(GROUP) for _ in range(4)]
        plan = {"stages": [{"count": 1}, {"count": 2}, {"share": 1.0}]}
        rollout = one.do(
            "POST", "/rollouts", {"model": "net", "release": "1.0.0", "group": GROUP, **plan}
        )["rollout"]

        def stage() -> int:
            return int(one.do("GET", f"/rollouts/{rollout}")["stage"])

        done: set[str] = set()
        for number, reached in enumerate((1, 2, 4)):
            if number == 2:  # whichever did the chores
                pair.first.kill()
                one = two
            within(30, lambda: stage() == number)
            given: dict[str, set[str]] = {}
            for device in devices:
                for client in (one, two):
                    envelope = client.poll(device).assignment
                    if envelope is not None:
                        given.setdefault(device.device_id, set()).add(json.dumps(envelope))
            assert {len(envelopes) for envelopes in given.values()} == {1}
            assert len(given) + len(done) == reached
            for device in devices:
                if device.device_id in given:
                    action = f"{rollout}-{device.device_id}"
                    two.poll(device, actions=(doing(action, "CONFIRMED", 9),))
                    done.add(device.device_id)
        within(30, lambda: two.do("GET", f"/rollouts/{rollout}")["state"] == "finished")
        assert len(_rows(pair.second.database, t.action.select())) == 4


@pytest.mark.slow
def test_memory_stays_bounded_whatever_is_sent(tmp_path: Path) -> None:
    with started(tmp_path, f"sqlite:///{tmp_path / 'fleet.db'}") as process:
        with process.client() as client:
            device = client.enrolled(GROUP)
            client.poll(device)
            lines = [
                socket.create_connection(("127.0.0.1", process.port), timeout=15)
                for _ in range(1500)
            ]
            try:
                before = psutil.Process(process.pid).memory_info().rss
                for line in lines[:500]:
                    line.sendall(b"POST /v1/poll HTTP/1.1\r\nx: " + b"y" * 20_000)
                for line in lines[500:1000]:
                    line.sendall(b"POST /v1/poll HTTP/1.1\r\nContent-Length: 900000\r\n\r\n[[[")
                for _ in range(50):
                    found = client.ask("POST", "/v1/enroll", b'{"a": "' + b"x" * 1_000_000)
                    assert found.status == 400
                    report = device.report("a-1", "TRIAL", reason="x" * 60_000)
                    body = Reports(reports=(report,) * 10)
                    assert client.signed(device, "/v1/reports", body).status == 200
                assert client.poll(device).next_poll_s > 0
                after = psutil.Process(process.pid).memory_info().rss
            finally:
                for line in lines:
                    line.close()
        assert after - before < 150 << 20
