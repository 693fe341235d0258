"""A release on its way to a device, by the rules; no model runs here."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.updates.home import Home
from agent.updates.install import confirm_now, install
from agent.updates.run import once
from tests.updates.fleet import MODEL, Fleet, passing, silent


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path)


def test_a_release_is_installed_and_confirmed(fleet: Fleet) -> None:
    fleet.release("1.0.0")
    with Home(fleet.device()) as home:
        action = once(home, silent, passing)
        assert action is not None
        assert action.state == "TRIAL", action.reason
        done = confirm_now(home, MODEL)
        assert done.state == "CONFIRMED"
        slots = home.slots(MODEL)
        slot = slots.read(slots.current())
        assert slot is not None
        assert slot.manifest.release == "1.0.0"
        assert once(home, silent, passing) is None


def test_a_package_is_installed(fleet: Fleet) -> None:
    package = fleet.package(fleet.publish("1.0.0"))
    with Home(fleet.device(repository=None)) as home:
        action = install(home, package, silent, passing)
        assert action.state == "TRIAL", action.reason
