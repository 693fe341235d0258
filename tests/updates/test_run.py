"""The agent's turns: what goes on without a network, what is told, and what never ends it."""

from __future__ import annotations

import dataclasses
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.config import Config, Idle, Trial
from agent.errors import NetworkError, StorageError
from agent.local import Listener, Word, say
from agent.updates import run as running
from agent.updates.assignment import MOST_MODELS, place_of
from agent.updates.home import Home
from agent.updates.install import confirm_now
from agent.updates.journal import Action
from agent.updates.keeping import Keeper
from agent.updates.outcome import watch
from agent.updates.polling import Poller
from agent.updates.recover import recover
from agent.updates.run import MOST_BACKOFF_S, News, backoff_s, look, once, run
from agent.updates.source import BusyError
from agent.updates.status import status
from sdk.release import ceremony
from sdk.release.assign import assign, assignment_for
from tests.updates.devices import fresh_fleet
from tests.updates.fleet import GROUP, MODEL, Fleet, passing, silent, utc
from tests.updates.machine import machine


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return fresh_fleet(tmp_path)


def on_trial(fleet: Fleet, home: Home, release: str = "1.0.0") -> Action:
    fleet.release(release)
    action = once(home, silent, passing)
    assert action is not None
    assert action.state == "TRIAL", action.reason
    return action


def installed(fleet: Fleet, home: Home, release: str = "1.0.0") -> None:
    on_trial(fleet, home, release)
    confirm_now(home, MODEL)


def test_what_is_told_is_told_once_while_it_lasts() -> None:
    lines: list[str] = []
    news = News(lines.append)
    for _ in range(3):
        news.tell("no network")
        news.tell("no network")
        news.turn()
    assert lines == ["no network"]
    news.turn()
    news.tell("no network")
    assert lines == ["no network"] * 2, "it had passed in between"
    for hours in range(3):
        news.tell(
            f"expired. What is trusted here was signed 3 days, {hours}:00:00 ago. Nobody signed."
        )
        news.turn()
    assert len(lines) == 3, "an age that grows is no news"


def test_a_backoff_grows_to_an_hour_and_is_never_alike() -> None:
    waits = [backoff_s(60, failures, 0.5) for failures in range(1, 40)]
    assert waits == sorted(waits)
    assert waits[-1] == MOST_BACKOFF_S
    assert len({backoff_s(60, 3, chance / 10) for chance in range(10)}) == 10


def test_without_a_network_what_is_under_way_goes_on(fleet: Fleet) -> None:
    with Home(fleet.device()) as home:
        action = on_trial(fleet, home)
        fleet.repo.rename(fleet.folder / "away")
        passed = dataclasses.replace(action.deadline, uptime_s=0.0)  # type: ignore[type-var]
        home.journal.enter(action, "TRIAL", "", deadline=passed)
        lines: list[str] = []
        done = look(home, Keeper(passing), lines.append)
        assert done is not None
        assert done.state == "ROLLED_BACK"
        assert any("no folder and no http address" in line for line in lines)


class Server(http.server.ThreadingHTTPServer):
    """A static server of a folder that a test can turn off."""

    status = 200
    asked = 0


@pytest.fixture
def server(fleet: Fleet) -> Iterator[Server]:
    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(fleet.repo))

        def do_GET(self) -> None:
            made.asked += 1
            if made.status == 200:
                super().do_GET()
                return
            self.send_response(made.status)
            self.send_header("Retry-After", "1234")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    made = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def served(fleet: Fleet, server: Server, **config: Any) -> Config:
    return fleet.device(repository=f"http://127.0.0.1:{server.server_port}", **config)


def test_a_busy_server_is_obeyed_also_where_nothing_waits_for_it(
    fleet: Fleet, server: Server
) -> None:
    with Home(served(fleet, server)) as home:
        installed(fleet, home)
        server.status = 429
        with pytest.raises(BusyError) as refusal:
            look(home, Keeper(passing), silent)
        assert refusal.value.after_s == 1234


