"""Every attack on a repository, as a device sees it: refused with its reason, nothing is lost.

The device runs 1.0.0. In each case somebody changes the repository, with no key, with one that was
stolen, or with an old copy of it. The device says why it does not follow, goes on running what it
ran, and takes 2.0.0 once the repository is right again.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime as dt
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.config import Config
from agent.errors import NetworkError, VerificationError
from agent.manifest import Gate
from agent.updates import home as home_module
from agent.updates.home import Home
from agent.updates.install import confirm_now, install
from agent.updates.journal import Action
from agent.updates.proof import Asked, Proof
from agent.updates.run import once
from agent.updates.status import status
from sdk.release import ceremony
from sdk.release.keystore import KeyStore
from sdk.release.repository import Repository
from sdk.release.store import FolderStore
from tests.updates import attacks
from tests.updates.fleet import GROUP, MODEL, PASSPHRASE, Fleet, passing, silent, utc
from tests.updates.forge import Repo, signers_of, told_at

FAST_FORWARD = 2**31 - 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Base:
    """A fleet that published 1.0.0 and then 2.0.0, and a device that runs 1.0.0."""

    folder: Path
    first: Repo
    """With 1.0.0 assigned."""
    second: Repo
    """With 2.0.0 assigned."""
    package: bytes
    """Of 2.0.0."""


pytestmark = pytest.mark.usefixtures("without_fsync")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    folder = tmp_path_factory.mktemp("base")
    fleet = Fleet(folder)
    ceremony.add_model(fleet.repository(), attacks.OTHER)
    gate = Gate(quantity="latency_us", quantile_permille=950, max=1000)
    fleet.release("1.0.0")
    signers = signers_of(KeyStore(folder / "keys", PASSPHRASE))
    first = Repo.read(fleet.repo, signers)
    with Home(fleet.device()) as home:
        once(home, silent, passing)
        confirm_now(home, MODEL)
    made = fleet.publish("2.0.0", fleet.build("gated", gates=(gate,)))
    fleet.assign(made)
    package = fleet.package(made).read_bytes()
    return Base(folder=folder, first=first, second=Repo.read(fleet.repo, signers), package=package)


class Scene:
    """A copy of the base, for one attack."""

    def __init__(self, base: Base, folder: Path) -> None:
        self.base = base
        self.folder = folder
        shutil.copytree(base.folder / "device", folder / "device", symlinks=True)
        self.repo = folder / "repo"
        self.config = Config(
            state=folder / "device", repository=str(self.repo), group=GROUP, reserve_mib=0
        )
        self.told: list[str] = []
        self.show(base.first)

    def show(self, repo: Repo) -> None:
        """What the server shows from now on."""
        self.repo.mkdir(exist_ok=True)
        repo.write(self.repo)

    def look(self, prove: Any = passing) -> Action | None:
        """One turn of the agent."""
        self.told.clear()
        with Home(self.config) as home:
            try:
                return once(home, self.told.append, prove)
            except NetworkError as error:  # any other would end the agent
                self.told.append(str(error))
                return None

    def running(self) -> str | None:
        """The release that runs."""
        (model,) = (m for m in status(self.config)["models"] if m["model"] == MODEL)
        release: str | None = model["release"]
        return release

    def refuses(self, repo: Repo, why: str) -> None:
        """The device does not follow, says why, and goes on running what it ran."""
        before = self.running()
        self.show(repo)
        self.look()
        assert why in " ".join(self.told), self.told
        assert self.running() == before
        with Home(self.config) as home:
            assert home.journal.unfinished() is None
            slots = home.slots(MODEL)
            slot = slots.read(slots.current())
            assert slot is not None
            slots.verify(slot)

    def follows(self, repo: Repo, release: str = "2.0.0") -> None:
        """The device takes what the repository assigns."""
        self.show(repo)
        action = self.look()
        assert action is not None, self.told
        assert (action.state, self.running()) == ("TRIAL", release), self.told


@pytest.fixture
def scene(base: Base, tmp_path: Path) -> Scene:
    return Scene(base, tmp_path)


FAST = {
    attacks.release_signed_by_online_keys,
    attacks.assignment_by_a_stranger,
    attacks.blob_without_end,
    attacks.assignment_of_another_models_release,
    attacks.release_that_was_revoked,
}
"""One of each kind; `make test-long` runs all of them."""
CASES = [
    pytest.param(attack, id=attack.__name__, marks=() if attack in FAST else pytest.mark.long)
    for attack in attacks.REFUSED
]


@pytest.mark.parametrize("attack", CASES)
def test_an_attack_is_refused_for_its_reason(
    base: Base, scene: Scene, attack: attacks.Attack
) -> None:
    hostile = base.second.copy()
    attack(hostile)
    scene.refuses(hostile, attacks.REFUSED[attack])
    assert scene.running() == "1.0.0"
    right = _mended(base.second, hostile)
    if attack not in (attacks.release_that_was_revoked, attacks.release_below_what_was_revoked):
        scene.follows(right)
        return
    path, info = attacks.add_release(right, "3.0.0", attacks.unchanged)
    attacks.sign_release(right, "model-net", path, info)
    attacks.assign(right, path, info)
    scene.follows(right, "3.0.0")


def _mended(right: Repo, hostile: Repo) -> Repo:
    """What the fleet shows afterwards: newer than whatever stolen keys may have signed.

    An action that failed is not begun again, so 2.0.0 is assigned anew.
    """
    made = right.copy()
    for role in ("targets", "model-net", "model-other"):
        made.bump(role, version=hostile.version(role) + 10)
    meta = dict(json.loads(hostile.files[hostile.path("snapshot")].rstrip())["signed"]["meta"])
    for role in ("targets", "model-net", "model-other"):
        meta[f"{role}.json"] = {"version": made.version(role)}
    made.bump("snapshot", meta=meta, version=hostile.version("snapshot") + 10)
    told = json.loads(hostile.files["metadata/timestamp.json"].rstrip())["signed"]["version"]
    made.stamp()
    signed = made.signed("timestamp")
    signed["version"] = told + 10
    made.put("timestamp", signed, *made.keys_of("timestamp"))
    made.assign()
    made.assign(assignment_seq=_seq(made) + 10)
    return made


def _seq(repo: Repo) -> int:
    told = json.loads(repo.files[repo.place_of_assignment()])
    return int(json.loads(base64.b64decode(told["payload"]))["assignment_seq"])


# Rollback: the device has seen the newer state.


def _old_all(repo: Repo, old: Repo) -> None:
    repo.files.clear()
    repo.files.update(old.files)


def _old_snapshot(repo: Repo, old: Repo) -> None:
    repo.stamp(snapshot=old.version("snapshot"))


def _older(role: str) -> Callable[[Repo, Repo], None]:
    def attack(repo: Repo, old: Repo) -> None:
        del old
        repo.publish(versions={role: repo.version(role) - 1})

    attack.__name__ = f"older_{role}"
    return attack


def _dropped(repo: Repo, old: Repo) -> None:
    del old
    meta = repo.signed("snapshot")["meta"]
    del meta["model-net.json"]
    repo.bump("snapshot", meta=meta)
    repo.stamp()


ROLLBACKS: dict[Callable[[Repo, Repo], None], str] = {
    _old_all: "New timestamp version",
    _old_snapshot: "New snapshot version must be >=",
    _older("targets"): "Expected targets.json version",
    _older("model-net"): "Expected model-net.json version",
    _dropped: "New snapshot is missing info for 'model-net.json'",
}


@pytest.mark.long
@pytest.mark.parametrize("attack", ROLLBACKS, ids=lambda attack: attack.__name__)
def test_an_older_state_is_refused(
    base: Base, scene: Scene, attack: Callable[[Repo, Repo], None]
) -> None:
    seen = base.second.copy()
    seen.files[seen.place_of_assignment()] = base.first.files[seen.place_of_assignment()]
    seen.bump("targets")
    seen.publish("targets", "model-net")
    scene.show(seen)
    assert scene.look() is None
    hostile = seen.copy()
    attack(hostile, base.first)
    scene.refuses(hostile, ROLLBACKS[attack])
    place = seen.place_of_assignment()
    seen.files[place] = base.second.files[place]
    scene.follows(_mended(seen, seen if attack is _old_all else hostile))


def test_an_assignment_that_is_replayed_begins_nothing(base: Base, scene: Scene) -> None:
    scene.follows(base.second)
    with Home(scene.config) as home:
        confirm_now(home, MODEL)
    replayed = base.second.copy()
    place = replayed.place_of_assignment()
    replayed.files[place] = base.first.files[place]
    scene.show(replayed)
    assert scene.look() is None
    assert scene.running() == "2.0.0"


def test_an_action_that_was_done_is_not_done_again_under_a_new_number(
    base: Base, scene: Scene
) -> None:
    scene.follows(base.second)
    with Home(scene.config) as home:
        confirm_now(home, MODEL)
        done = home.journal.last(MODEL)
    assert done is not None
    again = base.second.copy()
    again.assign(action_id=done.id)
    scene.refuses(again, "each action is done once")


def test_a_revocation_stays_known_when_it_is_no_longer_told(base: Base, scene: Scene) -> None:
    hostile = base.second.copy()
    attacks.release_that_was_revoked(hostile)
    scene.refuses(hostile, "net 2.0.0 was revoked")
    silenced = _mended(base.second, hostile)
    scene.refuses(silenced, "net 2.0.0 was revoked")


def test_a_gate_can_be_tightened_and_not_loosened(base: Base, scene: Scene) -> None:
    asked: list[Asked] = []

    def prove(home: Home, question: Asked, *, log: Path, time_limit_s: float) -> Proof:
        asked.append(question)
        return passing(home, question, log=log, time_limit_s=time_limit_s)

    loose = {"quantity": "latency_us", "quantile_permille": 950, "max": 10**9}
    repo = base.second.copy()
    repo.assign(gates=[loose])
    scene.show(repo)
    scene.look(prove)
    (question,) = asked
    assert 1000 in [gate.max for gate in question.gates]


# Stolen online keys, and the way back.


def _repository(folder: Path) -> Repository:
    return Repository(FolderStore(folder / "repo"), KeyStore(folder / "keys", PASSPHRASE))


def _rotated(base: Base, folder: Path, *names: str) -> Repo:
    """The right repository with new keys in the place of these."""
    shutil.copytree(base.folder / "keys", folder / "keys")
    place = folder / "repo"
    place.mkdir()
    base.second.write(place)
    for name in names:
        ceremony.rotate(_repository(folder), name)
    # The mended repository is signed by whoever still may.
    return Repo.read(place, signers_of(KeyStore(folder / "keys", PASSPHRASE)))


def test_versions_that_stolen_keys_drove_to_the_end_are_forgotten_with_the_keys(
    base: Base, scene: Scene, tmp_path: Path
) -> None:
    hostile = base.second.copy()
    meta = {name: {"version": FAST_FORWARD} for name in hostile.signed("snapshot")["meta"]}
    hostile.files[hostile.place_of_assignment()] = b"{}"
    hostile.bump("snapshot", meta=meta, version=FAST_FORWARD)
    hostile.stamp(snapshot=FAST_FORWARD)
    stamp = {**hostile.signed("timestamp"), "version": FAST_FORWARD}
    hostile.put("timestamp", stamp, *hostile.keys_of("timestamp"))
    scene.refuses(hostile, "has no")  # nobody signed targets of that version
    scene.refuses(base.second, "New timestamp version")
    rotated = _rotated(base, tmp_path / "new", "timestamp", "snapshot")
    scene.follows(rotated)


def test_numbers_and_times_that_a_stolen_key_set_are_forgotten_with_the_key(
    base: Base, scene: Scene, tmp_path: Path
) -> None:
    hostile = base.second.copy()
    far = {"issued": "2999-01-01T00:00:00Z", "expires": "2999-12-31T00:00:00Z"}
    hostile.assign(assignment_seq=2**53 - 1, **far)
    scene.follows(hostile)  # it is a release that its model's key has signed
    with Home(scene.config) as home:
        confirm_now(home, MODEL)
        assert home.now().year == 2999
    again = base.second.copy()
    again.assign()
    scene.refuses(again, "is expired")
    rotated = _rotated(base, tmp_path / "new", "assignment_offline")
    rotated.signers = {name.replace("@2", ""): key for name, key in rotated.signers.items()}
    rotated.assign(assignment_seq=1, action_id="after-the-theft")
    scene.show(rotated)
    scene.look()  # takes the new root, and judges by the stolen key's time for the last time
    assert "is expired" in scene.told[0]
    scene.follows(rotated)
    with Home(scene.config) as home:
        assert home.now().year < 2999


@pytest.mark.long
@pytest.mark.parametrize(
    "name",
    ["root-1", "targets-1", "snapshot", "timestamp", "assignment_offline", "model-net"],
)
def test_a_device_follows_a_key_that_is_rotated(
    base: Base, scene: Scene, tmp_path: Path, name: str
) -> None:
    rotated = _rotated(base, tmp_path / "new", name)
    if name == "assignment_offline":
        scene.refuses(rotated, "The assignment is not signed by")
        rotated.assign(rotated.signers["assignment_offline@2"])
    scene.follows(rotated)


# Freeze: the clock.


class _Wall(dt.datetime):
    shift = dt.timedelta(0)

    @classmethod
    def now(cls, tz: dt.tzinfo | None = None) -> dt.datetime:  # type: ignore[override]
        return dt.datetime.now(tz) + cls.shift


def _set_clock(monkeypatch: pytest.MonkeyPatch, days: float) -> None:
    class Wall(_Wall):
        shift = dt.timedelta(days=days)

    class Module:
        datetime = Wall
        timezone = dt.timezone

    monkeypatch.setattr(home_module, "dt", Module)


def test_a_device_that_is_kept_from_news_runs_on_and_says_how_old_it_is(
    base: Base, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    _set_clock(monkeypatch, 3)
    scene.refuses(base.first, "timestamp.json is expired. What is trusted here was signed 3 days,")
    age_s = status(scene.config)["metadata_age_s"]
    assert age_s is not None
    assert 0 <= age_s < 3600
    fresh = base.second.copy()
    fresh.stamp(expires=told_at(utc(4)))
    fresh.bump("snapshot", expires=told_at(utc(9)))
    fresh.stamp(expires=told_at(utc(4)))
    scene.follows(fresh)


def test_a_clock_that_is_set_back_does_not_make_old_metadata_new(
    base: Base, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Home(scene.config) as home:
        floor = home.now()
    _set_clock(monkeypatch, -4000)
    with Home(scene.config) as home:
        assert abs(home.now() - floor) < dt.timedelta(minutes=10)
    old = base.second.copy()
    old.stamp(expires=told_at(utc(-0.5)))
    scene.refuses(old, "timestamp.json is expired")
    scene.follows(_mended(base.second, old))


# A package.


def _package(scene: Scene, content: bytes | None = None) -> Path:
    path = scene.folder / "p.zip"
    path.write_bytes(content or scene.base.package)
    return path


def test_a_package_on_another_machine_is_refused(base: Base, scene: Scene) -> None:
    other = dataclasses.replace(scene.config, repository=None, group="line-9")
    with Home(other) as home, pytest.raises(VerificationError, match=r"this is .* of the group li"):
        install(home, _package(scene), silent, passing)
    assert scene.running() == "1.0.0"
    right = dataclasses.replace(scene.config, repository=None)
    with Home(right) as home:
        assert install(home, _package(scene), silent, passing).state == "TRIAL"


def test_a_package_is_judged_at_the_time_of_its_issue(
    base: Base, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    stamp = scene.config.state / "trust/current/timestamp.json"
    before = stamp.read_bytes()
    _set_clock(monkeypatch, 30)
    with Home(dataclasses.replace(scene.config, repository=None)) as home:
        assert install(home, _package(scene), silent, passing).state == "TRIAL"
    assert stamp.read_bytes() == before


def test_a_package_is_refused_once_its_models_signature_expired(
    base: Base, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    _set_clock(monkeypatch, 95)
    with Home(dataclasses.replace(scene.config, repository=None)) as home:
        action = install(home, _package(scene), silent, passing)
        assert action.state == "REJECTED"
        assert "expired on" in action.reason
    assert scene.running() == "1.0.0"


def test_a_key_that_a_package_replaced_stays_replaced(
    base: Base, scene: Scene, tmp_path: Path
) -> None:
    rotated = _rotated(base, tmp_path / "new", "assignment_offline")
    rotated.assign(rotated.signers["assignment_offline@2"])
    path = scene.folder / "new.zip"
    with zipfile.ZipFile(path, "w") as made:
        for name, content in rotated.files.items():
            if not name.startswith("assignments/"):
                made.writestr(name, content)
        made.writestr("assignment.json", rotated.files[rotated.place_of_assignment()].strip())
    alone = dataclasses.replace(scene.config, repository=None)
    with Home(alone) as home:
        assert install(home, path, silent, passing).state == "TRIAL"
        confirm_now(home, MODEL)
        with pytest.raises(VerificationError, match="not signed by"):
            install(home, _package(scene), silent, passing)
