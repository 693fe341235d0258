"""What is done rarely and by few: a new repository, a new model, a rotated key, a revocation."""

from __future__ import annotations

import dataclasses

from agent.errors import UsageError
from agent.names import check_path
from sdk.release.keystore import KeyStore
from sdk.release.repository import Repository, extension

ROOT_KEYS, ROOT_THRESHOLD = 3, 2
TARGETS_KEYS = 2
ONE_KEY = ("snapshot", "timestamp", "assignment", "assignment_offline")


@dataclasses.dataclass(frozen=True, kw_only=True)
class KeyState:
    """One key, as `sdk keys status` shows it."""

    name: str
    role: str
    keyid: str
    made: str
    here: bool
    """Its secret file is in the keys folder."""
    trusted: bool
    """The repository's metadata names it."""


def initialise(repository: Repository, *, small: bool = False) -> list[str]:
    """Make all keys and an empty repository that trusts them.

    Args:
        repository: at a place where there is none yet.
        small: one targets key has to sign, and not both.

    Returns:
        The names of the keys.

    Raises:
        UsageError: there is a repository, or there are keys.
    """
    from tuf.api.metadata import Root, Snapshot, Targets, Timestamp

    keys = repository.keys
    if repository.exists or keys.records:
        raise UsageError(
            "There is a repository or a set of keys already.",
            cause="sdk keys init makes new ones, and devices would not follow.",
            remedy="Look at them: sdk keys status. For a second fleet name other folders: --keys, "
            "--repo.",
        )
    names = {
        "root": [f"root-{number}" for number in range(1, ROOT_KEYS + 1)],
        "targets": [f"targets-{number}" for number in range(1, TARGETS_KEYS + 1)],
        **{role: [role] for role in ONE_KEY},
    }
    for role, own in names.items():
        for name in own:
            keys.make(name, role)
    thresholds = {"root": ROOT_THRESHOLD, "targets": 1 if small else TARGETS_KEYS}
    root = Root(consistent_snapshot=True)
    for role in ("root", "targets", "snapshot", "timestamp"):
        for name in names[role]:
            root.add_key(keys.public(name), role)
        root.roles[role].threshold = thresholds.get(role, 1)
    told = extension(root)
    for role in ("assignment", "assignment_offline"):
        key = keys.public(names[role][0])
        root.keys[key.keyid] = key
        told[role] = {"keyids": [key.keyid], "threshold": 1}
    repository.add("root", root)
    repository.add("targets", Targets())
    repository.add("snapshot", Snapshot())
    repository.add("timestamp", Timestamp())
    repository.commit()
    return [name for own in names.values() for name in own]


def add_model(repository: Repository, model: str) -> str:
    """Give a model a key of its own, which signs its releases and nothing else.

    Raises:
        UsageError: it has one, or the targets keys are not here.
    """
    from tuf.api.metadata import DelegatedRole, Delegations, Targets

    check_path(model)
    role = f"model-{model}"
    if model in repository.models():
        raise UsageError(
            f"The model {model} has a key already.",
            cause="It was added before.",
            remedy=f"Rotate it if it is lost: sdk keys rotate {role}",
        )
    repository.keys.make(role, role)
    key = repository.keys.public(role)
    targets = repository.edit("targets").signed
    if targets.delegations is None:
        targets.delegations = Delegations(keys={}, roles={})
    targets.delegations.keys[key.keyid] = key
    targets.delegations.roles[role] = DelegatedRole(
        name=role,
        keyids=[key.keyid],
        threshold=1,
        terminating=True,
        # `*` stands for one part of a path, so another model's folder never fits.
        paths=[f"models/{model}/*/manifest.json"],
    )
    repository.add(role, Targets())
    repository.commit()
    return role


def rotate(repository: Repository, name: str) -> str:
    """Replace a key by a new one; what it signed is signed anew.

    Args:
        repository: names the old key.
        name: of the old key.

    Returns:
        The new key's name.

    Raises:
        UsageError: there is no such key, or others that have to sign are not here.
    """
    keys = repository.keys
    if name not in keys.records:
        keys.keyid(name)  # raises
    role = keys.records[name].role
    old = keys.keyid(name)
    fresh = _next_name(name, keys)
    keys.make(fresh, role)
    new = keys.public(fresh)
    if role.startswith("model-"):
        delegations = repository.edit("targets").signed.delegations
        own = delegations.roles[role]
        own.keyids = [new.keyid if keyid == old else keyid for keyid in own.keyids]
        delegations.keys[new.keyid] = new
        delegations.keys.pop(old, None)
        repository.edit(role)
    else:
        root = repository.edit("root").signed
        if role in ("assignment", "assignment_offline"):
            told = extension(root)[role]
            told["keyids"] = [new.keyid if keyid == old else keyid for keyid in told["keyids"]]
            root.keys[new.keyid] = new
            root.keys.pop(old, None)
        else:
            root.add_key(new, role)
            root.revoke_key(old, role)
            if role != "root":
                repository.edit(role)
    repository.commit()
    keys.retire(name)
    return fresh


def revoke(repository: Repository, model: str, counter: int, *, below: bool = False) -> None:
    """Take a release back: no device activates it any more, and what runs it says so.

    Args:
        repository: of the model.
        model: its name.
        counter: of the release.
        below: all releases before it too, which no device goes back to then.
    """
    signed = repository.edit(f"model-{model}").signed
    told = extension(signed)
    if below:
        told["revoked_below"] = max(counter + 1, int(told.get("revoked_below", 0)))
    else:
        told["revoked"] = sorted({*told.get("revoked", ()), counter})
    repository.commit()


def status(repository: Repository) -> list[KeyState]:
    """Every key, with what is known of it."""
    trusted: set[str] = set()
    if repository.exists:
        trusted |= set(repository.role("root").signed.keys)
        delegations = repository.role("targets").signed.delegations
        trusted |= set(delegations.keys if delegations else ())
    return [
        KeyState(
            name=name,
            role=record.role,
            keyid=record.keyid,
            made=record.made,
            here=repository.keys.has_secret(name),
            trusted=record.keyid in trusted,
        )
        for name, record in repository.keys.records.items()
    ]


def _next_name(name: str, keys: KeyStore) -> str:
    stem = name.rpartition("@")[0] or name
    number = 2
    while f"{stem}@{number}" in keys.records:
        number += 1
    return f"{stem}@{number}"
