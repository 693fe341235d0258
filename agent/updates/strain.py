"""What the device has left for a model: memory, calm, and whether it is too hot."""

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
    found = re.match(r"\d+\.\d+", _read(root / "proc/loadavg"))
    return found is not None and float(found[0]) <= QUIET_LOAD * max(1, cores)


def is_too_hot(root: Path = Path("/")) -> bool:
    """Whether a thermal zone is at its passive trip point, where the kernel slows processors down.

    See Documentation/driver-api/thermal/sysfs-api.rst. A clock that is capped says nothing: it may
    be the power mode that somebody chose, and that the release was proven in.
    """
    for zone in root.glob("sys/class/thermal/thermal_zone*"):
        now = _number(zone / "temp")
        for kind in zone.glob("trip_point_*_type"):
            if now is None or _read(kind).strip() != "passive":
                continue
            trip = _number(kind.with_name(kind.name.replace("_type", "_temp")))
            if trip is not None and 0 < trip <= now:
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
