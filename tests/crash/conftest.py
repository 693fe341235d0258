"""What the crash tests share: one world, in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.updates.home import Home
from tests.crash.world import HERE, World, ram


@pytest.fixture(scope="module", autouse=True)
def _same_machine() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Home, "fingerprint", lambda _: HERE())
        yield


@pytest.fixture(scope="session")
def world() -> Iterator[World]:
    with ram() as folder:
        yield World(folder)


@pytest.fixture
def memory() -> Iterator[Path]:
    with ram() as folder:
        yield folder
