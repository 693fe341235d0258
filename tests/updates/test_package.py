"""A package: read in place, and refused whole if any of it is odd."""

from __future__ import annotations

import io
import os
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.errors import NetworkError, UsageError, VerificationError
from agent.updates.package import MOST_MEMBERS, PackageSource
from agent.updates.source import CHUNK_BYTES, MissingError, read_short

FILES = {"assignment.json": b"{}", "metadata/1.root.json": b"root", "blobs/sha256/ab": b"x" * 200}


def zipped(files: dict[str, bytes] | None = None, *, change: object = None) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as made:
        for name, content in (FILES if files is None else files).items():
            info = zipfile.ZipInfo(name)
            if callable(change):
                change(info)
            made.writestr(info, content)
    return out.getvalue()


def opened(folder: Path, content: bytes) -> PackageSource:
    (folder / "p.zip").write_bytes(content)
    return PackageSource(folder / "p.zip")


def all_of(package: PackageSource) -> dict[str, bytes]:
    return {name: read_short(package, name, 10_000) for name in FILES}


def test_a_package_is_read(tmp_path: Path) -> None:
    with opened(tmp_path, zipped()) as package:
        assert all_of(package) == FILES
        with package.open("blobs/sha256/ab", offset=150) as stream:
            assert stream.offset == 150
            assert b"".join(stream.chunks) == b"x" * 50
        with pytest.raises(MissingError):
            read_short(package, "metadata/2.root.json", 10)


def test_a_package_that_was_written_as_a_stream_of_its_own_is_read(tmp_path: Path) -> None:
    path = tmp_path / "p.zip"
    with zipfile.ZipFile(path, "w") as made:
        for name, content in FILES.items():
            made.writestr(name, content)
    with PackageSource(path) as package:
        assert all_of(package) == FILES


def test_a_package_with_fields_of_64_bits_is_read(tmp_path: Path) -> None:
    path = tmp_path / "p.zip"
    with zipfile.ZipFile(path, "w") as made:
        for name, content in FILES.items():
            with made.open(name, "w", force_zip64=True) as member:
                member.write(content)
    with PackageSource(path) as package:
        assert all_of(package) == FILES


def test_a_package_beyond_4_gib_is_read(tmp_path: Path) -> None:
    """Its middle is a hole in the file, so it takes no room."""
    path = tmp_path / "p.zip"
    big = (1 << 32) + 5
    with path.open("wb") as out:
        info = zipfile.ZipInfo("blobs/sha256/ab")
        info.file_size = info.compress_size = big
        info.CRC = 0
        out.write(info.FileHeader(zip64=True))
        out.seek(big - 1, os.SEEK_CUR)
        out.write(b"!")
        second = out.tell()
        out.write(_local(b"a", b""))
        start = out.tell()
        wide = struct.pack("<2H2Q", 1, 16, big, big)
        out.write(_entry(b"blobs/sha256/ab", extra=wide, sizes=(0xFFFFFFFF, 0xFFFFFFFF)))
        far = struct.pack("<2HQ", 1, 8, second)
        out.write(_entry(b"a", extra=far, offset=0xFFFFFFFF))
        end = out.tell()
        out.write(struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 2, 2, end - start, start))
        out.write(struct.pack("<4sLQL", b"PK\6\7", 0, end, 1))
        out.write(_end(2, end - start, 0xFFFFFFFF))
    with PackageSource(path) as package:
        with package.open("blobs/sha256/ab", offset=big - 1) as stream:
            assert b"".join(stream.chunks) == b"!"
        assert read_short(package, "a", 10) == b""


def _entry(
    name: bytes,
    *,
    extra: bytes = b"",
    sizes: tuple[int, int] = (0, 0),
    offset: int = 0,
    flags: int = 0,
    method: int = 0,
    kind: int = 0,
) -> bytes:
    fields = (b"PK\1\2", 20, 20, flags, method, 0, 0, 0, *sizes, len(name), len(extra), 0, 0, 0)
    return struct.pack("<4s6H3L5H2L", *fields, kind, offset) + name + extra


def _end(count: int, size: int, start: int) -> bytes:
    return struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, size, start, 0)


def _archive(*entries: bytes, body: bytes = b"", count: int | None = None) -> bytes:
    directory = b"".join(entries)
    many = len(entries) if count is None else count
    return body + directory + _end(many, len(directory), len(body))


def _kind(mode: int) -> Callable[[zipfile.ZipInfo], None]:
    def change(info: zipfile.ZipInfo) -> None:
        info.external_attr = mode << 16

    return change


def _packed(info: zipfile.ZipInfo) -> None:
    info.compress_type = zipfile.ZIP_DEFLATED


def _at(content: bytes, where: bytes, shift: int, new: bytes) -> bytes:
    at = content.index(where) + shift
    return content[:at] + new + content[at + len(new) :]


def _local(name: bytes, content: bytes) -> bytes:
    size = len(content)
    head = struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 0, 0, 0, 0, size, size, len(name), 0)
    return head + name + content


