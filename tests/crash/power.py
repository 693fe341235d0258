"""What a power cut could have left: a model of a disk on which only what was synced is sure.

The agent's operations are recorded as `agent.disk` tells them. At every moment of a recording a cut
may keep or lose each change of a folder that was not synced, whatever the others do, and of each
file any of: what was synced, all of it, or a part. That is more than any file system does, so what
survives here survives on one. A commit of the journal counts as atomic: SQLite sees to it.
"""

from __future__ import annotations

import dataclasses
import itertools
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from agent.disk import Moment, Operation

MOST_AT_ONCE = 256
"""States of one moment: where there are more, so many are drawn."""
Site = tuple[str, int]
"""File and line of ours that asked for an operation."""
_LOST, _TORN, _WHOLE = range(3)


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
    """Who called `agent.disk`: the nearest frame outside it and this module."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        name = frame.f_code.co_filename
        if not name.endswith(("agent/disk.py", "crash/power.py", "contextlib.py")):
            return name, frame.f_lineno
        frame = frame.f_back
    return "", 0


@dataclasses.dataclass
class _File:
    durable: bytes = b""
    pending: list[bytes] = dataclasses.field(default_factory=list)

    def content(self, kept: int) -> bytes:
        if kept == _LOST or not self.pending:
            return self.durable
        whole = b"".join(self.pending)
        return self.durable + (whole if kept == _WHOLE else whole[: len(whole) // 2])


@dataclasses.dataclass(frozen=True)
class _Folder:
    pass


@dataclasses.dataclass(frozen=True)
class _Link:
    target: str


_Node = "_File | _Folder | _Link"


@dataclasses.dataclass(frozen=True)
class _Change:
    """Of folders' entries: what gets a name, and which name is gone."""

    added: Path | None
    removed: Path | None
    node: object | None

    @property
    def folder(self) -> Path:
        """The one whose sync makes it durable."""
        return (self.added or self.removed or Path()).parent


@dataclasses.dataclass(frozen=True)
class State:
    """A disk after a cut: path -> content, None for a folder, a string for a link."""

    entries: tuple[tuple[str, bytes | str | None], ...]
    journal: bytes | None

    def build(self, root: Path) -> None:
        """Make it real in an empty folder."""
        for name, content in self.entries:
            path = root / name
            if content is None:
                path.mkdir()
            elif isinstance(content, str):
                path.symlink_to(content)
            else:
                path.write_bytes(content)


