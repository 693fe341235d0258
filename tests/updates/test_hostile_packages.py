"""Packages that are anything at all: none is read beyond itself, none crashes, nothing is written.

`make test-long` runs thousands of cases, `make check` some hundreds of the same.
"""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import SlipwayError
from agent.updates.package import PackageSource
from agent.updates.source import read_short

pytestmark = pytest.mark.usefixtures("without_fsync")

TEXTS = (
    st.text(max_size=12)
    | st.from_regex(r"[./\\a~$-]{0,10}", fullmatch=True)
    | st.sampled_from(["../x", "/x", "a" * 300, "CON", "a.", "x\n", "\x1b[2J"])
)
FILES = {
    "assignment.json": b"{}",
    "metadata/1.root.json": b"root" * 9,
    "blobs/sha256/ab": b"x" * 99,
}


def _zip() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as made:
        for name, content in FILES.items():
            made.writestr(name, content)
    return out.getvalue()


ZIP = _zip()
STARTS = [at for at in range(len(ZIP)) if ZIP[at : at + 2] == b"PK"]
"""Where its headers are: most of what can go wrong is there."""


def _read_all(folder: Path, content: bytes) -> None:
    """Every member, as far as the archive lets one."""
    path = folder / "p.zip"
    path.write_bytes(content)
    try:
        with PackageSource(path) as package:
            for name in [*FILES, *package._members]:
                read = read_short(package, name, 1 << 20)
                assert len(read) <= len(content)
    except SlipwayError:
        pass
    assert [found.name for found in folder.iterdir()] == ["p.zip"]


AT = st.integers(0, len(ZIP) - 1) | st.builds(
    lambda start, more: min(start + more, len(ZIP) - 1), st.sampled_from(STARTS), st.integers(0, 60)
)
EDITS = st.lists(
    st.tuples(AT, st.binary(min_size=1, max_size=8) | st.sampled_from([b"\xff" * 4, b"\0" * 4])),
    min_size=1,
    max_size=4,
)


def _edited(edits: list[tuple[int, bytes]]) -> bytes:
    content = bytearray(ZIP)
    for at, new in edits:
        content[at : at + len(new)] = new
    return bytes(content)


@settings(max_examples=100)
@given(edits=EDITS, cut=st.integers(0, 40))
def test_a_package_that_was_changed_anywhere_does_no_harm(
    tmp_path_factory: pytest.TempPathFactory, edits: list[tuple[int, bytes]], cut: int
) -> None:
    content = _edited(edits)
    _read_all(tmp_path_factory.mktemp("z"), content[: len(content) - max(0, cut - 20)])


@pytest.mark.long
@settings(max_examples=4000)
@given(edits=EDITS)
def test_many_packages_that_were_changed_do_no_harm(
    tmp_path_factory: pytest.TempPathFactory, edits: list[tuple[int, bytes]]
) -> None:
    _read_all(tmp_path_factory.mktemp("z"), _edited(edits))


NAMES = TEXTS | st.sampled_from(["assignment.json", "ASSIGNMENT.json", "metadata/1.root.json"])
NUMBERS = st.sampled_from([0, 0, 0, 1, 8, 0x10, 0x800, 0xFFFF]) | st.integers(0, 0xFFFF)
LONGS = st.sampled_from([0, 1, 30, 99, 0xFFFFFFFF, 0x7FFFFFFF, 1 << 20]) | st.integers(0, 300)
ENTRIES = st.lists(
    st.tuples(NAMES, NUMBERS, NUMBERS, LONGS, LONGS, LONGS, st.binary(max_size=30), LONGS),
    max_size=4,
)


def _built(entries: list[tuple[Any, ...]], body: bytes, shift: int) -> bytes:
    """An archive whose directory says anything of a body that is anything."""
    directory = b""
    for name, flags, method, packed, size, kind, extra, offset in entries:
        own = name.encode("utf-8", "replace")[:0xFFFF]
        head = (b"PK\1\2", 20, 20, flags, method, 0, 0, 0, packed, size, len(own), len(extra))
        directory += struct.pack("<4s6H3L5H2L", *head, 0, 0, 0, kind, offset) + own + extra
    end = (b"PK\5\6", 0, 0, len(entries), len(entries), len(directory), len(body) + shift, 0)
    return body + directory + struct.pack("<4s4H2LH", *end)


BODIES = st.just(ZIP[: STARTS[-4]]) | st.binary(max_size=100)


@settings(max_examples=100)
@given(entries=ENTRIES, body=BODIES, shift=st.sampled_from([0, 0, 0, 1]))
def test_a_package_whose_directory_lies_does_no_harm(
    tmp_path_factory: pytest.TempPathFactory,
    entries: list[tuple[Any, ...]],
    body: bytes,
    shift: int,
) -> None:
    _read_all(tmp_path_factory.mktemp("z"), _built(entries, body, shift))


@pytest.mark.long
@settings(max_examples=3000)
@given(entries=ENTRIES, body=BODIES)
def test_many_packages_whose_directory_lies_do_no_harm(
    tmp_path_factory: pytest.TempPathFactory, entries: list[tuple[Any, ...]], body: bytes
) -> None:
    _read_all(tmp_path_factory.mktemp("z"), _built(entries, body, 0))
