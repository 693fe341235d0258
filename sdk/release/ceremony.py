"""What is done rarely and by few: a new repository, a new model, a rotated key, a revocation."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from typing import Any

from agent.errors import UsageError, VerificationError
from agent.names import check_path
from agent.updates.freshness import TIME_FORM
from agent.updates.trust import METADATA
from sdk.release.keystore import KeyStore
from sdk.release.repository import Repository
from sdk.release.roles import extension, said

ROOT_KEYS, ROOT_THRESHOLD = 3, 2
TARGETS_KEYS = 2
ASSIGNING = ("assignment", "assignment_offline")
ONE_KEY = ("snapshot", "timestamp", *ASSIGNING)
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
"""Also what a project may call its model. No letter of it is changed in a URL."""


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class RoleState:
    """One role's metadata, as `sdk keys status` shows it."""

    role: str
    version: int
    expires: str
    threshold: int
    """So many of its keys have to sign."""
    keys: int


def initialise(repository: Repository, *, small: bool = False) -> list[str]:
    """Make all keys and an empty repository that trusts them.

    One that was cut off goes on with the keys that it made.

    Args:
        repository: at a place where there is none yet.
        small: one targets key has to sign, and not both.

    Returns:
        The names of the keys.

    Raises:
        UsageError: there is a repository, or there are keys.
        StorageError: a folder cannot be written.
    """
    from tuf.api.metadata import Snapshot, Targets, Timestamp

    keys = repository.keys
    names = _first_names()
    with repository.locked():
        if repository.exists or (keys.records and not _was_cut_off(repository)):
            raise UsageError(
                "There is a repository or a set of keys already.",
                cause="sdk keys init makes new ones, and devices would not follow.",
                remedy="Look at them: sdk keys status. For a second fleet name other folders: "
                "--keys, --repo.",
            )
        if not keys.records:
            for role, own in names.items():
                for name in own:
                    keys.make(name, role)
        repository.add("root", _first_root(keys, names, small=small))
        repository.commit()
        # Not before the root is there: by it a second try knows that these keys are its own.
        keys.save()
        repository.add("targets", Targets())
        repository.add("snapshot", Snapshot())
        repository.add("timestamp", Timestamp())
        repository.commit()
    return [name for own in names.values() for name in own]


def add_model(repository: Repository, model: str) -> str:
    """Give a model a key of its own, which signs its releases and nothing else.

    Raises:
        UsageError: it has one, its name cannot be a path, or the targets keys are not here.
    """
    from tuf.api.metadata import DelegatedRole, Delegations, Targets

    check_model(model)
    role = f"model-{model}"
    with repository.locked():
        if model in repository.models():
            raise UsageError(
                f"The model {model} has a key already.",
                cause="It was added before.",
                remedy=f"Rotate it if it is lost: sdk keys rotate {role}",
            )
        repository.check_signers("targets", "snapshot", "timestamp")
        if role not in repository.keys.records:
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
        signed = repository.add(role, Targets()).signed
        extension(signed).update(revoked_below=0, revoked=[])
        repository.stage()
        repository.keys.save()
        repository.write()
    return role


def rotate(repository: Repository, *names: str) -> list[str]:
    """Replace keys by new ones; what they signed is signed anew.

    A role below root changes in three steps, each of which devices accept: a root that knows the
    new key too, the role signed by it, a root that forgets the old key. Cut off anywhere, the
    same rotation goes on.

    Args:
        repository: names the old keys.
        names: of the old keys: all that are lost at once, so that the rest can sign.

    Returns:
        The new keys' names.

    Raises:
        UsageError: there is no such key, or others that have to sign are not here.
    """
    keys = repository.keys
    pairs: list[tuple[str, str]] = []
    with repository.locked():
        for name in dict.fromkeys(names):
            keys.keyid(name)  # raises
            pairs.append((name, _successor(keys, name)))
        done = [pair for pair in pairs if _is_done(repository, *pair)]
        _replace(repository, [pair for pair in pairs if pair not in done])
        repository.stage()
        keys.save()
        repository.write()
        for name, _ in pairs:
            keys.retire(name)
    return [new for _, new in pairs]


def revoke(repository: Repository, model: str, counter: int, *, below: bool = False) -> bool:
    """Take a release back: no device activates it any more, and what runs it says so.

    Args:
        repository: of the model.
        model: its name.
        counter: of the release.
        below: all releases before it too, which no device goes back to then.

    Returns:
        Whether that is new.

    Raises:
        UsageError: there is no such model, or a key is not here.
    """
    with repository.locked():
        role = f"model-{model}"
        told = said(repository.role(role).signed)
        floor = max(int(told.get("revoked_below", 0)), counter + 1 if below else 0)
        single = {*told.get("revoked", ()), *(() if below else (counter,))}
        left = sorted(one for one in single if one >= floor)
        wanted = {**told, "revoked_below": floor, "revoked": left}
        if wanted == told:
            return False
        extension(repository.edit(role).signed).update(wanted)
        repository.commit()
        return True


def status(repository: Repository) -> list[KeyState]:
    """Every key, with what is known of it."""
    trusted = _trusted(repository) if repository.exists else set()
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


def roles(repository: Repository) -> list[RoleState]:
    """Every role's metadata, with what is known of it."""
    if not repository.exists:
        return []
    names = ["root", "targets", "snapshot", "timestamp"]
    names += [f"model-{model}" for model in repository.models()]
    return [
        RoleState(
            role=name,
            version=repository.role(name).signed.version,
            expires=repository.role(name).signed.expires.strftime(TIME_FORM),
            threshold=repository.threshold(name),
            keys=len(repository.keyids(name)),
        )
        for name in names
    ]


