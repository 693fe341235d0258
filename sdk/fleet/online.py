"""One tenant's repository and the three keys that a server holds: snapshot, timestamp, assignment.

They choose among what was signed elsewhere, and say that it is fresh. They sign no model, loosen no
gate and raise no floor.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent.codec import canonical, encode
from agent.errors import UsageError
from agent.manifest import Manifest
from agent.updates.assignment import ASSIGNMENT_TYPE, Assignment
from agent.updates.trust import METADATA
from sdk.release.keystore import INDEX, KeyStore
from sdk.release.publish import Published, find, manifest_of
from sdk.release.repository import Repository
from sdk.release.roles import is_old, lacking_keys, said
from sdk.release.store import FolderStore

RENEWED_S = 3600.0
"""The timestamp is signed anew so often: devices tell from it that nothing is held back."""
ASSIGNMENT_S = 86400.0
"""So long an assignment counts; it is signed anew as long as it is not taken."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Release:
    """A release in a tenant's repository."""

    model: str
    release: str
    release_counter: int
    manifest_sha256: str
    release_path: str
    revoked: bool


class Tenant:
    """A tenant: a name, a repository in a folder, its online keys."""

    def __init__(self, name: str, folder: Path, keys: Path, passphrase: str | None = None) -> None:
        """Nothing is read yet; `check` does."""
        self.name = name
        self.folder = folder
        self._keys_folder = keys
        self._passphrase = passphrase
        self._keys = KeyStore(keys, passphrase)
        self._lock = threading.Lock()
        self._keys_seen = self._keys_changed()
        self._signers: list[Any] = []
        self._seen: tuple[int, bytes, int | None] = (0, b"", None)
        self._releases: tuple[bytes, list[Release]] = (b"", [])

    def repository(self) -> Repository:
        """The repository as it is now; each use has one of its own."""
        self._follow_keys()
        return Repository(FolderStore(self.folder), self._keys)

    def check(self) -> None:
        """Whether this server can serve the repository: it is whole, and the online keys are here.

        Raises:
            UsageError: there is no repository, or a key is not here.
            VerificationError: a file of it was changed, or the passphrase is wrong.
        """
        repository = self.repository()
        for model in repository.models():
            repository.role(f"model-{model}")
        repository.check_signers("snapshot", "timestamp")
        self._load_signers(repository)

    def seal(self, assignment: Assignment) -> bytes:
        """An assignment in an envelope that is signed by the online assignment key.

        Raises:
            UsageError: that key is not here.
        """
        from securesystemslib.dsse import Envelope

        plain = {name: value for name, value in encode(assignment).items() if value is not None}
        envelope = Envelope(canonical(plain), ASSIGNMENT_TYPE, {})
        for signer in self._own_signers():
            envelope.sign(signer)
        return json.dumps(envelope.to_dict(), separators=(",", ":"), sort_keys=True).encode()

    def is_sealed(self, envelope: Mapping[str, Any]) -> bool:
        """Whether an assignment is signed by the keys that sign now: they are replaced at times."""
        try:
            own = {signature["keyid"] for signature in envelope["signatures"]}
        except (LookupError, TypeError):
            return False
        return own == {signer.public_key.keyid for signer in self._own_signers()}

    def root_sha256(self) -> bytes:
        """Of `1.root.json`: whoever trusts it trusts this repository.

        Raises:
            UsageError: there is none.
        """
        content = FolderStore(self.folder).read(f"{METADATA}/1.root.json")
        if content is None:
            raise _no_repository(self.folder)
        return hashlib.sha256(content).digest()

    def timestamp_version(self) -> int | None:
        """Of the repository as it is now; None where it cannot be read."""
        path = self.folder / METADATA / "timestamp.json"
        try:
            changed = path.stat().st_mtime_ns
            if self._seen[0] != changed:
                content = path.read_bytes()
                self._seen = (changed, content, _version(content))
        except OSError:
            return None
        return self._seen[2]

    def renew(self, *, older_than_s: float = RENEWED_S) -> bool:
        """Sign the timestamp anew if it is old, and the snapshot if it will expire.

        Returns:
            Whether anything was written.

        Raises:
            StorageError: the folder cannot be written.
            VerificationError: what is there is damaged: it is not signed as if it were whole.
        """
        repository = self.repository()
        if self._age_s(repository) < older_than_s:
            return False
        with repository.locked():
            if self._age_s(repository) < older_than_s:  # another process was faster
                return False
            if is_old("snapshot", repository.role("snapshot").signed.expires):
                repository.edit("snapshot")
            repository.edit("timestamp")
            repository.commit()
        return True

    def releases(self) -> list[Release]:
        """All releases, the newest of each model first.

        Raises:
            VerificationError: the repository is damaged.
        """
        with self._lock:
            self.timestamp_version()
            state = self._seen[1]
            if state != self._releases[0]:
                self._releases = (state, _releases(self.repository()))
            return self._releases[1]

    def release(self, model: str, name: str) -> Published:
        """A release by its name.

        Raises:
            UsageError: there is none of that name.
        """
        return find(self.repository(), model, name)

    def manifest(self, release: Published) -> Manifest:
        """What a release holds."""
        return manifest_of(self.repository(), release.model, release.path)

    def is_revoked(self, release: Published) -> bool:
        """Whether its signer took it back."""
        return self.repository().revoked(release.model).covers(release.release_counter)

    def _age_s(self, repository: Repository) -> float:
        from agent.updates.freshness import signed_time

        timestamp = repository.role("timestamp").signed
        signed = signed_time(timestamp.unrecognized_fields)
        if signed is None:
            return float("inf")
        return (dt.datetime.now(tz=dt.timezone.utc) - signed).total_seconds()

    def _own_signers(self) -> list[Any]:
        self._follow_keys()
        return self._signers or self._load_signers(self.repository())

    def _follow_keys(self) -> None:
        """Read the keys anew once they were rotated, while this process runs."""
        changed = self._keys_changed()
        if changed != self._keys_seen:
            self._keys = KeyStore(self._keys_folder, self._passphrase)
            self._keys_seen, self._signers = changed, []

    def _keys_changed(self) -> int:
        try:
            return (self._keys_folder / INDEX).stat().st_mtime_ns
        except OSError:
            return 0

    def _load_signers(self, repository: Repository) -> list[Any]:
        told = said(repository.role("root").signed).get("assignment", {})
        keyids, threshold = told.get("keyids", ()), int(told.get("threshold", 1))
        records = self._keys.records
        own = [name for name, record in records.items() if record.keyid in keyids]
        here = [name for name in own if self._keys.has_secret(name)]
        if len(here) < threshold:
            raise lacking_keys("An online assignment", threshold, here, own)
        self._signers = [self._keys.signer(name) for name in here]
        return self._signers


def _version(timestamp: bytes) -> int | None:
    try:
        version = json.loads(timestamp)["signed"]["version"]
    except (ValueError, LookupError, TypeError):
        return None
    return version if isinstance(version, int) else None


def _releases(repository: Repository) -> list[Release]:
    found = []
    for model in repository.models():
        targets = repository.role(f"model-{model}").signed.targets
        revoked = repository.revoked(model)
        own = [
            Release(
                model=model,
                release=path.split("/")[2],
                release_counter=int((info.custom or {}).get("release_counter", 0)),
                manifest_sha256=info.hashes["sha256"],
                release_path=path,
                revoked=revoked.covers(int((info.custom or {}).get("release_counter", 0))),
            )
            for path, info in targets.items()
        ]
        found += sorted(own, key=lambda one: -one.release_counter)
    return found


def _no_repository(folder: Path) -> UsageError:
    return UsageError(
        f"There is no repository at {folder}.",
        cause="It was not made yet, or lies elsewhere.",
        remedy="Make one: sdk keys init --repo DIR --keys DIR",
    )
