"""Imports without what a package looks for and need not find."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def without(name: str) -> Iterator[None]:
    """While inside, importing the module `name` fails as if it were not installed.

    For optional dependencies of others: one that phones home, or costs more than all the rest.
    """
    absent = object()
    before: Any = sys.modules.get(name, absent)
    sys.modules[name] = None  # type: ignore[assignment]  # what makes `import` raise ImportError
    try:
        yield
    finally:
        if before is absent:
            del sys.modules[name]
        else:
            sys.modules[name] = before
