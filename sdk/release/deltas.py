"""Make the smaller of two deltas between an old blob and a new file; see agent/delta.py."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agent.manifest import Delta
from agent.updates.delta import (
    BLOCK_BYTES,
    HEADER_BYTES,
    MAGIC,
    PATCH_BYTES,
    WIDTHS,
    parted,
    xored,
)
from sdk.release.store import Store

LEVEL = 12
WORTH = 0.9
"""A delta longer than this share of the file is not worth its second download path."""
MOST_BYTES = 2 << 30
_SAMPLE_BYTES = 8 << 20
"""What the width of numbers is chosen on."""


def smallest(
    store: Store, old: Any, source: Path, tell: Callable[[str], None]
) -> tuple[Delta, bytes] | None:
    """The smaller delta and its content; None where neither is worth it.

    Args:
        store: holds the old blob.
        old: the manifest's entry of the old file.
        source: the new file.
        tell: is told when it begins.
    """
    if source.stat().st_size > MOST_BYTES or old.length > MOST_BYTES:
        return None
    base = store.read(f"blobs/sha256/{old.sha256}")
    if base is None:
        return None
    tell(f"making deltas of {source.name}")
    new = source.read_bytes()
    made = [("planes-zstd", planes(base, new))]
    if len(base) <= PATCH_BYTES:
        made.append(("zstd-patch", patch(base, new)))
    algorithm, content = min(made, key=lambda item: len(item[1]))
    if len(content) > WORTH * len(new):
        return None
    delta = Delta(
        base_sha256=old.sha256,
        sha256=hashlib.sha256(content).hexdigest(),
        length=len(content),
        algo=algorithm,
    )
    return delta, content


def planes(base: bytes, new: bytes) -> bytes:
    """A `planes-zstd` delta, with the width of numbers that compresses best."""
    import zstandard

    fast = zstandard.ZstdCompressor(level=3)
    head_old, head_new = base[:_SAMPLE_BYTES], new[:_SAMPLE_BYTES]
    width = min(
        WIDTHS, key=lambda width: len(fast.compress(parted(xored(head_old, head_new), width)))
    )
    compressor = zstandard.ZstdCompressor(level=LEVEL, write_content_size=False).compressobj()
    header = MAGIC + bytes([width, 0, 0]) + len(new).to_bytes(8, "little")
    assert len(header) == HEADER_BYTES
    parts = [header]
    for start in range(0, len(new), BLOCK_BYTES):
        block = xored(base[start : start + BLOCK_BYTES], new[start : start + BLOCK_BYTES])
        parts.append(compressor.compress(parted(block, width)))
    parts.append(compressor.flush())
    return b"".join(parts)


def patch(base: bytes, new: bytes) -> bytes:
    """A `zstd-patch` delta: `zstd --patch-from`."""
    import zstandard

    known = zstandard.ZstdCompressionDict(base, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    window = max(10, min(30, (len(base) + len(new)).bit_length()))
    parameters = zstandard.ZstdCompressionParameters.from_level(
        LEVEL, window_log=window, enable_ldm=True
    )
    return bytes(
        zstandard.ZstdCompressor(dict_data=known, compression_params=parameters).compress(new)
    )
