"""Copies, lost journals, restored databases, clocks and keys: the agents' word heals the picture."""

from __future__ import annotations

import datetime as dt
import json
import shutil
import sqlite3
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.device import device_of
from agent.errors import NetworkError
from agent.updates import home as home_module
from agent.updates.enrol import enrol
from agent.updates.server import StandingError
from agent.updates.states import State
from sdk.cli.app import run
from sdk.fleet.chores import move_on
from sdk.fleet.server import Settings
from sdk.release import ceremony
from tests.fleet.agents import (
    GROUP,
    Agent,
    Crew,
    Site,
    assign,
    configured,
    is_true,
    process,
    reports_of,
    until,
)
from tests.fleet.world import World
from tests.updates.fleet import MODEL, PASSPHRASE

REACHED: tuple[State, ...] = ("DOWNLOADING", "STAGED", "PREFLIGHT", "ACTIVATING", "TRIAL")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    settings = Settings(poll_s=1.0, enrolments_per_minute=100000, admin_per_minute=100000)
    made = Site(World(tmp_path, settings=settings))
    yield made
    made.close()


@pytest.fixture
def crew(site: Site, tmp_path: Path) -> Iterator[Crew]:
    made = Crew(site.client, tmp_path)
    yield made
    made.close()


def brought(crew: Crew, release: str) -> str:
    """A release to everybody, confirmed; its rollout."""
    crew.client.world.fleet.publish(release)
    rollout = assign(crew.client, release)
    for _ in range(3):
        crew.turn()
    for agent in crew.agents:
        is_true(agent, release)
    return rollout


def installed(agent: Agent) -> int:
    """How many actions there ever were on a device."""
    with sqlite3.connect(agent.state / "agent.db") as opened:
        (count,) = opened.execute("select count(*) from action").fetchone()
    opened.close()
    return int(count)


class Shifted(dt.datetime):
    """A clock that is off."""

    by = dt.timedelta()

    @classmethod
    def now(cls, tz: dt.tzinfo | None = None) -> Shifted:
        return super().now(tz) + cls.by


def set_clock(patch: pytest.MonkeyPatch, by: dt.timedelta) -> None:
    """Devices have another time than the server; their software was built before it."""
    patch.setattr(Shifted, "by", by)
    shifted = types.SimpleNamespace(datetime=Shifted, timezone=dt.timezone)
    patch.setattr(home_module, "dt", shifted)
    patch.setattr(home_module, "BUILT", Shifted.now(dt.timezone.utc))


