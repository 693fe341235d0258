"""The server's database: SQLite in a file, or PostgreSQL at a URL; opened, brought up to date.

Every transaction that may write says so at its beginning: on SQLite it then waits for the one
writer that there can be, instead of failing in the middle.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, OperationalError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import GenericFunction

from agent.errors import StorageError, UsageError
from sdk.fleet.rules.rollout import place_digits

T = TypeVar("T")
WAIT_S = 30.0
"""So long a transaction waits for another one that writes."""
_ATTEMPTS = 3
_READS = {"slipway_reads": True}
_LOCK = 7305130942  # any number: PostgreSQL's name for the lock of migrations


class place(GenericFunction[str]):  # noqa: N801  SQL's functions are written small
    """Where a device stands in a rollout's order: `sdk.fleet.rules.rollout.place_digits`."""

    type = sa.String()
    inherit_cache = True


@compiles(place, "postgresql")
def _place(element: Any, compiler: Any, **options: Any) -> str:
    first, second = (compiler.process(clause, **options) for clause in element.clauses)
    text = f"convert_to({first}, 'UTF8') || '\\x00'::bytea || convert_to({second}, 'UTF8')"
    return f"substr(encode(sha256({text}), 'hex'), 1, 16)"


def open_database(url: str) -> sa.Engine:
    """The database at a URL, such as `sqlite:///fleet.db`; nothing is read yet.

    Raises:
        UsageError: the URL names no database that this server can use.
    """
    try:
        parts = sa.engine.make_url(url)
        if parts.drivername == "postgresql":
            parts = parts.set(drivername="postgresql+psycopg")
        if parts.get_backend_name() not in ("sqlite", "postgresql"):
            raise ArgumentError(f"{parts.get_backend_name()} is not supported")
        if parts.get_backend_name() == "sqlite":
            return _sqlite(parts)
        return sa.create_engine(parts, pool_pre_ping=True, pool_size=8, max_overflow=8)
    except (ArgumentError, NoSuchModuleError, ImportError, ValueError) as error:
        raise UsageError(
            f"The database {hidden(url)} cannot be used: {error}.",
            cause="The URL is misspelt, or its driver is not installed.",
            remedy="Give sqlite:///PATH or postgresql://USER@HOST/NAME: --db URL",
        ) from error


