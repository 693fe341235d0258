"""The fingerprint, read from folders that look like other machines, and from this one."""

from __future__ import annotations

import json
import platform
import struct
from pathlib import Path

import pytest

from agent.codec import encode
from agent.identity import (
    ARM_ISA,
    ISA_WORDS,
    X86_ISA,
    _x86_isa_of_this_process,
    conditions_now,
    fingerprint,
    isa_class,
)

PI_5 = {
    "proc/cpuinfo": (
        "processor\t: 0\nBogoMIPS\t: 108.00\n"
        "Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid "
        "asimdrdm lrcpc dcpop asimddp\n"
        "CPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x4\nCPU part\t: 0xd0b\n"
        "CPU revision\t: 1\n\nRevision\t: d04170\nModel\t\t: Raspberry Pi 5 Model B Rev 1.0\n"
    ),
    "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
    "proc/device-tree/compatible": "raspberrypi,5-model-b\0brcm,bcm2712\0",
    "proc/meminfo": "MemTotal:        8256256 kB\nMemFree:         7000000 kB\n",
    "proc/loadavg": "0.25 0.10 0.05 1/200 1234\n",
    "etc/os-release": 'PRETTY_NAME="Debian GNU/Linux 12"\nVERSION_ID="12"\nID=debian\n',
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "ondemand\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1500000\n",
    "sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq": "2400000\n",
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "48250\n",
    "sys/class/thermal/thermal_zone1/type": "asleep\n",
    "sys/class/thermal/thermal_zone1/temp": "",
}
ORIN_NANO = {
    "proc/cpuinfo": (
        "processor\t: 0\nmodel name\t: ARMv8 Processor rev 1 (v8l)\n"
        "Features\t: fp asimd aes crc32 atomics fphp asimdhp asimddp\n"
        "CPU implementer\t: 0x41\nCPU part\t: 0xd42\n"
    ),
    "proc/device-tree/compatible": (
        "nvidia,p3768-0000+p3767-0005-super\0nvidia,p3767-0005\0nvidia,tegra234\0"
    ),
    "proc/meminfo": "MemTotal:        7802336 kB\n",
    "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic\n",
    "etc/os-release": 'ID=ubuntu\nVERSION_ID="22.04"\n',
    "etc/nvpmodel.conf": (
        "< POWER_MODEL ID=0 NAME=15W >\nCPU_ONLINE CORE_0 1\n"
        "< POWER_MODEL ID=2 NAME=MAXN_SUPER >\nCPU_ONLINE CORE_0 1\n"
        "< PM_CONFIG DEFAULT=1 >\n"
    ),
    "var/lib/nvpmodel/status": "pmode:0002 fmode:fanNull\n",
    "sys/module/nvidia/version": "540.4.0\n",
}
XEON = {
    "proc/cpuinfo": (
        "processor\t: 0\nvendor_id\t: GenuineIntel\n"
        "model name\t: Intel(R) Xeon(R) Platinum 8480+\ncpu MHz\t\t: 2000.000\n"
        "flags\t\t: fpu sse2 ssse3 fma f16c avx avx2 avx512f avx512_bf16 avx512_vnni avx512_fp16 "
        "amx_bf16 amx_tile amx_int8\n\nprocessor\t: 1\ncpu MHz\t\t: 3800.000\n"
    ),
    "proc/meminfo": "MemTotal:       131072000 kB\n",
    "proc/driver/nvidia/gpus/0000:01:00.0/information": "Model: \t\t NVIDIA L4\nIRQ: 1\n",
    "sys/module/nvidia/version": "550.54.15\n",
}
LAPTOP = {
    "proc/cpuinfo": (
        "vendor_id\t: GenuineIntel\nmodel name\t: Intel(R) Core(TM) Ultra 7 155H\n"
        "flags\t\t: fma f16c avx2 avx_vnni\n"
    ),
    "sys/class/drm/renderD128/device/vendor": "0x8086\n",
    "sys/class/drm/renderD128/device/device": "0x7d55\n",
    "sys/firmware/acpi/platform_profile": "balanced\n",
}