def check_model(model: str) -> None:
    """Whether a model may be called so.

    Raises:
        UsageError: its name cannot be a part of a path everywhere.
    """
    try:
        check_path(model)
        plain = _NAME.fullmatch(model) is not None
    except VerificationError:
        plain = False
    if not plain:
        raise UsageError(
            f"{model!r} is no name for a model.",
            cause="It becomes part of a path and of a URL.",
            remedy="Use lower-case letters, digits, dots, underscores and minus, such as minilm",
        )


def _first_names() -> dict[str, list[str]]:
    return {
        "root": [f"root-{number}" for number in range(1, ROOT_KEYS + 1)],
        "targets": [f"targets-{number}" for number in range(1, TARGETS_KEYS + 1)],
        **{role: [role] for role in ONE_KEY},
    }


def _first_root(keys: KeyStore, names: dict[str, list[str]], *, small: bool) -> Any:
    from tuf.api.metadata import Root

    thresholds = {"root": ROOT_THRESHOLD, "targets": 1 if small else TARGETS_KEYS}
    root = Root(consistent_snapshot=True)
    for role in ("root", "targets", "snapshot", "timestamp"):
        for name in names[role]:
            root.add_key(keys.public(name), role)
        root.roles[role].threshold = thresholds.get(role, 1)
    told = extension(root)
    for role in ASSIGNING:
        key = keys.public(names[role][0])
        root.keys[key.keyid] = key
        told[role] = {"keyids": [key.keyid], "threshold": 1}
    return root


def _was_cut_off(repository: Repository) -> bool:
    """Whether the keys here were made for a repository here that was not finished."""
    from tuf.api.exceptions import RepositoryError
    from tuf.api.metadata import Metadata

    content = repository.store.read(f"{METADATA}/1.root.json")
    if content is None:
        return False
    try:
        keyids = set(Metadata.from_bytes(content).signed.keys)
    except RepositoryError:
        return False
    return keyids == {record.keyid for record in repository.keys.records.values()}


def _successor(keys: KeyStore, name: str) -> str:
    """The key that replaces another one: of a rotation that was cut off, or a new one."""
    found = keys.successor(name)
    if found is None:
        stem, _, number = name.partition("@")
        found = f"{stem}@{int(number or 1) + 1}"
        keys.make(found, keys.records[name].role, replaces=name)
    return found


def _is_done(repository: Repository, old: str, new: str) -> bool:
    """Whether only the old key's file is still to be put away."""
    trusted, keyid = _trusted(repository), repository.keys.keyid
    return keyid(new) in trusted and keyid(old) not in trusted


def _trusted(repository: Repository) -> set[str]:
    found = set(repository.role("root").signed.keys)
    delegations = repository.role("targets").signed.delegations
    return found | set(delegations.keys if delegations else ())


def _replace(repository: Repository, pairs: Sequence[tuple[str, str]]) -> None:
    """Stage roots and roles until the new keys stand for the old ones."""
    records = repository.keys.records
    online = [
        pair for pair in pairs if records[pair[0]].role in ("targets", "snapshot", "timestamp")
    ]
    models = [pair for pair in pairs if records[pair[0]].role.startswith("model-")]
    others = [pair for pair in pairs if pair not in online and pair not in models]
    if online or others:
        root = repository.edit("root").signed
        for role, old, new in _keys(repository, online):
            _check_trusted(old, role, root.roles[role].keyids, new)
            root.add_key(new, role)
        for role, old, new in _keys(repository, others):
            if role == "root":
                _check_trusted(old, role, root.roles[role].keyids, new)
                root.add_key(new, role)
                root.revoke_key(old.keyid, role)
            else:
                told = extension(root)[role]
                _check_trusted(old, role, told["keyids"], new)
                told["keyids"] = _instead(told["keyids"], old, new)
                root.keys[new.keyid] = new
                root.keys.pop(old.keyid, None)
        repository.stage()
    for role, old, new in _keys(repository, models):
        delegations = repository.edit("targets").signed.delegations
        own = delegations.roles[role]
        _check_trusted(old, role, own.keyids, new)
        own.keyids = _instead(own.keyids, old, new)
        delegations.keys[new.keyid] = new
        delegations.keys.pop(old.keyid, None)
        repository.edit(role)
    for role, _, _ in _keys(repository, online):
        repository.edit(role)
    repository.stage()
    if online:
        root = repository.edit("root").signed
        for role, old, _ in _keys(repository, online):
            root.revoke_key(old.keyid, role)


def _keys(
    repository: Repository, pairs: Sequence[tuple[str, str]]
) -> Iterator[tuple[str, Any, Any]]:
    keys = repository.keys
    for old, new in pairs:
        yield keys.records[old].role, keys.public(old), keys.public(new)


def _instead(keyids: Sequence[str], old: Any, new: Any) -> list[str]:
    return list(dict.fromkeys(new.keyid if keyid == old.keyid else keyid for keyid in keyids))


def _check_trusted(old: Any, role: str, keyids: Sequence[str], new: Any) -> None:
    if old.keyid not in keyids and new.keyid not in keyids:
        raise UsageError(
            f"The repository does not know this key for {role}: {old.keyid[:16]}….",
            cause="The keys and the repository belong to different fleets, or it was replaced.",
            remedy="Look at both: sdk keys status",
        )
