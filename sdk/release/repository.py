"""A TUF repository: metadata that is read, changed and signed, and written in the right order.

    metadata/<n>.root.json  <n>.targets.json  <n>.model-<name>.json  <n>.snapshot.json
    metadata/timestamp.json
    targets/models/<name>/<release>/<sha256>.manifest.json
    blobs/sha256/<hex>
    assignments/device-<id>.jsonl  assignments/group-<name>.jsonl

Everything is signed, and held against who has to sign it, before the first byte is written. Then
whatever names something is written after it, and the timestamp last: a publication that is cut off
leaves the repository as it was, beside files that nobody names yet.
"""

from __future__ import annotations

import contextlib
import copy
import datetime as dt
from collections.abc import Iterator
from typing import Any

from agent.errors import StorageError, UsageError, VerificationError
from agent.updates.freshness import SIGNED, TIME_FORM
from agent.updates.trust import Revoked
from sdk.release.keystore import KeyStore
from sdk.release.roles import (
    ONLINE,
    Due,
    delegation,
    delegator,
    expiry,
    extension,
    facts,
    is_old,
    lacking_keys,
    place,
    said,
    unknown_model,
)
from sdk.release.store import Store


class Repository:
    """The metadata as it is, and what is to be written."""

    def __init__(self, store: Store, keys: KeyStore) -> None:
        self.store = store
        self.keys = keys
        self._forget()

    def _forget(self) -> None:
        self._read: dict[str, Any] = {}
        self._new: dict[str, Any] = {}
        self._given: dict[str, bytes] = {}
        """Of what is new, that which was signed elsewhere."""
        self._staged: list[tuple[str, bytes]] = []
        self._seen: bytes | None = None
        """The timestamp that all this is based on; it is read before anything else."""

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else writes while inside; what was read before is read anew.

        Raises:
            StorageError: somebody else writes, for too long.
        """
        with self.store.locked():
            self._forget()
            yield

    @property
    def exists(self) -> bool:
        """Whether there is a timestamp, which is written last."""
        return self.store.read(place("timestamp", 0)) is not None

    def role(self, name: str) -> Any:
        """A role's `Metadata`: what is to be written, else what is there.

        Raises:
            UsageError: the repository has no such role.
            VerificationError: it cannot be read, or is not what the snapshot says.
        """
        if name in self._new:
            return self._new[name]
        if name not in self._read:
            if self._seen is None:
                self._seen = self.store.read(place("timestamp", 0))
            self._read[name] = self._load(name)
        return self._read[name]

    def edit(self, name: str) -> Any:
        """The same, to be changed: its version grows and its time begins anew."""
        if name not in self._new:
            found = copy.deepcopy(self.role(name))
            found.signed.version += 1
            found.signed.expires = expiry(name)
            self._new[name] = found
        return self._new[name]

    def add(self, name: str, signed: Any) -> Any:
        """A role that is new."""
        from tuf.api.metadata import Metadata

        signed.expires = expiry(name)
        self._new[name] = Metadata(signed)
        return self._new[name]

    def adopt(self, name: str, content: bytes) -> Any:
        """A role's next metadata, signed by somebody else; whether it is accepted is seen later.

        Raises:
            VerificationError: it is no metadata.
        """
        from tuf.api.exceptions import RepositoryError
        from tuf.api.metadata import Metadata

        try:
            self._new[name] = Metadata.from_bytes(content)
        except RepositoryError as error:
            raise VerificationError(
                f"The new {name} metadata cannot be read: {error}.",
                cause="It was cut short, or made by something else.",
                remedy="Nothing was changed. Publish again.",
            ) from error
        self._given[name] = content
        return self._new[name]

    def models(self) -> list[str]:
        """The names of the models that have a key of their own."""
        delegations = self.role("targets").signed.delegations
        roles = delegations.roles if delegations is not None else {}
        return [name.removeprefix("model-") for name in (roles or {}) if name.startswith("model-")]

    def revoked(self, model: str) -> Revoked:
        """What was taken back of a model."""
        told = said(self.role(f"model-{model}").signed)
        return Revoked(
            below=int(told.get("revoked_below", 0)), releases=tuple(told.get("revoked", ()))
        )

    def stage(self) -> None:
        """Sign what was changed, to be written by `write`; nothing is written yet.

        Raises:
            UsageError: a key that has to sign is not here.
            VerificationError: a key cannot be opened.
        """
        from tuf.api.metadata import MetaFile

        changed = [name for name in self._new if name not in ("root", *ONLINE)]
        contents = {name: self._content(name) for name in self._new if name not in ONLINE}
        if changed or "snapshot" in self._new:
            snapshot = self.edit("snapshot").signed
            for name in changed:
                snapshot.meta[f"{name}.json"] = MetaFile(
                    version=self._new[name].signed.version, **facts(contents[name])
                )
            contents["snapshot"] = self._signed("snapshot")
            self.edit("timestamp").signed.snapshot_meta = MetaFile(
                version=snapshot.version, **facts(contents["snapshot"])
            )
        if "timestamp" in self._new:
            # TUF says only when it expires; devices tell from this how old it is.
            now = dt.datetime.now(tz=dt.timezone.utc)
            extension(self._new["timestamp"].signed)[SIGNED] = now.strftime(TIME_FORM)
            contents["timestamp"] = self._signed("timestamp")
        self._check_whole()
        # A model before the targets that delegate to it.
        order = [name for name in ("root", *reversed(changed), *ONLINE) if name in contents]
        for name in order:
            self._staged.append((place(name, self._new[name].signed.version), contents[name]))
        self._read.update(self._new)
        self._new, self._given = {}, {}

    def write(self) -> list[str]:
        """Write what was staged; the paths that were written, in their order.

        Raises:
            StorageError: the store cannot be written, or somebody else wrote meanwhile.
        """
        written = []
        timestamp = place("timestamp", 0)
        for path, content in self._staged:
            # Before each: a file of the same number may be somebody else's by now, and in use.
            self._check_alone(self.store.read(timestamp) == self._seen)
            if path.endswith(".root.json") and path != place("root", 1):
                self._check_alone(self.store.read(path) is None)
            self.store.write(path, content)
            if path == timestamp:
                self._seen = content
            written.append(path)
        self._staged = []
        return written

    def commit(self) -> list[str]:
        """Sign and write what was changed; see `stage` and `write`."""
        self.stage()
        return self.write()

    def refresh(self) -> tuple[list[str], list[Due]]:
        """Sign snapshot and timestamp anew, so that devices see that nothing is held back.

        What else will expire soon is signed anew too, where its keys are here.

        Returns:
            The paths that were written, and what will expire and could not be signed.
        """
        with self.locked():
            due = []
            for name in ("root", "targets", *(f"model-{model}" for model in self.models())):
                if not is_old(name, self.role(name).signed.expires):
                    continue
                if self._missing(name):
                    due.append(self._due(name))
                else:
                    self.edit(name)
            self.edit("snapshot")
            self.edit("timestamp")
            return self.commit(), due

    def due(self) -> list[Due]:
        """What will expire soon."""
        names = ("root", "targets", *(f"model-{model}" for model in self.models()))
        return [self._due(name) for name in names if is_old(name, self.role(name).signed.expires)]

    def check_signers(self, *names: str) -> None:
        """Whether what signs these roles is here and can be opened.

        Raises:
            UsageError: a key is not here: which, and how to bring it.
            VerificationError: the passphrase is wrong.
        """
        for name in names:
            missing = self._missing(name)
            if missing:
                raise missing
            for key in self._here(name):
                self.keys.signer(key)

    def assignment_signers(self) -> list[str]:
        """The names of the keys here that sign offline assignments.

        Raises:
            UsageError: too few are here.
        """
        told = said(self.role("root").signed).get("assignment_offline", {})
        own = self._names(told.get("keyids", ()))
        here = [name for name in own if self.keys.has_secret(name)]
        if len(here) < int(told.get("threshold", 1)):
            raise lacking_keys("An offline assignment", int(told.get("threshold", 1)), here, own)
        return here

    def keyids(self, name: str) -> tuple[str, ...]:
        """The keys that may sign a role, by the metadata that delegates to it."""
        return tuple(delegation(self.role(delegator(name)).signed, name).keyids)

    def threshold(self, name: str) -> int:
        """How many of them have to."""
        return int(delegation(self.role(delegator(name)).signed, name).threshold)

    def _names(self, keyids: Any) -> list[str]:
        return [name for name, record in self.keys.records.items() if record.keyid in keyids]

    def _here(self, name: str) -> list[str]:
        """The keys here that sign a role; a root is signed by those before it too."""
        keyids = set(self.keyids(name))
        if name == "root" and "root" in self._read:
            keyids |= set(self._read["root"].signed.roles["root"].keyids)
        return [key for key in self._names(keyids) if self.keys.has_secret(key)]

    def _missing(self, name: str) -> UsageError | None:
        own = self._names(self.keyids(name))
        here = [key for key in own if self.keys.has_secret(key)]
        if len(here) >= self.threshold(name):
            return None
        return lacking_keys(f"The {name} metadata", self.threshold(name), here, own)

    def _due(self, name: str) -> Due:
        return Due(
            role=name,
            expires=self.role(name).signed.expires.strftime(TIME_FORM),
            keys=tuple(self._names(self.keyids(name))),
        )

    def _content(self, name: str) -> bytes:
        if name not in self._given:
            return self._signed(name)
        self._check_accepted(name, self.role(delegator(name)))
        return self._given[name]

    def _signed(self, name: str) -> bytes:
        """The metadata with its signatures, which those who delegate to it accept.

        A root has to be accepted by the one before it too, so that devices can follow.
        """
        metadata = self._new[name]
        missing = self._missing(name)
        if missing:
            raise missing
        metadata.signatures.clear()
        for key in self._here(name):
            metadata.sign(self.keys.signer(key), append=True)
        self._check_accepted(name, self.role(delegator(name)))
        if name == "root" and "root" in self._read:
            self._check_accepted(name, self._read["root"])
        return bytes(metadata.to_bytes())

    def _check_whole(self) -> None:
        """Whether what stays as it was is accepted under what delegates to it now."""
        below: list[str] = []
        if "root" in self._new and self.exists:
            below += ["targets", *ONLINE]
        if "targets" in self._new:
            below += [f"model-{model}" for model in self.models()]
        for name in below:
            self._check_accepted(name, self.role(delegator(name)))

    def _check_accepted(self, name: str, above: Any) -> None:
        from tuf.api.exceptions import UnsignedMetadataError

        metadata = self.role(name)
        try:
            above.signed.verify_delegate(name, metadata.signed_bytes, metadata.signatures)
        except UnsignedMetadataError as error:
            keyids = delegation(above.signed, name).keyids
            lacking = [key for key in self._names(keyids) if not self.keys.has_secret(key)]
            raise UsageError(
                f"Devices would not follow the {name} metadata: {error} that they know.",
                cause=f"Not here: {', '.join(lacking) or 'none'}. A root takes signatures by the "
                "keys of the root before it, too.",
                remedy="Nothing was written. Bring their files into the keys folder for this "
                "command.",
            ) from error

    def _check_alone(self, alone: bool) -> None:  # noqa: FBT001  a condition, not an option
        if not alone:
            raise StorageError(
                "The repository was changed meanwhile; nothing of this command counts.",
                cause="Somebody else published or refreshed at the same time.",
                remedy="Run the same command again.",
            )

    def _load(self, name: str) -> Any:
        from tuf.api.exceptions import RepositoryError
        from tuf.api.metadata import Metadata

        path = place(name, self._version(name))
        content = self._seen if name == "timestamp" else self.store.read(path)
        if content is None:
            raise UsageError(
                f"The repository has no {path}.",
                cause="It was not made yet, or is another folder.",
                remedy="Make one: sdk keys init --repo DIR",
            )
        try:
            found = Metadata.from_bytes(content)
            named = self._named(name)
            if named is not None:
                named.verify_length_and_hashes(content)
        except RepositoryError as error:
            raise VerificationError(
                f"{path} cannot be used: {error}.",
                cause="The file was edited by hand or cut short.",
                remedy="Restore it from a backup of the repository.",
            ) from error
        return found

    def _named(self, name: str) -> Any:
        """What the metadata above says of this one."""
        if name in ("root", "timestamp"):
            return None
        if name == "snapshot":
            return self.role("timestamp").signed.snapshot_meta
        return self.role("snapshot").signed.meta.get(f"{name}.json")

    def _version(self, name: str) -> int:
        """The newest version: roots are counted, all others follow from the timestamp."""
        if name == "timestamp":
            return 0
        if name == "root":
            version = 1
            while self.store.read(place("root", version + 1)) is not None:
                version += 1
            return version
        found = self._named(name)
        if found is None:
            raise unknown_model(name)
        return int(found.version)
