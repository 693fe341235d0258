"""After each ceremony python-tuf's own client reads the repository, and old keys count no more."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata

from agent.codec import encode
from agent.errors import UsageError, VerificationError
from agent.updates.assignment import opened
from agent.updates.source import FolderSource
from agent.updates.trust import Trust
from sdk.release import ceremony
from sdk.release.assign import assignment_for, signed
from sdk.release.keystore import KeyStore
from sdk.release.publish import find
from sdk.release.repository import Repository
from sdk.release.roles import DAYS, is_old
from sdk.release.store import FolderStore
from tests.release.reading import Reader, missing
from tests.updates.fleet import GROUP, MODEL, PASSPHRASE, Fleet, utc

Act = Callable[[Fleet], object]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with one release, and a client that has seen it."""
    folder = tmp_path_factory.mktemp("template") / "fleet"
    fleet = Fleet(folder)
    fleet.publish("1.0.0")
    assert Reader(folder / "client", fleet.repo).manifest(MODEL, "1.0.0") is not None
    return folder


@pytest.fixture
def fleet(template: Path, tmp_path: Path) -> Fleet:
    return copied(template, tmp_path / "fleet")


def copied(template: Path, folder: Path) -> Fleet:
    shutil.copytree(template, folder)
    fleet = object.__new__(Fleet)
    fleet.folder, fleet.repo = folder, folder / "repo"
    return fleet


def rotation(*names: str) -> Act:
    return lambda fleet: ceremony.rotate(fleet.repository(), *names)


CEREMONIES: dict[str, Act] = {
    "nothing": lambda _: None,
    "another model": lambda fleet: ceremony.add_model(fleet.repository(), "other"),
    "another release": lambda fleet: fleet.publish("1.1.0"),
    "a refresh": lambda fleet: fleet.repository().refresh(),
    "another release revoked": lambda fleet: (
        fleet.publish("1.1.0"),
        ceremony.revoke(fleet.repository(), MODEL, 2),
    ),
    "releases revoked below": lambda fleet: ceremony.revoke(
        fleet.repository(), MODEL, 1, below=True
    ),
    "a root key rotated": rotation("root-1"),
    "all root keys rotated, one by one": lambda fleet: [
        rotation(f"root-{number}")(fleet) for number in (1, 2, 3)
    ],
    "a targets key rotated": rotation("targets-2"),
    "both targets keys rotated": rotation("targets-1", "targets-2"),
    "the snapshot key rotated": rotation("snapshot"),
    "the timestamp key rotated": rotation("timestamp"),
    "the timestamp key rotated twice": lambda fleet: (
        rotation("timestamp")(fleet),
        rotation("timestamp@2")(fleet),
    ),
    "the model's key rotated": rotation(f"model-{MODEL}"),
    "the assignment key rotated": rotation("assignment"),
    "the offline assignment key rotated": rotation("assignment_offline"),
    "everything rotated at once": rotation(
        "root-2", "targets-1", "snapshot", "timestamp", f"model-{MODEL}", "assignment",
    ),
}  # fmt: skip


@pytest.mark.parametrize("act", CEREMONIES.values(), ids=CEREMONIES)
def test_python_tufs_client_reads_the_repository_after(act: Act, fleet: Fleet) -> None:
    act(fleet)
    assert missing(FolderStore(fleet.repo)) == []
    for name in ("client", "new-client"):  # one that was there before, and one that begins now
        reader = Reader(fleet.folder / name, fleet.repo)
        told = reader.manifest(MODEL, "1.0.0")
        assert told is not None, name
        assert told["release_counter"] == 1
    # What comes next is signed by the keys that count now.
    fleet.publish("2.0.0")
    assert Reader(fleet.folder / "client", fleet.repo).manifest(MODEL, "2.0.0") is not None


