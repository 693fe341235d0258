"""Make the smaller of two deltas between an old blob and a new file; see agent/updates/delta.py."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path

from agent.manifest import Delta, File
from agent.updates.delta import BLOCK_BYTES, MAGIC, PATCH_BYTES, WIDTHS, parted, xored
from sdk.release.store import Store, changed

LEVEL = 12
WORTH = 0.9
"""A delta longer than this share of the file is not worth its second download path."""
MOST_BYTES = 2 << 30
"""Larger files are published without deltas: both are held in memory."""
MOST_PATCHED_BYTES = min(PATCH_BYTES, 128 << 20)
"""Longer ones get planes alone: a patch's tables take 8 bytes for each byte of the old file."""
_SAMPLES, _SAMPLE_BYTES = 8, 1 << 20
"""What the width of numbers is chosen on: so many pieces, spread over the file."""
_HEADER = b"\x00\x00"  # reserved


@dataclasses.dataclass(frozen=True, kw_only=True)
class Made:
    """A delta and its content."""

    delta: Delta
    content: bytes


def smallest(
    store: Store, old: File, new: File, source: Path, tell: Callable[[str], None]
) -> Made | None:
    """The smaller delta; None where neither is worth it.

    Args:
        store: holds the old blob.
        old: the manifest's entry of the old file.
        new: the same of the new one.
        source: the new file.
        tell: is told when it begins.

    Raises:
        VerificationError: the new file is not what its entry says.
    """
    if max(old.length, new.length) > MOST_BYTES:
        return None
    base = b"".join(store.pieces(f"blobs/sha256/{old.sha256}"))
    if hashlib.sha256(base).hexdigest() != old.sha256:
        tell(f"no delta of {source.name}: its base {old.sha256[:16]}… is missing or damaged")
        return None
    tell(f"making a delta of {source.name}, {new.length} bytes")
    content = source.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != new.sha256:
        raise changed(source, found, new.sha256)
    made = {"planes-zstd": planes(base, content)}
    if max(len(base), len(content)) <= MOST_PATCHED_BYTES:
        made["zstd-patch"] = patch(base, content)
    algorithm = min(made, key=lambda name: len(made[name]))
    if len(made[algorithm]) > WORTH * len(content):
        return None
    delta = Delta(
        base_sha256=old.sha256,
        sha256=hashlib.sha256(made[algorithm]).hexdigest(),
        length=len(made[algorithm]),
        algo=algorithm,
    )
    return Made(delta=delta, content=made[algorithm])


def planes(base: bytes, new: bytes) -> bytes:
    """A `planes-zstd` delta, with the width of numbers that compresses best."""
    import zstandard

    width = _width(base, new)
    compressor = zstandard.ZstdCompressor(level=LEVEL, write_content_size=False).compressobj()
    parts = [MAGIC + bytes([width]) + _HEADER + len(new).to_bytes(8, "little")]
    for start in range(0, len(new), BLOCK_BYTES):
        block = xored(base[start : start + BLOCK_BYTES], new[start : start + BLOCK_BYTES])
        parts.append(compressor.compress(parted(block, width)))
    parts.append(compressor.flush())
    return b"".join(parts)


def patch(base: bytes, new: bytes) -> bytes:
    """A `zstd-patch` delta: `zstd --patch-from`."""
    import zstandard

    known = zstandard.ZstdCompressionDict(base, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    # The window spans the longer of the two files, as the zstd command line has it, and the tables
    # every place of the old one: by the level's own, a longer dictionary is found in part only.
    span = max(10, max(len(base), len(new)).bit_length())
    places = max(10, (len(base) - 1).bit_length())
    parameters = zstandard.ZstdCompressionParameters.from_level(
        LEVEL, window_log=span, chain_log=places, hash_log=places
    )
    return bytes(
        zstandard.ZstdCompressor(dict_data=known, compression_params=parameters).compress(new)
    )


def _width(base: bytes, new: bytes) -> int:
    import zstandard

    fast = zstandard.ZstdCompressor(level=3)
    step = max(_SAMPLE_BYTES, len(new) // _SAMPLES // 4 * 4)  # numbers begin at multiples of four
    samples = [
        xored(base[start : start + _SAMPLE_BYTES], new[start : start + _SAMPLE_BYTES])
        for start in range(0, len(new), step)
    ]
    return min(
        WIDTHS,
        key=lambda width: sum(len(fast.compress(parted(one, width))) for one in samples),
    )
