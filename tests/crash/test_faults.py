"""A disk that is full, failing or read-only; a journal that is damaged; clocks that jump.

Whatever the disk refuses, what worked goes on, and the agent says so with an error that a person
can act on. When the disk works again, so does the next start, and the next release is installed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import errno
import os
import random
import signal
import sqlite3
import struct
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent import disk
from agent.config import Trial
from agent.disk import Moment, Operation
from agent.errors import SlipwayError, StorageError
from agent.files import sha256_of
from agent.updates.home import Home
from agent.updates.install import confirm_now
from agent.updates.journal import Action, Journal, Order
from agent.updates.recover import DAMAGED, recover
from agent.updates.run import once
from agent.updates.states import FINAL, MOST_STARTS, Clock
from tests.crash.world import (
    SCENARIOS,
    Noted,
    Real,
    Scenario,
    World,
    forked,
    update,
)
from tests.updates.fleet import MODEL, passing, silent

ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)
SAID = {
    errno.ENOSPC: "database or disk is full",
    errno.EDQUOT: "database or disk is full",
    errno.EIO: "disk I/O error",
    errno.EROFS: "attempt to write a readonly database",
}


class Fault:
    """An observer that refuses the n-th operation, or from it on all that take room or writing."""

    def __init__(self, at: int, code: int, *, stays: bool) -> None:
        self.at, self.code, self.stays, self.calls = at, code, stays, 0

    def __call__(self, operation: Operation, moment: Moment) -> None:
        if moment == "after":
            return
        number, self.calls = self.calls, self.calls + 1
        if number == self.at or (self.stays and number > self.at and self._refuses(operation)):
            if operation.kind == "commit":
                raise sqlite3.OperationalError(SAID[self.code])
            raise OSError(self.code, os.strerror(self.code), str(operation.path))

    def _refuses(self, operation: Operation) -> bool:
        """A full disk lets go of files, and has what was written already."""
        full = self.code in (errno.ENOSPC, errno.EDQUOT)
        return not full or operation.kind not in ("unlink", "rmdir", "sync", "sync_folder")


def _try(world: World, scenario: Scenario, state: Path, fault: Fault) -> SlipwayError | None:
    world.told.clear()
    try:
        with disk.observed(fault), world.home(state, scenario.release) as home:
            scenario.work(world, home)
    except SlipwayError as error:
        return error
    return None


def _said(world: World, error: SlipwayError | None, noted: tuple[Noted, ...]) -> bool:
    """Whether somebody learns of it: by an error that says what to do, by a line, by how it ended."""
    if error is not None:
        return bool(error.what and error.cause and error.remedy)
    written = any("writ" in line for line in world.told)
    return written or (bool(noted) and noted[-1].state in FINAL)


def _faults(world: World, name: str, folder: Path, moments: Iterator[int], kinds: int) -> int:
    """Refuse one operation after the other; the cases."""
    scenario, cases = SCENARIOS[name], 0
    for number, at in enumerate(moments):
        for kind in range(number, number + kinds):
            code, stays = ERRORS[kind % 4], kind % 8 >= 4
            state = world.device(scenario.kind, folder / f"{name}-{at}-{kind}")
            fault = Fault(at, code, stays=stays)
            try:
                error = _try(world, scenario, state, fault)
                if fault.calls <= at:
                    assert error is None
                    return cases
                noted = world.check_folder(state)
                assert _said(world, error, noted)
                _mended(world, scenario, state)
            except BaseException as broken:
                broken.add_note(f"{errno.errorcode[code]} at {at}, {stays=}")
                raise
            cases += 1
    raise AssertionError("there are more operations than moments")


def _mended(world: World, scenario: Scenario, state: Path) -> None:
    """The disk works again: the action comes to its end, and a newer release is installed."""
    error = _try(world, scenario, state, Fault(-1, 0, stays=False))
    noted = world.check_settled(state)
    assert error is None, error
    assert noted[-1].state in (scenario.ends, "FAILED", "REJECTED", "ROLLED_BACK")
    if scenario.release != "bad":
        with world.home(state, "1.3.0") as home:
            update(world, home)
        world.check_settled(state)
        assert world._release(world.runs(Real(state))) == "1.3.0"


@pytest.mark.parametrize("name", ["update", "trial taken back"])
def test_a_disk_that_refuses_some_operations(world: World, memory: Path, name: str) -> None:
    assert _faults(world, name, memory, iter(range(1, 10**6, 31)), kinds=1) >= 1


@pytest.mark.long
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_disk_that_refuses_any_operation(
    world: World, memory: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    every = 8 if name == "update" else 2
    cases = _faults(world, name, memory, iter(range(10**6)), kinds=every)
    with capsys.disabled():
        sys.stdout.write(f"\nrefused operations, {name}: {cases} cases\n")
    assert cases >= 40


# A real disk that is full.


@contextlib.contextmanager
def _small_disk(folder: Path, size: str) -> Iterator[Path]:
    place = folder / "small"
    place.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)],
        check=False,
        capture_output=True,
        text=True,
    )
    if made.returncode:
        pytest.skip(f"NO REAL FULL DISK WAS TRIED: no tmpfs can be mounted ({made.stderr.strip()})")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_disk_that_is_really_full(world: World, memory: Path) -> None:
    with _small_disk(memory, "4m") as place:
        ends = set()
        for pages in range(0, 60, 12):
            state = world.device("one", place / f"device-{pages}")
            filler = _filled(place, free=pages * 4096)
            error = _try(world, SCENARIOS["update"], state, Fault(-1, 0, stays=False))
            world.runs(Real(state))
            filler.unlink()
            noted = world.check_folder(state)
            assert _said(world, error, noted)
            ends.add("no end" if error else noted[-1].state)
            _mended(world, SCENARIOS["update"], state)
            subprocess.run(["rm", "-rf", str(state)], check=True)
        assert len(ends) >= 2, ends  # both: too full for anything, and room enough


def _filled(place: Path, free: int) -> Path:
    filler = place / "filler"
    with filler.open("wb", buffering=0) as stream, contextlib.suppress(OSError):
        while True:
            stream.write(bytes(4096))
    os.truncate(filler, max(0, filler.stat().st_size - free))
    return filler


def test_shedding_makes_room_for_the_last_word(world: World, memory: Path) -> None:
    """A disk that what was fetched has filled: it goes, and that it failed is noted."""
    state = world.device("one", memory / "device")
    refused: list[str] = []

    def full(operation: Operation, moment: Moment) -> None:
        if moment == "before" and any((state / "staging").glob("*/*.part")):
            if operation.kind == "rename":
                raise OSError(errno.ENOSPC, "No space left on device")
            if operation.kind == "commit":
                refused.append(operation.kind)
                raise sqlite3.OperationalError("database or disk is full")

    with disk.observed(full), world.home(state, "1.1.0") as home:
        action = once(home, silent, passing)
    assert action is not None
    assert (action.state, bool(refused)) == ("FAILED", True)
    assert "No space left" in action.reason
    world.check_settled(state)


def test_the_link_that_was_switched_is_taken_back_where_its_sync_fails(
    world: World, memory: Path
) -> None:
    state = world.device("one", memory / "device")
    link = state / "models" / MODEL / "current"
    failed: list[str] = []

    def failing(operation: Operation, moment: Moment) -> None:
        after = operation.kind == "sync_folder" and operation.path == link.parent
        if moment == "before" and after and link.readlink().name == "B" and not failed:
            failed.append("once")
            raise OSError(errno.EIO, "Input/output error")

    with disk.observed(failing), world.home(state, "1.1.0") as home:
        action = once(home, silent, passing)
    assert action is not None
    assert (action.state, failed) == ("ROLLED_BACK", ["once"])
    world.check_settled(state)


# The journal.


def _cut_off(world: World, folder: Path) -> Path:
    """A device on trial whose agent was killed: what it noted last is in the log alone."""
    state = world.device("one", folder / "device")

    def work() -> None:
        with world.home(state, "1.1.0") as home:
            action = once(home, silent, passing)
            os._exit(9 if action is not None and action.state == "TRIAL" else 1)

    assert forked(work) == 9
    assert (state / "agent.db-wal").stat().st_size > 0
    return state


def _garbage(path: Path, at: int, length: int) -> None:
    with path.open("r+b") as stream:
        stream.seek(at)
        stream.write(random.Random(1).randbytes(length))


def _half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _emptied(path: Path) -> None:
    os.truncate(path, 0)


def _changed(path: Path, command: str) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(command)
        connection.commit()


def _other_database(path: Path) -> None:
    for part in path.parent.glob("agent.db*"):
        part.unlink()
    _changed(path, "create table fruit (name text)")
    _changed(path, "pragma user_version = 1")


def _swapped(path: Path) -> None:
    """A page where another one should be."""
    (page,) = struct.unpack(">H", path.read_bytes()[16:18])
    content = bytearray(path.read_bytes())
    content[page : 2 * page] = content[2 * page : 3 * page]
    path.write_bytes(bytes(content))


def _settled(path: Path) -> None:
    """All that is in the log goes into the file."""
    _changed(path, "pragma wal_checkpoint(truncate)")


def _both(*steps: Callable[[Path], object]) -> Callable[[Path], None]:
    def do(path: Path) -> None:
        for step in steps:
            step(path)

    return do


DAMAGES: dict[str, Callable[[Path], object]] = {
    "emptied": _both(_settled, _emptied),
    "gone": lambda path: [part.unlink() for part in path.parent.glob("agent.db*")],
    "cut in half": _both(_settled, _half),
    "garbage in front": _both(_settled, lambda path: _garbage(path, 0, 64)),
    "garbage in its pages": _both(_settled, lambda path: _garbage(path, 4096, 8192)),
    "a wrong page": _both(_settled, _swapped),
    "without its log": lambda path: path.with_name("agent.db-wal").unlink(),
    "a log of garbage": lambda path: _garbage(path.with_name("agent.db-wal"), 0, 4096),
    "half a log": lambda path: _half(path.with_name("agent.db-wal")),
    "another database": _other_database,
    "an unknown state": lambda path: _changed(path, "update action set state = 'DREAMING'"),
    "an unknown slot": lambda path: _changed(path, "update action set slot = 'C'"),
    "a model that leads elsewhere": lambda path: _changed(path, "update action set model = '../x'"),
    "an order of garbage": lambda path: _changed(path, "update action set order_json = '{'"),
    "an order of nothing": lambda path: _changed(path, "update action set order_json = '{}'"),
}
SILENT = {"emptied", "gone", "without its log", "a log of garbage", "half a log"}
"""SQLite cannot tell these from an older journal, or from none."""


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_journal(world: World, memory: Path, name: str) -> None:
    state = _cut_off(world, memory)
    DAMAGES[name](state / "agent.db")
    told: list[str] = []
    with world.home(state, "1.1.0") as home:
        recover(home, told.append)
        assert home.journal.unfinished() is None or name in SILENT
        found = home.journal.fact(DAMAGED)
    running = world._release(world.runs(Real(state)))
    if name not in SILENT:
        assert "the journal was damaged" in told[0]
        assert found is not None
        assert (state / "agent.db.damaged").exists()
        # Nobody knows any more how the trial stands.
        assert running == "1.0.0"
    assert running in ("1.0.0", "1.1.0")
    with world.home(state, "1.1.0") as home:
        update(world, home)
        assert home.journal.unfinished() is None
    with world.home(state, "1.2.0") as home:
        update(world, home)
    assert world._release(world.runs(Real(state))) == "1.2.0"


def test_a_journal_of_a_newer_agent_is_left_alone(world: World, memory: Path) -> None:
    state = world.device("one", memory / "device")
    _changed(state / "agent.db", "pragma user_version = 99")
    with pytest.raises(StorageError, match="has version 99"), world.home(state, None):
        pass
    assert not (state / "agent.db.damaged").exists()


def test_a_journal_does_not_grow_without_end(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.updates.journal.KEPT", 5)
    journal = Journal(memory / "agent.db")
    for number in range(20):
        order = Order(manifest_sha256="0" * 64)
        action = Action(id=f"a-{number}", model=MODEL, kind="online", order=order)
        action = journal.enter(journal.begin(action), "REJECTED")
        journal.keep_report(f"{action.id}/REJECTED", action.id, "REJECTED", b"{}")
    assert [name for name, _ in journal.unsent()] == [f"a-{n}/REJECTED" for n in range(14, 20)]
    assert journal.history("a-13") == []
    assert [state for _, state, _ in journal.history("a-14")] == ["RECEIVED", "REJECTED"]
    journal.close()


def test_a_blob_that_was_damaged_is_fetched_again(world: World, memory: Path) -> None:
    """The file that 1.0.0 shares with 1.1.0 has rotted since."""
    state = world.device("one", memory / "device")
    slot = state / "models" / MODEL / "A"
    blob = state / "blobs" / "sha256" / sha256_of(slot / "labels.txt")
    size = blob.stat().st_size
    blob.unlink()
    blob.write_bytes(bytes(size))
    with world.home(state, "1.1.0") as home:
        update(world, home)
    world.check_settled(state)
    assert world._release(world.runs(Real(state))) == "1.1.0"


@pytest.mark.parametrize("name", ["model.bin", "slot.json", "manifest.json", "deep/er.bin"])
def test_what_runs_has_lost_a_file(world: World, memory: Path, name: str) -> None:
    state = world.device("two", memory / "device")
    (state / "models" / MODEL / "B" / name).unlink()
    told: list[str] = []
    with world.home(state, None) as home:
        recover(home, told.append)
    assert "1.0.0 runs again" in "".join(told)
    assert world._release(world.runs(Real(state))) == "1.0.0"


def test_what_runs_has_lost_a_file_and_nothing_else_is_here(world: World, memory: Path) -> None:
    state = world.device("one", memory / "device")
    (state / "models" / MODEL / "A" / "model.bin").unlink()
    told: list[str] = []
    with world.home(state, "1.1.0") as home:
        recover(home, told.append)
        assert "nothing else is here" in "".join(told)
        update(world, home)
    assert world._release(world.runs(Real(state))) == "1.1.0"


def test_an_action_that_was_moved_on_is_not_moved_on_twice(world: World, memory: Path) -> None:
    state = world.device("trial", memory / "device")
    with world.home(state, None) as home:
        stale = home.journal.unfinished()
        assert stale is not None
        confirm_now(home, MODEL)
        with pytest.raises(SlipwayError, match="further than TRIAL"):
            home.journal.enter(stale, "ROLLING_BACK")
    world.check_settled(state)


def _commits(path: Path, tells: int) -> None:
    journal = Journal(path)
    for number in range(journal.number("n") + 1, 10**9):
        journal.raise_number("n", number)
        os.write(tells, struct.pack(">q", number))


def test_killed_in_the_middle_of_commits(memory: Path) -> None:
    """What was acknowledged is there, and at most one more; nothing is damaged."""
    path, rng, acknowledged = memory / "agent.db", random.Random(3), 0
    Journal(path).close()
    for _ in range(25):
        heard, tells = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.close(heard)
                _commits(path, tells)
            finally:
                os._exit(1)
        os.close(tells)
        while not os.read(heard, 8):
            time.sleep(0.001)
        time.sleep(rng.uniform(0.0, 0.006))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        acknowledged = max(acknowledged, *_heard(heard, acknowledged))
        journal = Journal(path)
        assert not journal.was_damaged
        # The first number that was told was read before the others.
        assert journal.number("n") in (acknowledged, acknowledged + 1, acknowledged + 2)
        acknowledged = journal.number("n")
        journal.close()
    assert acknowledged > 25


def _heard(pipe: int, least: int) -> list[int]:
    content = b""
    while part := os.read(pipe, 65536):
        content += part
    os.close(pipe)
    return [least, *(number for (number,) in struct.iter_unpack(">q", content))]


# Clocks.


def _wall(monkeypatch: pytest.MonkeyPatch, days: float) -> None:
    """The device's wall clock is off by so much."""

    class Clocked(dt.datetime):
        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> Clocked:
            moved = dt.datetime.now(tz) + dt.timedelta(days=days)
            return cls.fromtimestamp(moved.timestamp(), tz)

    fake = types.SimpleNamespace(datetime=Clocked, timezone=dt.timezone, timedelta=dt.timedelta)
    monkeypatch.setattr("agent.updates.home.dt", fake)


