"""What makes a profile contradict itself, as far as the file alone can tell. Pure.

A wrong profile makes wrong promises about every device of its type, so the reader refuses it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

from agent.manifest import Fingerprint, match
from agent.versions import version_key
from profiles import Profile

ARITHMETIC = {
    "bf16": ("avx512_bf16", "amx_bf16", "bf16"),
    "f16": ("avx512_fp16", "amx_fp16", "fp16"),
}
"""Precision -> the flags of which a CPU needs one to compute in it at all."""
LEAST_SM = {"tf32": "8.0", "bf16": "8.0", "fp8": "8.9", "fp4": "10.0"}
"""Precision -> the oldest compute capability whose tensor cores have it (TensorRT support matrix,
which lists fp4 from Blackwell on)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contradiction:
    """Two statements of a profile that cannot both be true."""

    path: str
    what: str
    """Goes on from the path: `is given, but …`."""
    cause: str
    remedy: str = "Correct one of them."


def contradictions(profile: Profile) -> Iterator[Contradiction]:
    """All that are found, in the order of the file's keys."""
    yield from _host(profile)
    yield from _precisions(profile)
    yield from _sm(profile)
    yield from _power_modes(profile)
    yield from _fitted(profile)
    yield from _match(profile)


def _host(profile: Profile) -> Iterator[Contradiction]:
    """Without cores the type is a card, and nothing is said about its host's CPU."""
    if profile.cores is not None:
        return
    if "gpu" not in profile.engines:
        yield Contradiction(
            path="cores",
            what="is missing",
            cause="Only a card, which has a GPU and any host, goes without.",
            remedy="Add it.",
        )
    told = {
        "isa": "isa" in profile.sources,
        "engines.cpu.peak": bool(profile.engines["cpu"].peak),
        **{
            f"power_modes.{m.name}.cores": m.cores is not None for m in profile.power_modes.values()
        },
    }
    for path, given in told.items():
        if given:
            yield Contradiction(
                path=path,
                what="is given, but cores is not",
                cause="Without cores the profile is a card's, and its host can be any.",
                remedy="Add cores, or remove it.",
            )


def _precisions(profile: Profile) -> Iterator[Contradiction]:
    for name, engine in profile.engines.items():
        beyond = set(engine.peak) - set(engine.precisions or engine.peak)
        if beyond:
            yield Contradiction(
                path=f"engines.{name}.peak.{min(beyond)}",
                what=f"is given, but precisions are {', '.join(engine.precisions)}",
                cause="The figure is of another device, or a precision is missing.",
            )
    if not profile.isa_complete:
        return
    for precision in profile.engines["cpu"].peak:
        needed = ARITHMETIC.get(precision, ())
        if needed and not set(needed) & set(profile.isa):
            yield Contradiction(
                path=f"engines.cpu.peak.{precision}",
                what=f"is given, but isa, which is complete, has none of {', '.join(needed)}",
                cause="The figure is of another device, or a flag is missing.",
                remedy="Remove the figure, or add the flag.",
            )


def _sm(profile: Profile) -> Iterator[Contradiction]:
    if profile.sm is None:
        return
    gpu = profile.engines.get("gpu")
    if gpu is None:
        yield Contradiction(
            path="sm",
            what="is given, but there is no engines.gpu",
            cause="A compute capability is a GPU's.",
            remedy="Add the engine, or remove it.",
        )
        return
    claims = [(f"peak.{precision}", precision) for precision in gpu.peak]
    claims += [("precisions", precision) for precision in gpu.precisions]
    for key, precision in claims:
        least = LEAST_SM.get(precision)
        if least and (version_key(profile.sm) or ()) < (version_key(least) or ()):
            yield Contradiction(
                path=f"engines.gpu.{key}",
                what=f"names {precision}, but sm is {profile.sm}",
                cause=f"Tensor cores have {precision} from compute capability {least} on.",
            )


def _power_modes(profile: Profile) -> Iterator[Contradiction]:
    for mode in profile.power_modes.values():
        if profile.cores is not None and mode.cores is not None and mode.cores > profile.cores:
            yield Contradiction(
                path=f"power_modes.{mode.name}.cores",
                what=f"is {mode.cores}, but cores is {profile.cores}",
                cause="No mode has more cores online than are there.",
            )


def _fitted(profile: Profile) -> Iterator[Contradiction]:
    for entry in profile.fitted:
        path = f"fitted.{entry.toolchain}.{entry.engine}"
        if entry.engine not in profile.engines:
            yield Contradiction(
                path=path,
                what=f"is given, but there is no engines.{entry.engine}",
                cause="The block was fitted on another device.",
                remedy="Remove it, and run: sdk fit",
            )
        if entry.low > entry.high:
            yield Contradiction(
                path=f"{path}.low",
                what=f"is {entry.low:g}, but high is {entry.high:g}",
                cause="The two were swapped by hand.",
            )
        if not any(entry.ms.values()):
            yield Contradiction(
                path=f"{path}.ms",
                what="has no coefficient above 0",
                cause="Every estimate would be 0 ms.",
                remedy="Remove the block, and run: sdk fit",
            )


def _match(profile: Profile) -> Iterator[Contradiction]:
    """A predicate that no device of this profile could meet is a mistake."""
    predicate = profile.match
    arch = predicate.get("identity.arch", profile.arch)
    if profile.arch not in (arch if isinstance(arch, list) else [arch]):
        yield _unmet("identity.arch", arch, f"arch is {profile.arch!r}")
    isa = predicate.get("identity.isa", {}).get("has", [])
    absent = set(isa if isinstance(isa, list) else [isa]) - set(profile.isa)
    if absent:
        yield _unmet("identity.isa", isa, f"isa lists no {', '.join(sorted(absent))}")
    if profile.sm is not None and "identity.sm" in predicate:
        device = Fingerprint(identity={"sm": profile.sm}, software={}, conditions={})
        if not match({"identity.sm": predicate["identity.sm"]}, device):
            yield _unmet("identity.sm", predicate["identity.sm"], f"sm is {profile.sm!r}")
    for key in ("cores", "memory_bytes"):
        condition = predicate.get(f"identity.{key}")
        bounds = condition if isinstance(condition, dict) else {}
        low, high = bounds.get("min", 0), bounds.get("below", math.inf)
        if low >= high:
            yield _unmet(f"identity.{key}", condition, "no number is in that range")
        # A device reports less than is built in: firmware keeps some. A card's is not its host's.
        sold = profile.memory_bytes if key == "memory_bytes" and profile.cores is not None else None
        if sold is not None and low > sold:
            yield _unmet(f"identity.{key}", condition, f"memory_bytes is {sold}")


def _unmet(path: str, condition: Any, other: str) -> Contradiction:
    return Contradiction(
        path=f"match.{path}",
        what=f"is {condition!r}, but {other}",
        cause="No device of this profile could meet the predicate.",
    )
