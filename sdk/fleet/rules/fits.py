"""Which devices can run a release, and why the others cannot. Pure."""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

from agent.manifest import Fingerprint, Manifest, match
from agent.updates.ladder import offer
from sdk.fleet.rules.rollout import Rollout

NEVER_TOLD = "it has not told what it is yet"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kind:
    """Devices that are alike."""

    fingerprint_sha256: str | None
    fingerprint: Fingerprint | None
    """None: they have not told."""
    count: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fit:
    """How a release suits a fleet."""

    fits: int
    """Devices that one of its variants matches."""
    unknown: int
    """Devices that have not told what they are: they find out themselves."""
    reasons: Mapping[str, int]
    """Why the others cannot run it -> how many."""
    unfit: tuple[str, ...]
    """The fingerprints of those."""


def fit(manifest: Manifest, kinds: Iterable[Kind]) -> Fit:
    """How a release suits these devices, by the rule that each of them follows itself."""
    reasons: collections.Counter[str] = collections.Counter()
    fits = unknown = 0
    unfit = []
    for kind in kinds:
        if kind.fingerprint is None or kind.fingerprint_sha256 is None:
            unknown += kind.count
            continue
        why = why_not(manifest, kind.fingerprint)
        if why:
            reasons[why] += kind.count
            unfit.append(kind.fingerprint_sha256)
        else:
            fits += kind.count
    return Fit(fits=fits, unknown=unknown, reasons=dict(reasons), unfit=tuple(unfit))


def why_not(manifest: Manifest, device: Fingerprint) -> str:
    """Why no variant of a release runs on a device; empty if one does."""
    found = device.software.get("runtimes")
    runtimes: Mapping[str, object] = found if isinstance(found, Mapping) else {}
    if offer(manifest, device, tuple(runtimes)).tried:
        return ""
    alike = [variant for variant in manifest.variants if match(variant.match, device)]
    if not alike:
        arch = str(device.identity.get("arch"))[:40]
        soc = str(device.identity.get("soc"))[:60]
        return f"no variant is for its hardware ({arch}, {soc})"
    formats = _named(variant.runtime.format for variant in alike)
    if not any(variant.runtime.format in runtimes for variant in alike):
        return f"it lacks the runtime ({formats})"
    return f"its runtime is of another version than the variants need ({formats})"


def too_few(plan: Rollout, by_hardware: Mapping[str, int]) -> list[str]:
    """Where a stage reaches too few devices of a kind for its gates to be proven; for a person.

    Args:
        plan: of a rollout.
        by_hardware: how many devices of each kind it is for.
    """
    lines = []
    for number, stage in enumerate(plan.stages, 1):
        if stage.advance_if is None:
            continue
        needs = stage.advance_if.needs
        then = "it stops there" if stage.advance_if.unproven == "halt" else "that is passed over"
        for kind, count in sorted(by_hardware.items()):
            share = count if stage.share is None else math.ceil(stage.share * count)
            most = min(share, stage.count or share)
            if most < needs:
                told = f"stage {number} reaches about {most} of the {count} devices of {kind}"
                lines.append(f"{told}, and its gates need {needs}: {then}")
    return lines


def _named(formats: Iterable[str]) -> str:
    return " or ".join(sorted(set(formats)))


def words(found: Fit) -> Sequence[str]:
    """The same for a person, the most frequent reason first."""
    ordered = sorted(found.reasons.items(), key=lambda item: (-item[1], item[0]))
    lines = [f"{count} devices: {why}" for why, count in ordered]
    if found.unknown:
        lines.append(f"{found.unknown} devices: {NEVER_TOLD}")
    return lines