@contextlib.contextmanager
def writing(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A transaction that may write; it is durable when this returns.

    Raises:
        StorageError: the database cannot be reached, or its disk is full.
    """
    with _translated(engine), engine.begin() as connection:
        yield connection


def written(engine: sa.Engine, do: Callable[[sa.Connection], T]) -> T:
    """What `do` makes of a transaction that may write; it is durable when this returns.

    Where another process has made the same row meanwhile, it is done again, and finds that row.

    Raises:
        StorageError: as for `writing`.
    """
    for _ in range(_ATTEMPTS - 1):
        with contextlib.suppress(sa.exc.IntegrityError), writing(engine) as connection:
            return do(connection)
    with writing(engine) as connection:
        return do(connection)


@contextlib.contextmanager
def reading(engine: sa.Engine) -> Iterator[sa.Connection]:
    """One view of the database, beside whoever writes. Errors as for `writing`."""
    with (
        _translated(engine),
        engine.connect().execution_options(**_READS) as connection,
        connection.begin(),
    ):
        yield connection


def upsert(
    connection: sa.Connection,
    table: sa.Table,
    key: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
) -> None:
    """Insert rows of the same columns, or change what is given of those that are there."""
    if not rows:
        return
    insert = _insert(connection, table)
    changed = {name: insert.excluded[name] for name in rows[0] if name not in key}
    connection.execute(
        insert.on_conflict_do_update(index_elements=list(key), set_=changed),
        [dict(row) for row in rows],
    )


def insert_new(connection: sa.Connection, table: sa.Table, values: Mapping[str, Any]) -> bool:
    """Insert a row unless there is one of its key; whether it is new."""
    insert = _insert(connection, table).values(dict(values)).on_conflict_do_nothing()
    return connection.execute(insert).rowcount == 1


def migrate(engine: sa.Engine, revision: str = "head") -> None:
    """Bring the tables to a revision: the newest one, or `base` to remove them all.

    Several processes may do so at once.

    Raises:
        UsageError: the database was made by a newer version.
        StorageError: it cannot be written.
    """
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    with writing(engine) as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(sa.text("select pg_advisory_xact_lock(:n)"), {"n": _LOCK})
        found = revision_of(connection)
        known = [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()]
        if found is not None and found not in known:
            raise UsageError(
                f"The database {hidden(str(engine.url))} has the revision {found}; this version "
                f"knows {known[0]} and those before it.",
                cause="A newer version of Slipway has used it.",
                remedy="Run that version, or restore the backup from before the upgrade.",
            )
        if found == known[0] and revision == "head":
            return
        config.attributes["connection"] = connection
        try:
            (command.downgrade if revision == "base" else command.upgrade)(config, revision)
        except DBAPIError as error:
            raise StorageError(
                f"The tables cannot be made in {hidden(str(engine.url))}: {str(error.orig)[:300]}.",
                cause="The database is another program's, its disk is full, or its user may not.",
                remedy="Nothing was changed. Give the server a database of its own: --db URL",
            ) from error


def revision_of(connection: sa.Connection) -> str | None:
    """The revision that a database says it has; None if it is empty."""
    from alembic.runtime.migration import MigrationContext

    found: str | None = MigrationContext.configure(connection).get_current_revision()
    return found


def hidden(url: str) -> str:
    """A database's URL without its password.

    >>> hidden("postgresql://me:secret@db/fleet")
    'postgresql://me:***@db/fleet'
    """
    try:
        return sa.engine.make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        return repr(url)


def _insert(connection: sa.Connection, table: sa.Table) -> Any:
    """An insertion that may say what to do about a row that is there: no standard has that."""
    dialect: Any
    if connection.dialect.name == "postgresql":
        from sqlalchemy.dialects import postgresql as dialect
    else:
        from sqlalchemy.dialects import sqlite as dialect
    return dialect.insert(table)


def _sqlite(url: sa.URL) -> sa.Engine:
    if url.database in (None, "", ":memory:"):
        raise ArgumentError("it has to be a file: several connections share it")
    engine = sa.create_engine(url, connect_args={"timeout": WAIT_S, "check_same_thread": False})

    @sa.event.listens_for(engine, "do_connect")
    def connects(*_: Any) -> None:
        # Whose devices these are is nobody else's business; what cannot be made, SQLite says.
        with contextlib.suppress(OSError):
            os.close(os.open(str(url.database), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))

    @sa.event.listens_for(engine, "connect")
    def connected(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # transactions are begun below
        _write_ahead(connection)
        connection.execute("pragma synchronous = full")
        connection.create_function("place", 2, place_digits, deterministic=True)

    @sa.event.listens_for(engine, "begin")
    def begun(connection: sa.Connection) -> None:
        reads = connection.get_execution_options().get("slipway_reads")
        connection.exec_driver_sql("begin" if reads else "begin immediate")

    return engine


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Have the file keep its log apart; SQLite does not wait for others who are just at that."""
    until_s = time.monotonic() + WAIT_S
    while True:
        try:
            connection.execute("pragma journal_mode = wal")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > until_s:
                raise
            time.sleep(0.01)
        else:
            return


@contextlib.contextmanager
def _translated(engine: sa.Engine) -> Iterator[None]:
    try:
        yield
    except (OperationalError, DBAPIError, sa.exc.TimeoutError) as error:
        if isinstance(error, sa.exc.IntegrityError | sa.exc.ProgrammingError | sa.exc.DataError):
            raise  # a bug here, and nothing that waiting would mend
        raise StorageError(
            f"The database {hidden(str(engine.url))} cannot be used: "
            f"{str(getattr(error, 'orig', None) or error)[:300]}.",
            cause="It is not running, its disk is full, or another process holds it.",
            remedy="Nothing that was answered is lost. It is tried again with the next request.",
        ) from error
