"""What this machine is: its fingerprint, read from the files that the kernel shows.

Everything is best effort: what cannot be read is null (or an empty list), never a guess and never
a crash, so the same call works on a Jetson, a Pi, a server, macOS and Windows. No process is
started. `root` is where the file system begins; tests hand in folders copied from other machines.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import platform
import re
import struct
from collections.abc import Sequence
from pathlib import Path

from agent.codec import canonical
from agent.manifest import Fingerprint

X86_ISA = (
    *("avx2", "fma", "f16c", "avx_vnni"),
    *("avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_int8", "amx_bf16", "amx_fp16"),
)
"""Our words for x86 features: as Linux spells them in /proc/cpuinfo."""
_ARM_WORDS = {
    "asimd": "asimd",
    "asimdhp": "fp16",
    "asimddp": "dotprod",
    "i8mm": "i8mm",
    "bf16": "bf16",
    "sve": "sve",
    "sve2": "sve2",
    "sme": "sme",
}
ARM_ISA = tuple(_ARM_WORDS.values())
"""Our words for Arm features."""
ISA_WORDS = {"x86_64": X86_ISA, "aarch64": ARM_ISA}
"""Architecture -> every word that an `isa` list may hold."""

_RUNTIMES = ("onnxruntime", "openvino", "executorch", "tensorrt")
_ARCHES = {"amd64": "x86_64", "x64": "x86_64", "arm64": "aarch64"}  # what other systems say
# Bits of the auxiliary vector (Linux, arch/arm64/include/uapi/asm/hwcap.h).
_HWCAP = {1: "asimd", 10: "fp16", 20: "dotprod", 22: "sve"}
_HWCAP2 = {1: "sve2", 13: "i8mm", 14: "bf16", 23: "sme"}
# Where glibc keeps x86 features: leaf, register (eax to edx) and bit. Leaves as in its
# sys/platform/x86.h: 0 is CPUID 1, 1 is CPUID 7, 6 is CPUID 7.1.
_GLIBC_X86 = {
    "avx2": (1, 1, 5),
    "fma": (0, 2, 12),
    "f16c": (0, 2, 29),
    "avx_vnni": (6, 0, 4),
    "avx512f": (1, 1, 16),
    "avx512_vnni": (1, 2, 11),
    "avx512_bf16": (6, 0, 5),
    "avx512_fp16": (1, 3, 23),
    "amx_int8": (1, 3, 25),
    "amx_bf16": (1, 3, 22),
    "amx_fp16": (6, 0, 21),
}
_JETPACKS = {
    "35.1": "5.0.2",
    "35.3.1": "5.1.1",
    "36.3": "6.0",
    "36.4.0": "6.1",
    "36.4.3": "6.2",
    "36.4.4": "6.2.1",
    "36.4.7": "6.2.1",
    "36.5": "6.2.2",
    "38.2": "7.0",
    "38.4": "7.1",
    "39.0": "7.2",
    "39.2": "7.2",
}
"""Release of Jetson Linux -> JetPack; a release that is not here has no JetPack we can name."""

IsaClass = tuple[str, str, str, "str | None"]


def isa_class(arch: str, isa: Sequence[str], sm: str | None = None) -> IsaClass:
    """What int8 answers depend on: (architecture, int8 dot product, matrix extension, GPU sm).

    Two machines of one class compute int8 alike, so numerics proven on one count for the other.
    An x86 CPU without VNNI saturates 16-bit sums where one with VNNI does not.

    >>> isa_class("x86_64", ["avx2", "avx_vnni"])
    ('x86_64', 'vnni', 'none', None)
    """
    if arch == "x86_64":
        dot = _first(isa, {"avx512_vnni": "vnni", "avx_vnni": "vnni", "avx2": "avx2"})
        return arch, dot, _first(isa, {"amx_int8": "amx_int8"}), sm
    dot = _first(isa, {"i8mm": "i8mm", "dotprod": "dotprod"})
    return arch, dot, _first(isa, {"i8mm": "i8mm"}), sm


def _first(isa: Sequence[str], kinds: dict[str, str]) -> str:
    return next((kind for word, kind in kinds.items() if word in isa), "none")


def fingerprint(root: Path = Path("/"), machine: str | None = None) -> Fingerprint:
    """The fingerprint of this machine, or of the one whose files lie under `root`.

    `cores` counts the processors that the kernel has online, two for a core with two threads.
    `memory_bytes` is the machine's memory (MemTotal), not what a container may use: a profile
    describes the machine. `soc` is the CPU's model name on x86, and the last `compatible` entry of
    the device tree, which names the chip, on Arm.

    Args:
        root: where the file system begins.
        machine: the architecture, if it is not this one's.
    """
    arch = (machine or platform.machine()).lower()
    arch = _ARCHES.get(arch, arch)
    cpuinfo = _read(root / "proc/cpuinfo")
    emulated = _emulated(root, arch, cpuinfo)
    return Fingerprint(
        identity={
            "arch": arch,
            "soc": None if emulated else _soc(root, arch, cpuinfo),
            "isa": _isa(root, arch, cpuinfo, emulated=emulated),
            "cores": _cores(root, cpuinfo),
            "gpu": _gpu(root),
            "sm": None,  # only CUDA tells it, and starting CUDA costs memory and seconds
            "memory_bytes": _memory_bytes(root),
            "emulated": emulated,
        },
        software={
            "os": _os(root),
            "driver": _read(root / "sys/module/nvidia/version").strip() or None,
            "jetpack": _jetpack(_read(root / "etc/nv_tegra_release")),
            "runtimes": _runtimes(),
        },
        conditions={"power_mode": _power_mode(root), "governor": _governor(root)},
    )


def fingerprint_digest(found: Fingerprint) -> str:
    """A name for what a device is and runs: what was proven under one is not under another."""
    told = {"identity": found.identity, "software": found.software}
    return hashlib.sha256(canonical(told)).hexdigest()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conditions:
    """What can change from one measurement to the next; kept beside every figure."""

    power_mode: str | None
    governor: str | None
    clocks_mhz: tuple[float, ...]
    """One per core that tells its clock."""
    load_1m: float | None
    temperatures_c: dict[str, float]
    """Thermal zone -> degrees."""


def conditions_now(root: Path = Path("/")) -> Conditions:
    """Clocks, load, temperatures and power settings at this moment."""
    paths = root.glob("sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq")
    clocks = [  # the kernel says kHz
        int(text) / 1000 for text in map(_read, sorted(paths)) if text.strip().isdigit()
    ]
    if not clocks:
        shown = re.findall(r"^cpu MHz\s*:\s*([\d.]+)", _read(root / "proc/cpuinfo"), re.MULTILINE)
        clocks = [float(text) for text in shown]
    temperatures = {}
    for zone in sorted(root.glob("sys/class/thermal/thermal_zone*")):
        text = _read(zone / "temp").strip()  # a zone that sleeps answers with an error: left out
        if text.lstrip("-").isdigit():
            temperatures[f"{zone.name} {_read(zone / 'type').strip()}".strip()] = int(text) / 1000
    load = _read(root / "proc/loadavg").split()
    return Conditions(
        power_mode=_power_mode(root),
        governor=_governor(root),
        clocks_mhz=tuple(clocks),
        load_1m=float(load[0]) if load else None,
        temperatures_c=temperatures,
    )


def _emulated(root: Path, arch: str, cpuinfo: str) -> bool:
    """Is this process run by qemu's user-mode emulation?

    qemu answers for /proc/self/exe but not for /proc/thread-self/exe, so the kernel's answer there
    names qemu itself. Otherwise an Arm process that is shown an x86 cpuinfo gives it away.
    A whole virtual machine is not emulated in this sense: it computes on the real CPU.
    """
    try:
        if (root / "proc/thread-self/exe").readlink().name.startswith("qemu-"):
            return True
    except OSError:
        pass  # no Linux, or no right to look
    foreign = {"aarch64": r"^vendor_id\s*:", "x86_64": r"^CPU implementer\s*:"}.get(arch)
    return bool(foreign and re.search(foreign, cpuinfo, re.MULTILINE))


def _isa(root: Path, arch: str, cpuinfo: str, *, emulated: bool) -> list[str]:
    if arch == "aarch64":
        return sorted(_arm_isa(root, cpuinfo, emulated=emulated))
    if arch == "x86_64" and emulated:  # what it is shown are the host's flags: worse than none
        return sorted(_x86_isa_of_this_process()) if root == Path("/") else []
    if arch == "x86_64":
        return sorted(set(X86_ISA) & set(_field(cpuinfo, "flags").split()))
    return []


def _x86_isa_of_this_process() -> set[str]:
    """What the CPU that runs this process tells it, asked through glibc (2.33 or newer)."""
    import ctypes

    try:
        leaf_of = ctypes.CDLL(None)["__x86_get_cpuid_feature_leaf"]
    except (OSError, AttributeError):
        return set()
    leaf_of.argtypes = [ctypes.c_uint]
    leaf_of.restype = ctypes.POINTER(ctypes.c_uint32 * 8)  # four of the CPU, four that are usable
    leaves = {leaf: leaf_of(leaf).contents for leaf in {leaf for leaf, _, _ in _GLIBC_X86.values()}}
    return {
        word
        for word, (leaf, register, bit) in _GLIBC_X86.items()
        if leaves[leaf][4 + register] >> bit & 1
    }


def _arm_isa(root: Path, cpuinfo: str, *, emulated: bool) -> set[str]:
    features = _field(cpuinfo, "Features").split()
    if features and not emulated:
        return {_ARM_WORDS[word] for word in features if word in _ARM_WORDS}
    try:
        auxiliary = (root / "proc/self/auxv").read_bytes()
    except OSError:
        return set()
    usable = len(auxiliary) // 16 * 16
    values = dict(struct.iter_unpack("<QQ", auxiliary[:usable]))
    hwcap, hwcap2 = values.get(16, 0), values.get(26, 0)  # AT_HWCAP, AT_HWCAP2
    return {word for bit, word in _HWCAP.items() if hwcap >> bit & 1} | {
        word for bit, word in _HWCAP2.items() if hwcap2 >> bit & 1
    }


def _soc(root: Path, arch: str, cpuinfo: str) -> str | None:
    if arch == "x86_64":
        return _field(cpuinfo, "model name") or None
    entries = [e for e in _read(root / "proc/device-tree/compatible").split("\0") if e.strip()]
    model = _read(root / "proc/device-tree/model").strip("\0 \n")
    return (entries[-1].strip() if entries else model) or None


def _gpu(root: Path) -> str | None:
    for path in sorted(root.glob("proc/driver/nvidia/gpus/*/information")):
        found = re.search(r"^Model:\s*(.+?)\s*$", _read(path), re.MULTILINE)
        if found:
            return found[1]
    for device in sorted(root.glob("sys/class/drm/renderD*/device")):
        if _read(device / "vendor").strip() == "0x8086":
            return f"Intel {_read(device / 'device').strip()}"
    return None


def _cores(root: Path, cpuinfo: str) -> int | None:
    listed = len(re.findall(r"^processor\s*:", cpuinfo, re.MULTILINE))
    return listed or (os.cpu_count() if root == Path("/") else None)


def _memory_bytes(root: Path) -> int | None:
    found = re.search(r"^MemTotal:\s*(\d+) kB", _read(root / "proc/meminfo"), re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def _os(root: Path) -> str | None:
    lines = re.findall(
        r"^(ID|VERSION_ID)=[\"']?(.*?)[\"']?$", _read(root / "etc/os-release"), re.MULTILINE
    )
    release = dict(lines)
    if release.get("ID"):
        return f"{release['ID']} {release.get('VERSION_ID', '')}".strip()
    if platform.system() == "Darwin":
        return f"macos {platform.mac_ver()[0]}".strip()
    return f"{platform.system()} {platform.release()}".strip().lower() or None


def _jetpack(release: str) -> str | None:
    """JetPack's version from Jetson Linux's own: `# R36 (release), REVISION: 4.3, ...`."""
    found = re.search(r"# R(\d+) \(release\), REVISION: ([\d.]+)", release)
    parts = f"{found[1]}.{found[2]}".split(".") if found else []
    for length in range(len(parts), 1, -1):
        known = _JETPACKS.get(".".join(parts[:length]))
        if known:
            return known
    return None


def _runtimes() -> dict[str, str]:
    import importlib.metadata  # costs more than the rest of this module

    installed: dict[str, str] = {}
    for name in _RUNTIMES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            installed[name] = importlib.metadata.version(name)
    return installed


def _power_mode(root: Path) -> str | None:
    """The mode's name: on a Jetson the numbers differ between boards and releases."""
    chosen = re.search(r"pmode:(\d+)", _read(root / "var/lib/nvpmodel/status"))
    if chosen:
        modes = _read(root / "etc/nvpmodel.conf")
        for number, name in re.findall(r"< POWER_MODEL ID=(\d+) NAME=(\S+) >", modes):
            if int(number) == int(chosen[1]):
                return str(name)
    return _read(root / "sys/firmware/acpi/platform_profile").strip() or None


def _governor(root: Path) -> str | None:
    path = root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"
    return _read(path).strip() or None


def _field(cpuinfo: str, name: str) -> str:
    """The first processor's field; the kernel shows the same features for all of them."""
    found = re.search(rf"^{re.escape(name)}\s*:\s*(.*?)\s*$", cpuinfo, re.MULTILINE)
    return found[1] if found else ""


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
