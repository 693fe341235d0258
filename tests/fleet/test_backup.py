"""Copies of the database: taken while devices poll, restored under devices that went on."""

from __future__ import annotations

import subprocess
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa

from agent.errors import StorageError, UsageError
from agent.updates.wire import Reports
from sdk.fleet import tables as t
from sdk.fleet.backup import back_up
from sdk.fleet.database import open_database
from sdk.fleet.server import Server
from sdk.fleet.web.app import make_app
from tests.fleet.client import Client
from tests.fleet.postgres import INSTALLED, fresh_database
from tests.fleet.world import Device, World, listening

GROUP = "line-3"


@pytest.fixture(params=["sqlite"])
def database(tmp_path: Path) -> str:
    """The command is for SQLite; PostgreSQL has its own, below."""
    return f"sqlite:///{tmp_path / 'fleet.db'}"


def restarted(world: World, url: str) -> None:
    """Another process of the same server, over a database that was restored."""
    world.server.close()
    world.server = Server(open_database(url), world.tenants, world.settings)
    world.app = make_app(world.server)


def poll_on(client: Client, device: Device) -> None:
    client.poll(device)
    envelope = device.report(f"a-{device.seq}", "CONFIRMED")
    found = client.signed(device, "/v1/reports", Reports(reports=(envelope,)))
    assert found.json["results"] == ["stored"]


def test_a_copy_that_is_taken_under_load_is_whole(
    client: Client, world: World, tmp_path: Path
) -> None:
    device = client.enrolled(GROUP)
    stops = threading.Event()

    def load() -> None:
        while not stops.is_set():
            poll_on(client, device)

    thread = threading.Thread(target=load)
    thread.start()
    try:
        for number in range(5):
            out = tmp_path / f"copy-{number}.db"
            assert back_up(world.url, out) == out.stat().st_size
            engine = sa.create_engine(f"sqlite:///{out}")
            with engine.connect() as connection:
                reports = connection.execute(sa.select(sa.func.count(t.report.c.id))).scalar_one()
                (seq,) = connection.execute(sa.select(t.presence.c.request_seq)).one()
            engine.dispose()
            assert 2 * reports <= seq <= 2 * reports + 1  # both or neither of what belongs together
    finally:
        stops.set()
        thread.join()


def test_a_restored_copy_is_healed_by_polls(world: World, tmp_path: Path) -> None:
    with listening(world) as address, Client(address, world) as client:
        device = client.enrolled(GROUP)
        poll_on(client, device)
        back_up(world.url, tmp_path / "copy.db")
        later = client.enrolled(GROUP)
        for _ in range(3):
            poll_on(client, device)
        fleet = device.fleet
    restored = tmp_path / "restored.db"
    (tmp_path / "copy.db").rename(restored)
    restarted(world, f"sqlite:///{restored}")
    with listening(world) as address, Client(address, world) as client:
        assert device.fleet == fleet == world.server.fleet
        poll_on(client, device)
        (row,) = world.rows(sa.select(t.presence.c.request_seq))
        assert row.request_seq == device.seq
        assert client.signed(later, "/v1/poll", later.poll()).code == "unknown"
        assert client.enroll(later).json["status"] == "pending"  # its token is forgotten, too


def test_postgresql_is_dumped_and_restored_by_its_own_tools(tmp_path: Path) -> None:
    (*_, programs) = sorted(INSTALLED.glob("*/bin")) or [None]
    with fresh_database() as url, fresh_database() as empty:
        assert programs is not None
        world = World(tmp_path, url)
        with listening(world) as address, Client(address, world) as client:
            device = client.enrolled(GROUP)
            poll_on(client, device)
            dump = tmp_path / "fleet.dump"
            command = [programs / "pg_dump", "--format=custom", f"--file={dump}", url]
            subprocess.run(command, check=True)
            poll_on(client, device)
        subprocess.run([programs / "pg_restore", f"--dbname={empty}", dump], check=True)
        restarted(world, empty)
        with listening(world) as address, Client(address, world) as client:
            poll_on(client, device)
            assert world.count(t.report) == 2
        with pytest.raises(UsageError, match="pg_dump"):
            back_up(url, tmp_path / "x")
        world.close()


def test_what_is_no_database_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no database"):
        back_up(f"sqlite:///{tmp_path / 'none.db'}", tmp_path / "x")
    (tmp_path / "text.db").write_bytes(b"x" * 5000)
    with pytest.raises(StorageError, match="cannot be copied"):
        back_up(f"sqlite:///{tmp_path / 'text.db'}", tmp_path / "x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["text.db"]
