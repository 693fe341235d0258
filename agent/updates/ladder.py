"""Which variant of a release runs here: what fits, in which order, and when to step. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from typing import Literal

from agent.manifest import Fingerprint, Manifest, VariantEntry, match
from agent.versions import version_key

MOST_TRIED = 3
"""Variants that one preflight tries."""
CALM_S = 600.0
"""So long there has to be room before a step up: two steps a minute would help nobody."""
ROOM = 1.2
"""A step up needs that many times the memory that the better variant takes beyond this one."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Offer:
    """The variants of a release for one device."""

    tried: tuple[VariantEntry, ...]
    """In the order of preflight, at most `MOST_TRIED`."""
    measures: bool
    """The fastest that passes is activated; otherwise the first that passes."""
    ladder: tuple[VariantEntry, ...]
    """All that fit, the best first."""


def offer(
    manifest: Manifest,
    device: Fingerprint,
    runtimes: Sequence[str],
    only: str | None = None,
    without: Collection[str] = (),
) -> Offer:
    """What of a release fits a device.

    Args:
        manifest: the release.
        device: its fingerprint.
        runtimes: formats that this device has a session and a runtime for.
        only: an identifier, where the assignment names one.
        without: those that were found unfit here.
    """
    fits = [
        variant
        for variant in manifest.variants
        if (only is None or variant.id == only)
        and variant.id not in without
        and variant.runtime.format in runtimes
        and match(variant.match, device)
        and _reads(variant, device)
    ]
    profile = _closest(fits)
    ladder = sorted((v for v in fits if v.profile == profile), key=lambda v: v.rank)
    measures = any(variant.selection == "measure" for variant in ladder)
    return Offer(tried=tuple(ladder[:MOST_TRIED]), measures=measures, ladder=tuple(ladder))


def _closest(fits: Sequence[VariantEntry]) -> str | None:
    """Of several profiles that fit, the one with most conditions; then by name."""
    profiles = {variant.profile: len(variant.match) for variant in fits}
    return min(profiles, key=lambda name: (-profiles[name], name), default=None)


def _reads(variant: VariantEntry, device: Fingerprint) -> bool:
    """Whether the device's runtime is one that reads the file."""
    found = device.software.get("runtimes", {}).get(variant.runtime.format)
    here = version_key(found) if isinstance(found, str) else None
    if here is None:
        return variant.runtime.at_least is None and variant.runtime.below is None
    low, high = variant.runtime.at_least, variant.runtime.below
    low_key = version_key(low) if low else None
    high_key = version_key(high) if high else None
    return not (low_key and here < low_key) and not (high_key and here >= high_key)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Strain:
    """What the device has left beside the variant that runs."""

    available_bytes: int
    """Memory that could be had without swapping."""
    reserve_bytes: int
    """What should always be left."""
    hot: bool
    """Heat slows it down, and not just for a moment."""
    calm_s: float
    """Since when there was room and it was not hot."""

    @property
    def is_on(self) -> bool:
        """The variant that runs is more than the device can bear now."""
        return self.available_bytes < self.reserve_bytes or self.hot


Move = Literal["stay", "down", "up"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """Where on the ladder to be."""

    move: Move
    rung: int
    reason: str = ""


def step(needs: Sequence[int], at: int, strain: Strain, best: int = 0) -> Step:
    """Whether to take another rung of the ladder.

    Down at once, since what runs may be ended for its memory; up only after a calm while, and only
    where there would still be room afterwards, so that it does not go back and forth.

    Args:
        needs: bytes that each rung takes, the best rung first.
        at: the rung that runs.
        strain: what the device has.
        best: the rung that ran before any step: those above it were not chosen here.

    >>> step([400, 100], 0, Strain(available_bytes=10, reserve_bytes=50, hot=False,
    ...     calm_s=0.0)).move
    'down'
    >>> step([400, 100], 1, Strain(available_bytes=900, reserve_bytes=50, hot=False,
    ...     calm_s=60.0)).move
    'stay'
    """
    lighter = [rung for rung in range(at + 1, len(needs)) if needs[rung] < needs[at]]
    if strain.is_on:
        why = "it is too hot"
        if strain.available_bytes < strain.reserve_bytes:
            left, least = strain.available_bytes >> 20, strain.reserve_bytes >> 20
            why = f"{left} MiB of memory can be had, less than the reserve of {least} MiB"
        if not lighter:
            return Step(move="stay", rung=at, reason=f"{why}, and no rung is lighter")
        return Step(move="down", rung=lighter[0], reason=why)
    if at > best and strain.calm_s >= CALM_S:
        more = max(0, needs[at - 1] - needs[at])
        if strain.available_bytes - ROOM * more >= strain.reserve_bytes:
            return Step(move="up", rung=at - 1, reason=f"for {strain.calm_s:.0f} s there was room")
    return Step(move="stay", rung=at)


def needs_of(variant: VariantEntry) -> int:
    """Bytes of memory that a variant takes: what its gate allows, else a guess from its files."""
    told = [gate.max for gate in variant.gates if gate.quantity == "memory_peak_bytes"]
    known = [limit for limit in told if limit is not None]
    return min(known) if known else 2 * variant.unpacked_bytes
