"""Where results and talk go: stdout for results, stderr for talk."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


def out_console() -> Console:
    """For tables; as wide as the terminal, or wide enough for a log file."""
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else 160)


def err_console() -> Console:
    """For progress and notes."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def print_json(value: Any) -> None:
    """Print a dataclass, dict or list as JSON."""
    from agent.codec import pretty

    sys.stdout.write(pretty(value).decode())
    sys.stdout.flush()