def test_a_folder_that_was_copied_is_quarantined(
    site: Site, crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = crew.joins()
    brought(crew, "1.0.0")
    agent.home.close()
    copy = agent.state.with_name("copy")
    shutil.copytree(agent.state, copy, symlinks=True)
    agent.start()
    twin = crew.takes(copy)
    for turn in range(3):  # numbers that are signed within one second are no conflict yet
        set_clock(monkeypatch, dt.timedelta(seconds=10 * turn))
        crew.turn()
    assert agent.shown()["standing"] == "quarantined"
    assert "two machines" in agent.shown()["why"]
    with pytest.raises(StandingError, match="quarantined"):
        agent.look()
    assert agent.runs() == twin.runs() == {MODEL: "1.0.0"}, "what runs goes on running"


def test_a_journal_that_was_lost_costs_a_device_nothing(site: Site, crew: Crew) -> None:
    agent = crew.joins()
    brought(crew, "1.0.0")
    agent.home.close()
    for path in agent.state.glob("agent.db*"):
        path.unlink()
    agent.start()
    agent.look()
    is_true(agent, "1.0.0")
    brought(crew, "2.0.0")
    assert agent.shown()["standing"] == "accepted"
    assert len(reports_of(site.world)) == 4


def test_a_journal_that_is_lost_on_trial_costs_the_trial_and_no_report(
    site: Site, crew: Crew
) -> None:
    agent = crew.joins()
    brought(crew, "1.0.0")
    site.world.fleet.publish("2.0.0")
    rollout = assign(site.client, "2.0.0")
    agent.look()
    agent.home.close()
    for path in agent.state.glob("agent.db*"):
        path.unlink()
    agent.start()
    assert agent.runs() == {MODEL: "1.0.0"}, "nothing says that it may run"
    for _ in range(2):
        crew.turn()
    is_true(agent, "2.0.0")
    name = f"{rollout}-{agent.device_id}"
    assert reports_of(site.world)[2:] == [(name, "TRIAL"), (name, "CONFIRMED")]


@pytest.mark.parametrize("state", REACHED)
def test_a_server_that_is_restarted_in_any_state_sees_the_end(
    site: Site, crew: Crew, state: State
) -> None:
    agent = crew.joins()
    site.world.fleet.publish("1.0.0")
    rollout = assign(site.client, "1.0.0")
    seen: list[State] = []
    tells = agent.poller.tell_state  # type: ignore[union-attr]

    def tell(action: Any) -> None:
        seen.append(action.state)
        tells(action)
        if action.state == state:
            site.restart()

    agent.poller.tell_state = tell  # type: ignore[union-attr,method-assign]
    for _ in range(4):
        crew.turn()
    assert state in seen
    is_true(agent, "1.0.0")
    assert site.client.do("GET", f"/rollouts/{rollout}")["state"] == "finished"
    assert [state for _, state in reports_of(site.world)] == ["TRIAL", "CONFIRMED"]


def copied(site: Site, to: Path) -> None:
    """The database as it is now, as SQLite backs it up."""
    with sqlite3.connect(site.world.folder / "fleet.db") as old, sqlite3.connect(to) as new:
        old.backup(new)
    old.close()
    new.close()


def restored(site: Site, backup: Path) -> None:
    def put_back() -> None:
        for path in site.world.folder.glob("fleet.db*"):
            path.unlink()
        shutil.copy(backup, site.world.folder / "fleet.db")

    site.restart(put_back)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("when", ["assigned", "TRIAL", "CONFIRMED"])
def test_a_database_from_an_older_copy_is_healed_by_the_agents(
    site: Site, crew: Crew, tmp_path: Path, when: str
) -> None:
    agent = crew.joins()
    brought(crew, "1.0.0")
    site.world.fleet.publish("2.0.0")
    rollout = assign(site.client, "2.0.0")
    backup = tmp_path / "backup.db"
    if when == "assigned":
        copied(site, backup)
    agent.look()
    if when == "TRIAL":
        copied(site, backup)
    agent.confirm()
    if when == "CONFIRMED":
        copied(site, backup)
    crew.turn()
    before = installed(agent)
    restored(site, backup)
    for _ in range(3):
        crew.turn()
    is_true(agent, "2.0.0")
    assert site.client.do("GET", f"/rollouts/{rollout}")["state"] == "finished"
    assert installed(agent) == before, "nothing is installed twice"
    brought(crew, "3.0.0")


def test_a_database_that_lost_a_rollout_is_true_again_with_the_next(
    site: Site, crew: Crew, tmp_path: Path
) -> None:
    agent = crew.joins()
    brought(crew, "1.0.0")
    backup = tmp_path / "backup.db"
    copied(site, backup)
    brought(crew, "2.0.0")
    restored(site, backup)
    crew.turn()
    seen = agent.seen()
    assert (seen["desired"], seen["running"]) == ("1.0.0", "2.0.0"), "what runs is true at once"
    before = installed(agent)
    rollout = assign(site.client, "2.0.0")
    for _ in range(2):
        crew.turn()
    is_true(agent, "2.0.0")
    assert site.client.do("GET", f"/rollouts/{rollout}")["state"] == "finished"
    assert installed(agent) == before, "it can still fall back on 1.0.0"


def test_a_device_that_a_restored_database_never_heard_of_enrols_again(
    site: Site, crew: Crew, tmp_path: Path
) -> None:
    crew.joins()
    brought(crew, "1.0.0")
    copied(site, tmp_path / "backup.db")
    late = crew.joins()
    for _ in range(2):
        crew.turn()
    is_true(late, "1.0.0")
    before = installed(late)
    restored(site, tmp_path / "backup.db")
    with pytest.raises(StandingError, match="unknown"):
        late.look()
    assert late.runs() == {MODEL: "1.0.0"}
    late.home.close()
    token = site.client.do("POST", "/tokens", {"group": GROUP})["token"]
    assert enrol(late.config, site.client.address, token=token)["status"] == "accepted"
    late.start()
    for _ in range(2):
        crew.turn()
    is_true(late, "1.0.0")
    assert installed(late) == before, "what it has is not installed again"


def test_a_clock_that_is_a_year_late_is_no_trouble(
    site: Site, crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    crew.joins()
    set_clock(monkeypatch, dt.timedelta(days=-365))
    asked: list[bytes] = []
    site.proxy.watches = asked.append
    brought(crew, "1.0.0")
    assert sum(b"/v1/nonce" in one for one in asked) == 1


def test_with_a_clock_that_is_a_year_ahead_nothing_is_fresh_and_the_device_says_so(
    site: Site, crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = crew.joins()
    brought(crew, "1.0.0")
    with monkeypatch.context() as patch:
        set_clock(patch, dt.timedelta(days=365))
        agent.restart()
        site.world.fleet.publish("2.0.0")
        assign(site.client, "2.0.0")
        for _ in range(3):
            crew.turn()
        assert agent.runs() == {MODEL: "1.0.0"}
        assert any("expired" in line for line in agent.lines), agent.lines
        assert agent.shown()["standing"] == "accepted"
        assert agent.shown()["metadata_age_s"] > 300 * 86400, "the server sees what is wrong"
    agent.restart()
    for _ in range(3):
        crew.turn()
    is_true(agent, "2.0.0")


def test_a_device_goes_on_under_a_new_key(site: Site, crew: Crew) -> None:
    agent = crew.joins()
    brought(crew, "1.0.0")
    name, before = agent.device_id, device_of(agent.state).public_key
    agent.home.close()
    told = enrol(agent.config, site.client.address, new_key=True)
    assert (told["device_id"], told["status"]) == (name, "accepted")
    assert device_of(agent.state).public_key != before
    agent.start()
    assert agent.shown()["key_fingerprint"] == told["key_fingerprint"]
    brought(crew, "2.0.0")
    assert len(reports_of(site.world)) == 4


def test_a_database_that_is_older_than_a_devices_key_says_what_is_left_to_do(
    site: Site, crew: Crew, tmp_path: Path
) -> None:
    agent = crew.joins()
    brought(crew, "1.0.0")
    copied(site, tmp_path / "backup.db")
    agent.home.close()
    enrol(agent.config, site.client.address, new_key=True)
    restored(site, tmp_path / "backup.db")
    agent.start()
    with pytest.raises(StandingError, match="unsigned"):
        agent.look()
    agent.home.close()
    with pytest.raises(NetworkError) as refusal:
        enrol(agent.config, site.client.address)
    assert "another state folder" in str(refusal.value.remedy)
    agent.start()
    assert agent.runs() == {MODEL: "1.0.0"}


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("names", [("assignment",), ("timestamp",), ("snapshot", "assignment")])
def test_online_keys_that_were_replaced_are_followed(
    site: Site, crew: Crew, names: tuple[str, ...]
) -> None:
    crew.joins()
    brought(crew, "1.0.0")
    ceremony.rotate(site.world.fleet.repository(), *names)
    brought(crew, "2.0.0")
    crew.joins()
    brought(crew, "3.0.0")
    site.restart()
    brought(crew, "4.0.0")


def test_what_the_old_assignment_key_signs_counts_no_more(
    site: Site, crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = crew.joins()
    brought(crew, "1.0.0")
    site.world.fleet.publish("2.0.0")
    old = site.world.tenants["default"]._own_signers()
    ceremony.rotate(site.world.fleet.repository(), "assignment")
    with monkeypatch.context() as patch:
        patch.setattr(site.world.tenants["default"], "_own_signers", lambda: old)
        rollout = assign(site.client, "2.0.0")
        agent.look()
        agent.look()
    assert agent.runs() == {MODEL: "1.0.0"}
    (reason,) = site.client.do("GET", f"/rollouts/{rollout}")["reasons"]
    assert reason["state"] == "REJECTED"
    assert "sign" in reason["reason"]
    assign(site.client, "2.0.0")
    crew.turn()
    is_true(agent, "2.0.0")


@pytest.mark.slow
def test_a_real_process_is_seen_by_the_command_line(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLIPWAY_SERVER", site.client.address)
    monkeypatch.setenv("SLIPWAY_API_KEY", site.world.keys["default", "admin"])
    monkeypatch.setenv("SLIPWAY_PASSPHRASE", PASSPHRASE)

    def sdk(*arguments: str) -> Any:
        assert run(["fleet", *arguments, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    token = sdk("tokens", "add", "--group", GROUP)["token"]
    state, log = configured(tmp_path / "device").state, tmp_path / "log"
    with process(log, "enroll", site.proxy.url, "--token", token, "--state", str(state)) as enrols:
        assert enrols.wait(60) == 0, log.read_text()
    site.world.fleet.publish("1.0.0")
    rollout = sdk("assign", MODEL, "1.0.0", "--group", GROUP)["rollout"]
    device = device_of(state).device_id

    def seen() -> dict[str, Any]:
        found = sdk("devices", "show", device)["models"]
        return {**found[0]} if found else {}

    with process(log, "run", "--state", str(state)) as agent:
        until(lambda: seen().get("running") == "1.0.0", log)
        assert seen()["confirmed_sha256"] is None
        with process(log, "health", MODEL, "--good", "--state", str(state)) as says:
            assert says.wait(60) == 0, log.read_text()
        until(lambda: seen()["confirmed_sha256"] == seen()["desired_sha256"], log)
        move_on(site.world.server)
        assert sdk("rollouts", "show", rollout)["state"] == "finished"
        until(lambda: len(reports_of(site.world)) == 2, log)
        agent.terminate()
        assert agent.wait(30) == 0, log.read_text()
    assert [report["state"] for report in sdk("reports")] == ["TRIAL", "CONFIRMED"]
    assert sdk("status")["fell_back"] == 0
