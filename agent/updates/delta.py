"""A file from an older one and a delta: what a new set of weights costs to send.

Two ways, and whoever publishes takes the smaller one.

`planes-zstd`: old and new content are XORed, and the bytes of each number are put side by side with
their like (all lowest bytes, then all next ones, ...) before zstd sees them. Weights that were
trained on a little keep their sign and exponent, so the high planes are nearly all zeros.

    "SWPD" 1 <bytes of a number: 1, 2 or 4> 0 0 <length of the new file, 8 bytes little-endian>
    one zstd frame: blocks of 4 MiB of the new file (the last is shorter), each in planes

`zstd-patch`: zstd with the old file as its dictionary (`zstd --patch-from`), for what has moved.

The result is hashed as a whole by whoever asked for it, so a delta needs no trust of its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from agent.errors import VerificationError

ALGORITHMS = ("planes-zstd", "zstd-patch")
MAGIC = b"SWPD\x01"
HEADER_BYTES = 16
BLOCK_BYTES = 4 << 20
WIDTHS = (1, 2, 4)
PLANES_WINDOW_BYTES = 16 << 20
"""zstd keeps so much of what it has made: four blocks, more than its levels below 20 ask for."""
PATCH_BYTES = 256 << 20
"""The old file is held in memory while a `zstd-patch` is applied: larger ones get planes."""


def apply(algorithm: str, base: Path, delta: Path, length: int) -> Iterator[bytes]:
    """The new file's content, a piece at a time.

    Args:
        algorithm: one of `ALGORITHMS`.
        base: the old file.
        delta: what was sent.
        length: of the new file, as it was signed: no more comes out.

    Raises:
        VerificationError: the delta is malformed, or makes a file of another length.
    """
    import zstandard

    if algorithm not in ALGORITHMS:
        raise _malformed(f"its algorithm {algorithm[:40]!r} is none of {', '.join(ALGORITHMS)}")
    have = 0
    try:
        with base.open("rb") as old, delta.open("rb") as stream:
            if algorithm == "planes-zstd":
                made = _planes(old, stream, length)
            else:
                made = _patched(old, stream, length)
            for piece in made:
                have += len(piece)
                if have > length:
                    raise _malformed(f"it makes more than the {length} bytes that were signed")
                yield piece
    # Writing is the caller's: an OSError in here is of the two files that are read.
    except (zstandard.ZstdError, OSError) as error:
        raise _malformed(str(error)) from error
    if have != length:
        raise _malformed(f"it makes {have} bytes, {length} were signed")


def _planes(old: IO[bytes], stream: IO[bytes], length: int) -> Iterator[bytes]:
    import zstandard

    header = stream.read(HEADER_BYTES)
    if len(header) != HEADER_BYTES or header[:5] != MAGIC or header[5] not in WIDTHS:
        raise _malformed("its header is not that of a planes-zstd delta")
    width, left = header[5], int.from_bytes(header[8:], "little")
    if left != length:
        raise _malformed(f"its header says {left} bytes, {length} were signed")
    decompressor = zstandard.ZstdDecompressor(max_window_size=PLANES_WINDOW_BYTES)
    with decompressor.stream_reader(stream) as reader:
        while left:
            size = min(BLOCK_BYTES, left)
            planes = _exactly(reader, size)
            yield _xor(old.read(size), joined(planes, width))
            left -= size


def _patched(old: IO[bytes], stream: IO[bytes], length: int) -> Iterator[bytes]:
    import zstandard

    size = os.fstat(old.fileno()).st_size
    if size > PATCH_BYTES:
        raise _malformed(f"its base is larger than {PATCH_BYTES} bytes")
    base = old.read(size)  # not up to the limit: that would take as much memory at once
    # A window reaches over both files and not further: what it takes is bounded by what was signed.
    window = min(1 << 30, max(1 << 20, 1 << (len(base) + length).bit_length()))
    known = zstandard.ZstdCompressionDict(base, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    del base  # it holds a copy
    decompressor = zstandard.ZstdDecompressor(dict_data=known, max_window_size=window)
    yield from decompressor.read_to_iter(stream)


def parted(block: bytes, width: int) -> bytes:
    """The bytes of each number side by side with their like; what is left over at the end.

    >>> parted(b"aAbBcCx", 2)
    b'abcxABC'
    """
    return b"".join(block[start::width] for start in range(width))


def joined(planes: bytes, width: int) -> bytes:
    """The inverse of `parted`.

    >>> joined(b"abcxABC", 2)
    b'aAbBcCx'
    """
    block = bytearray(len(planes))
    at = 0
    for start in range(width):
        size = len(range(start, len(planes), width))
        block[start::width] = planes[at : at + size]
        at += size
    return bytes(block)


def xored(old: bytes, new: bytes) -> bytes:
    """Each byte of `new` XORed with that of `old` at its place; beyond its end, as it is."""
    return _xor(old, new)


def _xor(old: bytes, new: bytes) -> bytes:
    size = min(len(old), len(new))
    # As two long integers: hundreds of times faster than byte by byte.
    mixed = int.from_bytes(old[:size], "little") ^ int.from_bytes(new[:size], "little")
    return mixed.to_bytes(size, "little") + new[size:]


def _exactly(reader: IO[bytes], size: int) -> bytes:
    parts, left = [], size
    while left:
        part = reader.read(left)
        if not part:
            raise _malformed("it ends too early")
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def _malformed(why: str) -> VerificationError:
    return VerificationError(
        f"The delta cannot be applied: {why}.",
        cause="It was cut short, or belongs to another file.",
        remedy="The whole file is fetched instead.",
    )
