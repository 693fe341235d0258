"""What the agent intends and remembers: SQLite, one commit per step, never the truth of what runs.

A state is noted before the device acts on it. Reports are kept until they were sent, counters only
ever grow. A journal that is damaged is put aside and begun anew: what runs is told by the slots.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sqlite3
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from agent import disk
from agent.codec import canonical, decode
from agent.errors import SlipwayError, StorageError, VerificationError
from agent.files import storage_errors
from agent.manifest import Gate
from agent.names import check_path
from agent.updates.journal_file import looked_at, opened, unusable
from agent.updates.states import CANCELLABLE, FINAL, TRANSITIONS, Clock, State, may_follow

BLOCK = 1000
"""Numbers of requests are reserved so many at a time: after a crash some are skipped, none is used
twice."""
KEPT = 500
"""Actions, the newest ones; their reports are sent by then, or nobody wants them."""
_FORGET = tuple(
    f"delete from {table} where {column} in "  # noqa: S608
    "(select id from action order by rowid desc limit -1 offset ?)"
    for table, column in (("entry", "action"), ("report", "action"), ("action", "id"))
)
_COLUMNS = (
    "id, model, kind, state, order_json, slot, old_slot, variant, reason, deadline_boot, "
    "deadline_s, boots, writes"
)
_MARKS = ", ".join("?" for _ in FINAL)
Kind = Literal["online", "offline", "rollback", "step"]
"""What asked for it: an assignment of either sort, a person or a revocation, the ladder."""
AHEAD: frozenset[Kind] = frozenset({"rollback", "step"})
"""What saves the device goes ahead of an assignment that waits, which goes on behind it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Order:
    """What an action is to do, as it was asked for."""

    manifest_sha256: str
    release_path: str | None = None
    """In the repository; None where the manifest is on this device already."""
    variant: str | None = None
    """Only this variant; None: whichever fits."""
    without: tuple[str, ...] = ()
    """Variants that were found unfit here."""
    gates: tuple[Gate, ...] = ()
    """Beside those of the manifest."""
    trial_s: int = 3600


@dataclasses.dataclass(frozen=True, kw_only=True)
class Action:
    """One piece of work, as far as it has come."""

    id: str
    model: str
    kind: Kind
    order: Order
    state: State = "RECEIVED"
    slot: str | None = None
    """The one that it fills, and switches to."""
    old_slot: str | None = None
    """The one to fall back on."""
    variant: str | None = None
    """The one of the release that was chosen."""
    reason: str = ""
    deadline: Clock | None = None
    """Of the trial."""
    boots: int = 0
    """Of the device since the trial began."""
    writes: int = 0
    """Journal entries so far."""

    @property
    def release(self) -> str | None:
        """The release's name, as its path has it."""
        parts = (self.order.release_path or "").split("/")
        return parts[2] if len(parts) == 4 else None


def waits(action: Action) -> bool:
    """Whether another may go ahead of it: nothing that runs has been touched for it yet."""
    return action.kind not in AHEAD and action.state in CANCELLABLE


