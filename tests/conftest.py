"""Every test has a cache, a catalog and a configuration of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# One commit gives one answer, on a slow machine too: the examples of a test follow from its code,
# and no clock fails it. `make explore` looks for new ones; what it finds becomes an `@example`.
settings.register_profile(
    "repeatable", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile(
    "explore", settings.get_profile("repeatable"), derandomize=False, max_examples=2000
)
settings.load_profile("repeatable")


PURE = (
    *("assignment", "config", "delta", "judge", "ladder", "names", "shim", "strain", "vectors"),
    *("deltas", "keystore", "states", "trial_count"),
    *("rollout", "claims", "poll_rules", "enrolment_rules", "fits", "figures"),
    *("inventory", "health", "power", "quiet"),
)
"""Of the tests of updates, those that are over at once: `make check` has them too."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what makes a device or a repository for each test: by its folder, so none is forgotten."""
    for item in items:
        folder, name = item.path.parent.name, item.path.stem.removeprefix("test_")
        if (
            folder in ("updates", "release", "crash", "conformance", "fleet", "hil")
            and name not in PURE
        ):
            item.add_marker(pytest.mark.device)


@pytest.fixture(autouse=True)
def own_folders(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path_factory.mktemp("slipway")
    for name in ("CACHE", "DATA", "CONFIG"):
        monkeypatch.setenv(f"SLIPWAY_{name}", str(root / name.lower()))
    return root
