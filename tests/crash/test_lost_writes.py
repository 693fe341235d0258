"""What power cuts leave: at every moment of an installation, an update and one that is taken back.

`power` says what a disk may hold then. On each such disk what runs has to be complete and what was
acknowledged has to hold; and after a start the update ends as if nothing had happened. The same
holds for a cut after a kill, when others have gone on from what was killed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import pickle
import shutil
import sqlite3
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent import disk
from agent.disk import Moment, Operation
from agent.errors import SlipwayError
from agent.updates.home import Home
from agent.updates.recover import recover
from tests.crash.power import (
    JOURNAL,
    Recorder,
    State,
    Step,
    crashes,
    is_sync,
    sync_sites,
    without,
)
from tests.crash.world import (
    SCENARIOS,
    BrokenError,
    Noted,
    Scenario,
    World,
    check_end,
    forked,
    noted_of,
)
from tests.updates.fleet import silent


@dataclasses.dataclass(frozen=True)
class Recording:
    """What was done on one device."""

    scenario: Scenario
    root: Path
    """As it was before."""
    place: Path
    """Where it was done."""
    journal: bytes | None
    steps: list[Step]
    begin: int
    """The first moment that is looked at."""


def record(world: World, name: str, folder: Path, *, kill: int | None = None) -> Recording:
    """Do something from its beginning to its end.

    Args:
        world: with the device to begin with.
        name: of the scenario.
        folder: for the device.
        kill: the agent is killed after so many operations, and started again; only what comes then
            is looked at.
    """
    scenario = SCENARIOS[name.removesuffix(WITHOUT_LINKS)]
    refusal = _no_links if name.endswith(WITHOUT_LINKS) else _nothing
    root = world.device(scenario.kind, folder / "root")
    journal = root / JOURNAL
    before = _serialised(journal) if journal.exists() else None
    state = shutil.copytree(root, folder / "device", symlinks=True)
    begin, steps = 0, []
    if kill is not None:
        found = folder / "steps"
        with disk.observed(refusal):
            forked(lambda: _recorded(world, scenario, state, found, kill))
        steps = pickle.loads(found.read_bytes())
        begin = len(steps)
    with disk.observed(refusal):
        steps = steps + _recorded(world, scenario, state, None, -1)
    return Recording(scenario, root, state, before, steps, begin)


def _no_links(operation: Operation, _: Moment) -> None:
    """A file system on which a file has one name."""
    if operation.kind == "link":
        raise OSError(errno.EMLINK, "Too many links")


def _nothing(_: Operation, __: Moment) -> None:
    pass


def _recorded(
    world: World, scenario: Scenario, state: Path, out: Path | None, kill: int
) -> list[Step]:
    open_home: list[Home] = []

    def journal() -> bytes:
        return open_home[0].journal._connection.serialize()

    recorder = Recorder(state, journal)

    def fuse(_: Operation, moment: Moment) -> None:
        if len(recorder.steps) == kill and out is not None and moment == "after":
            out.write_bytes(pickle.dumps(recorder.steps))
            os._exit(0)

    with disk.observed(recorder), disk.observed(fuse), world.home(state, scenario.release) as home:
        open_home.append(home)
        scenario.work(world, home)
    if out is not None:
        raise AssertionError(f"it had only {len(recorder.steps)} operations")
    return recorder.steps


def _serialised(path: Path) -> bytes:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.serialize()


@dataclasses.dataclass(frozen=True)
class _Modelled:
    """A crash state as `World` reads one."""

    entries: dict[str, bytes | str | None]

    def read(self, path: str) -> bytes | None:
        found = self.entries.get(path)
        return found if isinstance(found, bytes) else None

    def link(self, path: str) -> str | None:
        found = self.entries.get(path)
        return found if isinstance(found, str) else None


class Judge:
    """Checks crash states; what was seen before is not looked at again."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world, self.folder = world, folder
        self.states = self.looked = self.started = self.ended = 0
        self._journals: dict[int, tuple[Noted, ...]] = {}
        self._seen: set[int] = set()
        self._started: set[int] = set()
        self._ends: set[int] = set()

    def check(self, recording: Recording, state: State, *, to_the_end: bool) -> None:
        """Check one state.

        Raises:
            BrokenError: something does not hold.
        """
        self.states += 1
        noted = self._noted(state.journal)
        models = tuple(entry for entry in state.entries if entry[0].startswith("models"))
        key = hash((models, noted))
        if key not in self._seen:
            self.looked += 1
            self.world.check(_Modelled(dict(models)), noted)
            self._seen.add(key)
        key = hash((key, tuple(_as_read(state))))
        if key not in self._started:
            self._started.add(key)
            self.started += 1
            self._start(recording, state, to_the_end=to_the_end)

    def _start(self, recording: Recording, state: State, *, to_the_end: bool) -> None:
        scenario, world = recording.scenario, self.world
        place = self.folder / "built"
        state.build(place)
        try:
            with world.home(place, scenario.release) as home:
                recover(home, silent)
                _check_identity(home)
                after = hash((noted_of(home.journal._connection), _names(place)))
            world.check_settled(place)
            if to_the_end and after not in self._ends:
                self._ends.add(after)
                self.ended += 1
                with world.home(place, scenario.release) as home:
                    scenario.work(world, home)
                check_end(world, scenario, place)
        finally:
            shutil.rmtree(place)

    def _noted(self, journal: bytes | None) -> tuple[Noted, ...]:
        if journal is None:
            return ()
        key = hash(journal)
        if key not in self._journals:
            with contextlib.closing(sqlite3.connect(":memory:")) as connection:
                # In memory there is no write-ahead log: bytes 18 and 19 say that there is one.
                connection.deserialize(journal[:18] + b"\1\1" + journal[20:])
                self._journals[key] = noted_of(connection)
        return self._journals[key]


