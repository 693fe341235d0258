"""Every test has a cache, a catalog and a configuration of its own."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def own_folders(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path_factory.mktemp("slipway")
    for name in ("CACHE", "DATA", "CONFIG"):
        monkeypatch.setenv(f"SLIPWAY_{name}", str(root / name.lower()))
    return root
