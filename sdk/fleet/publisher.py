"""A repository behind a fleet server, for whoever publishes: it reads there, and signs here.

The publisher signs models, and targets; snapshot and timestamp are the server's.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

from agent.errors import UsageError
from agent.files import CHUNK_BYTES, sha256_of
from sdk.fleet.client import FleetClient
from sdk.release.keystore import KeyStore
from sdk.release.repository import Repository
from sdk.release.roles import ONLINE, Due
from sdk.release.store import changed

_BLOB = re.compile(r"blobs/sha256/([0-9a-f]{64})")
_MANIFEST = re.compile(r"targets/models/([^/]+)/([^/]+)/([0-9a-f]{64})\.manifest\.json")


class ServerRepository(Repository):
    """A tenant's repository; what is changed of it goes to the server as a whole."""

    def __init__(self, client: FleetClient, keys: KeyStore) -> None:
        """Nothing is asked yet."""
        self._client = client
        self._ready: dict[str, str] = {}
        super().__init__(ServerStore(client), keys)

    def check_signers(self, *names: str) -> None:
        """See `Repository`; the server's own keys are its affair."""
        super().check_signers(*(name for name in names if name not in ONLINE))

    def stage(self) -> None:
        """See `Repository`: all but snapshot and timestamp is signed."""
        if "root" in self._new:
            raise UsageError(
                "A root is not changed through a server.",
                cause="Its keys are offline, and the server's own keys change with it.",
                remedy="Do it where the repository's folder is: --repo DIR",
            )
        self._ready = {name: self._content(name).decode() for name in self._new}
        self._read.update(self._new)
        self._new, self._given = {}, {}

    def write(self) -> list[str]:
        """Have the server take what was staged, all or nothing."""
        ready, self._ready = self._ready, {}
        if not ready:
            return []
        found = self._client.ask("POST", "changes", body={"metadata": ready})
        self._forget()
        return list(found["written"])

    def refresh(self) -> tuple[list[str], list[Due]]:
        """The server does that itself.

        Raises:
            UsageError: always.
        """
        raise UsageError(
            "The server keeps its repository fresh itself.",
            cause="It holds the keys of snapshot and timestamp.",
            remedy="Nothing is to be done; curl SERVER/readyz says whether it can.",
        )


class ServerStore:
    """The files of a repository behind a server."""

    def __init__(self, client: FleetClient) -> None:
        self._client = client
        self._tenant: str | None = None

    def read(self, path: str) -> bytes | None:
        """See `sdk.release.store.Store`."""
        pieces = list(self.pieces(path))
        return b"".join(pieces) if pieces else None

    def pieces(self, path: str) -> Iterator[bytes]:
        """See `Store`."""
        yield from self._client.file(self._place(path))

    def has(self, path: str, length: int) -> bool:
        """See `Store`."""
        return self._client.length(self._place(path)) == length

    def put(self, path: str, source: Path, sha256: str) -> None:
        """See `Store`: the server holds what came against the hash."""
        del path  # a blob's place follows from its hash
        found = sha256_of(source)
        if found != sha256:
            raise changed(source, found, sha256)
        with source.open("rb") as stream:
            pieces = iter(lambda: stream.read(CHUNK_BYTES), b"")
            self._client.put("blobs", sha256, content=pieces, length=source.stat().st_size)

    def write(self, path: str, content: bytes) -> None:
        """See `Store`: blobs and manifests alone; metadata goes as a whole."""
        blob, manifest = _BLOB.fullmatch(path), _MANIFEST.fullmatch(path)
        digest = hashlib.sha256(content).hexdigest()
        if blob is not None and blob[1] == digest:
            self._client.put("blobs", digest, content=iter([content]), length=len(content))
        elif manifest is not None and manifest[3] == digest:
            parts = ("manifests", *manifest.groups())
            self._client.put(*parts, content=iter([content]), length=len(content))
        else:
            raise UsageError(
                f"{path} cannot be written through a server.",
                cause="What devices are to run is said by the server itself.",
                remedy="Assign there: sdk fleet assign MODEL RELEASE --group NAME",
            )

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """See `Store`: of two publishers at once, the server takes the first."""
        yield

    def _place(self, path: str) -> str:
        if self._tenant is None:
            self._tenant = str(self._client.ask("GET", "me")["tenant"])
        return f"v1/repo/{self._tenant}/{path}"