def _as_read(state: State) -> Iterator[tuple[str, object]]:
    """What a start reads of the rest: of blobs their length, and of what was fetched the name."""
    for name, content in state.entries:
        if name.endswith((".part", ".etag")):
            yield name, None
        elif name.startswith("blobs/") and content is not None:
            yield name, len(content)
        elif "/." not in f"/{name}" and not name.startswith("trust"):
            yield name, content


def _names(place: Path) -> tuple[str, ...]:
    names = (path.relative_to(place).as_posix() for path in place.rglob("*"))
    return tuple(sorted(name for name in names if not name.startswith((JOURNAL, "trust"))))


def _check_identity(home: Home) -> None:
    for _, envelope in home.journal.unsent(1):
        signer = json.loads(envelope)["signatures"][0]["keyid"]
        if signer != home.device.device_id:
            raise BrokenError(f"the device is {home.device.device_id}, and was {signer}")


def enumerate_all(judge: Judge, recording: Recording, *, most: int, ends: int) -> None:
    """Check every crash state of a recording, up to `most`; every `ends`-th goes on to the end."""
    found = crashes(
        recording.root,
        recording.steps,
        journal=recording.journal,
        place=recording.place,
        begin=recording.begin,
    )
    for number, (done, state) in enumerate(found):
        if number >= most:
            return
        try:
            judge.check(recording, state, to_the_end=number % ends == 0)
        except Exception as error:
            last = recording.steps[done - 1] if done else None
            error.add_note(
                f"after step {done} of {len(recording.steps)}: {last and last.operation}"
            )
            raise


def recordings(world: World, folder: Path, names: list[str], every: int) -> Iterator[Recording]:
    """Of these scenarios, whole; and with the agent killed after every so many operations.

    With `every` 0 it is killed where something is done and not synced yet: before each sync.
    """
    for name in names:
        whole = record(world, name, folder / name / "whole")
        yield whole
        kills = range(1, len(whole.steps), every or 1)
        for kill in kills:
            if every or is_sync(whole.steps[kill]):
                yield record(world, name, folder / name / f"kill-{kill}", kill=kill)


WITHOUT_LINKS = ", on a file system without hard links"
NAMES = [
    "first installation",
    "first installation taken back",
    "update",
    f"update{WITHOUT_LINKS}",
    "trial taken back",
    "back to the release before",
]


def test_power_cuts_in_an_update(world: World, memory: Path) -> None:
    judge = Judge(world, memory)
    for recording in recordings(world, memory, ["update"], every=110):
        enumerate_all(judge, recording, most=150, ends=40)
    assert judge.states >= 250


@pytest.mark.long
def test_fifty_thousand_power_cuts(
    world: World, memory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    began, judge = time.monotonic(), Judge(world, memory)
    for recording in recordings(world, memory, NAMES, every=6):
        enumerate_all(judge, recording, most=10**9, ends=50)
    with capsys.disabled():
        sys.stdout.write(
            f"\nlost writes: {judge.states} crash states, {judge.looked} distinct ones of what "
            f"runs, {judge.started} starts, {judge.ended} taken to the end, "
            f"{time.monotonic() - began:.0f} s\n"
        )
    assert judge.states >= 50_000


@pytest.mark.long
def test_power_cuts_where_a_way_back_goes_ahead_of_an_update(world: World, memory: Path) -> None:
    judge = Judge(world, memory)
    for recording in recordings(world, memory, ["back while an update waits"], every=6):
        enumerate_all(judge, recording, most=10**9, ends=50)
    assert judge.states >= 20_000


@pytest.mark.long
def test_without_any_one_sync_something_is_lost(
    world: World, memory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Removing any sync of ours is found: else it would not be needed, or this test too weak."""
    found = list(recordings(world, memory, NAMES, every=0))
    sites = dict.fromkeys(site for recording in found for site in sync_sites(recording.steps))
    missed = [site for site in sites if _harm_without(world, found, site, memory) is None]
    with capsys.disabled():
        for site in sites:
            told = "NOTHING IS LOST" if site in missed else "needed"
            sys.stdout.write(f"\nsync at {Path(site[0]).name}:{site[1]}: {told}")
    assert len(sites) >= 5
    assert not missed


def _harm_without(
    world: World, found: list[Recording], site: tuple[str, int], folder: Path
) -> str | None:
    judge = Judge(world, folder)
    for recording in found:
        less = without(recording.steps, site)
        if len(less) == len(recording.steps):
            continue
        begin = len(without(recording.steps[: recording.begin], site))
        changed = dataclasses.replace(recording, steps=less, begin=begin)
        try:
            enumerate_all(judge, changed, most=3000, ends=1)
        except (BrokenError, SlipwayError, OSError) as error:
            return repr(error)
    return None
