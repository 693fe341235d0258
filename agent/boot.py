"""Since when this machine runs: wall clocks jump, and on some devices they are years off."""

from __future__ import annotations

import time
from pathlib import Path


def boot_id(root: Path = Path("/")) -> str:
    """Changes with every start of the device; empty where the system does not tell."""
    try:
        return (root / "proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def uptime_s() -> float:
    """Since the device was started, its sleep included."""
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime(clock)
