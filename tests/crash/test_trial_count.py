"""Starts are counted by a shim that knows nothing of the agent, and by an agent that may be away."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from agent import shim
from agent.shim import TRIAL, count_start, counting, forget_starts, starts_of, trial_of
from agent.updates.install import confirm_now
from agent.updates.outcome import FELL_BACK
from agent.updates.recover import recover
from agent.updates.run import once
from agent.updates.shim_file import begin_count, end_count, keep_count
from tests.crash.world import Real, World, forked
from tests.updates.fleet import MODEL, passing, silent


@pytest.fixture
def device(world: World, memory: Path) -> Path:
    """One on which 1.1.0 is on trial, and 1.0.0 is what worked."""
    return world.device("trial", memory / "device")


def _model(device: Path) -> Path:
    return device / "models" / MODEL


def _release(world: World, device: Path) -> str | None:
    return world._release(world.runs(Real(device)))


def test_three_starts_and_the_fourth_falls_back(world: World, device: Path) -> None:
    told = [count_start(_model(device)) for _ in range(3)]
    assert told == [None] * 3
    assert _release(world, device) == "1.1.0"
    assert "back to slot A" in (count_start(_model(device)) or "")
    assert _release(world, device) == "1.0.0"
    with world.home(device, "1.1.0") as home:
        once(home, silent, passing)
        last = home.journal.last(MODEL)
    assert last is not None
    assert (last.state, last.reason) == ("ROLLED_BACK", "`current` names the old slot")
    world.check_settled(device)


def test_a_start_of_the_agent_after_three_of_the_application(world: World, device: Path) -> None:
    for _ in range(3):
        count_start(_model(device))
    with world.home(device, "1.1.0") as home:
        recover(home, silent)
        last = home.journal.last(MODEL)
    assert last is not None
    assert last.state == "ROLLED_BACK"
    assert "3 starts" in last.reason
    assert _release(world, device) == "1.0.0"


def test_a_good_run_forgets_the_starts_before_it(world: World, device: Path) -> None:
    for _ in range(3):
        count_start(_model(device))
    forget_starts(_model(device))
    assert starts_of(_model(device)) == 0
    assert [count_start(_model(device)) for _ in range(3)] == [None] * 3
    assert _release(world, device) == "1.1.0"


def test_starts_at_once_are_all_counted(tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to("B")
    begin_count(tmp_path, "B", None)

    def many() -> None:
        for _ in range(25):
            count_start(tmp_path)

    threads = [threading.Thread(target=forked, args=(many,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert starts_of(tmp_path) == 100


def test_what_was_confirmed_is_not_counted_by_a_shim_that_was_at_work(
    world: World, device: Path
) -> None:
    """It has read the file, and writes it again: not after the agent has ended the count."""
    reads = threading.Event()

    def slow_shim() -> None:
        with counting(_model(device)):
            trial = trial_of(_model(device))
            reads.set()
            time.sleep(0.2)
            shim._write(_model(device) / TRIAL, {**(trial or {}), "starts": 1})

    thread = threading.Thread(target=slow_shim)
    thread.start()
    reads.wait()
    with world.home(device, "1.1.0") as home:
        assert confirm_now(home, MODEL).state == "CONFIRMED"
    thread.join()
    world.check_settled(device)
    assert [count_start(_model(device)) for _ in range(9)] == [None] * 9


def test_a_shim_that_was_faster_than_a_good_word(world: World, device: Path) -> None:
    with world.home(device, "1.1.0") as home:
        for _ in range(4):
            count_start(_model(device))
        done = confirm_now(home, MODEL)
    assert (done.state, done.reason) == ("ROLLED_BACK", FELL_BACK)
    world.check_settled(device)


def test_a_shim_that_hangs_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shim, "_WAITS_S", 0.05)
    (tmp_path / "current").symlink_to("B")
    begin_count(tmp_path, "B", "A")
    with counting(tmp_path):
        assert count_start(tmp_path) is None
    assert starts_of(tmp_path) == 1


def test_a_count_that_was_lost_begins_anew(world: World, device: Path) -> None:
    (_model(device) / TRIAL).unlink()
    with world.home(device, "1.1.0") as home:
        recover(home, silent)
    assert trial_of(_model(device)) == {"slot": "B", "old": "A", "starts": 0, "most": 3}


def test_a_count_that_is_there_goes_on(tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to("B")
    begin_count(tmp_path, "B", "A")
    count_start(tmp_path)
    keep_count(tmp_path, "B", "A")
    assert starts_of(tmp_path) == 1


def test_what_a_killed_shim_left_is_cleared_up(tmp_path: Path) -> None:
    (tmp_path / ".trial.4711").write_bytes(b"{")
    (tmp_path / ".current.4711.shim").symlink_to("A")
    (tmp_path / ".hers").write_bytes(b"")
    assert end_count(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".hers"]


def test_a_trial_that_the_journal_has_lost_is_taken_back(world: World, device: Path) -> None:
    for path in device.glob("agent.db*"):
        path.unlink()
    told: list[str] = []
    with world.home(device, None) as home:
        recover(home, told.append)
    assert _release(world, device) == "1.0.0"
    assert "a trial that nothing is known of was taken back" in "".join(told)


def test_what_ran_goes_on_where_the_slot_before_is_damaged(world: World, device: Path) -> None:
    place = _model(device) / "A" / "model.bin"
    place.chmod(0o644)
    place.write_bytes(b"?" * place.stat().st_size)
    with world.home(device, "1.1.0") as home:
        for _ in range(3):
            count_start(_model(device))
        recover(home, silent)
        last = home.journal.last(MODEL)
    assert last is not None
    assert "slot A is damaged, so what ran goes on" in last.reason
    assert _release(world, device) == "1.1.0"
