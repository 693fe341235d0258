"""The tables come, go and come again; what is no database of this server's is named and left."""

from __future__ import annotations

import multiprocessing
import os
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext

from agent.errors import SlipwayError, StorageError, UsageError
from sdk.fleet import migrations
from sdk.fleet import tables as t
from sdk.fleet.database import migrate, open_database, reading, revision_of, writing
from tests.fleet.postgres import fresh_database

MIGRATIONS = Path(migrations.__file__).parent


@pytest.fixture
def engine(database: str) -> Iterator[sa.Engine]:
    made = open_database(database)
    yield made
    made.dispose()


def _names(engine: sa.Engine) -> set[str]:
    return set(sa.inspect(engine).get_table_names())


def test_the_tables_come_and_go_and_come_again(engine: sa.Engine) -> None:
    for _ in range(2):
        migrate(engine)
        assert _names(engine) == set(t.metadata.tables) | {"alembic_version"}
        migrate(engine, "base")
        assert _names(engine) <= {"alembic_version"}


def test_the_migrations_make_what_the_server_reads(engine: sa.Engine) -> None:
    migrate(engine)
    with engine.connect() as connection:
        is_postgresql = engine.dialect.name == "postgresql"  # SQLite tells defaults otherwise
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": is_postgresql}
        )
        assert compare_metadata(context, t.metadata) == []


def test_migrating_what_is_up_to_date_changes_nothing(engine: sa.Engine) -> None:
    migrate(engine)
    with writing(engine) as connection:
        connection.execute(t.secret.insert().values(name="kept", value=b"x"))
    migrate(engine)
    with reading(engine) as connection:
        assert connection.execute(sa.select(t.secret.c.value)).scalar() == b"x"
        assert revision_of(connection) is not None


_REPORT = {
    "tenant": "default", "journal_seq": 1, "model": "net", "fingerprint_sha256": "f",
    "hardware": "pi", "reason": "", "envelope": b"", "variant": "v",
}  # fmt: skip


def test_the_last_ratio_of_a_device_is_kept_as_what_a_gate_is_held_against(
    engine: sa.Engine,
) -> None:
    migrate(engine, "0001")
    with writing(engine) as connection:
        told = [("d1", "r1-d1", "TRIAL", 1.5), ("d1", "r1.2-d1", "TRIAL", 1.2)]
        told += [("d2", "r1-d2", "TRIAL", 0.9), ("d2", "own-d2", "TRIAL", 7.0)]
        for device in ("d1", "d2"):
            connection.execute(
                sa.text(
                    "insert into action (device_id, rollout_id, model, assignment_seq, hardware,"
                    " attempt, status, reason, journal_seq, assigned_s)"
                    f" values ('{device}', 'r1', 'net', 1, 'pi', 1, 'over', '', 1, 0)"
                )
            )
        for n, (device, action, state, value) in enumerate(told, 1):
            figures = {"ratio_to_running": {"value": value, "low": value - 0.1, "high": value}}
            row = {**_REPORT, "device_id": device, "action_id": action, "state": state}
            values = {**row, "received_s": float(n), "figures": figures}
            connection.execute(t.report.insert().values(**values))
            rollout = "'r1'" if action.startswith("r1") else "null"
            connection.execute(
                sa.text(
                    f"insert into ratio values ({n}, 'default', {rollout}, '{device}', 'pi', 'v',"
                    f" {value}, {value - 0.1}, {value})"
                )
            )
        before = _ratios(connection)
    migrate(engine)
    with reading(engine) as connection:
        found = connection.execute(t.figure.select().order_by(t.figure.c.device_id)).all()
    assert found == [
        ("r1", "d1", "latency@500", "pi", 1.2, 2.0), ("r1", "d2", "latency@500", "pi", 0.9, 3.0),
    ]  # fmt: skip
    with writing(engine) as connection:
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        config.attributes["connection"] = connection
        command.downgrade(config, "0001")
        assert _ratios(connection) == before


def _ratios(connection: sa.Connection) -> list[tuple[object, ...]]:
    rows = connection.execute(sa.text("select * from ratio order by report_id"))
    return [tuple(row) for row in rows]


def test_a_newer_database_is_refused_by_name_and_left(engine: sa.Engine) -> None:
    migrate(engine)
    with writing(engine) as connection:
        connection.execute(sa.text("update alembic_version set version_num = 'ffff'"))
    with pytest.raises(UsageError, match="revision ffff; this version knows"):
        migrate(engine)
    with reading(engine) as connection:
        assert revision_of(connection) == "ffff"


def _migrate(url: str, ready: object, results: object) -> None:
    engine = open_database(url)
    ready.wait()  # type: ignore[attr-defined]
    try:
        migrate(engine)
        results.put("")  # type: ignore[attr-defined]
    except Exception as error:  # noqa: BLE001  the other process tells it
        results.put(repr(error))  # type: ignore[attr-defined]
    engine.dispose()


def test_processes_that_start_at_once_migrate_once(database: str) -> None:
    spawn = multiprocessing.get_context("spawn")
    ready, results = spawn.Barrier(3), spawn.Queue()
    started = [
        spawn.Process(target=_migrate, args=(database, ready, results)) for _ in range(3)
    ]  # fmt: skip
    for process in started:
        process.start()
    try:
        assert [results.get(timeout=60) for _ in started] == ["", "", ""]
    finally:
        for process in started:
            process.join(20)
            process.close()
        results.close()
        results.join_thread()
    engine = open_database(database)
    assert set(t.metadata.tables) <= _names(engine)
    engine.dispose()


