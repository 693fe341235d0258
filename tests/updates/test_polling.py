"""A device of a fleet: it takes what its server assigns, says what is so, and needs it for nothing."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.config import Idle
from agent.device import device_of
from agent.errors import NetworkError
from agent.local import Listener, Word, say
from agent.membership import membership_of
from agent.updates import report
from agent.updates import run as running
from agent.updates.home import Home
from agent.updates.install import confirm_now, install, take_back
from agent.updates.journal import Action
from agent.updates.keeping import Keeper
from agent.updates.polling import LOOK_S, Poller, poller_of
from agent.updates.recover import recover
from agent.updates.run import look, once
from agent.updates.server import COUNTER, StandingError
from agent.updates.source import BusyError
from agent.updates.status import doctor, status
from sdk.release import ceremony
from tests.updates.devices import fresh_fleet
from tests.updates.fleet import GROUP, MODEL, Fleet, passing, silent
from tests.updates.fleet_double import Double, joined, refused, replayed, says, served
from tests.updates.test_cli import at_work
from tests.updates.test_run import other_model, turns

pytestmark = pytest.mark.usefixtures("without_fsync")


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return fresh_fleet(tmp_path)


@pytest.fixture
def double(fleet: Fleet) -> Iterator[Double]:
    with served(fleet) as made:
        yield made


class Member:
    """A device that is enrolled, and whose agent's turns the test takes."""

    def __init__(self, double: Double, **config: Any) -> None:
        self.double = double
        self.config = joined(double, **config)
        self.lines: list[str] = []
        self.now = 0.0
        self.start()

    def start(self) -> None:
        self.home = Home(self.config)
        recover(self.home, self.lines.append)
        membership = membership_of(self.config.state)
        assert membership is not None
        self.poller = Poller(self.home, membership, lambda: self.now)
        self.keeper = Keeper(passing)

    def restart(self) -> None:
        self.home.close()
        self.start()

    def look(self) -> Action | None:
        return look(self.home, self.keeper, self.lines.append, self.poller)

    def assign(self, release: str, build: Path | None = None, **changes: Any) -> str:
        published = self.double.fleet.publish(release, build)
        found = self.double.assign(published, self.home.device.device_id, **changes)
        return found.action_id

    def on_trial(self, release: str) -> Action:
        self.assign(release)
        action = self.look()
        assert action is not None
        assert (action.release, action.state) == (release, "TRIAL"), action.reason
        return action

    def runs(self) -> dict[str, str | None]:
        return {one["model"]: one["release"] for one in status(self.config)["models"]}


@pytest.fixture
def member(double: Double) -> Iterator[Member]:
    made = Member(double)
    yield made
    made.home.close()


def told(double: Double) -> list[tuple[str, str]]:
    return [(one["action_id"], one["state"]) for one in double.polls[-1]["actions"]]


def test_a_device_converges_and_says_each_thing_once(double: Double, member: Member) -> None:
    double.fleet.release("9.9.9")  # for a group, in the repository: not the server's word
    action = member.on_trial("1.0.0")
    assert action.kind == "online"
    assert [state for _, state in double.states] == [
        "DOWNLOADING", "STAGED", "PREFLIGHT", "ACTIVATING", "TRIAL",
    ]  # fmt: skip
    assert told(double) == [(action.id, "TRIAL")], "it is said at once that it began"
    confirm_now(member.home, MODEL)
    member.look()
    assert told(double) == [(action.id, "CONFIRMED")]
    (model,) = double.polls[-1]["models"]
    assert (model["release"], model["slot"]) == ("1.0.0", "A")
    assert model["running_sha256"] == action.order.manifest_sha256
    member.look()
    assert told(double) == []
    member.restart()
    member.look()
    assert told(double) == [], "the end was heard of"
    assert [(one["state"], one["action_id"]) for one in double.reports] == [
        ("TRIAL", action.id),
        ("CONFIRMED", action.id),
    ]
    assert member.home.journal.reports_waiting() == 0
    assert not double.paths("assignments/")
    assert member.runs() == {MODEL: "1.0.0"}


