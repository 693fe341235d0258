"""A `match` predicate as a person says it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sdk.report.figures import number

_NAMES = {
    "identity.arch": "the architecture",
    "identity.soc": "the chip",
    "identity.isa": "the CPU's flags",
    "identity.cores": "the number of processors",
    "identity.gpu": "the GPU",
    "identity.sm": "the compute capability",
    "identity.memory_bytes": "the memory",
    "identity.emulated": "being emulated",
    "software.os": "the system",
    "software.driver": "the GPU's driver",
    "software.jetpack": "JetPack",
    "conditions.power_mode": "the power mode",
    "conditions.governor": "the governor",
}
"""Path of a fingerprint -> what a person calls it."""


def in_words(predicate: Mapping[str, Any]) -> list[str]:
    """A `match` predicate as sentences, all of which must hold.

    >>> in_words({"identity.memory_bytes": {"min": 6 << 30, "below": 9 << 30}})
    ['the memory is at least 6 GiB and less than 9 GiB']
    """
    return [_sentence(path, condition) for path, condition in predicate.items()]


def size(memory_bytes: int | None) -> str:
    """An amount of memory; `-` where the type has several or no source tells.

    >>> size(8 << 30), size(None)
    ('8 GiB', '-')
    """
    return "-" if memory_bytes is None else f"{number(memory_bytes / (1 << 30))} GiB"


def _sentence(path: str, condition: Any) -> str:
    name = _NAMES.get(path, path.removeprefix("software.runtimes."))

    def written(value: Any) -> str:
        if path == "identity.memory_bytes" and isinstance(value, int):
            return size(value)
        return ("yes" if value else "no") if isinstance(value, bool) else str(value)

    if isinstance(condition, (list, tuple)):
        return f"{name} is {' or '.join(map(written, condition))}"
    if not isinstance(condition, Mapping):
        return f"{name} is {written(condition)}"
    if "has" in condition:
        wanted = condition["has"]
        several = wanted if isinstance(wanted, (list, tuple)) else [wanted]
        return f"{name} include {', '.join(several)}"
    words = {"min": "at least", "below": "less than"}
    bounds = [f"{words[key]} {written(value)}" for key, value in condition.items()]
    return f"{name} is {' and '.join(bounds)}"
