"""What is trusted: kept whole through any crash, no older than it says, at the least cost."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tuf
from tuf.ngclient import Updater

from agent import disk
from agent.errors import StorageError, UsageError, VerificationError
from agent.updates.client import Client
from agent.updates.freshness import EXTENSION, SIGNED, freshness_of
from agent.updates.http_source import HttpSource
from agent.updates.source import BusyError, Source
from agent.updates.trust import Trust, begin_trust
from tests.crash.power import Disk, Recorder, State, Step, crashes, sync_sites, without
from tests.updates.fleet import MODEL, utc
from tests.updates.forge import told_at
from tests.updates.server import Server, answers
from tests.updates.worlds import World, make_world, trust_of

pytestmark = pytest.mark.usefixtures("without_fsync")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


def kept(folder: Path) -> dict[str, bytes]:
    """What is trusted in a folder."""
    current = folder / "trust/current"
    return {
        path.relative_to(current).as_posix(): path.read_bytes()
        for path in current.rglob("*.json")
        if not path.is_symlink()
    }


def test_a_signed_manifest_is_had(world: World, tmp_path: Path) -> None:
    view = trust_of(world, tmp_path).refresh(world.second, utc())
    assert view.manifest(world.path, world.sha256) == world.content
    assert view.revoked(MODEL).below == 0
    assert view.assignment_keys(offline=True).threshold == 1
    assert {"root_history/2.root.json", "timestamp.json", "snapshot.json"} < kept(tmp_path).keys()


# What it costs.


@pytest.fixture
def server(world: World, tmp_path: Path) -> Iterator[Server]:
    world.second.write(tmp_path / "repo")
    found = Server(tmp_path / "repo")
    yield found
    found.stop()


def test_an_idle_refresh_asks_for_the_next_root_and_the_timestamp_alone(
    world: World, server: Server, tmp_path: Path
) -> None:
    trust_of(world, tmp_path).refresh(HttpSource(server.url), utc()).revoked(MODEL)
    before = kept(tmp_path)
    server.requests.clear()
    server.body_bytes = 0
    view = trust_of(world, tmp_path).refresh(HttpSource(server.url), utc())
    view.revoked(MODEL)
    assert server.paths == ["metadata/3.root.json", "metadata/timestamp.json"]
    assert server.body_bytes == len(world.second.files["metadata/timestamp.json"]) < 600
    assert kept(tmp_path) == before


def test_a_refresh_that_changes_nothing_writes_nothing_durable(
    world: World, tmp_path: Path
) -> None:
    trust = trust_of(world, tmp_path)
    trust.refresh(world.second, utc())
    done: list[str] = []
    with disk.observed(lambda operation, _: done.append(operation.kind)):
        trust.refresh(world.second, utc())
    assert not done


# A power cut at any moment.


def _trusted(state: State, place: str = "trust") -> dict[str, bytes]:
    """What a disk after a cut would have trusted; nothing where there is no link yet."""
    entries = dict(state.entries)
    number = entries.get(f"{place}/current")
    if not isinstance(number, str):
        return {}
    folder = f"{place}/{number}/"
    assert f"{place}/{number}" in entries, "the link leads nowhere"
    return {
        name.removeprefix(folder): content
        for name, content in entries.items()
        if name.startswith(folder) and isinstance(content, bytes)
    }


@pytest.fixture(scope="module")
def recorded(
    world: World, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[Step], list[dict[str, bytes]]]:
    """(the folder as it was, what was done to it, what was trusted before and after)"""
    folder = tmp_path_factory.mktemp("crash")
    state, before = folder / "state", folder / "before"
    state.mkdir()
    trust = trust_of(world, state)
    trust.refresh(world.first, utc())
    shutil.rmtree(state / "trust/scratch")
    old = kept(state)
    shutil.copytree(state, before, symlinks=True)
    recorder = Recorder(state, lambda: b"")
    with disk.observed(recorder):
        trust.refresh(world.second, utc())
    seen = [old, kept(state)]
    shutil.rmtree(state)
    before.rename(state)
    return state, recorder.steps, seen


def test_what_is_trusted_is_whole_after_any_power_cut(
    recorded: tuple[Path, list[Step], list[dict[str, bytes]]],
) -> None:
    root, steps, seen = recorded
    count = 0
    for done, state in crashes(root, steps):
        count += 1
        assert _trusted(state) in seen, f"after {done} steps"
    assert count > 40
    assert _lasts(root, steps, seen[-1])


@pytest.mark.long
def test_every_sync_of_what_is_trusted_is_needed(
    recorded: tuple[Path, list[Step], list[dict[str, bytes]]],
) -> None:
    root, steps, seen = recorded
    sites = sync_sites(steps)
    assert len(sites) >= 3
    for site in sites:
        left = without(steps, site)
        lasts = _lasts(root, left, seen[-1])
        assert not lasts or any(not _whole(state, seen) for _, state in crashes(root, left)), site


def _lasts(root: Path, steps: list[Step], content: dict[str, bytes]) -> bool:
    """Whether no power cut after the last step can lose what was trusted by then."""
    found = Disk(root)
    for step in steps:
        found.apply(step)
    return all(_trusted(state) == content for state in found.states(random.Random(0)))


def _whole(state: State, seen: list[dict[str, bytes]]) -> bool:
    try:
        return _trusted(state) in seen
    except AssertionError:
        return False


@pytest.mark.parametrize("code", [28, 5, 30])
def test_a_disk_that_fails_is_told_and_leaves_what_was_trusted(
    world: World, tmp_path: Path, code: int
) -> None:
    trust = trust_of(world, tmp_path)
    trust.refresh(world.first, utc())
    before = kept(tmp_path)

    def fail(operation: disk.Operation, moment: disk.Moment) -> None:
        if moment == "before" and operation.kind == "write":
            raise OSError(code, "disk")

    with disk.observed(fail), pytest.raises(StorageError):
        trust.refresh(world.second, utc())
    assert kept(tmp_path) == before
    trust.refresh(world.second, utc())
    assert kept(tmp_path) != before


def test_a_full_disk_under_python_tuf_is_told_as_such(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Updater, "_persist_file", full)
    with pytest.raises(StorageError, match="No space left"):
        trust_of(world, tmp_path).refresh(world.first, utc())


# How old it is.


def test_the_age_is_what_was_signed_and_not_a_files_time(world: World, tmp_path: Path) -> None:
    trust = trust_of(world, tmp_path)
    assert freshness_of(tmp_path / "trust") is None
    repo = world.second.copy()
    signed = utc(-0.25).replace(microsecond=0)
    repo.stamp(**{EXTENSION: {SIGNED: told_at(signed)}})
    trust.refresh(repo, utc())
    found = freshness_of(tmp_path / "trust")
    assert found is not None
    assert found.signed == signed
    assert found.age_s(signed + dt.timedelta(hours=6)) == 6 * 3600
    assert found.age_s(signed - dt.timedelta(days=9)) == 0
    assert found.version == repo.version("timestamp")


@pytest.mark.parametrize("told", [{}, {EXTENSION: []}, {EXTENSION: {SIGNED: 5}}, {EXTENSION: None}])
def test_a_timestamp_that_does_not_say_when_has_no_age(
    world: World, tmp_path: Path, told: dict[str, Any]
) -> None:
    repo = world.second.copy()
    signed = repo.signed("timestamp")
    signed.pop(EXTENSION)
    signed["version"] += 1
    repo.put("timestamp", {**signed, **told}, *repo.keys_of("timestamp"))
    view = trust_of(world, tmp_path).refresh(repo, utc())
    found = freshness_of(tmp_path / "trust")
    assert found is not None
    assert found.age_s(utc()) is None
    assert view.signed_at() is None


def test_metadata_that_expired_is_refused_with_its_age(world: World, tmp_path: Path) -> None:
    trust = trust_of(world, tmp_path)
    trust.refresh(world.second, utc())
    with pytest.raises(
        VerificationError, match=r"timestamp\.json is expired.* was signed 3 days, "
    ):
        trust.refresh(world.second, utc(3.001))


def test_a_timestamp_that_was_signed_after_it_expires_sets_no_clock(
    world: World, tmp_path: Path
) -> None:
    repo = world.second.copy()
    repo.stamp(**{EXTENSION: {SIGNED: "2999-01-01T00:00:00Z"}})
    assert trust_of(world, tmp_path).refresh(repo, utc()).signed_at() is None


def test_a_busy_server_is_told_with_its_time(world: World, server: Server, tmp_path: Path) -> None:
    server.scripted = "timestamp"
    server.always = answers("429 Too Many Requests", Retry_After=90)
    with pytest.raises(BusyError) as found:
        trust_of(world, tmp_path).refresh(HttpSource(server.url), utc())
    assert found.value.after_s == 90


# A package.


def test_a_package_is_judged_at_its_issue_and_its_timestamp_is_not_kept(
    world: World, tmp_path: Path
) -> None:
    trust = trust_of(world, tmp_path)
    later = utc(30)
    with pytest.raises(VerificationError, match="expired"):
        trust.refresh(world.second, later)
    view = trust.look_into(world.second, utc(), later)
    assert view.manifest(world.path, world.sha256) == world.content
    assert "timestamp.json" not in kept(tmp_path)
    assert {"root_history/2.root.json", "snapshot.json", "targets.json"} < kept(tmp_path).keys()


@pytest.mark.parametrize(("days", "what"), [(91, "targets"), (181, "targets"), (366, "root")])
def test_all_other_roles_of_a_package_are_judged_at_the_devices_time(
    world: World, tmp_path: Path, days: int, what: str
) -> None:
    trust = trust_of(world, tmp_path)
    with pytest.raises(VerificationError, match=f"The {what} metadata of the package"):
        trust.look_into(world.second, utc(), utc(days)).manifest(world.path, world.sha256)


def test_a_package_does_not_touch_the_repositorys_timestamp(world: World, tmp_path: Path) -> None:
    trust = trust_of(world, tmp_path)
    trust.refresh(world.first, utc())
    before = kept(tmp_path)["timestamp.json"]
    trust.look_into(world.second, utc(), utc())
    assert kept(tmp_path)["timestamp.json"] == before
    trust.refresh(world.second, utc())


def test_a_package_that_is_older_than_what_is_trusted_is_refused(
    world: World, tmp_path: Path
) -> None:
    for newer in (lambda t: t.refresh(world.second, utc()), _look):
        trust = trust_of(world, tmp_path / newer.__name__)
        newer(trust) if newer is not _look else trust.look_into(world.second, utc(), utc())
        with pytest.raises(VerificationError, match="not to be trusted"):
            trust.look_into(world.first, utc(), utc())
        trust.look_into(world.second, utc(), utc())


def _look(_: Trust) -> None:
    return None


# What python-tuf does not promise, and is used here.


def _client(world: World, folder: Path, now: dt.datetime, source: Source | None = None) -> Client:
    folder.mkdir(exist_ok=True)
    return Client(folder, source or world.second, world.root, now)


def test_python_tuf_is_one_that_this_was_written_for() -> None:
    assert tuf.__version__.split(".")[0] == "7", "look into agent/updates/client.py"


def test_python_tuf_judges_by_the_time_that_it_is_told(world: World, tmp_path: Path) -> None:
    """It reads `_trusted_set.reference_time` each time, and lets it be set."""
    _client(world, tmp_path / "a", utc()).refresh()
    _client(world, tmp_path / "b", utc(-4000)).refresh()
    with pytest.raises(VerificationError, match="expired"):
        _client(world, tmp_path / "c", utc(2)).refresh()


def test_python_tuf_shows_what_it_trusts(world: World, tmp_path: Path) -> None:
    """`_trusted_set` is a mapping by role whose iteration gives the signed parts."""
    client = _client(world, tmp_path, utc())
    client.refresh()
    assert client.signed("model-net") is None
    assert client.find(world.path).hashes["sha256"] == world.sha256
    for role in ("root", "timestamp", "snapshot", "targets", "model-net"):
        assert client.signed(role).version == world.second.version(role)
    client.check_expiry(utc())
    with pytest.raises(VerificationError, match="The root metadata"):
        client.check_expiry(utc(4000))


def test_python_tuf_takes_the_root_that_it_is_given(world: World, tmp_path: Path) -> None:
    """And not one that lies in its folder, but those that follow it there."""
    client = _client(world, tmp_path, utc())
    client.refresh()
    assert (tmp_path / "root_history/2.root.json").is_file()
    fewer = world.second.copy()
    del fewer.files["metadata/2.root.json"]
    _client(world, tmp_path, utc(), fewer).refresh()
    other = json.dumps({"signed": {}, "signatures": []}).encode()
    with pytest.raises(VerificationError):
        Client(tmp_path, world.second, other, utc())


# The first root.


def test_the_first_root_is_kept_and_never_replaced(world: World, tmp_path: Path) -> None:
    path = tmp_path / "1.root.json"
    path.write_bytes(world.root)
    told = begin_trust(tmp_path / "state", path)
    assert told["root_version"] == 1
    assert told["root_sha256"] == hashlib.sha256(world.root).hexdigest()
    assert begin_trust(tmp_path / "state", path) == told
    path.write_bytes(world.second.files["metadata/2.root.json"])
    with pytest.raises(UsageError, match="trusts another root already"):
        begin_trust(tmp_path / "state", path)


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", "model-net"])
def test_other_metadata_is_no_root(world: World, tmp_path: Path, role: str) -> None:
    path = tmp_path / "root.json"
    path.write_bytes(world.first.files[world.first.path(role)])
    with pytest.raises(VerificationError, match="no root metadata to trust"):
        begin_trust(tmp_path / "state", path)


def test_a_root_that_its_own_keys_did_not_sign_is_none(world: World, tmp_path: Path) -> None:
    path = tmp_path / "root.json"
    told = json.loads(world.root)
    for spoilt in (
        {**told, "signatures": told["signatures"][:1]},
        {**told, "signatures": []},
        {**told, "signed": {**told["signed"], "version": 2}},
        [],
        {"signed": []},
    ):
        path.write_text(json.dumps(spoilt))
        with pytest.raises(VerificationError, match="no root metadata to trust"):
            begin_trust(tmp_path / "state", path)
    with pytest.raises(UsageError, match="cannot be read"):
        begin_trust(tmp_path / "state", tmp_path / "none")
