"""A package that a verb needs and that is not here: which extra of ours brings it."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterable

from agent.errors import UsageError
from sdk.cli import OURS

_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)[^;]*;.*\bextra == ['\"]([a-z-]+)['\"]")
_DISTRIBUTION = "slipway-sdk"


def as_missing(error: ModuleNotFoundError) -> UsageError | None:
    """What to install, in words; None where it is a module of our own that is not there: a bug."""
    package = (error.name or "").partition(".")[0]
    if not package or package in OURS:
        return None
    extra = extra_of(package, _requirements())
    return UsageError(
        f"This needs the package {package}, which is not installed here.",
        cause=f"It comes with the extra {extra!r} of {_DISTRIBUTION}.",
        remedy=f"Install it: pip install '{_DISTRIBUTION}[{extra}]'",
    )


def extra_of(package: str, requirements: Iterable[str]) -> str:
    """The first extra that asks for a package; `all` where none does by its name.

    >>> extra_of("prometheus_client", ['prometheus-client>=0.24; extra == "fleet"'])
    'fleet'
    """
    for requirement in requirements:
        found = _REQUIREMENT.match(requirement)
        if found is not None and _alike(found[1]) == _alike(package):
            return found[2]
    return "all"


def _alike(name: str) -> str:
    """A name as the package index compares it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _requirements() -> list[str]:
    try:
        return importlib.metadata.requires(_DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:  # a checkout that was not installed
        return []
