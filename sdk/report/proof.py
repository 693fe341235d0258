"""What is unproven, and exactly how to prove it. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from sdk.limits import KINDS, LimitVerdict
from sdk.report.figures import LIMITS, chosen_of, limit_figure, number, percent
from sdk.report.predicates import in_words
from sdk.summary import AccuracySummary, CandidateSummary, ProfileSummary

FINAL_SHARE = 0.5
"""Of the samples, how many are final ones (docs/reference/project-file.md)."""
_SPEED = (
    *(name for name in KINDS if name.startswith("latency_")),
    *("throughput_per_s", "peak_memory_mib", "speedup", "memory_reduction"),
)
_PHONES = ("android", "ios")
_QUANTISED = ("int8", "int4")
"""Integer sums saturate on some processors. FP8 products are rounded, as floats are."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gap:
    """What is not known of one or more limits."""

    limits: tuple[str, ...]
    """In words."""
    missing: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Proof:
    """One thing to do, and the gaps that it would close."""

    gaps: tuple[Gap, ...]
    remedy: str
    command: str | None
    """The command that does it, where one does."""


def to_prove(result: ProfileSummary) -> tuple[Proof, ...]:
    """What the selected variant lacks; empty if nothing, or if nothing was selected."""
    chosen = chosen_of(result)
    found: dict[tuple[str, str | None], dict[str, list[str]]] = {}
    for limit in chosen.limits if chosen else ():
        if chosen is not None and limit.verdict == "unproven":
            way = _one(limit, chosen, result)
            gaps = found.setdefault((way.remedy, way.command), {})
            gaps.setdefault(way.missing, []).append(LIMITS[limit.name])
    return tuple(
        Proof(
            gaps=tuple(Gap(limits=tuple(names), missing=what) for what, names in gaps.items()),
            remedy=remedy,
            command=command,
        )
        for (remedy, command), gaps in found.items()
    )


def device_words(match: Mapping[str, Any] | None) -> str:
    """A `[match]` predicate in words.

    >>> device_words({"identity.arch": "aarch64", "software.jetpack": {"min": "6.1"}})
    'the architecture is aarch64, JetPack is at least 6.1'
    """
    return ", ".join(in_words(match or {}))


def command_for(result: ProfileSummary) -> str:
    """The build that measures: to be run on the device itself."""
    name = "host" if result.profile.endswith("-host") else result.profile
    return f"sdk build PROJECT --target {result.target} --profile {name}"


class _Way(NamedTuple):
    """How one limit could be proven."""

    missing: str
    remedy: str
    command: str | None = None


def _one(limit: LimitVerdict, chosen: CandidateSummary, result: ProfileSummary) -> _Way:
    if limit.name in ("accuracy_drop", "sqnr_min_db"):
        return _accuracy(limit, chosen, result)
    if limit.name not in _SPEED:
        missing = limit.note or "there is no baseline to hold it against"
        return _Way(missing, "Let an f32 candidate be built: this limit is relative to it.")
    measured = chosen.latency_ms
    if measured is None:
        return _on_a_device("no such device was measured", result)
    quantile = limit.name.removeprefix("latency_").removesuffix("_ms")
    again = f"{command_for(result)} --fresh"
    if limit.value is None and limit.name.startswith("latency_"):
        missing = f"{measured.n} runs are too few for {quantile}"
        return _Way(missing, "Build again; a limit on it in sdk.toml makes it run more.", again)
    if limit.value is None:
        return _Way(limit.note or "this machine does not tell it", "Measure it on another machine.")
    bounds = (measured.bounds or {}).get(quantile)
    shown = "" if bounds is None else f", {number(bounds.low)} to {number(bounds.high)} ms,"
    return _Way(
        f"its 95 % bounds{shown} lie on both sides of the limit",
        "Measure again on the same machine with nothing else running, or loosen the limit.",
        again,
    )


def _accuracy(limit: LimitVerdict, chosen: CandidateSummary, result: ProfileSummary) -> _Way:
    found = chosen.accuracy
    if limit.value is None or found is None:
        if "samples" in limit.note:
            remedy = "Let [data] in sdk.toml yield real samples; half of them are kept for this."
            return _Way(limit.note, remedy)
        return _on_a_device(limit.note or "nothing here could run it", result)
    if limit.name == "accuracy_drop" and found.high > limit.limit:
        return _more_samples(limit, found)
    if found.evidence == "host":
        differs = "int8 differs" if chosen.precision in _QUANTISED else "rounding may differ"
        missing = f"another machine's answers were checked, and {differs} between processors"
        return _on_a_device(missing, result)
    return _on_a_device("the answers were checked by another runtime", result)


def _more_samples(limit: LimitVerdict, found: AccuracySummary) -> _Way:
    missing = (
        f"{found.n} final samples show a drop of {limit_figure(limit.name, limit.value)}, but "
        f"leave room for {percent(found.high)} %"
    )
    needed = found.samples_needed
    if needed is None or needed <= found.n:
        return _Way(missing, "More samples like these would not prove it: loosen the limit.")
    total = round(needed / FINAL_SHARE)
    remedy = (
        f"Let [data] yield about {total} samples: half of them are final ones, and it takes about "
        f"{needed} final ones like these."
    )
    return _Way(missing, remedy)


def _on_a_device(missing: str, result: ProfileSummary) -> _Way:
    device = result.title or result.profile
    if result.platform in _PHONES:
        remedy = (
            f"Proof takes a {device}. This version measures nothing on phones; the variant and its "
            "golden data are in the build folder, to be tried there by hand."
        )
        return _Way(missing, remedy)
    words = device_words(result.match)
    where = f"{device} ({words})" if words else device
    remedy = f"Run the same build on the device itself, with Python 3.11 or newer: {where}."
    return _Way(missing, remedy, command_for(result))
