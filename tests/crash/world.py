"""A repository, devices at several points of their lives, and what has to hold on each of them.

Devices are folders that are copied, so a test begins a thousand times where it wants. What has to
hold is asked of a folder or of the model of a disk alike, and of the signed manifests alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import shutil
import sqlite3
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

from agent.config import Config, Idle
from agent.identity import fingerprint
from agent.manifest import Manifest, parse
from agent.updates.home import Home
from agent.updates.install import confirm_now, go_back, install, take_back
from agent.updates.journal import Action
from agent.updates.recover import recover
from agent.updates.run import once
from agent.updates.states import CANCELLABLE, FINAL, State
from sdk.release.publish import Published
from tests.updates.fleet import GROUP, MODEL, Fleet, passing, write_build

SLOTS_OF = f"models/{MODEL}"
HERE = functools.lru_cache(maxsize=1)(fingerprint)
"""What this machine is: slow to find out, and nothing here changes it."""


class BrokenError(AssertionError):
    """Something that has to hold always does not."""


class Tree(Protocol):
    """A state folder, or a model of one."""

    def read(self, path: str) -> bytes | None: ...
    def link(self, path: str) -> str | None: ...


@dataclasses.dataclass(frozen=True)
class Real:
    """A state folder."""

    folder: Path

    def read(self, path: str) -> bytes | None:
        try:
            return (self.folder / path).read_bytes()
        except OSError:
            return None

    def link(self, path: str) -> str | None:
        try:
            return (self.folder / path).readlink().as_posix()
        except OSError:
            return None


@dataclasses.dataclass(frozen=True)
class Noted:
    """One action, as a journal has it."""

    id: str
    state: State
    manifest_sha256: str
    slot: str | None
    old_slot: str | None
    reports: tuple[str, ...]


class World:
    """Four good releases and a bad one; devices on which some of them are installed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fleet = Fleet(folder / "fleet", small=True)
        self.manifests: dict[str, Manifest] = {}
        self.published: dict[str, Published] = {}
        self.told: list[str] = []
        """To whoever looks after the devices."""
        self.repositories: dict[str, Path] = {}
        self.packages: dict[str, Path] = {}
        for release in ("1.0.0", "1.1.0", "1.2.0", "1.3.0", "bad"):
            body = b"WRONG" if release == "bad" else release.encode() * 40
            more = {"labels.txt": b"the same in all" * 9, "deep/er.bin": release.encode() * 9}
            build = write_build(folder / release, {"best": body}, files={"best": more})
            published = self.fleet.publish("9.9.9" if release == "bad" else release, build)
            self.add(published)
            self.packages[release] = self.fleet.package(published)
            self.fleet.assign(published)
            self.repositories[release] = folder / f"repository-{release}"
            shutil.copytree(self.fleet.repo, self.repositories[release])
        self.devices = folder / "devices"
        self._begin()

    def add(self, published: Published) -> None:
        """Count a release among those that are signed."""
        self.published[published.release] = published
        for path in self.fleet.repo.rglob("*manifest.json"):
            content = path.read_bytes()
            self.manifests[hashlib.sha256(content).hexdigest()] = parse(content)

    def config(self, state: Path, release: str | None) -> Config:
        """Of a device that polls the repository as it was after a release."""
        place = None if release is None else str(self.repositories[release])
        return Config(state=state, repository=place, group=GROUP, reserve_mib=0)

    def device(self, kind: str, folder: Path) -> Path:
        """A copy of one of the devices, in a folder that is not there yet."""
        shutil.copytree(self.devices / kind, folder, symlinks=True)
        return folder

    def home(self, state: Path, release: str | None) -> Home:
        """It, opened."""
        return Home(self.config(state, release))

    def _begin(self) -> None:
        fresh = self.fleet.device("fresh").state
        shutil.copytree(fresh, self.devices / "fresh")
        for kind, before, release, end in (
            ("one", "fresh", "1.0.0", True),
            ("trial", "one", "1.1.0", False),
            ("two", "one", "1.1.0", True),
        ):
            state = self.device(before, self.devices / kind)
            with self.home(state, release) as home:
                (update if end else try_out)(self, home)

    # What has to hold.

    def runs(self, tree: Tree) -> str | None:
        """The hash of the manifest that runs; None where nothing does.

        Raises:
            BrokenError: `current` leads to something that is not a complete, signed release.
        """
        said = tree.link(f"{SLOTS_OF}/current")
        if said is None:
            if tree.read(f"{SLOTS_OF}/current") is not None:
                raise BrokenError("`current` is no link")
            return None
        return self.complete(tree, said)

    def complete(self, tree: Tree, slot: str) -> str:
        """The hash of the manifest in a slot.

        Raises:
            BrokenError: it is not complete.
        """
        place = f"{SLOTS_OF}/{slot}"
        content, record = tree.read(f"{place}/manifest.json"), tree.read(f"{place}/slot.json")
        if content is None or record is None:
            raise BrokenError(f"{place} has no manifest, or no record")
        sha256 = hashlib.sha256(content).hexdigest()
        if sha256 not in self.manifests:
            raise BrokenError(f"{place} has a manifest that nobody has signed")
        told = json.loads(record)
        variants = [v for v in self.manifests[sha256].variants if v.id == told["variant"]]
        if told["manifest_sha256"] != sha256 or not variants:
            raise BrokenError(f"{place} has the record of another release")
        for file in variants[0].files:
            found = tree.read(f"{place}/{file.path}")
            if found is None or _sha256(found) != file.sha256:
                raise BrokenError(f"{place}/{file.path} is missing, or has another hash")
        return sha256

    def check(self, tree: Tree, noted: tuple[Noted, ...], *, shim: bool = False) -> None:
        """Whether what runs is complete, and what was acknowledged still holds.

        Args:
            tree: the state folder.
            noted: in its journal.
            shim: applications are started through it, and it may have fallen back in a trial.

        Raises:
            BrokenError: it does not.
        """
        running = self.runs(tree)
        may = _may_run(noted, shim=shim)
        if running not in may:
            named = [self._release(sha256) for sha256 in may]
            raise BrokenError(f"{self._release(running)} runs, where {named} should: {noted}")
        if noted and noted[-1].state == "CONFIRMED" and tree.read(f"{SLOTS_OF}/trial") is not None:
            raise BrokenError("starts of what was confirmed are counted: the shim may take it back")
        unfinished = [action for action in noted if action.state not in FINAL]
        if any(action.state not in CANCELLABLE for action in unfinished[:-1]):
            raise BrokenError(f"{len(unfinished)} actions are under way")
        for action in unfinished:
            if action.state in ("ACTIVATING", "TRIAL", "ROLLING_BACK") and action.old_slot:
                self.complete(tree, action.old_slot)
        for action in noted:
            ends = [state for state in action.reports if state in FINAL]
            if len(ends) > 1 or (ends and ends != [action.state]):
                raise BrokenError(f"{action.id} is {action.state}, and reported as {ends}")

    def check_folder(self, state: Path, *, shim: bool = False) -> tuple[Noted, ...]:
        """The same of a real device, which nobody has open."""
        noted = noted_in(state / "agent.db")
        self.check(Real(state), noted, shim=shim)
        return noted

    def check_settled(self, state: Path) -> tuple[Noted, ...]:
        """The same after a start: every end has its report, and nothing is left lying about."""
        noted = self.check_folder(state)
        for action in noted:
            if action.state in FINAL and action.state not in action.reports:
                raise BrokenError(f"{action.id} is {action.state}, and no report of it is kept")
        # What lies in a slot or in old metadata goes with it.
        places = [
            state,
            *(path for name in ("models", "blobs", "staging") for path in state.glob(f"{name}/*")),
        ]
        left = [path for place in places for path in place.glob(".*")]
        if left:
            raise BrokenError(f"left lying about: {left}")
        if all(action.state in FINAL for action in noted):
            over = [*(state / "staging").iterdir(), *(state / SLOTS_OF).glob("trial")]
            if over:
                raise BrokenError(f"left lying about: {over}")
        return noted

    def _release(self, sha256: str | None) -> str | None:
        return None if sha256 is None else self.manifests[sha256].release


