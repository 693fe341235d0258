"""The name of a kind of hardware: what rollouts are judged by, and metrics are labelled with."""

from __future__ import annotations

import functools

from agent.manifest import Fingerprint, match
from profiles import Profile, all_profiles

UNKNOWN = "unknown"


def hardware_of(fingerprint: Fingerprint | None) -> str:
    """The profile that a device matches, the one with most conditions; else its architecture.

    A device cannot make names up: they come from the profiles here, or are an architecture's.
    """
    if fingerprint is None:
        return UNKNOWN
    found = [one for one in _profiles() if one.match and match(one.match, fingerprint)]
    if found:
        return min(found, key=lambda one: (-len(one.match), one.name)).name
    arch = fingerprint.identity.get("arch")
    return arch if arch in ("x86_64", "aarch64", "armv7l", "riscv64") else UNKNOWN


@functools.cache
def _profiles() -> tuple[Profile, ...]:
    return tuple(all_profiles(()).values())