def _tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "machine", "expected"),
    [
        pytest.param(
            PI_5,
            "aarch64",
            {
                "arch": "aarch64",
                "soc": "brcm,bcm2712",
                "isa": ["asimd", "dotprod", "fp16"],
                "gpu": None,
                "sm": None,
                "memory_bytes": 8256256 * 1024,
                "emulated": False,
            },
            id="raspberry-pi-5",
        ),
        pytest.param(
            ORIN_NANO,
            "aarch64",
            {"soc": "nvidia,tegra234", "isa": ["asimd", "dotprod", "fp16"], "gpu": None},
            id="jetson-orin-nano",
        ),
        pytest.param(
            XEON,
            "x86_64",
            {
                "soc": "Intel(R) Xeon(R) Platinum 8480+",
                "isa": [
                    *("amx_bf16", "amx_int8", "avx2", "avx512_bf16", "avx512_fp16"),
                    *("avx512_vnni", "avx512f", "f16c", "fma"),
                ],
                "gpu": "NVIDIA L4",
            },
            id="xeon-with-gpu",
        ),
        pytest.param(
            LAPTOP,
            "AMD64",
            {"arch": "x86_64", "isa": ["avx2", "avx_vnni", "f16c", "fma"], "gpu": "Intel 0x7d55"},
            id="laptop",
        ),
        pytest.param(
            {},
            "arm64",
            {"arch": "aarch64", "soc": None, "isa": [], "memory_bytes": None, "emulated": False},
            id="a-system-without-proc",
        ),
    ],
)
def test_a_machine_is_known_by_its_files(
    files: dict[str, str], machine: str, expected: dict[str, object], tmp_path: Path
) -> None:
    identity = fingerprint(_tree(tmp_path, files), machine).identity
    assert set(identity) == {
        *("arch", "soc", "isa", "cores", "gpu", "sm", "memory_bytes", "emulated")
    }
    assert {key: identity[key] for key in expected} == expected


def test_a_jetson_tells_its_jetpack_and_the_name_of_its_power_mode(tmp_path: Path) -> None:
    device = fingerprint(_tree(tmp_path, ORIN_NANO), "aarch64")
    assert device.software["jetpack"] == "6.2"
    assert device.software["os"] == "ubuntu 22.04"
    assert device.software["driver"] == "540.4.0"
    assert device.conditions == {"power_mode": "MAXN_SUPER", "governor": None}


@pytest.mark.parametrize(
    ("release", "jetpack"),
    [
        ("# R35 (release), REVISION: 3.1, GCID: 1", "5.1.1"),
        ("# R36 (release), REVISION: 4.7, GCID: 1", "6.2.1"),
        ("# R36 (release), REVISION: 5.0, GCID: 1", "6.2.2"),
        ("# R39 (release), REVISION: 2.0, GCID: 1", "7.2"),
        ("# R36 (release), REVISION: 9.9, GCID: 1", None),
        ("something else", None),
    ],
)
def test_jetpack_is_named_only_for_known_releases(
    release: str, jetpack: str | None, tmp_path: Path
) -> None:
    root = _tree(tmp_path, {"etc/nv_tegra_release": release})
    assert fingerprint(root, "aarch64").software["jetpack"] == jetpack


def test_a_process_under_qemu_is_emulated_and_trusts_no_host_flags(tmp_path: Path) -> None:
    root = _tree(tmp_path, XEON)
    (root / "proc/thread-self").mkdir()
    (root / "proc/thread-self/exe").symlink_to("/usr/bin/qemu-x86_64-static")
    identity = fingerprint(root, "x86_64").identity
    assert identity["emulated"] is True
    assert identity["isa"] == []
    assert identity["soc"] is None, "the host's"


