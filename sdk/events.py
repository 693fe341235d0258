"""What a build says while it works: one event per thing a person may want to see."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal


@dataclasses.dataclass(frozen=True, kw_only=True)
class Event:
    """Something began, ended or was found."""

    kind: Literal["step", "start", "cached", "done", "failed", "note", "warning"]
    message: str
    """For a person: `lowering openvino-int8`."""
    seconds: float | None = None


OnEvent = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Say nothing."""
    del event
