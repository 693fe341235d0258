"""What is told of a device: without a lock, beside an agent, and by whoever may only read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.config import Config
from agent.device import NAME, device_of
from agent.errors import StorageError, VerificationError
from agent.updates.home import Home, is_held
from agent.updates.install import confirm_now
from agent.updates.run import once
from agent.updates.status import status
from tests.updates.devices import fresh_fleet
from tests.updates.fleet import MODEL, Fleet, passing, silent


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return fresh_fleet(tmp_path)


def installed(fleet: Fleet, config: Config) -> None:
    for release in ("1.0.0", "2.0.0"):
        fleet.release(release)
        with Home(config) as home:
            once(home, silent, passing)
            confirm_now(home, MODEL)


def test_a_device_that_has_nothing(tmp_path: Path) -> None:
    found = status(Config(state=tmp_path / "none"))
    assert found["models"] == []
    assert found["device_id"] is None
    assert found["action"] is None
    assert found["metadata_age_s"] is None
    assert not (tmp_path / "none").exists(), "looking makes nothing"


def test_what_runs(fleet: Fleet) -> None:
    config = fleet.device()
    installed(fleet, config)
    with Home(config) as home:
        found = status(config)
        assert found["device_id"] == home.device.device_id
        assert found["agent_runs"] is True
    assert status(config)["agent_runs"] is False
    assert found["boot_id"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    (model,) = found["models"]
    assert (model["model"], model["release"], model["previous"]) == (MODEL, "2.0.0", "1.0.0")
    assert (model["variant"], model["slot"]) == ("net/intel-any/best", "B")
    assert len(model["running_sha256"]) == len(model["previous_sha256"]) == 64
    assert model["running_sha256"] != model["previous_sha256"]
    assert (model["state"], model["revoked"], model["doubt"]) == ("CONFIRMED", False, None)
    assert found["reports_to_send"] == 4
    assert found["metadata_expired"] is False


def test_an_action_under_way(fleet: Fleet) -> None:
    config = fleet.device()
    fleet.release("1.0.0")
    with Home(config) as home:
        action = once(home, silent, passing)
        assert action is not None
        found = status(config)
        assert found["action"] == {
            "id": action.id,
            "model": MODEL,
            "release": "1.0.0",
            "state": "TRIAL",
            "reason": "",
        }
        assert found["models"][0]["starts"] == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="it takes root to become somebody else")
@pytest.mark.parametrize("at_work", [False, pytest.param(True, marks=pytest.mark.long)])
def test_whoever_may_only_read_is_told_as_well(fleet: Fleet, at_work: bool) -> None:
    config = fleet.device()
    installed(fleet, config)
    for folder in config.state.parents:
        if folder.stat().st_mode & 0o005 != 0o005:
            folder.chmod(folder.stat().st_mode | 0o055)
    home = Home(config) if at_work else None
    os.seteuid(65534)
    try:
        found = status(config)
        assert found["agent_runs"] is at_work
        assert found["models"][0]["release"] == "2.0.0"
        assert found["models"][0]["state"] == "CONFIRMED"
    finally:
        os.seteuid(0)
        if home is not None:
            home.close()


def test_a_journal_that_cannot_be_read_is_said(fleet: Fleet) -> None:
    config = fleet.device()
    installed(fleet, config)
    for path in config.state.glob("agent.db*"):
        path.write_bytes(b"\0" * 8192)
    with pytest.raises(StorageError, match="The journal"):
        status(config)


def test_a_folder_that_was_moved_aside_is_another_one(fleet: Fleet, tmp_path: Path) -> None:
    config = fleet.device()
    with Home(config):
        assert is_held(config.state)
        config.state.rename(tmp_path / "moved")
        config.state.mkdir()
        assert not is_held(config.state)
    assert is_held(tmp_path / "nothing") is None


NAMES = [b"", b"{}", b"[]", b'{"device_id": 3}', b'{"device_id": ""}', b"\xff"]


@pytest.mark.parametrize("content", NAMES)
def test_a_device_whose_name_is_damaged_says_so(tmp_path: Path, content: bytes) -> None:
    found = device_of(tmp_path)
    (tmp_path / NAME).write_bytes(content)
    with pytest.raises(VerificationError, match="name"):
        device_of(tmp_path)
    (tmp_path / NAME).unlink()
    assert device_of(tmp_path).device_id == found.device_id, "as its remedy says"


def test_the_key_is_nobody_elses(tmp_path: Path) -> None:
    device_of(tmp_path)
    assert (tmp_path / "device.key").stat().st_mode & 0o777 == 0o600
    (tmp_path / "device.key").write_bytes(b"no key")
    with pytest.raises(VerificationError, match=r"device's key .* cannot be read"):
        device_of(tmp_path)