def test_a_new_file_is_opened_by_many_at_once(tmp_path: Path) -> None:
    for number in range(20):
        ready = threading.Barrier(4)

        def go(url: str = f"sqlite:///{tmp_path / str(number)}.db") -> None:
            engine = open_database(url)
            ready.wait()  # noqa: B023  the threads end before the next round
            try:
                migrate(engine)
            finally:
                engine.dispose()

        with ThreadPoolExecutor(4) as pool:
            for done in [pool.submit(go) for _ in range(4)]:
                done.result()


def _text(folder: Path) -> str:
    (folder / "fleet.db").write_text("this is a shopping list, and no database at all\n" * 50)
    return f"sqlite:///{folder / 'fleet.db'}"


def _cut(folder: Path) -> str:
    place = folder / "fleet.db"
    with sqlite3.connect(place) as connection:
        connection.execute("create table t (x)")
        connection.executemany("insert into t values (?)", [("x" * 500,)] * 500)
    connection.close()
    place.write_bytes(place.read_bytes()[:5000])
    return f"sqlite:///{place}"


def _a_folder(folder: Path) -> str:
    return f"sqlite:///{folder}"


def _no_folder(folder: Path) -> str:
    return f"sqlite:///{folder / 'nowhere' / 'fleet.db'}"


def _no_server(_: Path) -> str:
    return "postgresql://postgres:secret@127.0.0.1:1/fleet"


SPOILT = {
    "a text": (_text, "not a database"),
    "cut short": (_cut, "malformed"),
    "a folder": (_a_folder, "unable to open"),
    "in no folder": (_no_folder, "unable to open"),
    "nobody listens": (_no_server, "refused"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_what_is_no_database_is_said_and_not_overwritten(tmp_path: Path, name: str) -> None:
    make, why = SPOILT[name]
    engine = open_database(make(tmp_path))
    place = tmp_path / "fleet.db"
    before = place.read_bytes() if place.exists() else None
    with pytest.raises(StorageError, match=why) as refused:
        migrate(engine)
    engine.dispose()
    assert "secret" not in str(refused.value)
    assert (place.read_bytes() if place.exists() else None) == before


WRONG = ["", "fleet.db", "sqlite://", "sqlite:///:memory:", "mysql://me@host/fleet", "oracle:///x"]


@pytest.mark.parametrize("url", WRONG)
def test_a_url_of_no_database_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="cannot be used"):
        open_database(url)


def test_another_programs_tables_are_left(tmp_path: Path) -> None:
    place = tmp_path / "fleet.db"
    connection = sqlite3.connect(place)
    connection.execute("create table device (mine text)")
    connection.execute("insert into device values ('kept')")
    connection.commit()
    connection.close()
    engine = open_database(f"sqlite:///{place}")
    with pytest.raises(SlipwayError, match="device"):
        migrate(engine)
    engine.dispose()
    connection = sqlite3.connect(place)
    assert connection.execute("select mine from device").fetchall() == [("kept",)]
    assert _tables(connection) == {"device"}
    connection.close()


def _tables(connection: sqlite3.Connection) -> set[str]:
    return {
        row[0] for row in connection.execute("select name from sqlite_master where type = 'table'")
    }


@pytest.mark.skipif(os.geteuid() != 0, reason="another user's rights are tried")
def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'fleet.db'}"
    engine = open_database(url)
    migrate(engine)
    engine.dispose()
    for path in [*tmp_path.iterdir(), tmp_path]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    for parent in tmp_path.parents:
        if parent.owner() == "root" and parent != Path(parent.anchor):
            parent.chmod(parent.stat().st_mode | 0o011)
    spawn = multiprocessing.get_context("spawn")
    results = spawn.Queue()
    process = spawn.Process(target=_write_as_nobody, args=(url, results))
    process.start()
    assert results.get(timeout=60).startswith("StorageError: attempt to write a readonly database")
    process.join(20)
    process.close()
    results.close()
    results.join_thread()


def _write_as_nobody(url: str, results: object) -> None:
    os.setgid(65534)
    os.setuid(65534)
    engine = open_database(url)
    try:
        with writing(engine) as connection:
            connection.execute(t.secret.insert().values(name="n", value=b""))
        found = "written"
    except StorageError as error:
        found = f"StorageError: {error.__cause__.orig}"  # type: ignore[union-attr]
    engine.dispose()
    results.put(found)  # type: ignore[attr-defined]


@pytest.mark.postgresql
def test_a_user_without_rights_is_told(tmp_path: Path) -> None:
    with fresh_database() as url:
        admin = open_database(url)
        with writing(admin) as connection:
            connection.execute(sa.text("drop role if exists looker"))
            connection.execute(sa.text("create role looker login"))
        engine = open_database(url.replace("postgres@", "looker@"))
        with pytest.raises(SlipwayError, match="permission denied"):
            migrate(engine)
        engine.dispose()
        with writing(admin) as connection:
            connection.execute(sa.text("drop role looker"))
        admin.dispose()


def test_a_new_database_is_read_by_its_owner_alone(tmp_path: Path) -> None:
    engine = open_database(f"sqlite:///{tmp_path / 'fleet.db'}")
    migrate(engine)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
    engine.dispose()
