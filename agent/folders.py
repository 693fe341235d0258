"""Where things are kept on this machine, by the XDG base directory rules.

Each folder has an environment variable of its own, which the tests and CI use.
"""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Results of steps; safe to delete at any time. `SLIPWAY_CACHE`."""
    return _folder("SLIPWAY_CACHE", "XDG_CACHE_HOME", ".cache")


def data_folder() -> Path:
    """The catalog of builds. `SLIPWAY_DATA`."""
    return _folder("SLIPWAY_DATA", "XDG_DATA_HOME", ".local/share")


def config_folder() -> Path:
    """The user's own profiles. `SLIPWAY_CONFIG`."""
    return _folder("SLIPWAY_CONFIG", "XDG_CONFIG_HOME", ".config")


def _folder(own: str, xdg: str, default: str) -> Path:
    if os.environ.get(own):
        return Path(os.environ[own])
    base = os.environ.get(xdg)
    return (Path(base) if base else Path.home() / default) / "slipway"
