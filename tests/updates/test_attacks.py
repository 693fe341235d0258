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
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.config import Config
from agent.errors import NetworkError, VerificationError
from agent.manifest import Gate
from agent.updates import home as home_module
from agent.updates.freshness import EXTENSION
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
from tests.updates.fleet import GROUP, MODEL, PASSPHRASE, Fleet, passing, silent, utc
from tests.updates.forge import MALLORY, Repo, signers_of, told_at

FAST_FORWARD = 2**31 - 1
OTHER = "other"


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


@pytest.fixture(scope="module", autouse=True)
def in_memory() -> Iterator[None]:
    """No power is cut here, and waiting for the disk is most of what these tests would do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    folder = tmp_path_factory.mktemp("base")
    fleet = Fleet(folder)
    ceremony.add_model(fleet.repository(), OTHER)
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


Attack = Callable[[Repo], None]
"""Changes a copy of the repository that shows 2.0.0."""


def _release(repo: Repo, name: str, change: Callable[[dict[str, Any]], None]) -> tuple[str, Any]:
    """A manifest like that of 2.0.0, laid down under another name: its path, what is signed."""
    path = next(p for p in repo.files if p.startswith(f"targets/models/{MODEL}/2.0.0/"))
    told = json.loads(repo.files[path])
    told["release"] = name
    told["release_counter"] += 5
    change(told)
    where = f"models/{told.get('under', MODEL)}/{name}/manifest.json"
    told.pop("under", None)
    return where, repo.add_manifest(where, json.dumps(told).encode())


def _sign_release(repo: Repo, role: str, path: str, info: Any, *keys: Any) -> None:
    targets = {**repo.signed(role)["targets"], path: info}
    repo.bump(role, *keys, targets=targets)
    repo.publish(role)


def _assign(repo: Repo, path: str, info: Any, **more: Any) -> None:
    repo.assign(release_path=path, manifest_sha256=info["hashes"]["sha256"], **more)


def _nothing(_: dict[str, Any]) -> None:
    """As it is."""


# Arbitrary installation.


def unsigned_release(repo: Repo) -> None:
    path, info = _release(repo, "6.6.6", _nothing)
    _assign(repo, path, info)


def release_signed_by_a_stranger(repo: Repo) -> None:
    path, info = _release(repo, "6.6.6", _nothing)
    _sign_release(repo, "model-net", path, info, MALLORY)
    _assign(repo, path, info)


def release_signed_by_online_keys(repo: Repo) -> None:
    path, info = _release(repo, "6.6.6", _nothing)
    _sign_release(repo, "model-net", path, info, "snapshot", "timestamp", "assignment")
    _assign(repo, path, info)


def release_in_targets_by_one_of_two(repo: Repo) -> None:
    path, info = _release(repo, "6.6.6", _nothing)
    _sign_release(repo, "targets", path, info, "targets-1")
    _assign(repo, path, info)


def delegation_to_a_stranger(repo: Repo) -> None:
    delegations = repo.signed("targets")["delegations"]
    delegations["keys"][MALLORY.public_key.keyid] = MALLORY.public_key.to_dict()
    delegations["roles"][0]["keyids"] = [MALLORY.public_key.keyid]
    repo.bump("targets", MALLORY, delegations=delegations)
    repo.publish("targets")


def timestamp_by_a_stranger(repo: Repo) -> None:
    repo.stamp(MALLORY)


def snapshot_by_a_stranger(repo: Repo) -> None:
    repo.bump("snapshot", MALLORY)
    repo.stamp()


def snapshot_by_the_timestamps_key(repo: Repo) -> None:
    repo.bump("snapshot", "timestamp")
    repo.stamp()


def _root_for_a_stranger(repo: Repo) -> dict[str, Any]:
    signed = repo.signed("root")
    keyid = MALLORY.public_key.keyid
    signed["keys"][keyid] = MALLORY.public_key.to_dict()
    signed["roles"]["root"] = {"keyids": [keyid], "threshold": 1}
    signed["roles"]["timestamp"] = {"keyids": [keyid], "threshold": 1}
    return {"keys": signed["keys"], "roles": signed["roles"]}


def root_by_a_stranger(repo: Repo) -> None:
    repo.bump("root", MALLORY, **_root_for_a_stranger(repo))


def root_by_one_of_three(repo: Repo) -> None:
    repo.bump("root", MALLORY, "root-1", **_root_for_a_stranger(repo))


def root_by_all_but_itself(repo: Repo) -> None:
    repo.bump("root", "root-1", "root-2", **_root_for_a_stranger(repo))


def root_that_skips_a_version(repo: Repo) -> None:
    version = repo.version("root")
    signed = repo.bump("root", version=version + 2)
    repo.files[repo.path("root", version + 1)] = repo.files.pop(repo.path("root", version + 2))
    assert signed["version"] == version + 2


# An assignment.


def assignment_by_a_stranger(repo: Repo) -> None:
    repo.assign(MALLORY)


def assignment_by_the_snapshots_key(repo: Repo) -> None:
    repo.assign(repo.signers["snapshot"])


def assignment_by_the_online_key(repo: Repo) -> None:
    repo.assign(repo.signers["assignment"])


def assignment_without_a_signature(repo: Repo) -> None:
    place = repo.place_of_assignment()
    repo.files[place] = json.dumps({**json.loads(repo.files[place]), "signatures": []}).encode()


def assignment_of_another_group(repo: Repo) -> None:
    repo.assign(group="line-9")


def assignment_of_another_device(repo: Repo) -> None:
    repo.assign(group=None, device_id="0" * 32)


def assignment_that_expired(repo: Repo) -> None:
    repo.assign(issued=told_at(utc(-3)), expires=told_at(utc(-1)))


def assignment_of_another_type(repo: Repo) -> None:
    repo.assign(kind="application/vnd.slipway.report.v1+json")


def assignment_that_is_no_json(repo: Repo) -> None:
    repo.files[repo.place_of_assignment()] = b"{"


def assignment_without_end(repo: Repo) -> None:
    repo.files[repo.place_of_assignment()] = b"[" * (1 << 20)


def assignment_with_a_number_beyond(repo: Repo) -> None:
    repo.assign(assignment_seq=2**63)


def assignment_of_another_hash(repo: Repo) -> None:
    repo.assign(manifest_sha256="0" * 64)


# Mix and match.


def old_targets_under_a_new_name(repo: Repo) -> None:
    old = repo.files[repo.path("targets")]
    repo.files[repo.path("targets", repo.version("targets") + 1)] = old
    repo.publish("targets")


def old_snapshot_under_a_new_name(repo: Repo) -> None:
    version = repo.version("snapshot")
    repo.files[repo.path("snapshot", version + 1)] = repo.files[repo.path("snapshot")]
    repo.stamp(snapshot=version + 1)


def metadata_of_another_role(repo: Repo) -> None:
    repo.files[repo.path("model-net")] = repo.files[repo.path("model-other")]


def manifest_of_another_release(repo: Repo) -> None:
    one, two = (
        next(p for p in repo.files if p.startswith(f"targets/models/{MODEL}/{name}/"))
        for name in ("1.0.0", "2.0.0")
    )
    repo.files[two] = repo.files[one]


def manifest_of_the_same_length(repo: Repo) -> None:
    path = next(p for p in repo.files if p.startswith(f"targets/models/{MODEL}/2.0.0/"))
    repo.files[path] = repo.files[path].replace(b"2.0.0", b"2.0.1")


def blob_of_another_release(repo: Repo) -> None:
    for path in [p for p in repo.files if p.startswith("blobs/")]:
        repo.files[path] = bytes(len(repo.files[path]))


# Endless data.


def timestamp_without_end(repo: Repo) -> None:
    repo.files["metadata/timestamp.json"] += b" " * (1 << 20)


def snapshot_without_end(repo: Repo) -> None:
    repo.bump("snapshot")
    repo.files[repo.path("snapshot")] += b" " * (3 << 20)
    repo.stamp()


def targets_without_end(repo: Repo) -> None:
    repo.bump("targets")
    repo.files[repo.path("targets")] += b" " * (6 << 20)
    repo.publish("targets")


def root_without_end(repo: Repo) -> None:
    repo.bump("root")
    repo.files[repo.path("root")] += b" " * (1 << 20)


def manifest_without_end(repo: Repo) -> None:
    path = next(p for p in repo.files if p.startswith(f"targets/models/{MODEL}/2.0.0/"))
    repo.files[path] += b" " * (1 << 20)


def manifest_that_is_signed_too_long(repo: Repo) -> None:
    path, info = _release(repo, "6.6.6", lambda told: told.update(pad=" " * (5 << 20)))
    _sign_release(repo, "model-net", path, info)
    _assign(repo, path, info)


def blob_without_end(repo: Repo) -> None:
    for path in [p for p in repo.files if p.startswith("blobs/")]:
        repo.files[path] += bytes(1 << 20)


# Wrong delegation.


def release_by_another_models_key(repo: Repo) -> None:
    path, info = _release(repo, "6.6.6", _nothing)
    _sign_release(repo, "model-other", path, info)
    _assign(repo, path, info)


def manifest_of_another_model(repo: Repo) -> None:
    path, info = _release(repo, "6.6.6", lambda told: told.update(model=OTHER))
    _sign_release(repo, "model-net", path, info)
    _assign(repo, path, info)


def assignment_of_another_models_release(repo: Repo) -> None:
    """Its key and the assignment's were stolen, and a third model is meant."""
    path, info = _release(repo, "6.6.6", lambda told: told.update(under=OTHER))
    _sign_release(repo, "model-other", path, info)
    _assign(repo, path, info)


