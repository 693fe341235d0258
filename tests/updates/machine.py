"""The files by which the kernel tells of memory, load, heat and boots, as a test wants them."""

from __future__ import annotations

from pathlib import Path


def machine(
    root: Path, *, free_mib: int = 1000, load: str = "0.10", celsius: int = 40, boot: str = "first"
) -> Path:
    """A folder that looks like the root of a device."""
    (root / "proc/sys/kernel/random").mkdir(parents=True, exist_ok=True)
    (root / "proc/meminfo").write_text(
        f"MemTotal:  4000000 kB\nMemFree: 100 kB\nMemAvailable: {free_mib * 1024} kB\n"
    )
    (root / "proc/loadavg").write_text(f"{load} 0.2 0.3 1/100 999\n")
    (root / "proc/sys/kernel/random/boot_id").write_text(f"{boot}\n")
    zone = root / "sys/class/thermal/thermal_zone0"
    zone.mkdir(parents=True, exist_ok=True)
    for name, text in {
        "temp": f"{celsius * 1000}",
        "trip_point_0_type": "passive",
        "trip_point_0_temp": "85000",
        "trip_point_1_type": "critical",
        "trip_point_1_temp": "60000",
    }.items():
        (zone / name).write_text(text + "\n")
    return root
