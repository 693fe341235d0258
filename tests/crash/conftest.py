"""What the crash tests share: one world, in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.world import World, ram


@pytest.fixture(scope="session")
def world() -> Iterator[World]:
    with ram() as folder:
        yield World(folder)


@pytest.fixture
def memory() -> Iterator[Path]:
    with ram() as folder:
        yield folder