def delegation_of_a_delegation(repo: Repo) -> None:
    """A model's key hands another model's paths on to a stranger."""
    path, info = _release(repo, "6.6.6", _nothing)
    keyid = MALLORY.public_key.keyid
    delegations = {
        "keys": {keyid: MALLORY.public_key.to_dict()},
        "roles": [
            {
                "name": "evil", "keyids": [keyid], "threshold": 1, "terminating": True,
                "paths": ["models/*/*/manifest.json"],
            }
        ],
    }  # fmt: skip
    repo.bump("model-other", delegations=delegations)
    evil = {**repo.signed("model-other"), "version": 1, "targets": {path: info}}
    evil.pop("delegations")
    repo.put("evil", evil, MALLORY)
    repo.publish("model-other", "evil")
    _assign(repo, path, info)


# Revocation.


def delegation_that_was_taken_back(repo: Repo) -> None:
    delegations = repo.signed("targets")["delegations"]
    delegations["roles"] = [r for r in delegations["roles"] if r["name"] != "model-net"]
    repo.bump("targets", delegations=delegations)
    repo.publish("targets")


def release_that_was_revoked(repo: Repo) -> None:
    repo.bump("model-net", **{EXTENSION: {"revoked": [2]}})
    repo.publish("model-net")


def release_below_what_was_revoked(repo: Repo) -> None:
    repo.bump("model-net", **{EXTENSION: {"revoked_below": 3}})
    repo.publish("model-net")


