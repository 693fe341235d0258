"""What the device has left for a model: memory, calm, and clocks that nothing holds down."""

from __future__ import annotations

import re
from pathlib import Path

QUIET_LOAD = 0.5
"""Load per core below which a device counts as at rest."""


def available_bytes(root: Path = Path("/")) -> int:
    """Memory that could be had without swapping (MemAvailable); no bound where nothing tells."""
    found = re.search(r"^MemAvailable:\s*(\d+) kB", _read(root / "proc/meminfo"), re.MULTILINE)
    return int(found[1]) << 10 if found else 1 << 62


def is_quiet(cores: int, root: Path = Path("/")) -> bool:
    """Whether next to nothing else ran in the last minute; no where nothing tells."""
    words = _read(root / "proc/loadavg").split()
    return bool(words) and float(words[0]) <= QUIET_LOAD * max(1, cores)


def is_throttled(root: Path = Path("/")) -> bool:
    """Whether heat or a power mode holds the clocks down.

    Either a thermal zone is at its passive trip point, from which on the kernel slows the
    processors (Documentation/driver-api/thermal/sysfs-api.rst), or a core's clock is capped below
    what it can do.
    """
    for zone in root.glob("sys/class/thermal/thermal_zone*"):
        now = _number(zone / "temp")
        for kind in zone.glob("trip_point_*_type"):
            if now is None or _read(kind).strip() != "passive":
                continue
            trip = _number(kind.with_name(kind.name.replace("_type", "_temp")))
            if trip is not None and 0 < trip <= now:
                return True
    for policy in root.glob("sys/devices/system/cpu/cpufreq/policy*"):
        cap, most = _number(policy / "scaling_max_freq"), _number(policy / "cpuinfo_max_freq")
        if cap is not None and most is not None and cap < most:
            return True
    return False


def _number(path: Path) -> int | None:
    text = _read(path).strip()
    return int(text) if text.lstrip("-").isdigit() else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