def test_what_ended_is_said_at_once_and_what_is_next_taken(double: Double, member: Member) -> None:
    far = double.fleet.build("far", match={"identity.arch": "z80"})
    first, second = member.assign("1.0.0", far), member.assign("2.0.0")
    action = member.look()
    assert action is not None
    assert (action.id, action.state) == (second, "TRIAL")
    assert told(double) == [(first, "REJECTED")]
    assert member.poller.has_news(), "the server does not know of the second one yet"


def test_another_models_assignment_follows(double: Double, member: Member) -> None:
    ceremony.add_model(double.fleet.repository(), "other")
    member.on_trial("1.0.0")
    member.assign("5.0.0", other_model(double.fleet, "5.0.0"))
    member.look()
    confirm_now(member.home, MODEL)
    action = member.look()
    assert action is not None
    assert (action.model, action.state) == ("other", "TRIAL")


def test_the_repository_is_looked_at_when_there_is_a_reason(double: Double, member: Member) -> None:
    def looks() -> int:
        return len(double.paths("timestamp.json"))

    member.look()
    assert looks() == 1, "nothing was trusted yet"
    member.look()
    assert looks() == 1
    member.now += LOOK_S
    member.look()
    assert looks() == 2, "an hour has passed"
    double.answer = {"metadata_version": 10**6}
    member.look()
    assert looks() == 3, "there is something newer"
    version = double.polls[-1]["metadata_version"]
    double.answer = {"metadata_version": version}
    member.look()
    assert looks() == 3
    assert double.polls[-1]["metadata_age_s"] >= 0


def test_what_was_cut_off_in_a_download_goes_on_without_an_assignment(
    double: Double, member: Member
) -> None:
    action_id = member.assign("1.0.0")
    blobs = double.fleet.repo / "blobs"
    blobs.rename(blobs.with_name("away"))
    with pytest.raises(NetworkError):
        member.look()
    blobs.with_name("away").rename(blobs)
    double.waiting.clear()
    action = member.look()
    assert action is not None
    assert (action.id, action.state) == (action_id, "TRIAL")


def test_the_fingerprint_is_said_where_it_is_asked_for(double: Double, member: Member) -> None:
    member.look()
    double.answer = {"send_fingerprint": True}
    member.look()
    double.answer = {}
    member.look()
    member.look()
    said = [poll["fingerprint"] is not None for poll in double.polls]
    assert said == [False, False, True, False]
    assert len(double.polls[0]["fingerprint_sha256"]) == 64


def test_a_journal_that_was_lost_costs_one_more_request(double: Double, member: Member) -> None:
    member.look()
    device_id = member.home.device.device_id
    double.seqs[device_id] = 123_456
    member.home.close()
    for path in member.config.state.glob("agent.db*"):
        path.unlink()
    member.start()
    before = len(double.paths("/v1/poll"))
    member.look()
    assert len(double.paths("/v1/poll")) == before + 2
    assert double.seqs[device_id] == 123_457
    member.look()
    assert len(double.paths("/v1/poll")) == before + 3
    assert member.home.journal.number(COUNTER) >= double.seqs[device_id]


def test_numbers_grow_over_restarts(double: Double, member: Member) -> None:
    seen = [double.seqs.get(member.home.device.device_id, 0)]
    for _ in range(3):
        member.look()
        seen.append(double.seqs[member.home.device.device_id])
        member.restart()
    assert seen == sorted(set(seen))
    assert not double.paths("nonce")


@pytest.mark.parametrize("clock_s", [-3600.0, 3600.0])
def test_a_clock_that_is_off_is_replaced_by_a_nonce(
    double: Double, member: Member, clock_s: float
) -> None:
    double.clock_s = clock_s
    member.look()
    member.look()
    assert len(double.polls) == 2
    assert len(double.paths("/v1/nonce")) == 1, "it is good for some minutes"
    double.nonces.clear()
    member.look()
    assert len(double.polls) == 3, "a server that forgot it gives another"


