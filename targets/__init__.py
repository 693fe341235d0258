"""Hardware families and vendor toolchains: which recipes are worth trying, and how to lower them.

A target is a module in this folder, a toolchain a module in `toolchains/`; the file name is the
name, and the lists of names are computed from the folders. Third parties add theirs by the entry
points `slipway.targets` and `slipway.toolchains`.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import pkgutil
from typing import Any, cast

from agent.errors import UsageError
from targets.interface import Target, Toolchain

_NOT_TARGETS = ("interface", "lowering", "recipes", "toolchains", "variations")


def target_names() -> tuple[str, ...]:
    """The names a user may give to `--target`, sorted."""
    return _names(__path__, "slipway.targets", _NOT_TARGETS)


def toolchain_names() -> tuple[str, ...]:
    """The names of the toolchains, sorted."""
    return _names(importlib.import_module("targets.toolchains").__path__, "slipway.toolchains", ())


def target(name: str) -> Target:
    """The target's module.

    Raises:
        UsageError: there is none of this name; the message lists the known ones.
    """
    return cast("Target", _load(name, "target", "slipway.targets", "targets", target_names()))


def extras() -> tuple[str, ...]:
    """The extras of `slipway-sdk` that install all of one target's toolchains, sorted."""
    found = (getattr(target(name), "EXTRA", None) for name in target_names())
    return tuple(sorted(extra for extra in found if extra))


def toolchain(name: str) -> Toolchain:
    """The toolchain's module. Importing it imports no vendor package.

    Raises:
        UsageError: there is none of this name; the message lists the known ones.
    """
    return cast(
        "Toolchain",
        _load(name, "toolchain", "slipway.toolchains", "targets.toolchains", toolchain_names()),
    )


def _module_name(file_name: str) -> str:
    return file_name.replace("_", "-")


def _names(path: Any, group: str, excluded: tuple[str, ...]) -> tuple[str, ...]:
    own = {_module_name(m.name) for m in pkgutil.iter_modules(path) if m.name not in excluded}
    foreign = {point.name for point in importlib.metadata.entry_points(group=group)}
    return tuple(sorted(own | foreign))


def _load(name: str, noun: str, group: str, package: str, known: tuple[str, ...]) -> Any:
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        raise UsageError(
            f"There is no {noun} {name!r}; known are {', '.join(known)}.",
            cause=f"Did you mean {close[0]!r}?" if close else "The name is misspelt.",
            remedy=f"Use one of the known {noun}s.",
        )
    for point in importlib.metadata.entry_points(group=group, name=name):
        return point.load()
    return importlib.import_module(f"{package}.{name.replace('-', '_')}")
