"""Repositories as others read them: python-tuf's own client, and a walk over all that is named."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tuf.api.exceptions import DownloadHTTPError
from tuf.api.metadata import Metadata, TargetFile
from tuf.ngclient import FetcherInterface, Updater

from agent.manifest import parse
from sdk.release.store import FolderStore, Store

BASE = "repo:///"


class StoreFetcher(FetcherInterface):
    """A store as a server."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.asked: list[str] = []

    def _fetch(self, url: str) -> Iterator[bytes]:
        path = url.removeprefix(BASE)
        self.asked.append(path)
        content = self._store.read(path)
        if content is None:
            raise DownloadHTTPError(f"no {path}", 404)
        yield content


class Reader:
    """A client that keeps its trusted metadata, as a device does, and begins with root 1."""

    def __init__(self, folder: Path, store: Store | Path) -> None:
        self.folder = folder
        self.store = FolderStore(store) if isinstance(store, Path) else store
        folder.mkdir(exist_ok=True)
        (folder / "targets").mkdir(exist_ok=True)
        root = self.store.read("metadata/1.root.json")
        assert root is not None
        self._root = root

    def refreshed(self) -> Updater:
        """python-tuf's updater after a refresh.

        Raises:
            RepositoryError: the repository is not to be trusted.
        """
        updater = Updater(
            metadata_dir=str(self.folder),
            metadata_base_url=f"{BASE}metadata",
            target_dir=str(self.folder / "targets"),
            target_base_url=f"{BASE}targets",
            fetcher=StoreFetcher(self.store),
            bootstrap=self._root,
        )
        updater.refresh()
        return updater

    def manifest(self, model: str, release: str) -> dict[str, Any] | None:
        """A release's manifest, downloaded and verified; None where none is signed."""
        updater = self.refreshed()
        info = updater.get_targetinfo(f"models/{model}/{release}/manifest.json")
        if info is None:
            return None
        told: dict[str, Any] = json.loads(Path(updater.download_target(info)).read_bytes())
        return told

    def version(self, role: str) -> int:
        """The version of a role that is trusted now."""
        return int(self.refreshed()._trusted_set[role].version)


def missing(store: Store) -> list[str]:
    """All that the timestamp leads to and that is not there, or is not what its hash says."""
    found: list[str] = []

    def check(path: str, fits: Callable[[bytes], bool]) -> bytes:
        content = store.read(path)
        if content is None or not fits(content):
            found.append(path)
        return content or b"{}"

    def named(path: str, info: Any) -> Metadata[Any]:
        return Metadata.from_bytes(check(path, lambda content: _fits(info, content)))

    timestamp = Metadata.from_bytes(store.read("metadata/timestamp.json") or b"")
    meta = timestamp.signed.snapshot_meta
    snapshot = named(f"metadata/{meta.version}.snapshot.json", meta)
    for name, info in snapshot.signed.meta.items():
        role = named(f"metadata/{info.version}.{name}", info)
        for path, target in role.signed.targets.items():
            folder, _, file = path.rpartition("/")
            place = f"targets/{folder}/{target.hashes['sha256']}.{file}"
            for blob in _blobs(check(place, lambda content, t=target: _fits(t, content))):
                check(f"blobs/sha256/{blob}", lambda content, b=blob: _sha256(content) == b)
    return found


def _fits(info: Any, content: bytes) -> bool:
    hashes = info.hashes or {}
    assert hashes, "everything is named with its hash"
    assert isinstance(info, TargetFile) or info.length
    return bool(hashes["sha256"] == _sha256(content) and info.length == len(content))


def _blobs(manifest: bytes) -> Iterator[str]:
    told = parse(manifest)
    yield told.golden.sha256
    for variant in told.variants:
        for file in variant.files:
            yield file.sha256
            yield from (delta.sha256 for delta in file.deltas)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
