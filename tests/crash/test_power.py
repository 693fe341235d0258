"""The model of a disk: what it may keep of a few operations, and that it is the disk otherwise."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from agent import disk
from agent.files import make_folders, point_link, write_atomic
from tests.crash.power import (
    JOURNAL,
    Disk,
    Recorder,
    State,
    Step,
    crashes,
    is_sync,
    sync_sites,
    without,
)
from tests.crash.test_lost_writes import record
from tests.crash.world import SCENARIOS, World


def _recorded(root: Path, work: Callable[[Path], object]) -> Recorder:
    recorder = Recorder(root, bytes)
    with disk.observed(recorder):
        work(root)
    return recorder


def _last(root: Path, work: Callable[[Path], object]) -> set[tuple[tuple[str, object], ...]]:
    """What a cut right after the work may leave, the work's own files being gone again."""
    recorder = _recorded(root, work)
    before = root.with_name("before")
    before.mkdir()
    model = Disk(before, place=root)
    for step in recorder.steps:
        model.apply(step)
    return {state.entries for state in model.states(random.Random(0))}


def _write(root: Path) -> None:
    with disk.Writer(root / "a") as stream:
        stream.write(b"1234")


def _write_synced(root: Path) -> None:
    with disk.Writer(root / "a") as stream:
        stream.write(b"1234")
        stream.sync()


def _in_a_folder(root: Path) -> None:
    disk.mkdir(root / "f")
    _write_synced(root / "f")
    disk.sync_folder(root / "f")


CASES: dict[str, tuple[Callable[[Path], object], set[tuple[tuple[str, object], ...]]]] = {
    "a file without any sync": (
        _write,
        {(), *((("a", left),) for left in (b"", b"12", b"\0\0\0\0", b"1234"))},
    ),
    "a file whose name was not synced": (_write_synced, {(), (("a", b"1234"),)}),
    "a file and its name": (
        lambda root: (_write_synced(root), disk.sync_folder(root)),
        {(("a", b"1234"),)},
    ),
    "a folder whose own name was not synced": (
        _in_a_folder,
        {(), (("f", None), ("f/a", b"1234"))},
    ),
    "all of it": (
        lambda root: write_atomic(root / "f" / "a", b"1234"),
        {(("f", None), ("f/a", b"1234"))},
    ),
    "a link": (lambda root: point_link(root / "l", "a"), {(("l", "a"),)}),
    "a folder made anew under its name": (
        lambda root: (
            write_atomic(root / "f" / "a", b"1"),
            disk.unlink(root / "f" / "a"),
            disk.rmdir(root / "f"),
            make_folders(root / "f"),
            write_atomic(root / "f" / "b", b"2"),
        ),
        {(("f", None), ("f/b", b"2"))},
    ),
    "a name that is gone, and not durably": (
        lambda root: (write_atomic(root / "a", b"1"), disk.unlink(root / "a")),
        {(), (("a", b"1"),)},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_a_cut_may_leave(tmp_path: Path, name: str) -> None:
    work, may = CASES[name]
    root = tmp_path / "root"
    root.mkdir()
    assert _last(root, work) == may


def test_without_its_sync_a_file_is_torn(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    empty = tmp_path / "empty"
    empty.mkdir()
    steps = _recorded(root, lambda root: write_atomic(root / "a", b"1234")).steps
    assert [is_sync(step) for step in steps] == [False, False, True, False, True]
    sites = sync_sites(steps)
    assert len(sites) == 2

    def left(found: list[Step]) -> set[object]:
        states = crashes(empty, found, place=root)
        return {dict(state.entries).get("a") for _, state in states}

    assert left(list(steps)) == {None, b"1234"}
    assert b"\0\0\0\0" in left(list(without(steps, sites[0])))


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_model_is_the_disk_where_nothing_is_lost(world: World, memory: Path, name: str) -> None:
    recording = record(world, name, memory)
    model = Disk(recording.root, recording.journal, place=recording.place)
    for step in recording.steps:
        model.apply(step)
    pending = len(model._pending)
    modelled = model._state([1] * pending, {})
    assert _told_of(modelled) == _told_of(_read(memory / "device"))


def _read(root: Path) -> State:
    entries: list[tuple[str, bytes | str | None]] = []
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.is_symlink():
            entries.append((name, path.readlink().as_posix()))
        else:
            entries.append((name, None if path.is_dir() else path.read_bytes()))
    return State(entries=tuple(entries), journal=None)


def _told_of(state: State) -> dict[str, bytes | str | None]:
    """Without the journal, and the copies that python-tuf works on."""
    scratch = ("trust/scratch", "trust/package")
    return {
        name: content for name, content in state.entries if not name.startswith((JOURNAL, *scratch))
    }
