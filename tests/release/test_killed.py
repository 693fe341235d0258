"""A command that is killed at any write leaves the repository as it was, and the next one works."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from agent import disk
from agent.disk import Moment, Operation
from agent.errors import StorageError
from sdk.release import ceremony
from sdk.release.keystore import KeyStore
from sdk.release.publish import publish
from sdk.release.repository import Repository
from sdk.release.store import FolderStore
from tests.release.reading import Reader, missing
from tests.release.test_ceremonies import StoppedError, Stopping, copied
from tests.updates.fleet import MODEL, PASSPHRASE, Fleet

Act = Callable[[Fleet], object]
GROWS = ("create", "write", "mkdir", "rename")
CONTENT = b"the same everywhere " * 100


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with a release, a client that has seen it, and the build of the next."""
    folder = tmp_path_factory.mktemp("template") / "fleet"
    fleet = Fleet(folder)
    fleet.publish("1.0.0", fleet.build("one", {"best": CONTENT + b"1"}))
    fleet.build("two", {"best": CONTENT + b"2", "next": b"another"})
    assert Reader(folder / "client", fleet.repo).manifest(MODEL, "1.0.0") is not None
    return folder


def second(fleet: Fleet) -> object:
    return fleet.publish("1.1.0", fleet.folder / "two")


def check(fleet: Fleet) -> bool:
    """Whether the second release is there; the first one is, and all that is named."""
    assert missing(FolderStore(fleet.repo)) == []
    found = []
    for name in ("client", "new-client"):
        reader = Reader(fleet.folder / name, fleet.repo)
        first = reader.manifest(MODEL, "1.0.0")
        assert first is not None
        assert first["release_counter"] == 1
        found.append(reader.manifest(MODEL, "1.1.0") is not None)
    assert found[0] == found[1]
    return found[0]


def test_a_publication_that_stops_after_any_write_changes_nothing(
    template: Path, tmp_path: Path
) -> None:
    class Halting(Stopping):
        def put(self, path: str, source: Path, sha256: str) -> None:
            if not self.left:
                raise StoppedError(path)
            self.left -= 1
            super().put(path, source, sha256)

    for after in itertools.count():
        fleet = copied(template, tmp_path / str(after))
        store = Halting(fleet.repo, after)
        keys = KeyStore(fleet.folder / "keys", PASSPHRASE)
        try:
            publish(Repository(store, keys), fleet.folder / "two", "1.1.0")
        except StoppedError:
            assert not check(fleet)
            made = fleet.publish("1.1.0", fleet.folder / "two")
            assert made.release_counter == 2  # the one that was cut off took no number
            assert check(fleet)
        else:
            break
    assert after == 7  # two files, a delta, the manifest, model, snapshot, timestamp


def test_a_full_disk_changes_nothing(template: Path, tmp_path: Path) -> None:
    """At each operation in turn the disk is full from then on."""
    count = operations_of(second, copied(template, tmp_path / "counted"), GROWS)
    for number in range(0, count, 5):
        fleet = copied(template, tmp_path / str(number))
        with pytest.raises(StorageError), disk.observed(failing(number)):
            second(fleet)
        assert not check(fleet)
        shutil.rmtree(fleet.folder)


KILLED: dict[str, tuple[Act, Act]] = {
    # what is killed -> what is done afterwards
    "a publication": (second, second),
    "a refresh": (lambda fleet: fleet.repository().refresh(), second),
    "a revocation": (lambda fleet: ceremony.revoke(fleet.repository(), MODEL, 7), second),
    "a rotation of the timestamp key": (
        lambda fleet: ceremony.rotate(fleet.repository(), "timestamp"),
        lambda fleet: ceremony.rotate(
            fleet.repository(), newest(fleet, "timestamp"), newest(fleet, "root-1")
        ),
    ),
    "a rotation of a targets key": (
        lambda fleet: ceremony.rotate(fleet.repository(), "targets-1"), second,
    ),
    "a new model": (lambda fleet: ceremony.add_model(fleet.repository(), "other"), second),
}  # fmt: skip


def newest(fleet: Fleet, stem: str) -> str:
    """The key of a role that the folder knows, the one before a rotation that is not over."""
    names = [name for name in fleet.repository().keys.records if name.partition("@")[0] == stem]
    return min(names)


@pytest.mark.long
@pytest.mark.parametrize(("act", "then"), KILLED.values(), ids=KILLED)
def test_a_command_that_is_killed_at_any_operation_leaves_a_good_repository(
    act: Act, then: Act, template: Path, tmp_path: Path
) -> None:
    count = operations_of(act, copied(template, tmp_path / "counted"))
    assert count > 5
    for number in range(count):
        for moment in ("before", "after"):
            fleet = copied(template, tmp_path / f"{number}-{moment}")
            assert killed_at(act, fleet, number, moment) == -signal.SIGKILL
            if not check(fleet) or then is not second:
                then(fleet)
            assert check(fleet) == (then is second)
            shutil.rmtree(fleet.folder)


def test_two_processes_publish_at_once_and_both_releases_are_there(
    template: Path, tmp_path: Path
) -> None:
    fleet = copied(template, tmp_path / "fleet")
    children = [
        forked(lambda release=release: fleet.publish(release, fleet.folder / "two"))
        for release in ("2.0.0", "2.1.0", "2.2.0")
    ]
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0, 0]
    reader = Reader(fleet.folder / "client", fleet.repo)
    told = [reader.manifest(MODEL, release) for release in ("2.0.0", "2.1.0", "2.2.0")]
    assert sorted(one["release_counter"] for one in told if one) == [2, 3, 4]
    assert missing(FolderStore(fleet.repo)) == []


def operations_of(act: Act, fleet: Fleet, kinds: tuple[str, ...] = ()) -> int:
    seen: list[Operation] = []
    with disk.observed(lambda op, moment: seen.append(op) if moment == "before" else None):
        act(fleet)
    return len([op for op in seen if not kinds or op.kind in kinds])


def failing(number: int) -> disk.Observer:
    left = [number]

    def observer(operation: Operation, moment: Moment) -> None:
        if moment == "before" and operation.kind in GROWS:
            if left[0] <= 0:
                raise OSError(28, "No space left on device", str(operation.path))
            left[0] -= 1

    return observer


def killed_at(act: Act, fleet: Fleet, number: int, moment: Moment) -> int:
    """The exit status of a process that kills itself at one operation."""
    count = [0]

    def observer(operation: Operation, now: Moment) -> None:
        if now != moment:
            return
        if count[0] == number:
            os.kill(os.getpid(), signal.SIGKILL)
        count[0] += 1

    def run() -> None:
        with disk.observed(observer):
            act(fleet)

    _, status = os.waitpid(forked(run), 0)
    return os.waitstatus_to_exitcode(status)


def forked(act: Callable[[], object]) -> int:
    """A process that was forked warm: what it is killed in is its work, not its imports."""
    child = os.fork()
    if child:
        return child
    try:
        act()
    except BaseException:  # noqa: BLE001  the child ends here, whatever it was
        os._exit(1)
    os._exit(0)
