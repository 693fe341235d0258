"""A file from an older one: right, or refused, and never more than was signed."""

from __future__ import annotations

import hashlib
import random
import tracemalloc
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.errors import NetworkError, StorageError, VerificationError
from agent.manifest import Delta, File
from agent.updates import delta
from agent.updates.blobs import Blobs
from agent.updates.delta import ALGORITHMS, BLOCK_BYTES, HEADER_BYTES, MAGIC, joined, parted
from agent.updates.obtain import check_room, obtain
from agent.updates.source import FolderSource
from sdk.release.deltas import patch, planes
from tests.updates.fleet import silent

pytestmark = pytest.mark.usefixtures("without_fsync")

OLD = random.Random(1).randbytes(50_000)
NEW = bytearray(OLD)
NEW[1000:1400] = random.Random(2).randbytes(400)
MAKERS = {"planes-zstd": planes, "zstd-patch": patch}
MADE = {name: make(OLD, bytes(NEW)) for name, make in MAKERS.items()}


def applied(folder: Path, algorithm: str, old: bytes, content: bytes, length: int) -> bytes:
    (folder / "old").write_bytes(old)
    (folder / "delta").write_bytes(content)
    return b"".join(delta.apply(algorithm, folder / "old", folder / "delta", length))


@given(st.binary(max_size=300), st.sampled_from([1, 2, 4]))
def test_planes_come_together_again(block: bytes, width: int) -> None:
    assert joined(parted(block, width), width) == block


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=8)
@given(old=st.binary(max_size=2000), new=st.binary(max_size=2000))
def test_what_a_delta_makes_is_the_new_file(
    tmp_path: Path, algorithm: str, old: bytes, new: bytes
) -> None:
    made = MAKERS[algorithm](old, new)
    assert applied(tmp_path, algorithm, old, made, len(new)) == new


@pytest.mark.parametrize("grown", [0, -20_000, BLOCK_BYTES])
def test_blocks_longer_and_shorter_files_are_made(tmp_path: Path, grown: int) -> None:
    new = bytes(NEW)[: len(NEW) + grown] + random.Random(3).randbytes(max(0, grown))
    for algorithm, make in MAKERS.items():
        assert applied(tmp_path, algorithm, OLD, make(OLD, new), len(new)) == new


def _header(length: int, width: int = 1) -> bytes:
    return MAGIC + bytes([width, 0, 0]) + length.to_bytes(8, "little")


def _frame(content: bytes, window: int) -> bytes:
    parameters = zstandard.ZstdCompressionParameters(
        window_log=window, compression_level=1, write_content_size=False
    )
    compressor = zstandard.ZstdCompressor(compression_params=parameters)
    stream = compressor.compressobj()
    return stream.compress(content) + stream.flush()


