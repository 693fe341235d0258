"""A copy of the server's database while it is at work, and back.

A restored copy is older than the fleet. Devices say at their next polls what is so: numbers of
requests only grow, and what a device confirmed meanwhile it tells again with its reports.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

import sqlalchemy as sa

from agent.errors import StorageError, UsageError
from agent.files import make_folders, storage_errors
from sdk.fleet.database import hidden

_PAGES = 1000
"""Copied at a time; between them the server writes."""


def back_up(url: str, out: Path) -> int:
    """Write a whole, consistent copy of an SQLite database; the server may be at work.

    Args:
        url: of the database.
        out: the file to write; it appears whole, or not at all.

    Returns:
        Its bytes.

    Raises:
        UsageError: it is no SQLite database; or there is none.
        StorageError: the file cannot be written.
    """
    place = sa.engine.make_url(url)
    if place.get_backend_name() != "sqlite" or place.database is None:
        raise UsageError(
            f"{hidden(url)} is not backed up by this command.",
            cause="PostgreSQL has its own tools for that.",
            remedy="pg_dump --format=custom --file=fleet.dump DATABASE, and pg_restore to restore.",
        )
    source = Path(place.database)
    if not source.is_file():
        raise UsageError(
            f"There is no database at {source}.",
            cause="The server was never started with it, or the path is wrong.",
            remedy="Name the one that sdk fleet serve was given: --db URL",
        )
    beside = out.with_name(f".{out.name}.{os.getpid()}.part")
    with storage_errors(out):
        make_folders(out.absolute().parent)
        try:
            os.close(os.open(beside, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
            _copy(source, beside)
            with beside.open("rb") as stream:
                os.fsync(stream.fileno())
            beside.replace(out)
        finally:
            beside.unlink(missing_ok=True)
    return out.stat().st_size


def _copy(source: Path, beside: Path) -> None:
    try:
        with (
            contextlib.closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True)) as old,
            contextlib.closing(sqlite3.connect(beside)) as new,
        ):
            old.backup(new, pages=_PAGES)
            # A copy that is restored is begun with as it is, whatever lies beside it.
            new.execute("pragma journal_mode = delete")
            (found,) = new.execute("pragma integrity_check").fetchone()
    except sqlite3.Error as error:
        raise StorageError(
            f"{source} cannot be copied: {error}.",
            cause="It is no database, it is damaged, or the disk is full.",
            remedy="Nothing was written.",
        ) from error
    if found != "ok":
        raise StorageError(
            f"{source} is damaged: {found[:200]}.",
            cause="The disk failed, or somebody else wrote into it.",
            remedy="Nothing was written. Restore the last good copy.",
        )