STANDINGS = [
    (403, "pending"),
    (403, "rejected"),
    (403, "quarantined"),
    (401, "unknown"),
    (401, "unsigned"),
]


@pytest.mark.parametrize(("code", "standing"), STANDINGS)
def test_what_a_server_thinks_of_a_device_ends_nothing_on_it(
    double: Double, member: Member, code: int, standing: str
) -> None:
    action = member.on_trial("1.0.0")
    double.lies["/v1/poll"] = says(*refused(code, standing))
    passed = dataclasses.replace(action.deadline, uptime_s=0.0)  # type: ignore[type-var]
    member.home.journal.enter(action, "TRIAL", "", deadline=passed)
    with pytest.raises(StandingError, match=standing):
        member.look()
    done = member.home.journal.action(action.id)
    assert done is not None
    assert done.state == "ROLLED_BACK", "a trial ends in time all the same"
    assert status(member.config)["fleet"]["status"] == standing
    assert any(standing in problem for problem in doctor(member.config)["problems"])
    double.lies.clear()
    member.look()
    assert told(double) == [(action.id, "ROLLED_BACK")]
    assert status(member.config)["fleet"]["status"] == "accepted"


def test_without_the_server_a_package_is_installed_and_reported_later(
    double: Double, member: Member
) -> None:
    double.lies["/v1/poll"] = says(500, b"")
    published = double.fleet.publish("1.0.0")
    device_id = member.home.device.device_id
    package = double.fleet.package(published, device_id=device_id)
    assert install(member.home, package, silent, passing).state == "TRIAL"
    with pytest.raises(NetworkError):
        member.look()
    confirm_now(member.home, MODEL)
    assert not member.poller.has_news(), "nobody would hear it"
    double.lies.clear()
    member.look()
    assert [state for _, state in told(double)] == ["CONFIRMED"]
    assert [one["state"] for one in double.reports] == ["TRIAL", "CONFIRMED"]


def test_a_line_that_is_cut_within_a_turn_costs_no_report(double: Double, member: Member) -> None:
    member.on_trial("1.0.0")
    take_back(member.home, MODEL, "NaN")
    double.lies["/v1/reports"] = says(500, b"")
    with pytest.raises(NetworkError):
        member.look()
    assert member.home.journal.reports_waiting() == 1
    double.lies.clear()
    member.look()
    assert double.polls[-1]["reports_waiting"] == 1
    assert [one["state"] for one in double.reports] == ["TRIAL", "ROLLED_BACK"]
    member.look()
    assert len(double.reports) == 2


def test_states_are_told_no_more_in_a_turn_after_one_was_not_heard(
    double: Double, member: Member
) -> None:
    action_id = member.assign("1.0.0")
    double.lies[f"/v1/actions/{action_id}/state"] = says(500, b"")
    action = member.look()
    assert action is not None
    assert action.state == "TRIAL"
    assert len(double.paths("/state")) == 1
    assert told(double) == [(action_id, "TRIAL")], "the next poll says it"


def test_a_report_that_no_server_can_read_holds_up_no_other(double: Double, member: Member) -> None:
    double.lies["/v1/reports"] = says(500, b"")
    actions = []
    for release in ("1.0.0", "2.0.0", "3.0.0"):
        double.waiting.clear()
        member.assign(release)
        with pytest.raises(NetworkError):
            member.look()
        actions.append(confirm_now(member.home, MODEL).id)
    double.lies.clear()
    double.unreadable.add(actions[1])
    member.look()
    assert [one["action_id"] for one in double.reports] == [
        name for name in (actions[0], actions[2]) for _ in range(2)
    ]
    assert member.home.journal.reports_waiting() == 0
    assert sum("malformed" in line for line in member.lines) == 2, "it is said here at least"