class Journal:
    """The journal of one state folder. One process at a time: the agent holds the folder's lock."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        """Open the journal, or begin one.

        Args:
            path: of the database.
            read_only: only look, beside an agent that may be at work.

        Raises:
            StorageError: it cannot be opened or written.
        """
        self._path = path
        self.was_damaged = False
        with storage_errors(path):
            if read_only:
                self._connection = looked_at(path)
            else:
                self._connection, self.was_damaged = opened(path, _check_readable)

    def close(self) -> None:
        """Give the file back."""
        self._connection.close()

    def begin(self, action: Action, raises: Mapping[str, int] | None = None) -> Action:
        """Note a new action, and with it, all or nothing, counters that it raises.

        Raises:
            VerificationError: there is an action of that name already, or one that is not over
                and that it may not go ahead of.
        """
        running = self.unfinished()
        if running is not None and action.kind in AHEAD and waits(running):
            running = None
        if running is not None or self.action(action.id) is not None:
            found = running or action
            raise VerificationError(
                f"The action {action.id} cannot begin: {found.id} is in {found.state}.",
                cause="There is at most one action at a time, and each is done once.",
                remedy="Wait until it is over: sdk-agent status",
            )
        values = (
            action.id, action.model, action.kind, action.state,
            canonical(action.order).decode(), action.reason,
        )  # fmt: skip
        with self._commit() as connection:
            for command in _FORGET:
                connection.execute(command, (KEPT,))
            connection.execute(
                "insert into action (id, model, kind, state, order_json, reason, writes) "
                "values (?, ?, ?, ?, ?, ?, 1)",
                values,
            )
            self._note(connection, action.id, action.state, action.reason)
            for name, value in (raises or {}).items():
                self._raise(connection, name, value)
        return dataclasses.replace(action, writes=1)

    def enter(self, action: Action, state: State, reason: str = "", **changes: Any) -> Action:
        """Note that an action enters a state, before anything is done about it.

        Args:
            action: as it was read.
            state: may be the one that it is in, after a restart.
            reason: for a person.
            changes: other fields of the action.

        Raises:
            VerificationError: no such transition.
        """
        if state != action.state and not may_follow(action.state, state):
            raise VerificationError(
                f"The action {action.id} is in {action.state}, which {state} does not follow.",
                cause="The journal and the code disagree: this is a bug.",
                remedy="Keep agent.db and report it.",
            )
        changed = dataclasses.replace(
            action, state=state, reason=reason, writes=action.writes + 1, **changes
        )
        deadline = changed.deadline
        with self._commit() as connection:
            found = connection.execute(
                "update action set state = ?, reason = ?, slot = ?, old_slot = ?, variant = ?, "
                "deadline_boot = ?, deadline_s = ?, boots = ?, writes = ? "
                "where id = ? and writes = ?",
                (
                    state, reason, changed.slot, changed.old_slot, changed.variant,
                    deadline.boot_id if deadline else None,
                    deadline.uptime_s if deadline else None,
                    changed.boots, changed.writes, action.id, action.writes,
                ),
            )  # fmt: skip
            # What waited while another went ahead is the later one of the two from now on.
            connection.execute(
                "update action set rowid = (select max(rowid) + 1 from action) "
                "where id = ? and rowid < (select max(rowid) from action)",
                (action.id,),
            )
            if found.rowcount != 1:
                raise VerificationError(
                    f"The action {action.id} is noted further than {action.state}.",
                    cause="It was read before somebody else moved it on: this is a bug.",
                    remedy="Keep agent.db and report it.",
                )
            self._note(connection, action.id, state, reason)
        return changed

    def action(self, name: str) -> Action | None:
        """An action by its name."""
        return self._action("where id = ?", name)

    def unfinished(self) -> Action | None:
        """The one to go on with: it is not over, and went ahead of the other if there are two."""
        return next(reversed(self.under_way()), None)

    def under_way(self) -> list[Action]:
        """Those that are not over: at most one, and before it an assignment that waits for it."""
        return self._actions(f"where state not in ({_MARKS}) order by rowid", *sorted(FINAL))

    def unreported(self) -> list[Action]:
        """Those that are over, and of whose end no report is kept: the oldest first."""
        return self._actions(
            f"where state in ({_MARKS}) and not exists "  # noqa: S608
            "(select 1 from report where report.action = action.id "
            "and report.state = action.state) order by rowid",
            *sorted(FINAL),
        )

    def over_since(self, seq: int, most: int) -> list[tuple[int, Action]]:
        """(journal_seq, action) of those that ended after an entry: the oldest first."""
        rows = self._rows(
            f"select {_COLUMNS}, "  # noqa: S608
            "(select max(journal_seq) from entry where entry.action = action.id) as ended "
            f"from action where state in ({_MARKS}) and ended > ? order by ended limit ?",
            *sorted(FINAL),
            seq,
            most,
        )
        return [(row[-1], _read(row)) for row in rows]

    def last(self, model: str) -> Action | None:
        """The last action of a model."""
        return self._action("where model = ? order by rowid desc limit 1", model)

    def last_over(self, model: str) -> Action | None:
        """The last action of a model that is over."""
        where = f"where model = ? and state in ({_MARKS}) order by rowid desc limit 1"
        return self._action(where, model, *sorted(FINAL))

    def last_with(self, model: str, manifest_sha256: str, variant: str) -> Action | None:
        """The last action of a model that was about this variant of a release.

        One that ended before a variant was chosen was about all that it was not told to leave out.
        """
        return self._action(
            "where model = ? and json_extract(order_json, '$.manifest_sha256') = ? "
            "and coalesce(variant, json_extract(order_json, '$.variant'), ?) = ? "
            "and not exists (select 1 from json_each(order_json, '$.without') where value = ?) "
            "order by rowid desc limit 1",
            model,
            manifest_sha256,
            variant,
            variant,
            variant,
        )

    def history(self, action: str) -> list[tuple[int, State, str]]:
        """(journal_seq, state, reason) of an action, the oldest first."""
        rows = self._rows(
            "select journal_seq, state, reason from entry where action = ? order by journal_seq",
            action,
        )
        return [(seq, state, reason) for seq, state, reason in rows]

    def keep_report(self, name: str, action: str | None, state: str, envelope: bytes) -> bool:
        """Keep a signed report until it was sent; False if it is kept already."""
        with self._commit() as connection:
            found = connection.execute(
                "insert or ignore into report (id, action, state, envelope) values (?, ?, ?, ?)",
                (name, action, state, envelope),
            )
        return found.rowcount == 1

    def has_report(self, name: str) -> bool:
        """Whether a report is kept, sent or not."""
        return bool(self._rows("select 1 from report where id = ?", name))

    def unsent(self, most: int = 100) -> list[tuple[str, bytes]]:
        """(name, envelope) of the oldest reports that nobody has taken yet."""
        rows = self._rows(
            "select id, envelope from report where sent = 0 order by rowid limit ?", most
        )
        return [(name, bytes(envelope)) for name, envelope in rows]

    def reports_waiting(self) -> int:
        """How many reports nobody has taken yet."""
        return int(self._rows("select count(*) from report where sent = 0")[0][0])

    def sent(self, names: list[str]) -> None:
        """Note that these reports arrived."""
        with self._commit() as connection:
            connection.executemany(
                "update report set sent = 1 where id = ?", [(name,) for name in names]
            )

    def raise_number(self, name: str, value: int) -> bool:
        """Raise a counter, such as the highest assignment seen; False if it is not lower."""
        if self.number(name) >= value:  # most polls change nothing, and a commit costs a sync
            return False
        with self._commit() as connection:
            self._raise(connection, name, value)
        return True

    def number(self, name: str) -> int:
        """A counter; 0 where nothing was noted."""
        rows = self._rows("select value from number where name = ?", name)
        return int(rows[0][0]) if rows else 0

    def reserve(self, name: str) -> range:
        """The next block of numbers of a counter: durable before the first is used."""
        first = self.number(name) + 1
        self.raise_number(name, first + BLOCK - 1)
        return range(first, first + BLOCK)

    def set_fact(self, name: str, value: Any) -> None:
        """Keep a JSON value."""
        with self._commit() as connection:
            connection.execute(
                "insert into fact (name, value) values (?, ?) "
                "on conflict (name) do update set value = excluded.value",
                (name, json.dumps(value)),
            )

    def fact(self, name: str) -> Any:
        """A value that was kept; None if none was."""
        rows = self._rows("select value from fact where name = ?", name)
        return json.loads(rows[0][0]) if rows else None

    def _action(self, where: str, *values: Any) -> Action | None:
        return next(iter(self._actions(where, *values)), None)

    def _actions(self, where: str, *values: Any) -> list[Action]:
        rows = self._rows(f"select {_COLUMNS} from action {where}", *values)  # noqa: S608
        return [_read(row) for row in rows]

    def _rows(self, command: str, *values: Any) -> list[Any]:
        """What a query finds.

        Raises:
            StorageError: the file cannot be read any more.
        """
        try:
            return self._connection.execute(command, values).fetchall()
        except sqlite3.DatabaseError as error:
            raise unusable(self._path, error) from error

    def _raise(self, connection: sqlite3.Connection, name: str, value: int) -> None:
        connection.execute(
            "insert into number (name, value) values (?, ?) on conflict (name) "
            "do update set value = excluded.value where excluded.value > number.value",
            (name, value),
        )

    def _note(self, connection: sqlite3.Connection, action: str, state: str, reason: str) -> None:
        connection.execute(
            "insert into entry (action, state, reason, at) values (?, ?, ?, ?)",
            (action, state, reason, time.time()),
        )

    @contextlib.contextmanager
    def _commit(self) -> Iterator[sqlite3.Connection]:
        """One transaction; it is durable when this returns."""
        try:
            self._connection.execute("begin immediate")
            yield self._connection
            with disk.told(disk.Operation(kind="commit", path=self._path)):
                self._connection.execute("commit")
        except BaseException as error:
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("rollback")
            if isinstance(error, sqlite3.DatabaseError):
                raise StorageError(
                    f"The journal {self._path} cannot be written: {error}.",
                    cause="The disk is full, failing or read-only, or the file was damaged.",
                    remedy="Free some space or mend the disk, then start the agent again: it goes "
                    "on from what was noted.",
                ) from error
            raise


def _read(row: Any) -> Action:
    """One row of `_COLUMNS`."""
    deadline = None if row[9] is None else Clock(boot_id=row[9], uptime_s=row[10])
    return Action(
        id=row[0], model=row[1], kind=row[2], state=row[3],
        order=decode(Order, json.loads(row[4]), "order"),
        slot=row[5], old_slot=row[6], variant=row[7], reason=row[8], deadline=deadline,
        boots=row[11], writes=row[12],
    )  # fmt: skip


def _check_readable(connection: sqlite3.Connection) -> None:
    """SQLite checks its pages, not what they say: whether what has to go on can be understood."""
    try:
        for row in connection.execute(f"select {_COLUMNS} from action").fetchall():  # noqa: S608
            action = _read(row)
            slots = {action.slot, action.old_slot} - {None, "A", "B"}
            if action.state not in TRANSITIONS or slots:
                raise ValueError(f"the state {row[3]!r}, the slots {row[5]!r} and {row[6]!r}")
            check_path(action.id)
            check_path(action.model)
        for table in ("entry", "report", "number", "fact"):
            connection.execute(f"select 1 from {table} limit 1")  # noqa: S608
    except (sqlite3.OperationalError, SlipwayError, ValueError, TypeError) as error:
        raise sqlite3.DatabaseError(f"it holds what cannot be understood: {error}") from error
