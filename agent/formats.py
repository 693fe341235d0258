"""Which runtime formats have a session here: by file name, without importing any of them."""

from __future__ import annotations

import importlib.util
import pkgutil


def formats() -> tuple[str, ...]:
    """The names that `Runtime.format` may have here."""
    found = importlib.util.find_spec("agent.sessions")
    folders = found.submodule_search_locations if found else None
    return tuple(sorted(module.name for module in pkgutil.iter_modules(folders or [])))
