"""What is legal in a profile and still looks wrong. Pure.

What contradicts itself is refused by the reader (`profiles.consistency`); here are things that a
person should look at again.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from agent.errors import UsageError
from agent.manifest import Fingerprint, match
from profiles import Profile

_SPARSE = 2.2
"""Halving the width of a number doubles a dense rate; structured sparsity doubles it once more."""
_HALVES = (("int8", "f16"), ("fp8", "f16"), ("fp4", "fp8"))
"""Precision -> the one of twice the width."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Suspicion:
    """One thing that is probably not meant."""

    path: str
    what: str
    """Goes on from the path."""
    remedy: str


def check_target(profile: Profile, targets: Sequence[str]) -> None:
    """Is there a target that would build for it?

    Raises:
        UsageError: there is none of this name among `targets`.
    """
    if profile.target in targets:
        return
    close = difflib.get_close_matches(profile.target, targets, n=1, cutoff=0.5)
    raise UsageError(
        f"{profile.origin}: target is {profile.target!r}; known are {', '.join(targets)}.",
        cause=f"Did you mean {close[0]!r}?"
        if close
        else "It is misspelt, or the distribution that brings the target is not installed here.",
        remedy="Correct it, or install the target first.",
    )


def suspicions(
    profile: Profile, others: Iterable[Profile], *, targets: Sequence[str]
) -> Iterator[Suspicion]:
    """All that look wrong.

    Args:
        profile: what is checked.
        others: the profiles that are known beside it; one of the same name counts as shadowed.
        targets: the names of the targets that are there.
    """
    if profile.name.endswith("-host") and profile.name.removesuffix("-host") in targets:
        yield Suspicion(
            path="name",
            what=f"is {profile.name!r}, which stands for the machine that the command runs on",
            remedy="Choose another; a build would never read this file.",
        )
    yield from _rates(profile)
    for other in others:
        if other.name == profile.name:
            yield Suspicion(
                path="name",
                what=f"is {profile.name!r}, and hides the one in {other.origin}",
                remedy="Keep it if that is meant; choose another name if both are wanted.",
            )
        elif overlaps(profile, other):
            # Of several that match, the one with most conditions wins, then the first by name.
            winner = min((profile, other), key=lambda entry: (-len(entry.match), entry.name))
            yield Suspicion(
                path="match",
                what=f"fits devices of {other.name} too; there {winner.name} would win",
                remedy="Add a condition that tells them apart.",
            )


def overlaps(one: Profile, other: Profile) -> bool:
    """Could a device of one profile be taken for one of the other?"""
    return _fits(one, other) or _fits(other, one)


def values(profile: Profile, path: str) -> list[Any]:
    """What devices of this profile report at a fingerprint's path; empty where nothing tells.

    A range is represented by its ends: two ranges overlap only if one holds an end of the other.
    """
    condition = profile.match.get(path)
    if condition is None:
        return _facts(profile).get(path, [])
    if isinstance(condition, list):
        return condition
    if not isinstance(condition, dict):
        return [condition]
    if "has" in condition:
        wanted = condition["has"]
        return [sorted({*profile.isa, *(wanted if isinstance(wanted, list) else [wanted])})]
    ends = [condition["min"]] if "min" in condition else []
    below = condition.get("below")
    if isinstance(below, int):
        ends.append(below - 1)
    elif below is not None and not ends:
        ends.append("0")  # the oldest version there can be
    return ends


def _facts(profile: Profile) -> dict[str, list[Any]]:
    """What the profile says beside its predicate."""
    facts: dict[str, list[Any]] = {"identity.arch": [profile.arch], "identity.emulated": [False]}
    if profile.sm is not None:
        facts["identity.sm"] = [profile.sm]
    if profile.cores is not None:  # a card says nothing about its host
        facts |= {"identity.isa": [list(profile.isa)], "identity.cores": [profile.cores]}
        if profile.memory_bytes is not None:
            # Firmware keeps some: 8 GB are reported as 7.4 GiB.
            sold = profile.memory_bytes
            facts["identity.memory_bytes"] = [sold, sold * 7 // 8]
    return facts


def _fits(described: Profile, judge: Profile) -> bool:
    """Would the judge's predicate hold for a device that `described` describes?"""

    def holds(path: str) -> bool:
        found = values(described, path)
        both = {path: judge.match[path]}, {path: described.match.get(path)}
        if path not in described.match:
            return any(match(both[0], _device(path, value)) for value in found)
        return any(
            all(match(predicate, _device(path, value)) for predicate in both)
            for value in [*found, *values(judge, path)]
        )

    return all(map(holds, judge.match))


def _device(path: str, value: Any) -> Fingerprint:
    """A device that reports this and nothing else."""
    part, _, key = path.partition(".")
    name = key.removeprefix("runtimes.")
    told = {key: value} if name == key else {"runtimes": {name: value}}
    parts: dict[str, dict[str, Any]] = {"identity": {}, "software": {}, "conditions": {}}
    return Fingerprint(**{**parts, part: told})


def _rates(profile: Profile) -> Iterator[Suspicion]:
    for name, engine in profile.engines.items():
        if not engine.peak and not (name == "cpu" and profile.cores is None):
            yield Suspicion(
                path=f"engines.{name}.peak",
                what="is missing, so nothing that runs there can be estimated",
                remedy="Add a dense rate with its source, if there is one.",
            )
        for narrow, wide in _HALVES:
            if name == "cpu" or narrow not in engine.peak or wide not in engine.peak:
                continue  # a CPU may have instructions for int8 alone
            ratio = engine.peak[narrow].value / engine.peak[wide].value
            if ratio > _SPARSE:
                yield Suspicion(
                    path=f"engines.{name}.peak.{narrow}",
                    what=f"is {ratio:.1f} times the rate of {wide}, where a dense one is twice",
                    remedy="Halve it if the source means structured sparsity.",
                )
