"""A switch that is a person: asked to do it, and to press enter.

power = { model = "manual" }
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from agent.errors import UsageError


def power_set(settings: Mapping[str, Any], on: bool) -> None:  # noqa: FBT001  the module's form
    """Ask for it.

    Raises:
        UsageError: nobody is here.
    """
    if not sys.stdin.isatty():
        raise UsageError(
            f"The rig is to be switched {'on' if on else 'off'} by hand, and nobody is here.",
            cause="The command runs in a script.",
            remedy='Give it a switch: power = { model = "command", ... }',
        )
    where = settings.get("where", "the rig")
    sys.stderr.write(f"Switch {where} {'ON' if on else 'OFF'}, then press enter. ")
    sys.stderr.flush()
    sys.stdin.readline()


def power_get(settings: Mapping[str, Any]) -> bool | None:
    """Nothing tells."""
    del settings
    return None
