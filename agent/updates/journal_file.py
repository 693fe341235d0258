"""The file behind the journal: a commit in it is durable, and a damaged one is put aside."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

from agent import disk
from agent.errors import StorageError

SCHEMA = 1
_TABLES = """
create table action (
    id text primary key,
    model text not null,
    kind text not null,
    state text not null,
    order_json text not null,
    slot text,
    old_slot text,
    variant text,
    reason text not null default '',
    deadline_boot text,
    deadline_s real,
    boots integer not null default 0,
    writes integer not null default 0
) strict;
create table entry (
    journal_seq integer primary key autoincrement,
    action text not null references action (id),
    state text not null,
    reason text not null,
    at real not null
) strict;
create table report (
    id text primary key,
    action text,
    state text not null,
    envelope blob not null,
    sent integer not null default 0
) strict;
create table number (name text primary key, value integer not null) strict;
create table fact (name text primary key, value text not null) strict;
"""
Check = Callable[[sqlite3.Connection], None]
"""Raises sqlite3.DatabaseError where the content cannot be understood."""


def looked_at(path: Path) -> sqlite3.Connection:
    """The journal to look at, beside an agent that may be at work, also for who may write nothing.

    Raises:
        StorageError: it cannot be opened, or is damaged.
    """
    # Where no log is beside it nobody writes now, and SQLite would have to make one.
    immutable = "" if path.with_name(f"{path.name}-wal").exists() else "&immutable=1"
    place = f"{path.absolute().as_uri()}?mode=ro{immutable}"
    try:
        connection = sqlite3.connect(place, uri=True, timeout=5.0)
        connection.execute("select 1 from action limit 1")
    except sqlite3.Error as error:
        raise unusable(path, error) from error
    return connection


def opened(path: Path, check: Check) -> tuple[sqlite3.Connection, bool]:
    """The journal, begun if there is none, and whether a damaged one was put aside.

    Raises:
        StorageError: it cannot be opened, or a newer agent has written it.
    """
    try:
        return _connected(path, check), False
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):
            raise unusable(path, error) from error
        for part in (path, *(path.with_name(path.name + tail) for tail in ("-wal", "-shm"))):
            if part.exists():
                disk.rename(part, part.with_name(f"{part.name}.damaged"))
        disk.sync_folder(path.parent)
        return _connected(path, check), True


def _connected(path: Path, check: Check) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, timeout=5.0)
    try:
        (mode,) = connection.execute("pragma journal_mode = wal").fetchone()
        # NORMAL may lose the last commits; without WAL, which takes shared memory, FULL may.
        connection.execute(f"pragma synchronous = {'full' if mode == 'wal' else 'extra'}")
        connection.execute("pragma foreign_keys = on")
        (answer,) = connection.execute("pragma integrity_check").fetchone()
        if answer != "ok":
            raise sqlite3.DatabaseError(answer)
        (version,) = connection.execute("pragma user_version").fetchone()
        if version == 0:
            connection.executescript(f"begin; {_TABLES} pragma user_version = {SCHEMA}; commit;")
        elif version > SCHEMA:
            raise StorageError(
                f"The journal {path} has version {version}, this agent knows {SCHEMA}.",
                cause="A newer agent has written it.",
                remedy="Install that agent again.",
            )
        check(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def unusable(path: Path, error: sqlite3.Error) -> StorageError:
    """What SQLite says, as what a person can act on."""
    return StorageError(
        f"The journal {path} cannot be opened: {error}.",
        cause="The disk is full, failing or read-only, or another agent has it.",
        remedy="Free some space or mend the disk, then start the agent again.",
    )
