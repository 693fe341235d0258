"""This machine as a profile: facts read at once, rates measured once and kept.

The facts come from `agent.identity`. Memory bandwidth and the f32 peak are measured with numpy for
a fraction of a second and cached by the machine's identity, so that a rebuild measures nothing.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from agent.codec import canonical, decode, pretty
from agent.errors import UsageError, VerificationError
from agent.files import write_atomic
from agent.identity import fingerprint
from agent.manifest import Fingerprint
from profiles import Engine, Figure, Fitted, PowerMode, Profile, Scale, Stack
from profiles.toml_text import toml_key, toml_string, toml_value
from targets import target as find_target
from targets import target_names

_T = TypeVar("_T", bound=tuple[Any, ...])
_READ = "read from this machine"
_BUFFER_BYTES = 256 << 20  # beyond the last-level cache of any CPU here
_MATRIX = 1536  # three f32 matrices of this size leave the cache of one core, not of the machine
_SECONDS = 0.3  # each; the best of what fits says what the machine can do
_AMX = "as ResNet-50 on a Xeon 8490H with AMX (OpenVINO 2024.1 benchmark file)"
_VNNI = "since its instruction does four multiply-adds per 32-bit lane"
_RATIOS = (
    ("int8", "amx_int8", 12.2, _AMX),
    (
        "int8",
        "avx512_vnni",
        4.0,
        _VNNI,
    ),
    ("int8", "avx_vnni", 4.0, _VNNI),
    ("bf16", "amx_bf16", 4.9, _AMX),
    ("bf16", "avx512_bf16", 2.0, "since the instruction does two multiply-adds per 32-bit lane"),
)
"""(precision, flag, times the f32 peak, why): the first that fits counts."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Rates:
    """What was measured on this machine, and when."""

    date: str
    bandwidth_gb_s: float
    f32_gflop_s: float


def host_target() -> str:
    """The target whose devices are machines like this one, such as `intel` for any x86-64.

    Raises:
        UsageError: there is none.
    """
    arch = fingerprint().identity["arch"]
    for name in target_names():
        if arch == find_target(name).HOST_ARCH:
            return name
    raise UsageError(
        f"This machine is {arch}, and no target has such devices.",
        cause="The profile `host` stands for the machine that the command runs on.",
        remedy="Name a profile of the device instead: sdk profiles list",
    )


def detect(
    target: str = "intel", cache_folder: Path | None = None, root: Path = Path("/")
) -> Profile:
    """The profile `<target>-host` of this machine, with what `sdk fit` learnt of it.

    Args:
        target: a target whose devices this machine is one of.
        cache_folder: where measured rates are kept; the user's cache if not given.
        root: where the file system begins.

    Raises:
        UsageError: this machine is no device of that target.
        StorageError: the rates cannot be kept.
    """
    facts = detect_facts(target, root)
    rates = _measured(facts, cache_folder or _default_cache())
    source = f"measured on this machine, {rates.date}"
    peak = {"f32": Figure(value=rates.f32_gflop_s, source=f"{source}: numpy matrix product")}
    for precision, flag, factor, why in _RATIOS:
        if flag in facts.isa and precision not in peak:
            peak[precision] = Figure(
                value=factor * rates.f32_gflop_s,
                source=f"derived: {factor:g} x the f32 figure, {why}",
            )
    cpu = dataclasses.replace(facts.engines["cpu"], peak=peak)
    return dataclasses.replace(
        facts,
        bandwidth_gb_s=Figure(value=rates.bandwidth_gb_s, source=f"{source}: copying memory"),
        engines={**facts.engines, "cpu": cpu},
        fitted=_kept(tuple[Fitted, ...], _fit_file(facts)),
        scales=_kept(tuple[Scale, ...], _scale_file(facts)),
    )


def keep_fit(facts: Profile, fitted: tuple[Fitted, ...]) -> Path:
    """Keep what was fitted on this machine, for every later `detect`; returns the file.

    It is the user's data, not the cache's: a fit takes a quarter of an hour.
    """
    file = _fit_file(facts)
    write_atomic(file, pretty(merged(facts.fitted, fitted)))
    return file


def merged(old: tuple[Fitted, ...], new: tuple[Fitted, ...]) -> tuple[Fitted, ...]:
    """The new blocks, and of the old ones those of other toolchains and engines."""
    found = {(entry.toolchain, entry.engine): entry for entry in (*old, *new)}
    return tuple(found[key] for key in sorted(found))


def keep_scales(facts: Profile, scales: tuple[Scale, ...]) -> Path:
    """Keep what reports taught about this machine, for every later `detect`; returns the file.

    What was kept before lies beside it, as `.old`.
    """
    file = _scale_file(facts)
    replace_kept(file, pretty(scales))
    return file


