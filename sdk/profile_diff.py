"""Where two profiles differ: facts, what was fitted and learnt, and where each comes from. Pure."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any

from agent.codec import encode
from profiles import Profile

_APART = ("origin", "fitted", "scales")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Difference:
    """One thing that two profiles say otherwise."""

    path: str
    """`engines.cpu.peak.f32.value`, `fitted.openvino.cpu.scale.factors.f32 plain.work`."""
    left: str | None
    """As JSON has it; None where that profile says nothing."""
    right: str | None


def diff(left: Profile, right: Profile) -> tuple[Difference, ...]:
    """All that they say otherwise, in the order of its paths; which files they are of aside.

    >>> from profiles import find
    >>> diff(find("n100", ()), find("n100", ()))
    ()
    """
    one, other = dict(_told(left)), dict(_told(right))
    return tuple(
        Difference(path=path, left=one.get(path), right=other.get(path))
        for path in sorted(one.keys() | other.keys())
        if one.get(path) != other.get(path)
    )


def _told(profile: Profile) -> Iterator[tuple[str, str]]:
    facts = {key: value for key, value in encode(profile).items() if key not in _APART}
    yield from _flat("", facts)
    for entry in profile.fitted:
        yield from _flat(f"fitted.{entry.toolchain}.{entry.engine}", encode(entry))
    for scale in profile.scales:
        yield from _flat(f"fitted.{scale.toolchain}.{scale.engine}.scale", encode(scale))


def _flat(path: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(f"{path}.{key}" if path else str(key), inner)
    elif value is not None:
        yield path, json.dumps(value, ensure_ascii=False)
