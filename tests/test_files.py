"""Durable writes: the old content or the new one, whatever happens in between."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from agent import files
from agent.errors import StorageError
from agent.files import move_folder, point_link, sha256_of, write_atomic


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "a.json"
    write_atomic(target, b"one")
    write_atomic(target, b"two")
    assert target.read_bytes() == b"two"
    assert [path.name for path in target.parent.iterdir()] == ["a.json"]


@pytest.mark.parametrize("step", ["fsync", "rename"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_a_failure_at_any_step_keeps_the_old_content_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, code: int
) -> None:
    target = tmp_path / "a.json"
    write_atomic(target, b"old")

    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    if step == "fsync":
        monkeypatch.setattr(files.os, "fsync", fail)
    else:
        monkeypatch.setattr(files.Path, "rename", fail)
    with pytest.raises(StorageError) as found:
        write_atomic(target, b"new")
    assert ("No space left" in found.value.what) == (code == errno.ENOSPC)
    assert found.value.exit_code == 6
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_folder_that_is_already_there_is_kept(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    move_folder(tmp_path / "first", tmp_path / "place")
    move_folder(tmp_path / "second", tmp_path / "place")
    assert (tmp_path / "place" / "file").read_text() == "first"
    assert not (tmp_path / "second").exists()


def test_a_link_is_replaced(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        point_link(tmp_path / "chosen", name)
    assert (tmp_path / "chosen").readlink() == Path("b")


def test_a_digest_is_sha256(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    assert sha256_of(tmp_path / "empty").startswith("e3b0c44298fc1c149afb")
