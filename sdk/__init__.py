"""The host side: from a model to a proven variant for each kind of device.

    from sdk import build

    summary = build("my-project", targets=["intel"], profiles=["host"])
    for result in summary.results:
        print(result.profile, result.verdict, result.selected)

Everything heavy is imported when it is used, so that `sdk --help` answers at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdk import isolation

isolation.pin_own_packages()

if TYPE_CHECKING:
    from sdk.api import bench, build, compare, history, verify

__version__ = "0.1.0"
__all__ = ["bench", "build", "compare", "history", "verify"]


def __getattr__(name: str) -> object:
    if name in __all__:
        from sdk import api

        return getattr(api, name)
    raise AttributeError(f"module 'sdk' has no attribute {name!r}")