class Disk:
    """The model; operations are applied one by one."""

    def __init__(self, root: Path) -> None:
        """Begin with what is under `root`, all of it durable."""
        self._root = root
        self._durable: dict[Path, object] = {}
        self._pending: list[_Change] = []
        self._journal: bytes | None = None
        for path in sorted(root.rglob("*")):
            self._durable[path] = _read(path)

    def apply(self, step: Step) -> None:
        """Do one operation."""
        operation = step.operation
        path, source = operation.path, operation.source
        if operation.kind == "commit":
            self._journal = step.journal
        elif operation.kind == "create":
            self._change(path, None, _File())
        elif operation.kind == "write":
            self._file(path).pending.append(operation.data)
        elif operation.kind == "sync":
            found = self._file(path)
            found.durable, found.pending = found.content(_WHOLE), []
        elif operation.kind == "rename":
            assert source is not None
            self._change(path, source, self._at(source))
        elif operation.kind == "link":
            assert source is not None
            self._change(path, None, self._at(source))
        elif operation.kind == "symlink":
            self._change(path, None, _Link(operation.target or ""))
        elif operation.kind == "mkdir":
            self._change(path, None, _Folder())
        elif operation.kind in ("unlink", "rmdir"):
            self._change(None, path, None)
        elif operation.kind == "sync_folder":
            self._sync_folder(path)

    def states(self, rng: random.Random) -> Iterator[State]:
        """Every disk that a cut at this moment could leave; some of them where there are many."""
        files = [
            node
            for node in {id(n): n for n in self._nodes()}.values()
            if isinstance(node, _File) and node.pending
        ]
        choices = [(False, True)] * len(self._pending) + [(_LOST, _TORN, _WHOLE)] * len(files)
        count = 2 ** len(self._pending) * 3 ** len(files)
        if count <= MOST_AT_ONCE:
            picked: Iterator[Sequence[int]] = iter(itertools.product(*choices))
        else:
            picked = ([rng.choice(options) for options in choices] for _ in range(MOST_AT_ONCE))
        for pick in picked:
            kept = dict(zip(map(id, files), pick[len(self._pending) :], strict=True))
            yield self._state([bool(one) for one in pick[: len(self._pending)]], kept)

    def _state(self, kept: Sequence[bool], content: dict[int, int]) -> State:
        names = dict(self._durable)
        for change, stays in zip(self._pending, kept, strict=True):
            if stays:
                _apply(change, names)
        entries: list[tuple[str, bytes | str | None]] = []
        for path in sorted(names):
            above = path.relative_to(self._root).parents
            if not all(isinstance(names.get(self._root / p), _Folder) for p in list(above)[:-1]):
                continue  # its folder's own name was lost, and all that lay in it
            node = names[path]
            name = path.relative_to(self._root).as_posix()
            if isinstance(node, _File):
                entries.append((name, node.content(content.get(id(node), _WHOLE))))
            else:
                entries.append((name, node.target if isinstance(node, _Link) else None))
        return State(entries=tuple(entries), journal=self._journal)

    def _change(self, added: Path | None, removed: Path | None, node: object | None) -> None:
        self._pending.append(_Change(added=added, removed=removed, node=node))

    def _sync_folder(self, folder: Path) -> None:
        waiting = []
        for change in self._pending:
            if change.folder == folder:
                _apply(change, self._durable)
            else:
                waiting.append(change)
        self._pending = waiting

    def _nodes(self) -> Iterator[object]:
        yield from self._durable.values()
        yield from (change.node for change in self._pending if change.node is not None)

    def _at(self, path: Path) -> object:
        """What has a name now, as a process sees it."""
        names = dict(self._durable)
        for change in self._pending:
            _apply(change, names)
        return names[path]

    def _file(self, path: Path) -> _File:
        found = self._at(path)
        assert isinstance(found, _File)
        return found


def crashes(root: Path, steps: Sequence[Step], seed: int = 0) -> Iterator[tuple[int, State]]:
    """(how many steps were done, a disk that a cut then could leave), without repetitions.

    Args:
        root: as it was before the recording, or a copy of it at the same place.
        steps: of the recording.
        seed: of what is drawn where there are too many.
    """
    disk, rng = Disk(root), random.Random(seed)
    seen: set[int] = set()
    for done in range(len(steps) + 1):
        for state in disk.states(rng):
            if (key := hash(state)) not in seen:
                seen.add(key)
                yield done, state
        if done < len(steps):
            disk.apply(steps[done])


def without(steps: Sequence[Step], site: Site) -> list[Step]:
    """The recording as if the syncs of one line of ours had not been asked for."""
    synced = ("sync", "sync_folder")
    return [s for s in steps if not (s.site == site and s.operation.kind in synced)]


def sync_sites(steps: Sequence[Step]) -> list[Site]:
    """The lines of ours that sync something, each once."""
    synced = [s.site for s in steps if s.operation.kind in ("sync", "sync_folder")]
    return list(dict.fromkeys(synced))


def _apply(change: _Change, names: dict[Path, object]) -> None:
    if change.removed is not None:
        names.pop(change.removed, None)
    if change.added is not None:
        assert change.node is not None
        names[change.added] = change.node


def _read(path: Path) -> object:
    if path.is_symlink():
        return _Link(path.readlink().as_posix())
    return _Folder() if path.is_dir() else _File(durable=path.read_bytes())
