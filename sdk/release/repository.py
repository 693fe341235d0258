"""A TUF repository: metadata that is read, changed and signed, and written in the right order.

    metadata/<n>.root.json  <n>.targets.json  <n>.model-<name>.json  <n>.snapshot.json
    metadata/timestamp.json
    targets/models/<name>/<release>/<sha256>.manifest.json
    blobs/sha256/<hex>
    assignments/device-<id>.json  assignments/group-<name>.json

Whatever names something is written after it, and the timestamp last: a publication that is cut off
leaves the repository as it was, beside files that nobody names yet.
"""

from __future__ import annotations

import copy
import datetime as dt
from collections.abc import Iterable, Mapping
from typing import Any

from agent.errors import UsageError, VerificationError
from agent.updates.freshness import EXTENSION, SIGNED, TIME_FORM
from agent.updates.trust import METADATA
from sdk.release.keystore import KeyStore
from sdk.release.store import Store

DAYS: Mapping[str, float] = {
    "root": 365,
    "targets": 180,
    "model": 90,
    "snapshot": 7,
    "timestamp": 1,
}
"""How long metadata of a role is valid."""
ONLINE = ("snapshot", "timestamp")
"""Signed by the publisher here; a fleet server signs them where there is one."""


class Repository:
    """The metadata as it is, and what is to be written."""

    def __init__(self, store: Store, keys: KeyStore) -> None:
        self.store = store
        self.keys = keys
        self._new: dict[str, Any] = {}
        self._read: dict[str, Any] = {}

    @property
    def exists(self) -> bool:
        """Whether there is a timestamp, which is written last."""
        return self.store.read(f"{METADATA}/timestamp.json") is not None

    def role(self, name: str) -> Any:
        """A role's `Metadata`: what is to be written, else what is there.

        Raises:
            UsageError: the repository has no such role.
        """
        if name in self._new:
            return self._new[name]
        if name not in self._read:
            self._read[name] = self._load(name)
        return self._read[name]

    def edit(self, name: str) -> Any:
        """The same, to be changed: its version grows and its time begins anew."""
        if name not in self._new:
            found = copy.deepcopy(self.role(name))
            found.signed.version += 1
            found.signed.expires = self._expires(name)
            self._new[name] = found
        return self._new[name]

    def add(self, name: str, signed: Any) -> Any:
        """A role that is new."""
        from tuf.api.metadata import Metadata

        signed.expires = self._expires(name)
        self._new[name] = Metadata(signed)
        return self._new[name]

    def models(self) -> list[str]:
        """The names of the models that have a key of their own."""
        delegations = self.role("targets").signed.delegations
        roles = delegations.roles if delegations is not None else {}
        return [name.removeprefix("model-") for name in (roles or {}) if name.startswith("model-")]

    def commit(self) -> list[str]:
        """Sign and write what was changed; the paths that were written, in their order.

        Raises:
            UsageError: a key that has to sign is not here.
            StorageError: the store cannot be written.
        """
        from tuf.api.metadata import MetaFile

        changed = [name for name in self._new if name not in ("root", *ONLINE)]
        if changed or "snapshot" in self._new or not self.exists:
            snapshot = self.edit("snapshot")
            for name in changed:
                snapshot.signed.meta[f"{name}.json"] = MetaFile(
                    version=self._new[name].signed.version
                )
        if "snapshot" in self._new or "timestamp" in self._new:
            timestamp = self.edit("timestamp")
            timestamp.signed.snapshot_meta = MetaFile(version=self.role("snapshot").signed.version)
            # TUF says only when it expires; devices tell from this how old it is.
            now = dt.datetime.now(tz=dt.timezone.utc)
            extension(timestamp.signed)[SIGNED] = now.strftime(TIME_FORM)
        order = [name for name in ("root", *changed, *ONLINE) if name in self._new]
        contents = {name: self._signed(name) for name in order}
        written = []
        for name in order:
            path = self._path(name, self._new[name].signed.version)
            self.store.write(path, contents[name])
            written.append(path)
        self._read.update(self._new)
        self._new = {}
        return written

    def refresh(self) -> list[str]:
        """Sign snapshot and timestamp anew, so that devices see that nothing is held back."""
        self.edit("snapshot")
        self.edit("timestamp")
        return self.commit()

    def signers(self, name: str) -> list[str]:
        """The names of the keys here that may sign a role, by the metadata that delegates to it."""
        if name.startswith("model-"):
            delegator = self.role("targets").signed.delegations
            keyids = delegator.roles[name].keyids
        else:
            keyids = self.role("root").signed.roles[name].keyids
        return [key for key, record in self.keys.records.items() if record.keyid in keyids]

    def threshold(self, name: str) -> int:
        """How many of them have to."""
        if name.startswith("model-"):
            return int(self.role("targets").signed.delegations.roles[name].threshold)
        return int(self.role("root").signed.roles[name].threshold)

    def _signed(self, name: str) -> bytes:
        """The metadata with its signatures.

        A root is signed by the keys before it too, so that devices can follow.
        """
        metadata = self._new[name]
        signers = self.signers(name)
        if name == "root" and metadata.signed.version > 1:
            before = self._read["root"].signed.roles["root"].keyids
            signers += [
                key
                for key, record in self.keys.records.items()
                if record.keyid in before and key not in signers
            ]
        here = [key for key in signers if self.keys.has_secret(key)]
        if len(here) < self.threshold(name):
            raise UsageError(
                f"{name} takes {self.threshold(name)} signatures, and the keys here can give "
                f"{len(here)} ({', '.join(here) or 'none'}).",
                cause="Offline keys lie elsewhere, as they should.",
                remedy="Bring their files into the keys folder for this command: sdk keys status",
            )
        metadata.signatures.clear()
        for key in here:
            metadata.sign(self.keys.signer(key), append=True)
        return bytes(metadata.to_bytes())

    def _load(self, name: str) -> Any:
        from tuf.api.exceptions import RepositoryError
        from tuf.api.metadata import Metadata

        if name == "timestamp":
            path = f"{METADATA}/timestamp.json"
        else:
            path = self._path(name, self._version(name))
        content = self.store.read(path)
        if content is None:
            raise UsageError(
                f"The repository has no {path}.",
                cause="It was not made yet, or is another folder.",
                remedy="Make one: sdk keys init --repo DIR",
            )
        try:
            return Metadata.from_bytes(content)
        except RepositoryError as error:
            raise VerificationError(
                f"{path} is not readable: {error}.",
                cause="The file was edited by hand or cut short.",
                remedy="Restore it from a backup of the repository.",
            ) from error

    def _version(self, name: str) -> int:
        """The newest version: roots are counted, all others follow from the timestamp."""
        if name == "root":
            version = 1
            while self.store.read(f"{METADATA}/{version + 1}.root.json") is not None:
                version += 1
            return version
        if name == "snapshot":
            return int(self.role("timestamp").signed.snapshot_meta.version)
        found = self.role("snapshot").signed.meta.get(f"{name}.json")
        if found is None:
            raise UsageError(
                f"The repository knows no {name}.",
                cause="The model has no key of its own yet.",
                remedy=f"sdk keys add-model {name.removeprefix('model-')}",
            )
        return int(found.version)

    def _path(self, name: str, version: int) -> str:
        file = "timestamp.json" if name == "timestamp" else f"{version}.{name}.json"
        return f"{METADATA}/{file}"

    def _expires(self, name: str) -> dt.datetime:
        kind = "model" if name.startswith("model-") else name
        now = dt.datetime.now(tz=dt.timezone.utc).replace(microsecond=0)
        return now + dt.timedelta(days=DAYS[kind])


def extension(signed: Any) -> dict[str, Any]:
    """Our own field of signed metadata, to be read or changed."""
    found: dict[str, Any] = signed.unrecognized_fields.setdefault(EXTENSION, {})
    return found


def keyids(keys: KeyStore, names: Iterable[str]) -> list[str]:
    """The keys' names in metadata."""
    return [keys.keyid(name) for name in names]