def test_many_reports_go_in_batches(double: Double, member: Member) -> None:
    journal = member.home.journal
    for number in range(230):
        envelope = member.home.device.envelope(b'{"n":%d}' % number, report.REPORT_TYPE)
        journal.keep_report(f"r{number}", None, "TRIAL", envelope)
    big = b'{"n":230,"x":"' + b"x" * (500 << 10) + b'"}'
    for number in range(230, 233):
        envelope = member.home.device.envelope(big, report.REPORT_TYPE)
        journal.keep_report(f"r{number}", None, "TRIAL", envelope)
    member.look()
    assert len(double.paths("/v1/reports")) == 5
    assert [one["n"] for one in double.reports] == [*range(230), 230, 230, 230]
    assert journal.reports_waiting() == 0


def waits_on_a_hook(double: Double, tmp_path: Path) -> tuple[Member, Action]:
    made = Member(double, name="waits", idle=Idle(hook=str(tmp_path / "none")))
    made.assign("1.0.0")
    action = made.look()
    assert action is not None
    assert action.state == "STAGED"
    return made, action


def test_what_is_called_off_ends_while_nothing_was_touched(double: Double, tmp_path: Path) -> None:
    member, action = waits_on_a_hook(double, tmp_path)
    double.answer = {"cancel": action.id}
    assert member.look() is None
    found = member.home.journal.action(action.id)
    assert found is not None
    assert (found.state, found.reason) == ("FAILED", "the server called it off")
    assert told(double) == [(action.id, "FAILED")]
    member.home.close()


def test_a_newer_assignment_takes_the_place_of_one_that_waits(
    double: Double, tmp_path: Path
) -> None:
    member, action = waits_on_a_hook(double, tmp_path)
    published = double.fleet.publish("2.0.0")
    second = double.assign(published, member.home.device.device_id)
    double.answer = {"assignment": double.waiting[0]}
    after = member.look()
    assert after is not None
    assert (after.id, after.state) == (second.action_id, "STAGED")
    replaced = member.home.journal.action(action.id)
    assert replaced is not None
    assert replaced.state == "FAILED"
    member.home.close()


def test_a_refusal_is_said_until_a_poll_was_answered(double: Double, member: Member) -> None:
    action_id = member.assign("1.0.0", device_id="0" * 32)
    assert member.look() is None
    double.lies["/v1/poll"] = says(500, b"")
    with pytest.raises(NetworkError):
        member.look()
    double.lies.clear()
    member.look()
    (found,) = double.polls[-1]["refused"]
    assert found["action_id"] == action_id
    assert "The assignment is for" in found["reason"]
    member.look()
    assert double.polls[-1]["refused"] == []
    assert any("The assignment is for" in line for line in member.lines)


def test_an_assignment_that_was_done_is_answered_by_how_it_ended(
    double: Double, member: Member
) -> None:
    action = member.on_trial("1.0.0")
    confirm_now(member.home, MODEL)
    member.look()
    member.assign("2.0.0", action_id=action.id)
    member.look()
    member.look()
    assert told(double) == [(action.id, "CONFIRMED")]
    assert double.waiting == []
    assert member.runs() == {MODEL: "1.0.0"}


