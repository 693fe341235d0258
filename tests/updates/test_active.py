"""The application's session: it follows the link, counts its starts, and says how it goes."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent import active
from agent.active import GOOD_RUNS, ActiveSession
from agent.config import Config
from agent.errors import ToolchainError, UsageError, VerificationError
from agent.files import point_link
from agent.local import Listener, Word
from agent.shim import TRIAL, count_start, starts_of
from agent.tensors import Array
from agent.updates.home import Home
from agent.variant import VariantRecord
from tests.updates.devices import put
from tests.updates.fleet import MODEL


class Reader:
    """A session that answers with what its file says, and fails where that says so."""

    def __init__(self, folder: Path, record: VariantRecord, prepared: Path | None) -> None:
        self.content = (folder / record.files[0].path).read_bytes()
        self.prepared = prepared
        self.closed = False
        if b"BROKEN" in self.content:
            raise ToolchainError("the file is broken", cause="c", remedy="r")

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Array]:
        assert not self.closed
        if "x" not in inputs:
            raise UsageError("x is missing")
        if b"FAILS" in self.content:
            raise RuntimeError("it fails")
        return {"y": np.frombuffer(self.content, np.uint8)}

    def close(self) -> None:
        self.closed = True


def reader(folder: Path, record: VariantRecord, *, prepared: Path | None = None) -> Reader:
    return Reader(folder, record, prepared)


@pytest.fixture
def device(tmp_path: Path) -> Path:
    """The state folder of a device that runs "one"."""
    state = tmp_path / "state"
    put(state, b"one")
    return state


@pytest.fixture
def heard(device: Path) -> Iterator[list[Word]]:
    """What was said to the agent, which does nothing but listen."""
    listener, words, over = Listener(device), list[Word](), threading.Event()

    def listen() -> None:
        while not over.is_set():
            words.extend(listener.wait(0.01, lambda _: None))

    thread = threading.Thread(target=listen)
    thread.start()
    yield words
    over.set()
    thread.join()
    listener.close()


def opened(state: Path) -> ActiveSession:
    return ActiveSession(MODEL, state, reader)


def answer(session: ActiveSession) -> bytes:
    return session.run({"x": 1})["y"].tobytes()


def settled(words: list[Word], count: int) -> list[Word]:
    until = time.monotonic() + 5
    while len(words) < count and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(0.05)
    return words


def test_a_switch_is_noticed_between_two_runs(device: Path) -> None:
    with opened(device) as session:
        assert answer(session) == b"one"
        assert session.slot.manifest.release == "one"
        put(device, b"two", on_trial=True)
        assert answer(session) == b"two"
        assert session.slot.manifest.release == "two"


def test_a_thread_that_runs_while_slots_switch_meets_no_failure(device: Path) -> None:
    put(device, b"two", on_trial=True)
    model = device / "models" / MODEL
    over, answers = threading.Event(), set[bytes]()

    def run() -> None:
        with opened(device) as session:
            while not over.is_set():
                answers.add(answer(session))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for turn in range(100):
        point_link(model / "current", "AB"[turn % 2])
        time.sleep(0.001)
    over.set()
    for thread in threads:
        thread.join()
    assert answers == {b"one", b"two"}


def test_threads_may_share_one_session(device: Path) -> None:
    put(device, b"two", on_trial=True)
    model = device / "models" / MODEL
    over, failures = threading.Event(), list[Exception]()
    with opened(device) as session:

        def run() -> None:
            try:
                while not over.is_set():
                    assert answer(session) in (b"one", b"two")
            except Exception as error:  # noqa: BLE001
                failures.append(error)

        threads = [threading.Thread(target=run) for _ in range(4)]
        for thread in threads:
            thread.start()
        for turn in range(100):
            point_link(model / "current", "AB"[turn % 2])
            time.sleep(0.001)
        over.set()
        for thread in threads:
            thread.join()
    assert not failures


def test_a_slot_that_is_switched_and_cleared_while_it_is_opened(device: Path) -> None:
    put(device, b"two", on_trial=True)
    model = device / "models" / MODEL
    opens = 0

    def slowly(folder: Path, record: VariantRecord, *, prepared: Path | None = None) -> Reader:
        nonlocal opens
        opens += 1
        if opens == 1:  # the agent went back to A and cleared B, just now
            point_link(model / "current", "A")
            for path in sorted((model / "B").iterdir()):
                path.unlink()
        return reader(folder, record, prepared=prepared)

    with ActiveSession(MODEL, device, slowly) as session:
        assert answer(session) == b"one"
    assert opens == 2


def test_starts_count_until_a_first_good_run(device: Path) -> None:
    put(device, b"two", on_trial=True)
    model = device / "models" / MODEL
    for starts in (1, 2):
        opened(device).close()
        assert starts_of(model) == starts
    with opened(device) as session:
        assert starts_of(model) == 3
        answer(session)
        assert starts_of(model) == 0


def test_the_fourth_start_without_a_good_run_opens_what_worked(device: Path) -> None:
    put(device, b"two BROKEN", on_trial=True)
    for _ in range(3):
        with pytest.raises(ToolchainError):
            opened(device)
    with opened(device) as session:
        assert answer(session) == b"one"


def test_it_falls_back_without_the_journal_and_without_an_agent(device: Path) -> None:
    put(device, b"two BROKEN", on_trial=True)
    for name in ("agent.db", "agent.db-wal", "root.json", "device.key"):
        (device / name).write_bytes(b"\0" * 4096)
    with pytest.raises(VerificationError):
        Home(Config(state=device))
    for _ in range(3):
        with pytest.raises(ToolchainError):
            opened(device)
    with opened(device) as session:
        assert answer(session) == b"one"


def test_whom_the_shim_has_started_was_counted_there(
    device: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(device, b"two", on_trial=True)
    model = device / "models" / MODEL
    monkeypatch.setenv("SLIPWAY_MODEL", str(model / "current"))
    count_start(model)  # as `sdk-agent exec` does
    opened(device).close()
    assert starts_of(model) == 1


def test_twenty_runs_are_a_good_word(device: Path, heard: list[Word]) -> None:
    with opened(device) as session:
        for _ in range(GOOD_RUNS - 1):
            answer(session)
        time.sleep(0.05)
        assert heard == []
        for _ in range(30):
            answer(session)
    (word,) = settled(heard, 1)
    assert (word.model, word.good) == (MODEL, True)


def test_the_good_word_is_repeated_for_as_long_as_the_trial_lasts(
    device: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(active, "_AGAIN_S", 0.05)
    put(device, b"two", on_trial=True)
    with opened(device) as session:
        for _ in range(GOOD_RUNS):  # nobody listens
            answer(session)
        listener = Listener(device)
        time.sleep(0.06)
        answer(session)
        assert [word.good for word in listener.wait(5, lambda _: None)] == [True]
        (device / "models" / MODEL / TRIAL).unlink()  # it was confirmed
        time.sleep(0.06)
        answer(session)
        assert list(listener.wait(0.05, lambda _: None)) == []
        listener.close()


def test_a_failing_run_is_a_bad_word_and_many_are_few(device: Path, heard: list[Word]) -> None:
    put(device, b"two FAILS", on_trial=True)
    with opened(device) as session:
        for _ in range(50):
            with pytest.raises(RuntimeError, match="it fails"):
                answer(session)
    (word,) = settled(heard, 1)
    assert not word.good
    assert "it fails" in word.reason


def test_wrong_inputs_are_nobodys_fault(device: Path, heard: list[Word]) -> None:
    with opened(device) as session, pytest.raises(UsageError):
        session.run({})
    assert settled(heard, 0) == []


def test_what_cannot_be_opened_is_a_bad_word(device: Path, heard: list[Word]) -> None:
    put(device, b"two BROKEN", on_trial=True)
    with pytest.raises(ToolchainError):
        opened(device)
    (word,) = settled(heard, 1)
    assert "cannot be opened: the file is broken" in word.reason


def test_without_a_release_there_is_nothing_to_open(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No release of net is installed"):
        ActiveSession(MODEL, tmp_path, reader)


@pytest.mark.skipif(os.geteuid() != 0, reason="it takes root to become somebody else")
def test_whoever_may_only_read_can_run(device: Path) -> None:
    put(device, b"two", on_trial=True)
    model = device / "models" / MODEL
    trial = json.loads((model / TRIAL).read_bytes())
    for folder in (device, *device.parents):
        if folder.stat().st_mode & 0o005 != 0o005:
            folder.chmod(folder.stat().st_mode | 0o055)
    os.seteuid(65534)
    try:
        with pytest.raises(PermissionError):
            (model / "probe").write_text("")
        with opened(device) as session:
            for _ in range(2 * GOOD_RUNS):
                assert answer(session) == b"two"
    finally:
        os.seteuid(0)
    assert json.loads((model / TRIAL).read_bytes()) == trial, "and nothing was counted"