def test_keys_and_thresholds_are_those_of_the_page(fleet: Fleet) -> None:
    states = {state.role: state for state in ceremony.roles(fleet.repository())}
    assert {role: (state.threshold, state.keys) for role, state in states.items()} == {
        "root": (2, 3),
        "targets": (2, 2),
        "snapshot": (1, 1),
        "timestamp": (1, 1),
        f"model-{MODEL}": (1, 1),
    }
    root = fleet.repository().role("root").signed
    told = root.unrecognized_fields["x-slipway"]
    assert {role: (len(e["keyids"]), e["threshold"]) for role, e in told.items()} == {
        "assignment": (1, 1),
        "assignment_offline": (1, 1),
    }
    assert all(entry["keyids"][0] in root.keys for entry in told.values())
    assert root.consistent_snapshot
    model = fleet.repository().role(f"model-{MODEL}").signed
    assert model.unrecognized_fields["x-slipway"] == {"revoked_below": 0, "revoked": []}
    delegated = fleet.repository().role("targets").signed.delegations.roles[f"model-{MODEL}"]
    assert delegated.terminating
    assert delegated.paths == [f"models/{MODEL}/*/manifest.json"]
    for name in ("root", "targets", "snapshot", "timestamp", f"model-{MODEL}"):
        days = DAYS.get(name, DAYS["model"])
        left = fleet.repository().role(name).signed.expires - utc()
        assert days - 0.1 < left.total_seconds() / 86400 <= days, name


def test_a_small_shop_needs_one_targets_key(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path / "fleet", small=True)
    assert fleet.repository().threshold("targets") == 1
    take_away(fleet, "targets-2")
    ceremony.add_model(fleet.repository(), "other")
    assert Reader(tmp_path / "client", fleet.repo).refreshed() is not None


ROTATED = {
    "root": ("root-1", ["root-2"]),
    "targets": ("targets-1", ["targets-2"]),
    "snapshot": ("snapshot", []),
    "timestamp": ("timestamp", []),
    f"model-{MODEL}": (f"model-{MODEL}", []),
}


@pytest.mark.parametrize(("role", "old", "others"), [(r, *e) for r, e in ROTATED.items()])
def test_after_a_rotation_the_old_key_counts_no_more(
    role: str, old: str, others: list[str], fleet: Fleet
) -> None:
    signers = [fleet.repository().keys.signer(name) for name in [old, *others]]
    ceremony.rotate(fleet.repository(), old)
    reader = Reader(fleet.folder / "client", fleet.repo)
    assert reader.manifest(MODEL, "1.0.0") is not None
    forge(fleet, role, signers)
    with pytest.raises(RepositoryError, match="was signed by"):
        reader.manifest(MODEL, "1.0.0")


@pytest.mark.parametrize(("role", "old", "others"), [(r, *e) for r, e in ROTATED.items()])
def test_before_it_the_same_forgery_is_believed(
    role: str, old: str, others: list[str], fleet: Fleet
) -> None:
    signers = [fleet.repository().keys.signer(name) for name in [old, *others]]
    forge(fleet, role, signers)
    assert Reader(fleet.folder / "client", fleet.repo).manifest(MODEL, "1.0.0") is not None


def forge(fleet: Fleet, role: str, signers: list[Any]) -> None:
    """A newer version of a role, signed by these alone; all that leads to it is signed well."""
    repository = fleet.repository()
    honest = repository._signed

    def by_these(name: str) -> bytes:
        if name != role:
            return honest(name)
        metadata = repository._new[name]
        metadata.signatures.clear()
        for signer in signers:
            metadata.sign(signer, append=True)
        return bytes(metadata.to_bytes())

    repository._signed = by_these  # type: ignore[method-assign]
    repository._check_whole = lambda: None  # type: ignore[method-assign]
    repository.edit(role)
    repository.commit()


def test_an_assignment_by_a_rotated_key_is_refused(fleet: Fleet) -> None:
    trust = Trust(fleet.folder / "trust", (fleet.repo / "metadata/1.root.json").read_bytes())
    published = find(fleet.repository(), MODEL, "1.0.0")
    assignment = assignment_for(published, group=GROUP)
    before = signed(fleet.repository(), assignment)
    view = trust.refresh(FolderSource(fleet.repo), utc())
    found = opened(before, view.assignment_keys(offline=True))
    assert {**encode(found), **encode(assignment)} == encode(found)
    ceremony.rotate(fleet.repository(), "assignment_offline")
    view = trust.refresh(FolderSource(fleet.repo), utc())
    with pytest.raises(VerificationError, match="not signed by 1 of the 1 keys"):
        opened(before, view.assignment_keys(offline=True))
    after = signed(fleet.repository(), assignment)
    found = opened(after, view.assignment_keys(offline=True))
    assert {**encode(found), **encode(assignment)} == encode(found)