@pytest.mark.long
def test_a_trial_ends_in_time_while_the_server_fails(fleet: Fleet, server: Server) -> None:
    with Home(served(fleet, server)) as home:
        action = on_trial(fleet, home)
        server.status = 500
        passed = dataclasses.replace(action.deadline, uptime_s=0.0)  # type: ignore[type-var]
        home.journal.enter(action, "TRIAL", "", deadline=passed)
        with pytest.raises(NetworkError):
            look(home, Keeper(passing), silent)
        assert home.journal.unfinished() is None
        last = home.journal.last(MODEL)
        assert last is not None
        assert last.state == "ROLLED_BACK"


def test_expired_metadata_keeps_what_runs_and_says_how_old_it_is(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = fleet.device()
    with Home(config) as home:
        installed(fleet, home)
        later = utc(400)
        monkeypatch.setattr(home, "now", lambda: later)
        lines: list[str] = []
        assert look(home, Keeper(passing), lines.append) is None
        (line,) = [line for line in lines if "not to be trusted" in line]
        assert "expired" in line
        assert "What is trusted here was signed 400 days, 0:00:" in line
        found = status(config)
        assert found["models"][0]["release"] == "1.0.0"
        assert found["metadata_age_s"] < 600
        assert found["metadata_expired"] is False


def test_a_clock_that_is_behind_the_agent_itself_is_not_believed(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = utc(days=400)
    monkeypatch.setattr("agent.updates.home.BUILT", later)
    with Home(fleet.device()) as home:
        assert home.now() == later
        fleet.release("1.0.0")
        lines: list[str] = []
        assert once(home, lines.append, passing) is None
        assert any("expired" in line for line in lines)


@pytest.mark.long
def test_an_action_that_was_done_is_not_done_again_and_ends_nothing(fleet: Fleet) -> None:
    with Home(fleet.device()) as home:
        assignment = fleet.release("1.0.0")
        once(home, silent, passing)
        confirm_now(home, MODEL)
        again = assign(fleet.repository(), fleet._later(assignment))
        assert again.action_id == assignment.action_id
        lines: list[str] = []
        assert look(home, Keeper(passing), lines.append) is None
        assert any("was done before" in line for line in lines)


@pytest.mark.long
def test_a_newer_assignment_takes_the_place_of_one_that_waits(fleet: Fleet, tmp_path: Path) -> None:
    with Home(fleet.device(idle=Idle(hook=str(tmp_path / "none")))) as home:
        fleet.release("1.0.0")
        first = once(home, silent, passing)
        assert first is not None
        assert first.state == "STAGED"
        fleet.release("2.0.0")
        second = once(home, silent, passing)
        assert second is not None
        assert second.release == "2.0.0"
        replaced = home.journal.action(first.id)
        assert replaced is not None
        assert replaced.state == "FAILED"
        assert second.id in replaced.reason


@pytest.mark.long
@pytest.mark.parametrize("last", ["group", "device"])
def test_of_the_devices_own_word_and_its_groups_the_newer_counts(fleet: Fleet, last: str) -> None:
    with Home(fleet.device()) as home:
        ways: dict[str, dict[str, Any]] = {
            "group": {},
            "device": {"device_id": home.device.device_id},
        }
        for name in sorted(ways, key=lambda name: name == last):
            fleet.assign(fleet.publish(name), **ways[name])
        action = once(home, silent, passing)
        assert action is not None
        assert action.release == last
        confirm_now(home, MODEL)
        assert once(home, silent, passing) is None, "the older word is outdated"


def other_model(fleet: Fleet, release: str) -> Path:
    """A build of a second model."""
    return fleet.build(f"other-{release}", model="other")


def test_the_word_on_one_model_never_outdates_the_word_on_another(fleet: Fleet) -> None:
    ceremony.add_model(fleet.repository(), "other")
    with Home(fleet.device()) as home:
        fleet.release("5.0.0", other_model(fleet, "5.0.0"))
        once(home, silent, passing)
        confirm_now(home, "other")
        early = assignment_for(fleet.publish("1.0.0"), group=GROUP)
        assign(fleet.repository(), dataclasses.replace(early, assignment_seq=1))
        once(home, silent, passing)
        confirm_now(home, MODEL)
        running = {one["model"]: one["release"] for one in status(home.config)["models"]}
        assert running == {MODEL: "1.0.0", "other": "5.0.0"}
        assert once(home, silent, passing) is None


def test_a_line_that_is_wrong_keeps_no_other_model_from_the_device(fleet: Fleet) -> None:
    with Home(fleet.device()) as home:
        fleet.release("1.0.0")
        place = fleet.repo / place_of(group=GROUP)
        place.write_bytes(b"\xff\n{\n\n" + place.read_bytes() + b"[]\n")
        lines: list[str] = []
        action = once(home, lines.append, passing)
        assert action is not None
        assert action.state == "TRIAL"
        (line,) = [line for line in lines if line.startswith("assignments/")]
        assert "and 3 more are refused" in line


def test_a_file_of_too_many_lines_is_not_read(fleet: Fleet) -> None:
    with Home(fleet.device()) as home:
        fleet.release("1.0.0")
        place = fleet.repo / place_of(group=GROUP)
        place.write_bytes(place.read_bytes() * (MOST_MODELS + 1))
        lines: list[str] = []
        assert once(home, lines.append, passing) is None
        assert any("lines and" in line for line in lines)


def test_another_models_word_ends_no_action_that_waits(fleet: Fleet, tmp_path: Path) -> None:
    ceremony.add_model(fleet.repository(), "other")
    hook = tmp_path / "hook"
    with Home(fleet.device(idle=Idle(hook=str(hook)))) as home:
        fleet.release("1.0.0")
        first = once(home, silent, passing)
        assert first is not None
        assert first.state == "STAGED"
        fleet.release("5.0.0", other_model(fleet, "5.0.0"))
        assert once(home, silent, passing) is not None
        assert home.journal.unfinished() is not None
        assert home.journal.unfinished().id == first.id  # type: ignore[union-attr]
        hook.write_text("#!/bin/sh\n")
        hook.chmod(0o755)
        action = once(home, silent, passing)
        assert action is not None
        assert (action.id, action.state) == (first.id, "TRIAL")
        confirm_now(home, MODEL)
        action = once(home, silent, passing)
        assert action is not None
        assert action.model == "other"


WORDS = [
    ("a good word confirms", [Word(model=MODEL, good=True)], "CONFIRMED"),
    ("a bad word takes back", [Word(model=MODEL, good=False, reason="NaN")], "ROLLED_BACK"),
    (
        "a bad one weighs more",
        [Word(model=MODEL, good=True), Word(model=MODEL, good=False)],
        "ROLLED_BACK",
    ),
    ("another model's says nothing", [Word(model="other", good=False)], "TRIAL"),
    ("silence says nothing yet", [], "TRIAL"),
]


@pytest.mark.parametrize(
    ("words", "state"), [case[1:] for case in WORDS], ids=[c[0] for c in WORDS]
)
def test_words_in_a_trial(fleet: Fleet, words: list[Word], state: str) -> None:
    with Home(fleet.device()) as home:
        action = on_trial(fleet, home)
        assert watch(home, action, tuple(words)).state == state


DEADLINES = [("health", "ROLLED_BACK"), ("deadline", "CONFIRMED")]


@pytest.mark.parametrize(("confirm", "state"), DEADLINES)
@pytest.mark.parametrize(
    "restarted",
    [
        pytest.param(False, id="at work"),
        pytest.param(True, id="after a restart of the agent", marks=pytest.mark.long),
    ],
)
def test_a_trial_whose_time_is_up(fleet: Fleet, confirm: Any, state: str, restarted: bool) -> None:
    with Home(fleet.device(trial=Trial(seconds=60.0, confirm=confirm))) as home:
        action = on_trial(fleet, home)
        assert action.deadline is not None
        passed = dataclasses.replace(action.deadline, uptime_s=0.0)
        home.journal.enter(action, "TRIAL", "", deadline=passed)
        if restarted:
            once(home, silent, passing)
        else:
            look(home, Keeper(passing), silent)
        done = home.journal.action(action.id)
        assert done is not None
        assert done.state == state, done.reason


def test_a_reboot_gives_the_trial_its_time_again_and_is_counted(
    fleet: Fleet, tmp_path: Path
) -> None:
    root = machine(tmp_path / "root", boot="first")
    config = fleet.device(root_folder=root)
    with Home(config) as home:
        action = on_trial(fleet, home)
        assert action.deadline is not None
        assert action.deadline.boot_id == "first"
    for boots, boot in enumerate(("second", "third"), 1):
        machine(root, boot=boot)
        with Home(config) as home:
            found = recover(home, silent)
            assert found is not None
            assert (found.state, found.boots) == ("TRIAL", boots)
            assert found.deadline is not None
            assert found.deadline.boot_id == boot
    machine(root, boot="fourth")
    with Home(config) as home:
        for _ in range(2):
            recover(home, silent)
        last = home.journal.last(MODEL)
        assert last is not None
        assert last.boots == 3
        recover(home, silent)
    machine(root, boot="fifth")
    with Home(config) as home:
        recover(home, silent)
        last = home.journal.last(MODEL)
        assert last is not None
        assert last.state == "ROLLED_BACK"
        assert "boots" in last.reason


class _Enough(BaseException):
    pass


def turns(
    config: Config, monkeypatch: pytest.MonkeyPatch, count: int, tell: Any, prove: Any = passing
) -> list[float]:
    """So many turns of `run`; how long it would have waited after each."""
    waits: list[float] = []

    def wait(
        home: Home,
        keeper: Keeper,
        listener: Listener,
        stopped: Any,
        wait_s: float,
        news: News,
        poller: Poller | None,
    ) -> None:
        waits.append(wait_s)
        if len(waits) == count:
            raise _Enough

    monkeypatch.setattr(running, "_wait", wait)
    with pytest.raises(_Enough):
        run(config, tell, prove)
    return waits


def test_nothing_that_a_repository_does_ends_the_agent(
    fleet: Fleet, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = served(fleet, server)
    lines: list[str] = []
    server.status = 500
    waits = turns(config, monkeypatch, 4, lines.append)
    assert waits[-1] > 4 * config.poll_s
    assert sum("cannot be fetched" in line for line in lines) == 1, "said once, not at each poll"
    server.status = 429
    assert min(turns(config, monkeypatch, 2, silent)) >= 1234
    server.status = 200
    (fleet.repo / "metadata" / "timestamp.json").write_bytes(b"{}")
    lines.clear()
    assert turns(config, monkeypatch, 3, lines.append) == [config.poll_s] * 3
    assert sum("not to be trusted" in line for line in lines) == 1


def test_a_full_disk_does_not_end_the_agent(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "agent.db")

    config = fleet.device()
    monkeypatch.setattr(running, "_supply", full)
    lines: list[str] = []
    waits = turns(config, monkeypatch, 3, lines.append)
    assert waits[-1] > config.poll_s
    assert lines == ["No space left while writing agent.db. The disk or the quota is full."]


def test_two_agents_on_one_state_folder(fleet: Fleet) -> None:
    config = fleet.device()
    with Home(config), pytest.raises(StorageError, match="Another agent has the state folder"):
        Home(config)
    with Home(config):
        pass


def test_the_word_of_an_application_reaches_the_trial(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = fleet.device(poll_s=60.0)
    fleet.release("1.0.0")
    waiting = running._wait

    def wait(
        home: Home,
        keeper: Keeper,
        listener: Listener,
        stopped: Any,
        wait_s: float,
        news: News,
        poller: Poller | None,
    ) -> None:
        say(config.state, Word(model=MODEL, good=True, reason="well"))
        waiting(home, keeper, listener, stopped, 0.3, news, poller)
        raise _Enough

    monkeypatch.setattr(running, "_wait", wait)
    lines: list[str] = []
    with pytest.raises(_Enough):
        run(config, lines.append, passing)
    assert lines[-1] == "net: CONFIRMED: well"
    assert status(config)["models"][0]["state"] == "CONFIRMED"
