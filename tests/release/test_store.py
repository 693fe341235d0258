"""The same promises of a folder, of `file://` and of an object store."""

from __future__ import annotations

import hashlib
import itertools
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from agent.errors import NetworkError, StorageError, UsageError, VerificationError
from sdk.release import ceremony
from sdk.release.keystore import KeyStore
from sdk.release.package import export
from sdk.release.publish import publish
from sdk.release.repository import Repository
from sdk.release.store import FolderStore, Store, UrlStore, store_of
from tests.release.reading import Reader, missing
from tests.updates.fleet import GROUP, MODEL, PASSPHRASE, assignment_for, write_build

_NUMBERS = itertools.count()


@pytest.fixture(params=["folder", "file", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "memory":
        yield f"memory://repo-{next(_NUMBERS)}"
        MemoryFileSystem.store.clear()
    else:
        folder = tmp_path / "repo"
        yield str(folder) if request.param == "folder" else folder.as_uri()


def test_what_is_written_is_read(place: str, tmp_path: Path) -> None:
    store: Store = store_of(place)
    assert store.read("a/b.json") is None
    assert list(store.pieces("a/b.json")) == []
    assert not store.has("a/b.json", 0)
    store.write("a/b.json", b"one")
    store.write("a/b.json", b"longer")
    assert store.read("a/b.json") == b"longer"
    assert store.has("a/b.json", 6)
    assert not store.has("a/b.json", 3)
    source = tmp_path / "source"
    source.write_bytes(b"x" * (3 << 20))
    store.put("blobs/x", source, hashlib.sha256(source.read_bytes()).hexdigest())
    assert b"".join(store.pieces("blobs/x")) == source.read_bytes()


def test_what_has_another_hash_is_not_added(place: str, tmp_path: Path) -> None:
    store = store_of(place)
    source = tmp_path / "source"
    source.write_bytes(b"x")
    with pytest.raises(VerificationError, match="changed after the build"):
        store.put("blobs/x", source, "0" * 64)
    assert store.read("blobs/x") is None


def test_a_whole_life_at_any_place(place: str, tmp_path: Path) -> None:
    def repository() -> Repository:
        return Repository(store_of(place), KeyStore(tmp_path / "keys", PASSPHRASE))

    content = b"the same everywhere " * 1000
    ceremony.initialise(repository())
    ceremony.add_model(repository(), MODEL)
    publish(repository(), write_build(tmp_path / "one", {"best": content + b"1"}), "1.0.0")
    made = publish(repository(), write_build(tmp_path / "two", {"best": content + b"2"}), "1.1.0")
    assert made.deltas == 1
    reader = Reader(tmp_path / "client", store_of(place))
    assert reader.manifest(MODEL, "1.0.0") is not None
    ceremony.rotate(repository(), "timestamp", "root-1")
    ceremony.revoke(repository(), MODEL, 1)
    repository().refresh()
    assert reader.manifest(MODEL, "1.1.0") is not None
    assert missing(store_of(place)) == []
    size = export(repository(), assignment_for(made, group=GROUP), tmp_path / "package")
    assert size > len(content)


def test_blobs_are_copies_that_nobody_writes_to(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"x")
    FolderStore(tmp_path / "repo").put("blobs/x", source, hashlib.sha256(b"x").hexdigest())
    blob = tmp_path / "repo/blobs/x"
    assert blob.stat().st_ino != source.stat().st_ino
    assert stat.S_IMODE(blob.stat().st_mode) == 0o444


def test_what_a_killed_command_left_is_swept(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    for name in ("blobs/sha256/.ab.part", "metadata/.timestamp.json.0123", "blobs/sha256/cd"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"half")
    with store.locked(), store.locked():
        assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["cd"]


@pytest.mark.parametrize("place", ["nosuch://bucket/repo", "s4://bucket"])
def test_an_unknown_scheme_is_a_usage_error(place: str) -> None:
    with pytest.raises(UsageError, match="cannot be opened"):
        store_of(place)


class Unreachable(MemoryFileSystem):  # type: ignore[misc]
    """A store whose client raises what is no OSError, as clouds' clients do."""

    protocol = "unreachable"

    def cat_file(self, *_: object, **__: object) -> bytes:
        raise RuntimeError("EndpointConnectionError")

    pipe_file = put_file = size = cat_file


def test_a_store_that_is_not_reachable_is_a_network_error(tmp_path: Path) -> None:
    store = UrlStore(Unreachable(), "/repo")
    (tmp_path / "x").write_bytes(b"x")
    for act in (
        lambda: store.read("x"),
        lambda: store.write("x", b""),
        lambda: store.has("x", 1),
        lambda: store.put("x", tmp_path / "x", hashlib.sha256(b"x").hexdigest()),
    ):
        with pytest.raises(NetworkError, match="EndpointConnectionError"):
            act()


def test_a_folder_that_cannot_be_read_or_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError):
        FolderStore(tmp_path / "file").write("a", b"")
    with pytest.raises(StorageError):
        FolderStore(tmp_path).read(".")
