"""What a power cut could have left: a model of a disk on which only what was synced is sure.

The agent's operations are recorded as `agent.disk` tells them. At every moment of a recording a cut
may keep or lose each change of a folder that was not synced, whatever the others do, and of each
file any of: what was synced, all of it, a part, or zeros in its length. That is more than any file system does, so what
survives here survives on one. A commit of the journal counts as atomic: SQLite sees to it.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from agent.disk import Moment, Operation

MOST_AT_ONCE = 96
"""States of one moment: where there are more, so many are drawn, the simplest ones first."""
JOURNAL = "agent.db"
Site = tuple[str, int]
"""File and line of ours that asked for an operation."""
_LOST, _TORN, _ZEROS, _WHOLE = range(4)
Content = bytes | str | None
"""Of a file; what a link says; None for a folder."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """One operation of a recording."""

    operation: Operation
    site: Site
    journal: bytes | None = None
    """Of a `commit`, the database as it is from then on."""


class Recorder:
    """An observer that keeps what happens under a folder."""

    def __init__(self, root: Path, journal: Callable[[], bytes]) -> None:
        """`journal` gives the database's bytes, right after a commit."""
        self._root = root
        self._journal = journal
        self.steps: list[Step] = []

    def __call__(self, operation: Operation, moment: Moment) -> None:
        """Keep an operation once it is done."""
        if moment == "before" or self._root not in (operation.path, *operation.path.parents):
            return
        committed = self._journal() if operation.kind == "commit" else None
        self.steps.append(Step(operation=operation, site=_site(), journal=committed))