@pytest.mark.skipif(platform.machine() != "x86_64", reason="x86 is asked")
def test_what_the_cpu_tells_a_process_is_what_the_kernel_shows_of_it() -> None:
    told = _x86_isa_of_this_process()
    if not told:
        pytest.skip("a C library that keeps no features: not glibc 2.33 or newer")
    assert sorted(told) == fingerprint().identity["isa"]


def test_an_arm_process_that_is_shown_an_x86_cpuinfo_is_emulated(tmp_path: Path) -> None:
    root = _tree(tmp_path, XEON)
    auxiliary = {6: 4096, 16: 1 << 1 | 1 << 10 | 1 << 20, 26: 1 << 13, 0: 0}
    (root / "proc/self").mkdir()
    (root / "proc/self/auxv").write_bytes(
        b"".join(struct.pack("<QQ", key, value) for key, value in auxiliary.items())
    )
    identity = fingerprint(root, "aarch64").identity
    assert identity["emulated"] is True
    assert identity["isa"] == ["asimd", "dotprod", "fp16", "i8mm"]
    assert identity["soc"] is None


def test_conditions_hold_clocks_temperatures_load_and_governor(tmp_path: Path) -> None:
    now = conditions_now(_tree(tmp_path, PI_5))
    assert now.clocks_mhz == (1500.0, 2400.0)
    assert now.temperatures_c == {"thermal_zone0 cpu-thermal": 48.25}
    assert now.load_1m == 0.25
    assert now.governor == "ondemand"


def test_clocks_come_from_cpuinfo_where_no_driver_shows_them(tmp_path: Path) -> None:
    assert conditions_now(_tree(tmp_path, XEON)).clocks_mhz == (2000.0, 3800.0)


def test_conditions_of_a_system_without_proc_are_empty(tmp_path: Path) -> None:
    now = conditions_now(tmp_path)
    assert (now.clocks_mhz, now.load_1m, now.temperatures_c) == ((), None, {})


def test_this_machine_has_a_fingerprint_that_is_plain_json() -> None:
    device = fingerprint()
    assert json.loads(json.dumps(encode(device))) == encode(device)
    assert device.identity["emulated"] is False
    assert set(device.software) == {"os", "driver", "jetpack", "runtimes"}
    if platform.system() == "Linux":
        assert device.identity["memory_bytes"] > 1 << 28
        assert set(device.identity["isa"]) <= set(ISA_WORDS[device.identity["arch"]])


@pytest.mark.parametrize(
    ("arch", "isa", "expected"),
    [
        ("x86_64", [], ("x86_64", "none", "none", None)),
        ("x86_64", ["avx2", "fma"], ("x86_64", "avx2", "none", None)),
        ("x86_64", ["avx2", "avx512f"], ("x86_64", "avx2", "none", None)),
        ("x86_64", ["avx2", "avx_vnni"], ("x86_64", "vnni", "none", None)),
        ("x86_64", ["avx2", "avx512_vnni"], ("x86_64", "vnni", "none", None)),
        ("x86_64", ["avx512_vnni", "amx_int8"], ("x86_64", "vnni", "amx_int8", None)),
        ("x86_64", X86_ISA, ("x86_64", "vnni", "amx_int8", None)),
        ("aarch64", ["asimd"], ("aarch64", "none", "none", None)),
        ("aarch64", ["asimd", "dotprod"], ("aarch64", "dotprod", "none", None)),
        ("aarch64", ARM_ISA, ("aarch64", "i8mm", "i8mm", None)),
    ],
)
def test_the_isa_class_is_what_int8_answers_depend_on(
    arch: str, isa: list[str], expected: tuple[str, ...]
) -> None:
    assert isa_class(arch, isa) == expected


def test_gpus_of_two_generations_are_of_two_classes() -> None:
    assert isa_class("aarch64", ["asimd"], "8.7") != isa_class("aarch64", ["asimd"], "11.0")
