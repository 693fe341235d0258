"""The cache: an entry is whole and unchanged, or it is not there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sdk.cache import Cache, key_of


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def commit(cache: Cache, key: str, content: bytes = b"weights") -> Path:
    folder = cache.work_folder()
    (folder / "out").mkdir()
    (folder / "out" / "model.bin").write_bytes(content)
    return cache.commit(key, folder, {"answer": 42}).folder


def test_an_entry_is_found_again_by_another_process(cache: Cache, tmp_path: Path) -> None:
    commit(cache, key_of(a=1))
    found = Cache(tmp_path / "cache").find(key_of(a=1))
    assert found is not None
    assert found.result == {"answer": 42}
    assert (found.folder / "out" / "model.bin").read_bytes() == b"weights"


def test_what_was_never_written_is_not_found(cache: Cache) -> None:
    assert cache.find(key_of(a=1)) is None


CORRUPTIONS = {
    "a flipped byte": lambda f: (f / "out" / "model.bin").write_bytes(b"weighty"),
    "a file cut short": lambda f: (f / "out" / "model.bin").write_bytes(b""),
    "a missing file": lambda f: (f / "out" / "model.bin").unlink(),
    "a record of garbage": lambda f: (f / "entry.json").write_bytes(b"\x00\xff"),
    "an empty record": lambda f: (f / "entry.json").write_bytes(b""),
    "a record that was edited": lambda f: (f / "entry.json").write_bytes(
        (f / "entry.json").read_bytes().replace(b"42", b"43")
    ),
    "a record of another form": lambda f: (f / "entry.json").write_bytes(b"[]"),
    "a missing record": lambda f: (f / "entry.json").unlink(),
}


@pytest.mark.parametrize("corrupt", CORRUPTIONS.values(), ids=CORRUPTIONS)
def test_a_corrupt_entry_is_thrown_away_and_can_be_written_again(
    cache: Cache, tmp_path: Path, corrupt: object
) -> None:
    corrupt(commit(cache, "k" * 64))  # type: ignore[operator]
    fresh = Cache(tmp_path / "cache")
    assert fresh.find("k" * 64) is None
    commit(fresh, "k" * 64)
    assert fresh.find("k" * 64) is not None


@pytest.mark.parametrize("corrupt", CORRUPTIONS.values(), ids=CORRUPTIONS)
def test_a_corrupt_entry_that_nobody_looked_at_gives_way_to_a_new_one(
    cache: Cache, corrupt: Callable[[Path], None]
) -> None:
    key = key_of(a=1)
    corrupt(commit(cache, key))
    assert (commit(cache, key) / "out" / "model.bin").read_bytes() == b"weights"


def test_two_that_commit_the_same_key_both_get_a_whole_entry(cache: Cache) -> None:
    first, second = commit(cache, "k" * 64), commit(cache, "k" * 64)
    assert first == second
    assert (first / "out" / "model.bin").read_bytes() == b"weights"


def test_work_folders_of_dead_processes_are_swept_and_living_ones_kept(
    cache: Cache, tmp_path: Path
) -> None:
    own = cache.work_folder()
    dead = tmp_path / "cache" / "work" / "4194999-abc"
    dead.mkdir()
    cache.sweep()
    assert own.is_dir()
    assert not dead.exists()


def test_keys_depend_on_every_part_and_not_on_their_order() -> None:
    assert key_of(a=1, b=2) == key_of(b=2, a=1)
    assert len({key_of(a=1), key_of(a=2), key_of(a="1"), key_of(b=1), key_of(a=1, b=None)}) == 5


def test_what_captures_read_is_recalled_latest_first_and_bounded(cache: Cache) -> None:
    for number in range(8):
        cache.remember_reads("project", f"key-{number}", {"files": {}})
    cache.remember_reads("project", "key-6", {"files": {}})
    assert [note["key"] for note in cache.recall_reads("project")][:3] == [
        "key-6",
        "key-7",
        "key-5",
    ]
    assert len(cache.recall_reads("project")) <= 5
    assert cache.recall_reads("another") == []