def revocation_beyond(repo: Repo) -> None:
    repo.bump("model-net", **{EXTENSION: {"revoked_below": 2**63}})
    repo.publish("model-net")


# Freeze.


def timestamp_that_expired(repo: Repo) -> None:
    repo.stamp(expires=told_at(utc(-1)))


def snapshot_that_expired(repo: Repo) -> None:
    repo.bump("snapshot", expires=told_at(utc(-1)))
    repo.stamp()


def targets_that_expired(repo: Repo) -> None:
    repo.bump("targets", expires=told_at(utc(-1)))
    repo.publish("targets")


def model_that_expired(repo: Repo) -> None:
    repo.bump("model-net", expires=told_at(utc(-1)))
    repo.publish("model-net")


REFUSED: dict[Attack, str] = {
    unsigned_release: "No trusted role has signed models/net/6.6.6/manifest.json",
    release_signed_by_a_stranger: "model-net was signed by 0/1 keys",
    release_signed_by_online_keys: "model-net was signed by 0/1 keys",
    release_in_targets_by_one_of_two: "targets was signed by 1/2 keys",
    delegation_to_a_stranger: "targets was signed by 0/2 keys",
    timestamp_by_a_stranger: "timestamp was signed by 0/1 keys",
    snapshot_by_a_stranger: "snapshot was signed by 0/1 keys",
    snapshot_by_the_timestamps_key: "snapshot was signed by 0/1 keys",
    root_by_a_stranger: "root was signed by 0/2 keys",
    root_by_one_of_three: "root was signed by 1/2 keys",
    root_by_all_but_itself: "root was signed by 0/1 keys",
    root_that_skips_a_version: "Expected root version 2 instead got version 3",
    assignment_by_a_stranger: "The assignment is not signed by 1 of the 1 keys",
    assignment_by_the_snapshots_key: "The assignment is not signed by 1 of the 1 keys",
    assignment_by_the_online_key: "The assignment is not signed by 1 of the 1 keys",
    assignment_without_a_signature: "The assignment is not signed by 1 of the 1 keys",
    assignment_of_another_group: "for 'the group line-9', this is",
    assignment_of_another_device: f"for '{'0' * 32}', this is",
    assignment_that_expired: "The assignment expired at",
    assignment_of_another_type: "it is of the type 'application/vnd.slipway.report.v1+json'",
    assignment_that_is_no_json: "The assignment cannot be read",
    assignment_without_end: "65536 at most are read",
    assignment_with_a_number_beyond: "is beyond",
    assignment_of_another_hash: "the assignment asks for 0000",
    old_targets_under_a_new_name: "Expected targets v",
    old_snapshot_under_a_new_name: "Expected snapshot version",
    metadata_of_another_role: "model-net was signed by 0/1 keys",
    manifest_of_another_release: "does not match expected",
    manifest_of_the_same_length: "does not match expected hash",
    blob_of_another_release: "came in the place of sha256",
    timestamp_without_end: "has more than 16384 bytes",
    snapshot_without_end: "has more than 2000000 bytes",
    targets_without_end: "has more than 5000000 bytes",
    root_without_end: "has more than 512000 bytes",
    manifest_without_end: "does not match expected length",
    manifest_that_is_signed_too_long: "bytes; the assignment asks for",
    blob_without_end: "is longer than the",
    release_by_another_models_key: "No trusted role has signed models/net/6.6.6",
    manifest_of_another_model: "The manifest is of other 6.6.6, the assignment is of net",
    assignment_of_another_models_release: "is no release of the model net",
    delegation_of_a_delegation: "No trusted role has signed models/net/6.6.6",
    delegation_that_was_taken_back: "No trusted role has signed models/net/2.0.0",
    release_that_was_revoked: "net 2.0.0 was revoked",
    release_below_what_was_revoked: "net 2.0.0 was revoked",
    revocation_beyond: "In the x-slipway of model-net, something is missing or malformed",
    timestamp_that_expired: "timestamp.json is expired",
    snapshot_that_expired: "snapshot.json is expired",
    targets_that_expired: "New targets is expired",
    model_that_expired: "New model-net is expired",
}