def replace_kept(file: Path, content: bytes) -> None:
    """Replace a file's content at once; what it was before is beside it, as `.old`."""
    if file.is_file():
        write_atomic(file.with_name(f"{file.name}.old"), file.read_bytes())
    write_atomic(file, content)


def _kept(kind: type[_T], file: Path) -> _T:
    try:
        return decode(kind, json.loads(file.read_bytes()))
    except FileNotFoundError:
        return kind()
    except (OSError, ValueError, VerificationError) as error:
        raise UsageError(
            f"What was fitted for this machine cannot be read: {error}",
            cause="The file was edited, cut short, or is another version's.",
            remedy=f"Remove it, and run sdk fit --profile host again: {file}",
        ) from error


def _fit_file(facts: Profile) -> Path:
    from agent.folders import data_folder

    return data_folder() / "fitted" / f"{facts.name}-{_machine_key(facts)}.json"


def _scale_file(facts: Profile) -> Path:
    file = _fit_file(facts)
    return file.with_name(f"{file.stem}.scales.json")


def detect_facts(target: str = "intel", root: Path = Path("/")) -> Profile:
    """The same without any figure that takes measuring."""
    device = fingerprint(root)
    identity = device.identity
    wanted = find_target(target).HOST_ARCH
    if identity["arch"] != wanted:
        raise UsageError(
            f"This machine is {identity['arch']}, and "
            + (f"devices of {target} are {wanted}." if wanted else f"no device of {target}."),
            cause="The profile `host` stands for the machine that the command runs on.",
            remedy="Name a profile of the device instead: sdk profiles list",
        )
    soc = identity["soc"] or "unknown CPU"
    memory = identity["memory_bytes"]
    source = _READ
    return Profile(
        name=f"{target}-host",
        target=target,
        title=f"This machine: {soc}",
        match=predicate(device),
        platform=_platform(),
        arch=identity["arch"],
        isa=tuple(identity["isa"]),
        isa_complete=bool(identity["isa"]),
        cores=os.cpu_count() or 1,
        memory_bytes=memory,
        bandwidth_gb_s=None,
        engines=dict(_engines(soc, root)),
        software=_software(device),
        status=dict.fromkeys(("compiled", "emulated", "measured"), "not tried"),
        sources={"isa": source, "cores": source} | ({"memory_bytes": source} if memory else {}),
        origin="this machine",
    )


def profile_toml(profile: Profile) -> str:
    """The profile as a file that `profiles.parse` reads back."""
    lines = [f"{key} = {toml_string(getattr(profile, key))}" for key in ("name", "target", "title")]
    lines += [f"platform = {toml_string(profile.platform)}", f"arch = {toml_string(profile.arch)}"]
    sources = profile.sources
    if profile.isa or "isa" in sources:
        complete = "true" if profile.isa_complete else "false"
        value = f"value = {toml_value(list(profile.isa))}, complete = {complete}"
        lines.append(f"isa = {{ {value}, source = {toml_string(sources.get('isa', 'not told'))} }}")
    if profile.cores is not None:
        lines.append(_sourced("cores", profile.cores, sources.get("cores", "not told")))
    if profile.memory_bytes is not None:
        source = sources.get("memory_bytes", "not told")
        lines.append(_sourced("memory_bytes", profile.memory_bytes, source))
    if profile.bandwidth_gb_s is not None:
        figure = profile.bandwidth_gb_s
        lines.append(_sourced("bandwidth_gb_s", figure.value, figure.source))
    if profile.sm is not None:
        source = toml_string(sources.get("sm", "not told"))
        lines.append(f"sm = {{ value = {toml_string(profile.sm)}, source = {source} }}")
    for name, engine in profile.engines.items():
        lines += ["", f"[engines.{name}]", f"title = {toml_string(engine.title)}"]
        if engine.precisions:
            known = f"value = {toml_value(list(engine.precisions))}"
            lines.append(
                f"precisions = {{ {known}, source = {toml_string(engine.precisions_source)} }}"
            )
        if engine.peak:
            lines += ["", f"[engines.{name}.peak]"]
            lines += [
                _sourced(key, figure.value, figure.source) for key, figure in engine.peak.items()
            ]
    for name, stack in profile.software.items():
        lines += _section(f"software.{toml_key(name)}", _told(stack))
    for name, mode in profile.power_modes.items():
        lines += _section(f"power_modes.{toml_key(name)}", _told(mode))
    for section in ("status", "match"):
        lines += _section(section, getattr(profile, section))
    for entry in profile.fitted:
        lines += fitted_toml(entry)
    for scale in profile.scales:
        lines += scale_toml(scale)
    return "\n".join(lines) + "\n"


def fitted_toml(entry: Fitted) -> list[str]:
    """The lines of one fitted block."""
    name = f"fitted.{toml_key(entry.toolchain)}.{entry.engine}"
    told = {key: value for key, value in dataclasses.asdict(entry).items() if key != "ms"}
    told = {key: value for key, value in told.items() if key not in ("toolchain", "engine")}
    return [*_section(name, told), *_section(f"{name}.ms", entry.ms)]


