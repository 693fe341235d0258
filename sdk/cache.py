"""A content-addressed store of every step's result.

A step's key is the digest of all that it read. An entry is a folder with the step's files and a
record that lists them by hash; it appears by one rename, so a killed step leaves nothing. Files
are checked against their hashes whenever an entry is used: a corrupt one is thrown away, which
only means that the step runs again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import sqlite3
import tempfile
from pathlib import Path
from typing import Any

from agent.codec import canonical
from agent.errors import StorageError
from agent.files import move_folder, sha256_of, storage_errors, write_atomic

_RECORD = "entry.json"
_KEPT_CAPTURES = 5  # per project: enough to go back and forth between a few edits


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """One step's result."""

    key: str
    folder: Path
    result: dict[str, Any]
    files: dict[str, str]
    """Path in the folder -> sha256."""


class Cache:
    """The store in one folder; safe for several processes at once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        with storage_errors(root):
            (root / "steps").mkdir(parents=True, exist_ok=True)
            (root / "work").mkdir(exist_ok=True)
        self._digests = DigestMemo(root / "digests.sqlite")

    def find(self, key: str) -> Entry | None:
        """The entry, if it is there and every file is what its record says."""
        folder = self._folder(key)
        try:
            content = json.loads((folder / _RECORD).read_bytes())
            record, seal = content["record"], content["sha256"]
            if hashlib.sha256(canonical(record)).hexdigest() != seal:
                raise ValueError("the record does not match its seal")
            for name, digest in record["files"].items():
                if self._digests.sha256_of(folder / name) != digest:
                    raise ValueError(f"{name} changed")
        except FileNotFoundError:
            if folder.exists():
                self.discard(key)
            return None
        except (ValueError, KeyError, TypeError):
            self.discard(key)
            return None
        return Entry(key=key, folder=folder, result=record["result"], files=record["files"])

    def work_folder(self) -> Path:
        """A new folder for a step to write into, on the same file system as the store."""
        with storage_errors(self._root):
            return Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=self._root / "work"))

    def commit(self, key: str, folder: Path, result: dict[str, Any]) -> Entry:
        """Turn a work folder into the entry for `key`.

        Raises:
            StorageError: the disk is full.
        """
        names = sorted(
            str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()
        )
        record = {"result": result, "files": {name: sha256_of(folder / name) for name in names}}
        seal = hashlib.sha256(canonical(record)).hexdigest()
        write_atomic(folder / _RECORD, canonical({"record": record, "sha256": seal}))
        place = self._folder(key)
        # A spoilt entry would be kept: a capture is not looked up where what it read is forgotten.
        self.find(key)
        move_folder(folder, place)
        for name, digest in record["files"].items():
            self._digests.learn(place / name, digest)
        found = self.find(key)
        if found is None:
            raise StorageError(
                f"The cache entry {place} was written and is gone.",
                cause="Something else deletes files in the cache folder.",
                remedy="Stop it, and run the same command again.",
            )
        return found

    def discard(self, key: str) -> None:
        """Remove an entry."""
        shutil.rmtree(self._folder(key), ignore_errors=True)

    def sha256_of(self, path: Path) -> str:
        """A file's digest; remembered while its size, time of change and inode stay the same."""
        return self._digests.sha256_of(path)

    def learn(self, path: Path, digest: str) -> None:
        """Note the digest of a file that was just written with known content."""
        self._digests.learn(path, digest)

    def remember_reads(self, name: str, key: str, reads: dict[str, Any]) -> None:
        """Note that the entry `key` read this; `recall_reads` gives the latest first."""
        notes = [note for note in self.recall_reads(name) if note["key"] != key]
        notes = [{"key": key, "reads": reads}, *notes][:_KEPT_CAPTURES]
        write_atomic(self._root / "reads" / f"{name}.json", canonical(notes))

    def recall_reads(self, name: str) -> list[dict[str, Any]]:
        """What earlier captures of one project read; empty if nothing usable is noted."""
        try:
            notes = json.loads((self._root / "reads" / f"{name}.json").read_bytes())
        except (OSError, ValueError):
            return []
        return notes if isinstance(notes, list) else []

    def sweep(self) -> None:
        """Remove work folders that a killed process left behind."""
        for folder in (self._root / "work").iterdir():
            with contextlib.suppress(OSError):
                if not _is_alive(folder):
                    shutil.rmtree(folder, ignore_errors=True)

    def _folder(self, key: str) -> Path:
        return self._root / "steps" / key[:2] / key


class DigestMemo:
    """File digests, remembered by (path, size, times, inode) so that nothing is hashed twice."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, tuple[str, str]] | None = None

    def sha256_of(self, path: Path) -> str:
        """The digest of a file's content."""
        found = path.stat()
        state = f"{found.st_size}:{found.st_mtime_ns}:{found.st_ctime_ns}:{found.st_ino}"
        name = str(path.absolute())
        known = self._load()
        if known.get(name, ("", ""))[0] != state:
            known[name] = (state, sha256_of(path))
            self._save(name, *known[name])
        return known[name][1]

    def learn(self, path: Path, digest: str) -> None:
        """Note a digest that was just taken, under the name the file was moved to."""
        found = path.stat()
        state = f"{found.st_size}:{found.st_mtime_ns}:{found.st_ctime_ns}:{found.st_ino}"
        self._load()[str(path.absolute())] = (state, digest)
        self._save(str(path.absolute()), state, digest)

    def _load(self) -> dict[str, tuple[str, str]]:
        if self._known is None:
            self._known = {}
            with contextlib.suppress(sqlite3.Error), contextlib.closing(self._open()) as store:
                rows = store.execute("select path, state, sha256 from digests")
                self._known = {path: (state, digest) for path, state, digest in rows}
        return self._known

    def _save(self, name: str, state: str, digest: str) -> None:
        # Only a memo: where it cannot be written, files are hashed again next time.
        with contextlib.suppress(sqlite3.Error), contextlib.closing(self._open()) as store, store:
            store.execute("insert or replace into digests values (?, ?, ?)", (name, state, digest))

    def _open(self) -> sqlite3.Connection:
        store = sqlite3.connect(self._path, timeout=10)
        store.execute("pragma journal_mode = wal")
        store.execute("pragma synchronous = off")
        store.execute(
            "create table if not exists digests (path text primary key, state text, sha256 text)"
        )
        return store


def key_of(**parts: Any) -> str:
    """The digest of all that a step reads, by name."""
    return hashlib.sha256(canonical(parts)).hexdigest()


def _is_alive(folder: Path) -> bool:
    """Whether the process that made a work folder still runs; its name begins with the pid."""
    pid = folder.name.partition("-")[0]
    return pid.isdigit() and Path(f"/proc/{pid}").exists()


__all__ = ["Cache", "DigestMemo", "Entry", "key_of"]