@functools.lru_cache(maxsize=4096)
def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _may_run(noted: tuple[Noted, ...], *, shim: bool) -> set[str | None]:
    """What may run by the journal: what was confirmed last, and what was switched to since."""
    kept: str | None = None
    for action in noted:
        if action.state == "CONFIRMED":
            kept = action.manifest_sha256
        elif action.state == "TRIAL":
            return {action.manifest_sha256, kept} if shim else {action.manifest_sha256}
        elif action.state in ("ACTIVATING", "ROLLING_BACK"):
            return {kept, action.manifest_sha256}
    return {kept}


def noted_in(path: Path) -> tuple[Noted, ...]:
    """What a journal has, the oldest first; nothing where there is none."""
    if not path.exists():
        return ()
    place = f"{path.as_uri()}?mode=ro"  # closing it changes nothing
    with contextlib.closing(sqlite3.connect(place, uri=True)) as connection:
        return noted_of(connection)


def noted_of(connection: sqlite3.Connection) -> tuple[Noted, ...]:
    """The same of an open database."""
    if not connection.execute("select 1 from sqlite_master where name = 'action'").fetchall():
        return ()
    rows = connection.execute(
        "select id, state, json_extract(order_json, '$.manifest_sha256'), slot, old_slot "
        "from action order by rowid"
    ).fetchall()
    reports = connection.execute("select action, state from report").fetchall()
    return tuple(
        Noted(*row, reports=tuple(state for action, state in reports if action == row[0]))
        for row in rows
    )


