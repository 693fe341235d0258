"""Device types as data files, and the one small loader.

A profile says what a device type is and can do, each figure with its source; it never measures.
Files are looked up in the project's `profiles/`, then the user's folder, then this package.
docs/reference/profiles.md describes the format.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figure:
    """One number with where it comes from."""

    value: float
    source: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Engine:
    """One thing that computes: dense peak rates in GFLOP/s (GOP/s for int8) per precision."""

    name: str
    """`cpu`, `gpu` or `npu`."""
    title: str
    peak: Mapping[str, Figure]
    """Precision (f32, f16, bf16, int8) -> dense GFLOP/s; a precision without a source is absent."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Profile:
    """One device type."""

    name: str
    target: str
    title: str
    match: Mapping[str, Any]
    """The predicate (agent.manifest.match) that says whether a device is of this type."""
    arch: str
    """As `uname -m` prints it: x86_64, aarch64."""
    isa: tuple[str, ...]
    """Flags in our own lower-case words: avx2, avx512_vnni, amx_int8, dotprod, i8mm, ..."""
    cores: int
    memory_bytes: int
    bandwidth_gb_s: Figure | None
    engines: Mapping[str, Engine]
    runtimes: Mapping[str, str]
    """Runtime distribution -> version on the device; absent where it is not known."""
    status: Mapping[str, str]
    """What was ever done on it: compiled, emulated, measured -> when and by whom, or `not tried`."""
    origin: str = "package"
    """Which file it was read from: `package`, or a path."""