def _site() -> Site:
    """Who called `agent.disk`: the nearest frame outside it and these tests."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        name = frame.f_code.co_filename
        ours = name.endswith(("agent/disk.py", "contextlib.py")) or "tests/crash" in name
        if not ours:
            return name, frame.f_lineno
        frame = frame.f_back
    return "", 0


class _File:
    """A file's content; it has any number of names."""

    __slots__ = ("contents", "durable", "pending")

    def __init__(self, durable: bytes = b"") -> None:
        self.durable = durable
        self.pending: list[bytes] = []
        self.contents: tuple[bytes, ...] | None = None

    def write(self, data: bytes) -> None:
        self.pending.append(data)
        self.contents = None

    def sync(self) -> None:
        self.durable, self.pending, self.contents = self.content(_WHOLE), [], None

    def content(self, kept: int) -> bytes:
        if self.contents is None:
            whole = b"".join(self.pending)
            torn = whole[: len(whole) // 2]
            zeros = bytes(len(whole))  # its length was kept, and what it holds was not
            self.contents = tuple(self.durable + tail for tail in (b"", torn, zeros, whole))
        return self.contents[kept]


class _Folder:
    """One folder, which its name does not make: a new one of the same name is another."""


@dataclasses.dataclass(frozen=True)
class _Link:
    target: str


_Node = _File | _Folder | _Link
_Name = tuple[_Folder, str]
"""A name within one folder."""


@dataclasses.dataclass(frozen=True)
class _Change:
    """Of a folder's entries: what gets a name, and which name is gone."""

    added: _Name | None
    removed: _Name | None
    node: _Node | None

    def is_of(self, folder: _Folder) -> bool:
        """Whether that folder's sync makes it durable; of a rename, the new name's."""
        name = self.added or self.removed
        return name is not None and name[0] is folder


@dataclasses.dataclass(frozen=True)
class State:
    """A disk after a cut."""

    entries: tuple[tuple[str, Content], ...]
    """(path from the root, content), folders before what is in them."""
    journal: bytes | None

    def build(self, root: Path) -> None:
        """Make it real in a folder that is not there yet."""
        Path(root).mkdir()
        for name, content in self.entries:
            path = f"{root}/{name}"
            if content is None:
                Path(path).mkdir()
            elif isinstance(content, str):
                Path(path).symlink_to(content)
            else:
                _write(path, content)
        if self.journal is not None:
            _write(f"{root}/{JOURNAL}", self.journal)


class Disk:
    """The model; operations are applied one by one."""

    def __init__(
        self, root: Path, journal: bytes | None = None, *, place: Path | None = None
    ) -> None:
        """Begin with what is under `root`, all of it durable.

        Args:
            root: the state folder as it was before, or a copy.
            journal: its database, which is not read.
            place: where the operations are, if that is somewhere else.
        """
        self._prefix = f"{place or root}/"
        self._top = _Folder()
        self._pending: list[_Change] = []
        self._journal = journal
        self._seen: dict[str, _Node] = {}
        """As processes see it, by path."""
        self._durable: dict[_Name, _Node] = {}
        files: dict[int, _File] = {}
        for path in sorted(root.rglob("*")):
            name = path.relative_to(root).as_posix()
            if not name.startswith(JOURNAL):
                self._seen[name] = _read(path, files)
                self._durable[self._place(name)] = self._seen[name]

    def apply(self, step: Step) -> None:
        """Do one operation."""
        operation = step.operation
        path = self._name(operation.path)
        if path.startswith(JOURNAL):
            self._journal = step.journal if operation.kind == "commit" else self._journal
        elif operation.kind == "write":
            self._file(path).write(operation.data)
        elif operation.kind == "sync":
            self._file(path).sync()
        elif operation.kind == "sync_folder":
            self._sync_folder(path)
        elif operation.kind in ("unlink", "rmdir"):
            if path in self._seen:  # else it was scratch, which nobody tells of or needs
                self._change(None, path, None)
        elif operation.kind in ("rename", "link"):
            assert operation.source is not None
            source = self._name(operation.source)
            node = self._seen[source]
            assert not isinstance(node, _Folder)
            self._change(path, source if operation.kind == "rename" else None, node)
        else:
            made: _Node = _File()
            if operation.kind == "mkdir":
                made = _Folder()
            elif operation.kind == "symlink":
                made = _Link(operation.target or "")
            self._change(path, None, made)

    def states(self, rng: random.Random) -> Iterator[State]:
        """Every disk that a cut at this moment could leave; some of them where there are many."""
        files = list({id(node): node for node in self._nodes() if node.pending}.values())
        changes = len(self._pending)
        choices = [(0, 1)] * changes + [(_LOST, _TORN, _ZEROS, _WHOLE)] * len(files)
        if 2**changes * 4 ** len(files) <= MOST_AT_ONCE:
            picked: Iterator[tuple[int, ...]] = iter(itertools.product(*choices))
        else:
            picked = itertools.islice(_drawn(choices, changes, rng), MOST_AT_ONCE)
        for pick in picked:
            yield self._state(pick[:changes], dict(zip(files, pick[changes:], strict=True)))

    def _state(self, kept: Sequence[int], content: dict[_File, int]) -> State:
        names = dict(self._durable)
        for change, stays in zip(self._pending, kept, strict=True):
            if stays:
                _apply(change, names)
        inside: dict[_Folder, list[tuple[str, _Node]]] = {}
        for (folder, name), node in names.items():
            inside.setdefault(folder, []).append((name, node))
        entries: list[tuple[str, Content]] = []
        # What lies in a folder whose own name was lost is not reached, and lost as well.
        ahead: list[tuple[str, _Folder]] = [("", self._top)]
        while ahead:
            above, folder = ahead.pop()
            for name, node in inside.get(folder, ()):
                if isinstance(node, _File):
                    entries.append((above + name, node.content(content.get(node, _WHOLE))))
                elif isinstance(node, _Folder):
                    entries.append((above + name, None))
                    ahead.append((f"{above}{name}/", node))
                else:
                    entries.append((above + name, node.target))
        return State(entries=tuple(sorted(entries, key=_path)), journal=self._journal)

    def _change(self, added: str | None, removed: str | None, node: _Node | None) -> None:
        change = _Change(
            added=None if added is None else self._place(added),
            removed=None if removed is None else self._place(removed),
            node=node,
        )
        self._pending.append(change)
        if removed is not None:
            del self._seen[removed]
        if added is not None and node is not None:
            self._seen[added] = node

    def _sync_folder(self, path: str) -> None:
        folder = self._seen[path] if path else self._top
        assert isinstance(folder, _Folder)
        waiting = []
        for change in self._pending:
            if change.is_of(folder):
                _apply(change, self._durable)
            else:
                waiting.append(change)
        self._pending = waiting

    def _nodes(self) -> Iterator[_File]:
        for node in (*self._durable.values(), *self._seen.values()):
            if isinstance(node, _File):
                yield node

    def _place(self, path: str) -> _Name:
        above, _, name = path.rpartition("/")
        folder = self._seen[above] if above else self._top
        assert isinstance(folder, _Folder)
        return folder, name

    def _file(self, path: str) -> _File:
        found = self._seen[path]
        assert isinstance(found, _File)
        return found

    def _name(self, path: Path) -> str:
        return f"{path}/".removeprefix(self._prefix).rstrip("/")


def crashes(
    root: Path,
    steps: Sequence[Step],
    *,
    journal: bytes | None = None,
    place: Path | None = None,
    begin: int = 0,
    seed: int = 0,
) -> Iterator[tuple[int, State]]:
    """(how many steps were done, a disk that a cut then could leave), without repetitions.

    Args:
        root: as it was before the recording, or a copy of it.
        steps: of the recording.
        journal: as it was before the recording.
        place: where the recording was made, if not there.
        begin: the first step before which a cut is looked at.
        seed: of what is drawn where there are too many.
    """
    disk, rng = Disk(root, journal, place=place), random.Random(seed)
    seen: set[int] = set()
    for done in range(len(steps) + 1):
        if done >= begin:
            for state in disk.states(rng):
                if (key := hash(state)) not in seen:
                    seen.add(key)
                    yield done, state
        if done < len(steps):
            disk.apply(steps[done])


def without(steps: Sequence[Step], site: Site) -> list[Step]:
    """The recording as if the syncs of one line of ours had not been asked for."""
    return [step for step in steps if not (step.site == site and is_sync(step))]


def sync_sites(steps: Sequence[Step]) -> list[Site]:
    """The lines of ours that sync something, each once."""
    return list(dict.fromkeys(step.site for step in steps if is_sync(step)))


def is_sync(step: Step) -> bool:
    """Whether it makes something durable."""
    return step.operation.kind in ("sync", "sync_folder")


def _drawn(
    choices: Sequence[Sequence[int]], changes: int, rng: random.Random
) -> Iterator[tuple[int, ...]]:
    """Picks without end: all, none, everything up to a moment, all but one, one alone; then any."""
    whole, none = [options[-1] for options in choices], [options[0] for options in choices]
    for first, then in ((whole, none), (none, whole)):
        yield tuple(first)
        for place in range(len(choices)):
            for other in choices[place]:
                if other != first[place]:
                    yield (*first[:place], other, *first[place + 1 :])
            if place < changes:
                yield (*first[:place], *then[place:changes], *whole[changes:])
    while True:
        yield tuple(rng.choice(options) for options in choices)


def _apply(change: _Change, names: dict[_Name, _Node]) -> None:
    if change.removed is not None:
        names.pop(change.removed, None)
    if change.added is not None:
        assert change.node is not None
        names[change.added] = change.node


def _path(entry: tuple[str, Content]) -> str:
    return entry[0]


def _read(path: Path, files: dict[int, _File]) -> _Node:
    if path.is_symlink():
        return _Link(path.readlink().as_posix())
    if path.is_dir():
        return _Folder()
    return files.setdefault(path.stat().st_ino, _File(path.read_bytes()))


def _write(path: str, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        os.write(descriptor, content)
    finally:
        os.close(descriptor)