BOMB = zstandard.ZstdCompressor().compress(bytes(64 << 20))
SPOILT: dict[str, tuple[str, bytes]] = {
    "another algorithm": ("xdelta", b""),
    "nothing": ("planes-zstd", b""),
    "no header": ("planes-zstd", b"SWPD\x02" + bytes(11)),
    "another width": ("planes-zstd", _header(50_000, 3)),
    "another length": ("planes-zstd", _header(2**63) + BOMB),
    "no frame": ("planes-zstd", _header(50_000)),
    "cut short": ("planes-zstd", MADE["planes-zstd"][:-9]),
    "a window without end": ("planes-zstd", _header(50_000) + _frame(bytes(50_000), 27)),
    "a patch that is nothing": ("zstd-patch", b""),
    "a patch that is noise": ("zstd-patch", random.Random(4).randbytes(500)),
    "a patch that is cut short": ("zstd-patch", MADE["zstd-patch"][:-9]),
    "a bomb": ("zstd-patch", BOMB),
    "a patch with a window without end": ("zstd-patch", _frame(bytes(50_000), 27)),
    "a patch that makes less": ("zstd-patch", patch(OLD, bytes(NEW)[:-1])),
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_spoilt_delta_is_refused_in_little_memory(tmp_path: Path, name: str) -> None:
    algorithm, content = SPOILT[name]
    tracemalloc.start()
    try:
        with pytest.raises(VerificationError, match="cannot be applied"):
            applied(tmp_path, algorithm, OLD, content, len(NEW))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(at=st.integers(0, 10**6), flipped=st.integers(1, 255))
def test_a_byte_that_is_changed_makes_no_more_and_no_crash(
    tmp_path: Path, algorithm: str, at: int, flipped: int
) -> None:
    content = bytearray(MADE[algorithm])
    content[at % len(content)] ^= flipped
    try:
        made = applied(tmp_path, algorithm, OLD, bytes(content), len(NEW))
    except VerificationError:
        return
    assert len(made) == len(NEW)


def test_a_base_that_cannot_be_read_is_told_as_such(tmp_path: Path) -> None:
    (tmp_path / "delta").write_bytes(MADE["planes-zstd"])
    with pytest.raises(VerificationError):
        list(delta.apply("planes-zstd", tmp_path / "none", tmp_path / "delta", len(NEW)))


# How the agent uses them.


class Place:
    """A repository with a new file and a delta to it, and a device that has the old one."""

    def __init__(self, folder: Path) -> None:
        self.repo = folder / "repo/blobs/sha256"
        self.repo.mkdir(parents=True)
        (folder / "blobs").mkdir()
        self.blobs = Blobs(folder / "blobs")
        self.staging = folder / "staging"
        self.source = FolderSource(folder / "repo")
        self.told: list[str] = []
        old = hashlib.sha256(OLD).hexdigest()
        (folder / "blobs" / old).write_bytes(OLD)
        content = MADE["planes-zstd"]
        made = Delta(
            base_sha256=old, sha256=self.put(content), length=len(content), algo="planes-zstd"
        )
        self.file = File(path="a", sha256=self.put(bytes(NEW)), length=len(NEW), deltas=(made,))

    def put(self, content: bytes) -> str:
        """Into the repository, under its hash."""
        name = hashlib.sha256(content).hexdigest()
        (self.repo / name).write_bytes(content)
        return name

    def obtain(self) -> None:
        """Have the new file."""
        obtain(self.file, self.blobs, self.source, self.staging, self.told.append)
        assert self.blobs.path(self.file.sha256).read_bytes() == NEW


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_a_delta_is_fetched_instead_of_the_file(place: Place) -> None:
    (place.repo / place.file.sha256).unlink()
    place.obtain()
    assert place.told == [f"fetching {place.file.deltas[0].length} bytes"]


def test_without_its_base_the_whole_file_is_fetched(place: Place) -> None:
    place.blobs.path(place.file.deltas[0].base_sha256).unlink()
    place.obtain()
    assert place.told == [f"fetching {len(NEW)} bytes"]


def _missing(place: Place) -> None:
    (place.repo / place.file.deltas[0].sha256).unlink()


def _changed_base(place: Place) -> None:
    place.blobs.path(place.file.deltas[0].base_sha256).write_bytes(bytes(len(OLD)))


def _changed_delta(place: Place) -> None:
    (place.repo / place.file.deltas[0].sha256).write_bytes(bytes(place.file.deltas[0].length))


@pytest.mark.parametrize("spoil", [_missing, _changed_base, _changed_delta])
def test_where_a_delta_fails_the_whole_file_is_fetched(place: Place, spoil: object) -> None:
    assert callable(spoil)
    spoil(place)
    place.obtain()
    assert any("The whole file is fetched" in line for line in place.told)
    assert not list(place.staging.iterdir())


def test_a_network_that_is_gone_is_waited_for(place: Place) -> None:
    with pytest.raises(NetworkError):
        obtain(place.file, place.blobs, None, place.staging, silent)


def test_parts_are_private(place: Place) -> None:
    place.obtain()
    assert place.staging.stat().st_mode & 0o777 == 0o700


def test_room_is_asked_for_what_is_still_missing(place: Place) -> None:
    place.staging.mkdir()
    part = place.staging / f"{place.file.sha256}.part"
    part.write_bytes(bytes(NEW)[:40_000])
    check_room([place.file], place.blobs, place.staging, 10_000)
    with pytest.raises(StorageError, match="takes 10000 bytes more, and 9999 are free"):
        check_room([place.file], place.blobs, place.staging, 9999)
    part.unlink()
    place.obtain()
    check_room([place.file], place.blobs, place.staging, 0)


def test_the_header_is_as_long_as_it_says() -> None:
    assert len(_header(0)) == HEADER_BYTES