# What is done on a device, each so that it goes on where it was cut off.


def try_out(world: World, home: Home) -> Action | None:
    """Take what is assigned, up to its trial."""
    return once(home, world.told.append, passing)


def update(world: World, home: Home) -> None:
    """Take what is assigned, and confirm it."""
    action = try_out(world, home)
    if action is not None and action.state == "TRIAL":
        confirm_now(home, MODEL)


def taken_back(world: World, home: Home) -> None:
    """Take what is assigned, and say that it is bad."""
    action = try_out(world, home)
    if action is not None and action.state == "TRIAL":
        take_back(home, MODEL, "an operator's word")


def packaged(world: World, home: Home) -> None:
    """Install a package, and confirm it."""
    recover(home, world.told.append)
    last, running = home.journal.last(MODEL), home.journal.unfinished()
    if running is not None or last is None or _release_of(world, last) != "1.1.0":
        running = install(home, world.packages["1.1.0"], world.told.append, passing)
    if running is not None and running.state == "TRIAL":
        confirm_now(home, MODEL)


def gone_back(world: World, home: Home) -> None:
    """Go back to the release before, and confirm that."""
    action = once(home, world.told.append, passing)
    last = home.journal.last(MODEL)
    if action is None and last is not None and last.kind != "rollback":
        action = go_back(home, MODEL, "an operator's decision", world.told.append, passing)
    if action is not None and action.state == "TRIAL":
        confirm_now(home, MODEL)


def gone_back_ahead(world: World, home: Home) -> None:
    """Go back while an update waits for the device to come to rest; then let that go on."""
    work, rest = (
        dataclasses.replace(home.config, idle=Idle(hook=f"/bin/{name}"))
        for name in ("false", "true")
    )
    for home.config in (work, rest):
        action = once(home, world.told.append, passing)
        if action is not None and action.state == "TRIAL":
            confirm_now(home, MODEL)
        ended = [noted.id for noted in noted_in(home.folder / "agent.db") if noted.state in FINAL]
        if not any(name.startswith("rollback") for name in ended):
            action = go_back(home, MODEL, "an operator's decision", world.told.append, passing)
            if action.state == "TRIAL":
                confirm_now(home, MODEL)


def _release_of(world: World, action: Action) -> str | None:
    return world.manifests[action.order.manifest_sha256].release


@dataclasses.dataclass(frozen=True)
class Scenario:
    """Something that is done on a device, and how it ends where nothing interrupts it."""

    kind: str
    release: str | None
    work: Callable[[World, Home], object]
    ends: State
    runs: str | None


SCENARIOS: Mapping[str, Scenario] = {
    "first installation": Scenario("fresh", "1.0.0", update, "CONFIRMED", "1.0.0"),
    "first installation taken back": Scenario("fresh", "1.0.0", taken_back, "ROLLED_BACK", None),
    "update": Scenario("one", "1.1.0", update, "CONFIRMED", "1.1.0"),
    "trial taken back": Scenario("trial", "1.1.0", taken_back, "ROLLED_BACK", "1.0.0"),
    "refused by the preflight": Scenario("one", "bad", update, "FAILED", "1.0.0"),
    "package": Scenario("one", None, packaged, "CONFIRMED", "1.1.0"),
    "back to the release before": Scenario("two", None, gone_back, "CONFIRMED", "1.0.0"),
    "back while an update waits": Scenario("two", "1.2.0", gone_back_ahead, "CONFIRMED", "1.2.0"),
}


def check_end(world: World, scenario: Scenario, state: Path) -> None:
    """Whether a scenario ended as it should.

    Raises:
        BrokenError: it did not.
    """
    noted = world.check_settled(state)
    if noted[-1].state != scenario.ends:
        raise BrokenError(f"it ended as {noted[-1]}")
    if world._release(world.runs(Real(state))) != scenario.runs:
        raise BrokenError(f"{world.runs(Real(state))} runs in the end")


@contextlib.contextmanager
def ram() -> Iterator[Path]:
    """A folder in memory where there is such a thing: thousands of syncs wear a disk for nothing."""
    shm = Path("/dev/shm")
    place = shm if shm.is_dir() and os.access(shm, os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=place, prefix="slipway-") as folder:
        yield Path(folder)


def forked(work: Callable[[], object]) -> int:
    """Do something in a process of its own, and wait: its exit status, or minus a signal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads, which pytest may have
        child = os.fork()
    if child == 0:
        status = 70
        try:
            work()
            status = 0
        except BaseException:  # noqa: BLE001  it must not go on as the parent
            traceback.print_exc()
        finally:
            os._exit(status)
    _, ended = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(ended)