FAST = {
    unsigned_release, release_signed_by_online_keys, root_by_one_of_three, assignment_by_a_stranger,
    assignment_of_another_group, old_targets_under_a_new_name, blob_without_end,
    release_by_another_models_key, assignment_of_another_models_release,
    delegation_that_was_taken_back, release_that_was_revoked, targets_that_expired,
}  # fmt: skip
"""One of each kind; all of them are run by `make test-long`."""
CASES = [
    pytest.param(attack, id=attack.__name__, marks=() if attack in FAST else pytest.mark.long)
    for attack in REFUSED
]


@pytest.mark.parametrize("attack", CASES)
def test_an_attack_is_refused_for_its_reason(base: Base, scene: Scene, attack: Attack) -> None:
    hostile = base.second.copy()
    attack(hostile)
    scene.refuses(hostile, REFUSED[attack])
    assert scene.running() == "1.0.0"
    right = _mended(base.second, hostile)
    if attack not in (release_that_was_revoked, release_below_what_was_revoked):
        scene.follows(right)
        return
    path, info = _release(right, "3.0.0", _nothing)
    _sign_release(right, "model-net", path, info)
    _assign(right, path, info)
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
    scene.refuses(again, "each is done once")


def test_a_revocation_stays_known_when_it_is_no_longer_told(base: Base, scene: Scene) -> None:
    hostile = base.second.copy()
    release_that_was_revoked(hostile)
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
        made.writestr("assignment.json", rotated.files[rotated.place_of_assignment()])
    alone = dataclasses.replace(scene.config, repository=None)
    with Home(alone) as home:
        assert install(home, path, silent, passing).state == "TRIAL"
        confirm_now(home, MODEL)
        with pytest.raises(VerificationError, match="not signed by"):
            install(home, _package(scene), silent, passing)
