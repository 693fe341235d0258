"""What an attacker makes of a repository, one function each, and why a device refuses it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from agent.updates.freshness import EXTENSION
from tests.updates.fleet import MODEL, utc
from tests.updates.forge import MALLORY, Repo, told_at

OTHER = "other"
"""Another model of the same fleet, with a key of its own."""
Attack = Callable[[Repo], None]
"""Changes a copy of the repository that shows 2.0.0."""


def add_release(repo: Repo, name: str, change: Callable[[dict[str, Any]], None]) -> tuple[str, Any]:
    """A manifest like that of 2.0.0, laid down under another name: its path, what is signed."""
    path = next(p for p in repo.files if p.startswith(f"targets/models/{MODEL}/2.0.0/"))
    told = json.loads(repo.files[path])
    told["release"] = name
    told["release_counter"] += 5
    change(told)
    where = f"models/{told.get('under', MODEL)}/{name}/manifest.json"
    told.pop("under", None)
    return where, repo.add_manifest(where, json.dumps(told).encode())


def sign_release(repo: Repo, role: str, path: str, info: Any, *keys: Any) -> None:
    targets = {**repo.signed(role)["targets"], path: info}
    repo.bump(role, *keys, targets=targets)
    repo.publish(role)


def assign(repo: Repo, path: str, info: Any, **more: Any) -> None:
    repo.assign(release_path=path, manifest_sha256=info["hashes"]["sha256"], **more)


def unchanged(_: dict[str, Any]) -> None:
    """As it is."""


# Arbitrary installation.


def unsigned_release(repo: Repo) -> None:
    path, info = add_release(repo, "6.6.6", unchanged)
    assign(repo, path, info)


def release_signed_by_a_stranger(repo: Repo) -> None:
    path, info = add_release(repo, "6.6.6", unchanged)
    sign_release(repo, "model-net", path, info, MALLORY)
    assign(repo, path, info)


def release_signed_by_online_keys(repo: Repo) -> None:
    path, info = add_release(repo, "6.6.6", unchanged)
    sign_release(repo, "model-net", path, info, "snapshot", "timestamp", "assignment")
    assign(repo, path, info)


def release_in_targets_by_one_of_two(repo: Repo) -> None:
    path, info = add_release(repo, "6.6.6", unchanged)
    sign_release(repo, "targets", path, info, "targets-1")
    assign(repo, path, info)


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
    path, info = add_release(repo, "6.6.6", lambda told: told.update(pad=" " * (5 << 20)))
    sign_release(repo, "model-net", path, info)
    assign(repo, path, info)


def blob_without_end(repo: Repo) -> None:
    for path in [p for p in repo.files if p.startswith("blobs/")]:
        repo.files[path] += bytes(1 << 20)


# Wrong delegation.


def release_by_another_models_key(repo: Repo) -> None:
    path, info = add_release(repo, "6.6.6", unchanged)
    sign_release(repo, "model-other", path, info)
    assign(repo, path, info)


def manifest_of_another_model(repo: Repo) -> None:
    path, info = add_release(repo, "6.6.6", lambda told: told.update(model=OTHER))
    sign_release(repo, "model-net", path, info)
    assign(repo, path, info)


def assignment_of_another_models_release(repo: Repo) -> None:
    """Its key and the assignment's were stolen, and a third model is meant."""
    path, info = add_release(repo, "6.6.6", lambda told: told.update(under=OTHER))
    sign_release(repo, "model-other", path, info)
    assign(repo, path, info)


def delegation_of_a_delegation(repo: Repo) -> None:
    """A model's key hands another model's paths on to a stranger."""
    path, info = add_release(repo, "6.6.6", unchanged)
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
    assign(repo, path, info)


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
    metadata_of_another_role: "does not match expected length",
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