YEAR = 365.25


@pytest.mark.parametrize("years", [-30, -1, 0])
def test_a_clock_that_is_behind_stops_nothing(
    world: World, memory: Path, monkeypatch: pytest.MonkeyPatch, years: int
) -> None:
    state = world.device("fresh", memory / "device")
    _wall(monkeypatch, years * YEAR)
    for release in ("1.0.0", "1.1.0"):
        with world.home(state, release) as home:
            update(world, home)
    world.check_settled(state)
    assert world._release(world.runs(Real(state))) == "1.1.0"


def test_a_clock_that_is_ahead_ends_no_trial_and_nothing_that_runs(
    world: World, memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = world.device("trial", memory / "device")
    told: list[str] = []
    with monkeypatch.context() as ahead:
        _wall(ahead, 20 * YEAR)
        with world.home(state, "1.1.0") as home:
            action = once(home, told.append, passing)
        assert action is not None
        assert action.state == "TRIAL"
        assert "expired" in "".join(told)
    # Set right, it goes on: nothing has remembered that time.
    with world.home(state, "1.1.0") as home:
        update(world, home)
    with world.home(state, "1.2.0") as home:
        update(world, home)
    world.check_settled(state)
    assert world._release(world.runs(Real(state))) == "1.2.0"


def _at(monkeypatch: pytest.MonkeyPatch, boot: str, uptime_s: float) -> None:
    monkeypatch.setattr(Home, "clock", lambda _: Clock(boot_id=boot, uptime_s=uptime_s))


def test_boots_are_counted_where_a_trial_never_ends(
    world: World, memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = world.device("trial", memory / "device")
    for boot in range(MOST_STARTS):
        _at(monkeypatch, f"boot-{boot}", 20.0)
        with world.home(state, "1.1.0") as home:
            action = recover(home, silent)
        assert action is not None
        assert (action.state, action.boots) == ("TRIAL", boot + 1)
    _at(monkeypatch, "one too many", 20.0)
    with world.home(state, "1.1.0") as home:
        assert recover(home, silent) is None
    assert world.check_settled(state)[-1].state == "ROLLED_BACK"


@pytest.mark.parametrize(("confirm", "state_then"), [("health", "ROLLED_BACK"), ("deadline", "CONFIRMED")])  # fmt: skip
def test_a_trial_whose_time_is_up(
    world: World, memory: Path, monkeypatch: pytest.MonkeyPatch, confirm: str, state_then: str
) -> None:
    state = world.device("one", memory / "device")
    config = dataclasses.replace(
        world.config(state, "1.1.0"),
        trial=Trial(seconds=60.0, confirm=confirm),  # type: ignore[arg-type]
    )
    _at(monkeypatch, "boot", 1000.0)
    with Home(config) as home:
        once(home, silent, passing)
    _at(monkeypatch, "boot", 1059.0)
    with Home(config) as home:
        action = once(home, silent, passing)
        assert action is not None
        assert action.state == "TRIAL"
    _at(monkeypatch, "boot", 1061.0)
    with Home(config) as home:
        once(home, silent, passing)
    assert world.check_settled(state)[-1].state == state_then