def test_a_busy_server_is_obeyed(
    double: Double, member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    double.lies["/v1/poll"] = says(*refused(429, "busy"), Retry_After=1234)
    with pytest.raises(BusyError) as refusal:
        member.look()
    assert refusal.value.after_s == 1234
    member.home.close()
    assert min(turns(member.config, monkeypatch, 2, silent)) >= 1234


def test_the_next_poll_comes_when_the_server_asks_for_it(
    double: Double, member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    member.home.close()
    double.answer = {"next_poll_s": 17}
    assert turns(member.config, monkeypatch, 2, silent) == [17, 17]
    double.lies["/v1/poll"] = says(*refused(403, "pending"))
    waits = turns(member.config, monkeypatch, 6, silent)
    assert max(waits) <= 1.25 * member.config.poll_s, "whoever waits to be accepted looks often"
    double.lies["/v1/poll"] = says(500, b"")
    assert turns(member.config, monkeypatch, 4, silent)[-1] > 4 * member.config.poll_s


def test_what_ends_between_two_polls_brings_the_next_one_forward(
    double: Double, member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "_SOON_S", 0.2)
    action = member.on_trial("1.0.0")
    listener = Listener(member.home.folder)
    news = running.News(silent)
    try:
        say(member.config.state, Word(model=MODEL, good=True, reason="well"))
        began = time.monotonic()
        running._wait(member.home, member.keeper, listener, [], 60.0, news, member.poller)
        assert time.monotonic() - began < 30
    finally:
        listener.close()
    member.look()
    assert told(double) == [(action.id, "CONFIRMED")]


def test_a_server_that_fails_is_not_asked_more_often_than_it_wished(
    double: Double, member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    double.answer = {"next_poll_s": 1200}
    member.home.close()

    made: list[float] = []

    def wait(*arguments: Any) -> None:
        made.append(arguments[4])
        double.lies["/v1/poll"] = says(500, b"")
        if len(made) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(running, "_wait", wait)
    with pytest.raises(KeyboardInterrupt):
        running.run(member.config, silent, passing)
    assert made[0] == 1200
    assert made[1] >= 0.75 * 1200


def test_replays_without_an_end_are_answered_once(double: Double, member: Member) -> None:
    double.lies["/v1/poll"] = says(*replayed(5000))
    with pytest.raises(NetworkError):
        member.look()
    assert len(double.paths("/v1/poll")) == 2
    double.lies.clear()
    member.look()
    assert double.seqs[member.home.device.device_id] > 5000


def test_a_device_without_a_server_asks_none(fleet: Fleet, double: Double) -> None:
    config = fleet.device("alone", repository=f"{double.url}/v1/repo/default")
    fleet.release("1.0.0")
    with Home(config) as home:
        assert poller_of(home) is None
        action = once(home, silent, passing)
        assert action is not None
        assert (action.kind, action.state) == ("offline", "TRIAL")
    assert double.paths("/v1/poll") == []
    assert double.paths(f"group-{GROUP}")
    assert status(config)["fleet"] is None


@pytest.mark.long
@pytest.mark.parametrize("state", ["DOWNLOADING", "STAGED", "PREFLIGHT", "ACTIVATING", "TRIAL"])
def test_an_agent_that_is_killed_in_any_state_converges_and_reports_once(
    double: Double, tmp_path: Path, state: str
) -> None:
    config = joined(double)
    (config.state / "agent.toml").write_text("reserve_mib = 0\npoll_s = 1\n")
    double.answer = {"next_poll_s": 1}
    device_id = device_of(config.state).device_id
    action_id = double.assign(double.fleet.publish("1.0.0"), device_id).action_id
    reached, killed = threading.Event(), threading.Event()

    def hold(handler: Any) -> None:
        if json.loads(handler.body)["state"] == state:
            reached.set()
            killed.wait(30)
        says(200, {})(handler)

    double.lies[f"/v1/actions/{action_id}/state"] = hold
    with at_work(config, tmp_path / "log") as agent:
        assert reached.wait(30)
        agent.process.kill()
        agent.process.wait(20)
        killed.set()
    double.lies.clear()

    def until(end: str) -> None:
        deadline = time.monotonic() + 60
        while (action_id, end) not in told(double):
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.05)

    double.polls.append({"actions": []})
    with at_work(config, tmp_path / "log") as agent:
        until("TRIAL")
        say(config.state, Word(model=MODEL, good=True, reason="well"))
        until("CONFIRMED")
        deadline = time.monotonic() + 60
        while len(double.reports) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert agent.stop() == 0
    assert [one["state"] for one in double.reports] == ["TRIAL", "CONFIRMED"]
    assert status(config)["models"][0]["release"] == "1.0.0"


def test_old_metadata_is_looked_at_before_an_assignment_is_judged(
    double: Double, member: Member
) -> None:
    """The key of assignments was replaced: what the new one signs counts at once."""
    member.look()
    ceremony.rotate(double.fleet.repository(), "assignment")
    member.assign("1.0.0", key="assignment@2")
    action = member.look()
    assert action is not None
    assert action.state == "TRIAL"
