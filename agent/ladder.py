"""Which variant of a release runs here: what fits, in which order, and when to step. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

from agent.manifest import Fingerprint, Manifest, VariantEntry, match
from agent.versions import version_key

MOST_TRIED = 3
"""Variants that one preflight tries."""
CALM_S = 600.0
"""So long there has to be room before a step up: two steps a minute would help nobody."""
ROOM = 1.2
"""A step up needs that many times the memory that the better variant takes."""


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
    manifest: Manifest, device: Fingerprint, runtimes: Sequence[str], only: str | None = None
) -> Offer:
    """What of a release fits a device.

    Args:
        manifest: the release.
        device: its fingerprint.
        runtimes: formats that this device has a session and a runtime for.
        only: an identifier, where the assignment names one.
    """
    fits = [
        variant
        for variant in manifest.variants
        if (only is None or variant.id == only)
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
    """What the device has for the variant that runs."""

    free_bytes: int
    """Memory that could be had, without what the variant itself takes."""
    throttled: bool
    """Its clocks are held down by heat, or its power mode is lower than when it was proven."""
    calm_s: float
    """Since when neither was short."""


Move = Literal["stay", "down", "up"]


def step(needs: Sequence[int], at: int, strain: Strain) -> tuple[Move, str]:
    """Whether to take another rung of the ladder.

    Down at once, since what runs may be ended for its memory; up only after a calm while.

    Args:
        needs: bytes that each rung takes, the best rung first.
        at: the rung that runs.
        strain: what the device has.

    >>> step([400, 100], 0, Strain(free_bytes=300, throttled=False, calm_s=0.0))[0]
    'down'
    >>> step([400, 100], 1, Strain(free_bytes=900, throttled=False, calm_s=60.0))[0]
    'stay'
    """
    below = [rung for rung in range(at + 1, len(needs)) if needs[rung] < needs[at]]
    if strain.free_bytes < needs[at]:
        if not below:
            return "stay", "memory is short, and no rung takes less"
        return "down", f"it takes {needs[at]} bytes, {strain.free_bytes} could be had"
    if strain.throttled:
        return ("down", "heat or power holds its clocks down") if below else ("stay", "throttled")
    if at > 0 and strain.calm_s >= CALM_S and strain.free_bytes >= ROOM * needs[at - 1]:
        return "up", f"for {strain.calm_s:.0f} s there was room"
    return "stay", ""