def scale_toml(entry: Scale) -> list[str]:
    """The lines of what reports taught of one toolchain and engine."""
    name = f"fitted.{toml_key(entry.toolchain)}.{entry.engine}.scale"
    told = {key: value for key, value in dataclasses.asdict(entry).items() if value is not None}
    told = {key: value for key, value in told.items() if key not in ("toolchain", "engine")}
    factors = told.pop("factors")
    return [*_section(name, told), *_section(f"{name}.factors", factors)]


def _section(name: str, table: Mapping[str, Any]) -> list[str]:
    lines = [f"{toml_key(key)} = {toml_value(value)}" for key, value in table.items()]
    return ["", f"[{name}]", *lines]


def _told(entry: Stack | PowerMode) -> dict[str, Any]:
    values = dataclasses.asdict(entry)
    return {key: value for key, value in values.items() if key != "name" and value is not None}


def _software(device: Fingerprint) -> dict[str, Stack]:
    import platform

    name = str(device.software["os"] or "this machine")
    python = ".".join(platform.python_version_tuple()[:2])
    runtimes = dict(device.software["runtimes"])
    return {name: Stack(name=name, python=python, runtimes=runtimes, source=_READ)}


def predicate(device: Fingerprint) -> dict[str, Any]:
    """Fits machines with this CPU, as many cores, at least its flags, and about its memory."""
    identity = device.identity
    predicate: dict[str, Any] = {"identity.arch": identity["arch"], "identity.emulated": False}
    if identity["soc"]:
        predicate["identity.soc"] = identity["soc"]
    if identity["isa"]:
        predicate["identity.isa"] = {"has": list(identity["isa"])}
    if identity["cores"]:
        predicate["identity.cores"] = identity["cores"]
    if identity["memory_bytes"]:
        # What a kernel reports for the same modules differs a little from boot to boot.
        slack = identity["memory_bytes"] // 16
        predicate["identity.memory_bytes"] = {
            "min": identity["memory_bytes"] - slack,
            "below": identity["memory_bytes"] + slack,
        }
    return predicate


def _platform() -> str:
    import platform

    return {"Darwin": "macos", "Windows": "windows"}.get(platform.system(), "linux")


def _engines(soc: str, root: Path) -> Iterator[tuple[str, Engine]]:
    yield "cpu", Engine(name="cpu", title=soc, peak={})
    found = (("gpu", "Intel GPU", "drm/renderD*"), ("npu", "Intel NPU", "accel/accel*"))
    for name, title, pattern in found:
        vendors = root.glob(f"sys/class/{pattern}/device/vendor")
        if any(vendor.read_text().strip() == "0x8086" for vendor in vendors):
            yield name, Engine(name=name, title=title, peak={})


def _default_cache() -> Path:
    from agent.folders import cache_folder

    return cache_folder()


def _measured(facts: Profile, folder: Path) -> _Rates:
    file = folder / f"host-{_machine_key(facts)}.json"
    try:
        return decode(_Rates, json.loads(file.read_bytes()))
    except (OSError, ValueError, VerificationError):
        pass  # not measured yet, or the file was spoilt: measure
    rates = _measure()
    write_atomic(file, pretty(rates))
    return rates


def _machine_key(facts: Profile) -> str:
    machine = [facts.arch, facts.title, facts.isa, facts.cores, facts.memory_bytes]
    return hashlib.sha256(canonical(machine)).hexdigest()[:16]


def _measure() -> _Rates:
    """Bandwidth counts what is read and what is written; the peak is all cores' together."""
    import numpy as np

    source = np.ones(_BUFFER_BYTES // 8)
    destination = np.empty_like(source)
    copy_s = _best_s(lambda: np.copyto(destination, source))
    left = np.ones((_MATRIX, _MATRIX), dtype=np.float32)
    product = np.empty_like(left)
    multiply_s = _best_s(lambda: np.matmul(left, left, out=product))
    return _Rates(
        date=dt.datetime.now(tz=dt.timezone.utc).date().isoformat(),
        bandwidth_gb_s=round(2 * source.nbytes / copy_s / 1e9, 2),
        f32_gflop_s=round(2 * _MATRIX**3 / multiply_s / 1e9, 1),
    )


def _best_s(work: Callable[[], object]) -> float:
    work()  # the first one touches fresh pages and starts threads
    best, end = float("inf"), time.perf_counter() + _SECONDS
    while True:
        start = time.perf_counter()
        work()
        now = time.perf_counter()
        best = min(best, now - start)
        if now >= end:
            return best


def _sourced(key: str, value: float, source: str) -> str:
    return f"{key} = {{ value = {toml_value(value)}, source = {toml_string(source)} }}"
