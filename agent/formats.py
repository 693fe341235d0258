"""Which runtime formats have a session here: by file name, without importing any of them."""

from __future__ import annotations

import pkgutil
from pathlib import Path


def formats() -> tuple[str, ...]:
    """The names that `Runtime.format` may have here."""
    folder = Path(__file__).parent / "sessions"
    return tuple(sorted(module.name for module in pkgutil.iter_modules([str(folder)])))