def test_a_device_follows_after_it_slept_through_three_root_rotations(fleet: Fleet) -> None:
    root = (fleet.repo / "metadata/1.root.json").read_bytes()
    trust = Trust(fleet.folder / "trust", root)
    trust.refresh(FolderSource(fleet.repo), utc())
    for number in (1, 2, 3):  # none of the first root's keys is left
        ceremony.rotate(fleet.repository(), f"root-{number}")
    made = fleet.publish("2.0.0")
    view = trust.refresh(FolderSource(fleet.repo), utc())
    assert view.manifest(made.path, made.manifest_sha256)
    newest = Metadata.from_bytes((fleet.repo / "metadata/4.root.json").read_bytes()).signed
    first = Metadata.from_bytes(root).signed
    assert not set(newest.roles["root"].keyids) & set(first.roles["root"].keyids)


LOST: dict[str, tuple[list[str], list[str]]] = {
    # the keys that are lost -> those that are rotated for it
    "one root key": (["root-1"], ["root-1"]),
    "one targets key": (["targets-1"], ["targets-1"]),
    "both targets keys": (["targets-1", "targets-2"], ["targets-1", "targets-2"]),
    "all online keys": (["snapshot", "timestamp"], ["snapshot", "timestamp"]),
    "the model's key": ([f"model-{MODEL}"], [f"model-{MODEL}"]),
    "a key of each role": (
        ["root-3", "targets-2", "snapshot", "timestamp", f"model-{MODEL}"],
        ["root-3", "targets-2", "snapshot", "timestamp", f"model-{MODEL}"],
    ),
}


@pytest.mark.parametrize(("lost", "names"), LOST.values(), ids=LOST)
def test_lost_keys_are_replaced(lost: list[str], names: list[str], fleet: Fleet) -> None:
    for name in lost:
        (fleet.folder / "keys" / f"{name}.pem").unlink()
    ceremony.rotate(fleet.repository(), *names)
    fleet.publish("2.0.0")
    assert Reader(fleet.folder / "client", fleet.repo).manifest(MODEL, "2.0.0") is not None