HUGE = "a" * 65_000
BODY = _local(b"a", bytes(1000))
HOSTILE: dict[str, bytes] = {
    "nothing": b"",
    "no zip": b"x" * 500,
    "a tar": b"a" * 257 + b"ustar" + bytes(2000),
    "a pickle": b"\x80\x04cos\nsystem\n(S'touch /tmp/x'\ntR.",
    "cut short": zipped()[:-1],
    "cut in the middle": zipped()[:200],
    "something in front": b"#!/bin/sh\n" + zipped(),
    "something behind": zipped() + b"x",
    "a comment": zipped()[:-2] + b"\x05\x00hello",
    "upwards": zipped({"../a": b""}),
    "upwards inside": zipped({"a/../../b": b""}),
    "absolute": zipped({"/etc/passwd": b""}),
    "a drive": zipped({"C:/a": b""}),
    "backslash": _at(zipped({"a/b": b""}), b"PK\1\2", 46, b"a\\b"),
    "hidden": zipped({".ssh/a": b""}),
    "null": _at(zipped({"a-b": b""}), b"PK\1\2", 46, b"a\0b"),
    "other letters": zipped({"m\u0430": b""}),
    "too deep": zipped({"/".join("abcdefg"): b""}),
    "too long": _archive(_entry(HUGE.encode(), sizes=(0, 0))),
    "no name": _archive(_entry(b"")),
    "a folder": zipped({"a/": b""}),
    "a folder by its attribute": _archive(_entry(b"a", kind=0x10), body=_local(b"a", b"")),
    "a link": zipped(change=_kind(stat.S_IFLNK | 0o777)),
    "a device": zipped(change=_kind(stat.S_IFCHR | 0o666)),
    "a block device": zipped(change=_kind(stat.S_IFBLK | 0o666)),
    "a pipe": zipped(change=_kind(stat.S_IFIFO | 0o666)),
    "a socket": zipped(change=_kind(stat.S_IFSOCK | 0o666)),
    "compressed": zipped(change=_packed),
    "a bomb": zipped({"assignment.json": bytes(1 << 20)}, change=_packed),
    "encrypted": _at(zipped(), b"PK\1\2", 8, b"\1\0"),
    "sizes behind the content": _at(zipped(), b"PK\1\2", 8, b"\x08\0"),
    "twice": _archive(_entry(b"a"), _entry(b"a", offset=31), body=_local(b"a", b"") * 2),
    "twice in other cases": zipped({"a": b"", "A": b""}),
    "overlapping": _archive(
        _entry(b"a", sizes=(1000, 1000)), _entry(b"b", sizes=(1000, 1000), offset=10), body=BODY
    ),
    "all in one place": _archive(
        *(_entry(b"a%d" % n, sizes=(1000, 1000)) for n in range(50)), body=BODY
    ),
    "into the directory": _archive(_entry(b"a", sizes=(1001, 1001)), body=BODY),
    "beyond the end": _archive(_entry(b"a", sizes=(1000, 1000), offset=5000), body=BODY),
    "larger than it is": _archive(_entry(b"a", sizes=(1 << 30, 1 << 30)), body=BODY),
    "packed to less": _archive(_entry(b"a", sizes=(10, 1000)), body=BODY),
    "more entries than there are": _archive(_entry(b"a"), count=2, body=BODY),
    "fewer entries than there are": _archive(_entry(b"a"), _entry(b"b"), count=1, body=BODY),
    "too many": _archive(*(_entry(b"a") for _ in range(MOST_MEMBERS + 1))),
    "too many by their number": _archive(_entry(b"a"), count=65_000, body=BODY),
    "64 bits that are not there": _archive(_entry(b"a", sizes=(0xFFFFFFFF, 0xFFFFFFFF))),
    "64 bits that are cut": _archive(
        _entry(b"a", sizes=(0xFFFFFFFF, 0xFFFFFFFF), extra=struct.pack("<2HQ", 1, 8, 5))
    ),
    "a directory elsewhere": zipped()[:-6] + struct.pack("<L", 5) + b"\0\0",
    "several disks": _at(zipped(), b"PK\5\6", 4, b"\1\0"),
    "a 64-bit directory without end": b"x" * 100
    + struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 2**60, 2**60, 2**62, 2**62)
    + struct.pack("<4sLQL", b"PK\6\7", 0, 100, 1)
    + _end(0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_package_is_refused_before_anything_is_read(tmp_path: Path, name: str) -> None:
    with pytest.raises(VerificationError):
        opened(tmp_path, HOSTILE[name])
    assert list(tmp_path.rglob("*")) == [tmp_path / "p.zip"]


LOCAL: dict[str, bytes] = {
    "another name": _at(zipped(), b"assignment", 0, b"assignmenu"),
    "a longer name": _at(zipped(), b"PK\3\4", 26, b"\x20\0"),
    "no header": _at(zipped(), b"PK\3\4", 0, b"PK\3\5"),
    "compressed": _at(zipped(), b"PK\3\4", 8, b"\x08\0"),
    "encrypted": _at(zipped(), b"PK\3\4", 6, b"\1\0"),
    "a field that reaches too far": _at(zipped(), b"PK\3\4", 28, b"\x05\0"),
}


@pytest.mark.parametrize("name", LOCAL)
def test_a_member_whose_header_says_otherwise_is_refused(tmp_path: Path, name: str) -> None:
    with (
        opened(tmp_path, LOCAL[name]) as package,
        pytest.raises(VerificationError, match="not what its directory says"),
    ):
        read_short(package, "assignment.json", 100)


def test_a_package_that_is_cut_while_it_is_read_is_refused(tmp_path: Path) -> None:
    content = zipped({"assignment.json": bytes(3 * CHUNK_BYTES)})
    with opened(tmp_path, content) as package, package.open("assignment.json") as stream:
        next(stream.chunks)
        os.truncate(tmp_path / "p.zip", CHUNK_BYTES)
        with pytest.raises(VerificationError, match="ends before"):
            list(stream.chunks)


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "none", "."):
        with pytest.raises(UsageError, match="cannot be read"):
            PackageSource(tmp_path / name)


def test_a_stick_that_is_pulled_out_is_no_proof_of_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path, zipped()) as package:

        def gone(*_: object) -> bytes:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(os, "pread", gone)
        with pytest.raises(NetworkError, match="cannot be read"):
            read_short(package, "assignment.json", 10)
