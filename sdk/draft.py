"""A profile for a device that no profile fits: what its fingerprint tells, and nothing more.

Rates are left out, since no look at a device measures them: estimates for it wait for a source, or
for reports that `sdk fit` learns from.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from agent.errors import UsageError
from agent.manifest import Fingerprint
from profiles import Engine, PowerMode, Profile, Stack
from sdk.detect import predicate
from targets import target as find_target
from targets import target_names


def draft(
    name: str, device: Fingerprint, *, target: str | None, python: str | None, date: str
) -> Profile:
    """The profile, whose file `sdk.detect.profile_toml` writes.

    Args:
        name: of the profile, and of its file.
        device: what it told.
        target: whose recipes it takes; None: by what it is.
        python: of its runtimes, `3.11`.
        date: when it was looked at.

    Raises:
        UsageError: it is emulated, or told too little to be known again.
    """
    identity, software = device.identity, device.software
    if identity.get("emulated") or not identity.get("arch") or not identity.get("cores"):
        raise UsageError(
            "No profile can be drafted: the device is emulated, so what it tells is another chip's."
            if identity.get("emulated")
            else "No profile can be drafted: the device does not tell what it is.",
            cause="A profile describes hardware that is there.",
            remedy="Copy the nearest one, and write what you know: sdk profiles list",
        )
    target = target or likely_target(device)
    source = f"read from the device, {date}"
    is_card = target == "server-gpu"  # its host's CPU and memory are no part of it
    told = {} if is_card else identity
    facts = [key for key in ("isa", "cores", "memory_bytes") if told.get(key)]
    match = predicate(device)
    if is_card and identity.get("gpu"):
        match = {"identity.arch": identity["arch"], "identity.gpu": identity["gpu"]}
    runtimes = {key: str(value) for key, value in software.get("runtimes", {}).items()}
    jetpack = software.get("jetpack")
    stack = f"JetPack {jetpack}" if jetpack else str(software.get("os"))
    mode = device.conditions.get("power_mode")
    return Profile(
        name=name,
        target=target,
        title=str(identity.get("gpu") if is_card else identity.get("soc") or name),
        match=match,
        platform="android" if stack.startswith("android") else "linux",
        arch=identity["arch"],
        isa=tuple(told.get("isa") or ()),
        isa_complete=bool(told.get("isa")),
        cores=told.get("cores"),
        memory_bytes=told.get("memory_bytes"),
        bandwidth_gb_s=None,
        engines=dict(_engines(identity)),
        software={stack: Stack(name=stack, python=python, runtimes=runtimes, source=source)},
        power_modes={mode: PowerMode(name=mode, source=source)} if mode else {},
        status=dict.fromkeys(("compiled", "emulated", "measured"), "not tried"),
        sources=dict.fromkeys(facts, source),
        origin="a draft",
    )


def likely_target(device: Fingerprint) -> str:
    """The target whose devices are like this one.

    >>> likely_target(Fingerprint(identity={"arch": "aarch64"}, software={"jetpack": "6.2"},
    ...     conditions={}))
    'jetson'

    Raises:
        UsageError: there is none.
    """
    arch, gpu = device.identity.get("arch"), str(device.identity.get("gpu") or "")
    if device.software.get("jetpack") or "tegra" in str(device.identity.get("soc") or ""):
        return "jetson"
    if str(device.software.get("os") or "").startswith("android"):
        return "mobile"
    if re.match(r"NVIDIA|Tesla", gpu):
        return "server-gpu"
    for name in target_names():
        if arch == find_target(name).HOST_ARCH:
            return name
    raise UsageError(
        f"The device is {arch}, and no target has such devices.",
        cause="Slipway has no toolchain for it.",
        remedy=f"Name the nearest: --target, one of {', '.join(target_names())}",
    )


def _engines(identity: Mapping[str, Any]) -> Iterator[tuple[str, Engine]]:
    yield "cpu", Engine(name="cpu", title=str(identity.get("soc") or "unknown CPU"), peak={})
    if identity.get("gpu"):
        yield "gpu", Engine(name="gpu", title=str(identity["gpu"]), peak={})