TOO_FEW: dict[str, tuple[list[str], str, Act]] = {
    "two root keys, to rotate one of them": (["root-1", "root-2"], "root-2", rotation("root-1")),
    "all root keys, for another one": (
        ["root-1", "root-2", "root-3"], "root-1", rotation("timestamp"),
    ),
    "both targets keys, to rotate one": (
        ["targets-1", "targets-2"], "targets-2", rotation("targets-1"),
    ),
    "the other targets key, to rotate one that is here": (
        ["targets-2"], "targets-2", rotation("targets-1"),
    ),
    "a targets key, for a new model": (
        ["targets-2"], "targets-2", lambda fleet: ceremony.add_model(fleet.repository(), "other"),
    ),
    "the snapshot key, for a new model": (
        ["snapshot"], "snapshot", lambda fleet: ceremony.add_model(fleet.repository(), "other"),
    ),
    "the model's key, to publish": (
        [f"model-{MODEL}"], f"model-{MODEL}", lambda fleet: fleet.publish("2.0.0"),
    ),
    "the timestamp key, to publish": (
        ["timestamp"], "timestamp", lambda fleet: fleet.publish("2.0.0"),
    ),
    "the model's key, to revoke": (
        [f"model-{MODEL}"], f"model-{MODEL}",
        lambda fleet: ceremony.revoke(fleet.repository(), MODEL, 1),
    ),
    "the snapshot key, to refresh": (
        ["snapshot"], "snapshot", lambda fleet: fleet.repository().refresh(),
    ),
    "the offline assignment key": (
        ["assignment_offline"], "assignment_offline", lambda fleet: fleet.package(
            find(fleet.repository(), MODEL, "1.0.0")
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("lost", "named", "act"), TOO_FEW.values(), ids=TOO_FEW)
def test_too_few_keys_are_told_and_change_nothing(
    lost: list[str], named: str, act: Act, fleet: Fleet
) -> None:
    for name in lost:
        take_away(fleet, name)
    before = content(fleet.folder / "repo"), content(fleet.folder / "keys")
    with pytest.raises(UsageError, match=named) as caught:
        act(fleet)
    assert "Bring" in caught.value.remedy
    assert (content(fleet.folder / "repo"), content(fleet.folder / "keys")) == before


def test_a_wrong_passphrase_changes_nothing(fleet: Fleet) -> None:
    before = content(fleet.folder)
    keys = KeyStore(fleet.folder / "keys", "wrong horse")
    repository = Repository(FolderStore(fleet.repo), keys)
    with pytest.raises(VerificationError, match="cannot be opened with this passphrase"):
        ceremony.rotate(repository, "timestamp")
    assert content(fleet.folder) == before


CUT = ["root-1", "targets-1", "snapshot", "timestamp", f"model-{MODEL}", "assignment"]


class StoppedError(Exception):
    """The test ends the command here."""


class Stopping(FolderStore):
    """A folder that is written so many times, and no more."""

    def __init__(self, folder: Path, after: int) -> None:
        super().__init__(folder)
        self.left = after

    def write(self, path: str, content: bytes) -> None:
        if not self.left:
            raise StoppedError(path)
        self.left -= 1
        super().write(path, content)


@pytest.mark.parametrize("name", CUT)
def test_a_rotation_that_is_cut_off_goes_on(name: str, template: Path, tmp_path: Path) -> None:
    for after in range(20):
        fleet = copied(template, tmp_path / str(after))
        keys = KeyStore(fleet.folder / "keys", PASSPHRASE)
        try:
            ceremony.rotate(Repository(Stopping(fleet.repo, after), keys), name)
        except StoppedError:
            cut = True
        else:
            cut = False
        for client in ("client", "new-client"):
            reader = Reader(fleet.folder / client, fleet.repo)
            assert reader.manifest(MODEL, "1.0.0") is not None, f"after {after} writes"
        if not cut:
            break
        (new,) = ceremony.rotate(fleet.repository(), name)
        assert {s.name for s in ceremony.status(fleet.repository()) if not s.trusted} == set()
        assert name not in fleet.repository().keys.records
        assert new in fleet.repository().keys.records
        assert Reader(fleet.folder / "client", fleet.repo).manifest(MODEL, "1.0.0") is not None
    assert after >= 1
    assert not cut, "there are more writes than were tried"


def test_a_first_ceremony_that_is_cut_off_goes_on(tmp_path: Path) -> None:
    for after in range(20):
        folder = tmp_path / str(after)
        (folder / "repo").mkdir(parents=True)
        keys = KeyStore(folder / "keys", PASSPHRASE)
        try:
            ceremony.initialise(Repository(Stopping(folder / "repo", after), keys))
        except StoppedError:
            again = KeyStore(folder / "keys", PASSPHRASE)
            repository = Repository(FolderStore(folder / "repo"), again)
            assert len(ceremony.initialise(repository)) == 9
            assert Reader(folder / "client", folder / "repo").refreshed() is not None
            continue
        break
    assert after == 4  # root, targets, snapshot, timestamp


def test_a_new_model_that_is_cut_off_goes_on(template: Path, tmp_path: Path) -> None:
    for after in range(20):
        fleet = copied(template, tmp_path / str(after))
        keys = KeyStore(fleet.folder / "keys", PASSPHRASE)
        try:
            ceremony.add_model(Repository(Stopping(fleet.repo, after), keys), "other")
        except StoppedError:
            assert fleet.repository().models() == [MODEL]
            assert Reader(fleet.folder / "client", fleet.repo).manifest(MODEL, "1.0.0") is not None
            ceremony.add_model(fleet.repository(), "other")
            assert fleet.repository().models() == [MODEL, "other"]
            assert Reader(fleet.folder / "client", fleet.repo).manifest(MODEL, "1.0.0") is not None
            continue
        break
    assert after == 4  # model-other, targets, snapshot, timestamp


def test_keys_and_repositories_are_never_made_twice(fleet: Fleet) -> None:
    before = content(fleet.folder)
    for repo, keys in (("repo", "keys"), ("other", "keys"), ("repo", "other-keys")):
        store = FolderStore(fleet.folder / repo)
        again = Repository(store, KeyStore(fleet.folder / keys, PASSPHRASE))
        with pytest.raises(UsageError, match="a repository or a set of keys already"):
            ceremony.initialise(again)
    with pytest.raises(UsageError, match="has a key already"):
        ceremony.add_model(fleet.repository(), MODEL)
    after = {path: data for path, data in content(fleet.folder).items() if "other" not in path}
    assert after == before


@pytest.mark.parametrize(
    "name",
    ["", "a/b", "../a", ".a", "A", "a b", "a*", "a?", "a@2", "a+b", "a.", "é", "con", "x" * 65],
)
def test_a_model_whose_name_cannot_be_a_path_is_refused(name: str, fleet: Fleet) -> None:
    with pytest.raises(UsageError, match="no name for a model"):
        ceremony.add_model(fleet.repository(), name)


def test_a_key_of_another_fleet_is_not_rotated(fleet: Fleet, tmp_path: Path) -> None:
    other = Fleet(tmp_path / "second")
    mixed = Repository(FolderStore(fleet.repo), other.repository().keys)
    for name in ("root-1", "timestamp", "targets-1"):
        with pytest.raises(UsageError, match="does not know this key"):
            ceremony.rotate(mixed, name)


def test_a_revocation_is_kept_and_grows_alone(fleet: Fleet) -> None:
    for number in range(2, 6):
        fleet.publish(f"1.{number}.0")

    def revoked() -> Any:
        signed = fleet.repository().role(f"model-{MODEL}").signed
        return signed.unrecognized_fields["x-slipway"]

    assert ceremony.revoke(fleet.repository(), MODEL, 4)
    assert revoked() == {"revoked_below": 0, "revoked": [4]}
    assert not ceremony.revoke(fleet.repository(), MODEL, 4)
    assert ceremony.revoke(fleet.repository(), MODEL, 2, below=True)
    assert revoked() == {"revoked_below": 3, "revoked": [4]}
    assert not ceremony.revoke(fleet.repository(), MODEL, 1, below=True)
    assert not ceremony.revoke(fleet.repository(), MODEL, 1)
    assert ceremony.revoke(fleet.repository(), MODEL, 4, below=True)
    assert revoked() == {"revoked_below": 5, "revoked": []}
    fleet.publish("2.0.0")
    assert revoked() == {"revoked_below": 5, "revoked": []}
    trust = Trust(fleet.folder / "trust", (fleet.repo / "metadata/1.root.json").read_bytes())
    told = trust.refresh(FolderSource(fleet.repo), utc()).revoked(MODEL)
    assert [told.covers(counter) for counter in (1, 4, 5, 6)] == [True, True, False, False]


def test_what_is_old_follows_from_the_terms() -> None:
    cases = {"root": 122, "targets": 59, "model-net": 29, "snapshot": 2, "timestamp": 0.3}
    for name, days in cases.items():
        assert is_old(name, utc(days)) == (name != "root"), name
        assert not is_old(name, utc(DAYS.get(name, DAYS["model"])))


def test_a_refresh_renews_what_expires_soon_if_its_keys_are_here(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = ("root", "targets", f"model-{MODEL}")
    monkeypatch.setattr("sdk.release.repository.is_old", lambda name, _: name in old)
    take_away(fleet, "targets-1")
    before = {state.role: state.version for state in ceremony.roles(fleet.repository())}
    written, due = fleet.repository().refresh()
    assert [one.role for one in due] == ["targets"]
    assert due[0].keys == ("targets-1", "targets-2")
    after = {state.role: state.version for state in ceremony.roles(fleet.repository())}
    grown = {role for role, version in after.items() if version != before[role]}
    assert grown == {"root", f"model-{MODEL}", "snapshot", "timestamp"}
    assert written[-1] == "metadata/timestamp.json"
    assert Reader(fleet.folder / "client", fleet.repo).manifest(MODEL, "1.0.0") is not None


def take_away(fleet: Fleet, name: str) -> None:
    """Put a key's file elsewhere."""
    path = fleet.folder / "keys" / f"{name}.pem"
    path.rename(fleet.folder / path.name)


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
