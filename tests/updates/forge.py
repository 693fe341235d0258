"""What an attacker does to a repository: with no key, with a stolen one, or with an old copy.

A `Repo` is a repository in memory, path -> bytes, that can be changed and signed by any keys.
"""

from __future__ import annotations

import base64
import contextlib
import copy
import datetime as dt
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.dsse import Envelope
from securesystemslib.formats import encode_canonical
from securesystemslib.signer import CryptoSigner, Signer

from agent.updates.assignment import ASSIGNMENT_TYPE
from agent.updates.freshness import EXTENSION, SIGNED, TIME_FORM
from agent.updates.source import MissingError, Stream
from sdk.release.keystore import KeyStore
from tests.updates.fleet import utc

Signers = Mapping[str, Signer]
MALLORY = CryptoSigner(Ed25519PrivateKey.from_private_bytes(b"m" * 32))
"""A key that nobody trusts."""


def signers_of(keys: KeyStore) -> dict[str, Signer]:
    """All keys of a fleet, opened once: they are encrypted well."""
    return {name: keys.signer(name) for name in keys.records}


class Repo:
    """A repository's files; a `Source` too."""

    def __init__(self, files: dict[str, bytes], signers: Signers) -> None:
        self.files = files
        self.signers = signers

    @classmethod
    def read(cls, folder: Path, signers: Signers) -> Repo:
        """As it lies in a folder."""
        files = {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file() and not path.name.startswith(".")
        }
        return cls(files, signers)

    def copy(self) -> Repo:
        """To be changed."""
        return Repo(dict(self.files), self.signers)

    def write(self, folder: Path) -> None:
        """Lay it down, in the place of what is there."""
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.relative_to(folder).as_posix() not in self.files:
                path.unlink()
        for name, content in self.files.items():
            path = folder / name
            if not path.is_file() or path.read_bytes() != content:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)

    @contextlib.contextmanager
    def open(self, path: str, *, offset: int = 0, etag: str | None = None) -> Iterator[Stream]:
        """See `agent.updates.source.Source`."""
        del etag
        if path not in self.files:
            raise MissingError(f"there is no {path}")
        yield Stream(offset=offset, chunks=iter([self.files[path][offset:]]), etag=None)

    def version(self, role: str) -> int:
        """The newest of a role."""
        if role == "timestamp":
            return int(self.signed(role)["version"])
        found = [
            int(path.split("/")[1].split(".")[0])
            for path in self.files
            if path.startswith("metadata/") and path.endswith(f".{role}.json")
        ]
        return max(found)

    def path(self, role: str, version: int | None = None) -> str:
        """Where a role's metadata lies."""
        if role == "timestamp":
            return "metadata/timestamp.json"
        return f"metadata/{version or self.version(role)}.{role}.json"

    def signed(self, role: str) -> Any:
        """The signed part of a role's newest metadata, to be changed."""
        return copy.deepcopy(json.loads(self.files[self.path(role)])["signed"])

    def put(self, role: str, signed: Any, *keys: Signer) -> None:
        """Sign and store metadata under the version that it says."""
        content = encode_canonical(signed).encode()
        signatures = [key.sign(content).to_dict() for key in keys]
        made = json.dumps({"signatures": signatures, "signed": signed})
        self.files[self.path(role, signed["version"])] = made.encode()

    def bump(
        self, role: str, *keys: str | Signer, version: int | None = None, **fields: Any
    ) -> Any:
        """A new version of a role, with some fields changed; by default signed as it should be."""
        signed = self.signed(role)
        signed.update(fields)
        signed["version"] = version or signed["version"] + 1
        own = [self.signers[key] if isinstance(key, str) else key for key in keys]
        self.put(role, signed, *(own or self.keys_of(role)))
        return signed

    def keys_of(self, role: str) -> list[Signer]:
        """Those that sign a role."""
        return [
            key
            for name, key in self.signers.items()
            if name.rpartition("-")[0] == role or name == role
        ]

    def publish(self, *roles: str, versions: Mapping[str, int] | None = None) -> None:
        """Sign snapshot and timestamp anew by their own keys, over the newest of these roles."""
        meta = self.signed("snapshot")["meta"]
        for role in roles:
            meta[f"{role}.json"] = {"version": self.version(role)}
        for role, version in (versions or {}).items():
            meta[f"{role}.json"] = {"version": version}
        self.bump("snapshot", meta=meta)
        self.stamp()

    def stamp(self, *keys: str | Signer, snapshot: int | None = None, **fields: Any) -> None:
        """A new timestamp."""
        version = snapshot or self.version("snapshot")
        now = utc().strftime(TIME_FORM)
        chosen = {
            "meta": {"snapshot.json": {"version": version}},
            "expires": utc(1).strftime(TIME_FORM),
            EXTENSION: {SIGNED: now},
            **fields,
        }
        self.bump("timestamp", *keys, **chosen)

    def place_of_assignment(self) -> str:
        """Of the group's."""
        return next(path for path in self.files if path.startswith("assignments/group-"))

    def assign(self, *keys: Signer, **changes: Any) -> None:
        """Change the group's assignment, and sign it; by default as it should be."""
        place = self.place_of_assignment()
        plain = json.loads(base64.b64decode(json.loads(self.files[place])["payload"]))
        plain["assignment_seq"] += 1
        plain["action_id"] += "x"
        plain.update(changes)
        kind = plain.pop("kind", ASSIGNMENT_TYPE)
        envelope = Envelope(json.dumps(plain).encode(), kind, {})
        for key in keys or [self.signers["assignment_offline"]]:
            envelope.sign(key)
        self.files[place] = json.dumps(envelope.to_dict()).encode() + b"\n"

    def add_manifest(self, path: str, content: bytes) -> dict[str, Any]:
        """Lay a manifest down; what metadata says of it."""
        sha256 = hashlib.sha256(content).hexdigest()
        folder = path.rpartition("/")[0]
        self.files[f"targets/{folder}/{sha256}.manifest.json"] = content
        return {"length": len(content), "hashes": {"sha256": sha256}}


def told_at(moment: dt.datetime) -> str:
    """As metadata has it."""
    return moment.strftime(TIME_FORM)
