"""Agents whose link to the server is cut in the middle of each step: they converge, and report once.

One namespace for the server, one for each of three agents, all of them the real programs. What is
under way when the link goes down is lost before the server has it, lost before the device has the
answer, or only late: one of them for each agent.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from agent.config import Config
from agent.device import device_of
from agent.errors import SlipwayError
from agent.local import Word, say
from agent.membership import membership_of
from agent.updates.slots import Slots
from agent.updates.status import status
from sdk.fleet import tables as t
from sdk.fleet.store import devices
from tests.fleet.agents import GROUP, configured, process, until
from tests.fleet.namespaces import Desk, Line, Network, check_namespaces, inside
from tests.updates.devices import fresh_fleet
from tests.updates.fleet import MODEL

pytestmark = pytest.mark.long
MODES = ("request", "answer", "late")
BLOB_BYTES = 3 << 20
STEPS = {
    "poll": ("POST /v1/poll", 0),
    "metadata": ("timestamp.json", 0),
    "manifest": ("manifest.json", 0),
    "blob": ("/blobs/sha256/", BLOB_BYTES // 3),
    "staged": ('"state":"STAGED"', 0),
    "preflight": ('"state":"PREFLIGHT"', 0),
    "activating": ('"state":"ACTIVATING"', 0),
    "trial": ('"state":"TRIAL"', 0),
    "confirmed": ('"state":"CONFIRMED"', 0),
    "report": ("POST /v1/reports", 0),
}
"""What is held up when the link is cut, and how many bytes of the answer have come by then."""


class Site:
    """The server with its repository, and three lines to it."""

    def __init__(self, folder: Path) -> None:
        self.fleet = fresh_fleet(folder)
        self.folder, self.log = folder, folder / "log"
        self.network = Network(len(MODES))
        self.desk = Desk(self.network, folder)
        keys = self.fleet.folder / "keys"
        self.server = self.desk.serving(
            self.log, "--repo", str(self.fleet.repo), "--keys", str(keys), "--poll", "1"
        )
        until(lambda: "serving" in self.log.read_text(), self.log)
        self.engine = sa.create_engine(f"sqlite:///{folder / 'fleet.db'}")
        self.lines = [Line(self.network, number) for number in range(len(MODES))]

    def close(self) -> int:
        """Stop all of it; how the server ended."""
        for line in self.lines:
            line.close()
        self.engine.dispose()
        self.server.terminate()
        code = self.server.wait(30)
        self.network.close()
        return code

    def cut(self, number: int) -> None:
        """Once something is held up on a line, cut it for some seconds; then go on."""
        self.lines[number].hit()
        self.network.link(number, "down")
        time.sleep(1.5)
        self.lines[number].go()
        time.sleep(1.5)
        self.network.link(number, "up")

    def cut_all(self) -> None:
        threads = [threading.Thread(target=self.cut, args=(n,)) for n in range(len(MODES))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def hold(self, match: str, after: int = 0) -> None:
        """Hold up what comes next, on each line in another way."""
        for line, mode in zip(self.lines, MODES, strict=True):
            line.holds(match, mode, after)

    def shown(self, device_id: str) -> dict[str, Any]:
        with self.engine.connect() as connection:
            return devices.show(connection, "default", device_id)

    def reports(self, device_id: str) -> list[tuple[str, str]]:
        wanted = t.report.select().where(t.report.c.device_id == device_id).order_by(t.report.c.id)
        with self.engine.connect() as connection:
            return [(row.action_id, row.state) for row in connection.execute(wanted)]

    def publish(self, release: str) -> None:
        content = f"{release} ".encode() + os.urandom(BLOB_BYTES)
        build = self.fleet.build(f"build-{release}", {"best": content})
        self.fleet.publish(release, build)

    def enrolling(self, number: int, state: Path) -> Any:
        token = self.desk("tokens", "add", "--group", GROUP)["token"]
        configured(state)
        about = ("enroll", self.lines[number].url, "--token", token, "--state", str(state))
        return process(self.log, *about, inside=inside(self.network.devices[number]))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    check_namespaces()
    made = Site(tmp_path_factory.mktemp("site"))
    try:
        yield made
    finally:
        code = made.close()
    assert code == 0, made.log.read_text()


class Watched:
    """An agent at work, whose `current` is looked at all the time."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.device_id = device_of(config.state).device_id
        self.looks, self.broken = 0, list[str]()
        self.over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    @property
    def release(self) -> str | None:
        return next((one["release"] for one in status(self.config)["models"]), None)

    def close(self) -> None:
        self.over.set()
        self._thread.join()

    def _look(self) -> None:
        slots = Slots(self.config.state / "models" / MODEL)
        while not self.over.wait(0.05):
            name = slots.current()
            if name is None and not self.looks:
                continue
            self.looks += 1
            try:
                slot = slots.read(name)
                if slot is None:
                    self.broken.append(f"{name} is no slot")
                else:
                    slots.verify(slot)
            except (SlipwayError, OSError) as error:
                self.broken.append(str(error))


@pytest.fixture(scope="module")
def agents(site: Site) -> Iterator[list[Watched]]:
    made, processes = [], []
    for number in range(len(MODES)):
        state = site.folder / f"device-{number}"
        with site.enrolling(number, state) as enrols:
            assert enrols.wait(60) == 0, site.log.read_text()
    for number, name in enumerate(site.network.devices):
        state = site.folder / f"device-{number}"
        made.append(Watched(configured(state)))
        runs = process(site.log, "run", "--state", str(state), inside=inside(name))
        processes.append((runs, runs.__enter__()))
    yield made
    for agent in made:
        agent.close()
    for runs, started in processes:
        started.terminate()
        assert started.wait(30) == 0, site.log.read_text()
        runs.__exit__(None, None, None)


def test_the_link_is_cut_while_devices_enrol(site: Site) -> None:
    site.hold("POST /v1/enroll")
    states = [site.folder / f"enrols-{number}" for number in range(len(MODES))]
    threads = [threading.Thread(target=site.cut, args=(n,)) for n in range(len(MODES))]
    for thread in threads:
        thread.start()
    for number, state in enumerate(states):
        with site.enrolling(number, state) as enrols:
            code = enrols.wait(90)
        threads[number].join()
        assert code == (0 if MODES[number] == "late" else 8), site.log.read_text()
        if code != 0:
            assert membership_of(state) is None
            with site.enrolling(number, state) as again:
                assert again.wait(60) == 0, site.log.read_text()
        membership = membership_of(state)
        assert membership is not None
        assert membership.status == "accepted"
    names = {device_of(state).device_id for state in states}
    assert {site.shown(name)["standing"] for name in names} == {"accepted"}
    for name in names:  # they do nothing more, and no rollout waits for them
        site.desk("devices", "reject", name)


@pytest.mark.parametrize("step", STEPS)
def test_the_link_is_cut_in_the_middle_of_a_step(
    site: Site, agents: list[Watched], step: str
) -> None:
    release = f"1.0.{list(STEPS).index(step)}"
    site.publish(release)
    match, after = STEPS[step]
    if step not in ("confirmed", "report"):
        site.hold(match, after)
    rollout = site.desk("assign", MODEL, release, "--group", GROUP)["rollout"]
    actions = [f"{rollout}-{agent.device_id}" for agent in agents]
    if step not in ("confirmed", "report"):
        site.cut_all()
    for agent in agents:
        until(lambda agent=agent: agent.release == release, site.log, 90.0)
    if step in ("confirmed", "report"):
        site.hold(match, after)
    for agent in agents:
        until(lambda agent=agent: is_on_trial(agent), site.log, 30.0)
        say(agent.config.state, Word(model=MODEL, good=True, reason="well"))
    if step in ("confirmed", "report"):
        site.cut_all()
    for agent, action in zip(agents, actions, strict=True):
        until(lambda agent=agent: is_true(site, agent, release), site.log, 120.0)
        until(lambda agent=agent: site.shown(agent.device_id)["reports_waiting"] == 0, site.log)
        ours = [one for one in site.reports(agent.device_id) if one[0] == action]
        assert ours == [(action, "TRIAL"), (action, "CONFIRMED")]
        assert agent.looks > 10
        assert agent.broken == []
    until(lambda: site.desk("rollouts", "show", rollout)["state"] == "finished", site.log)


def is_on_trial(agent: Watched) -> bool:
    action = status(agent.config)["action"]
    return action is not None and action["state"] == "TRIAL"


def is_true(site: Site, agent: Watched, release: str) -> bool:
    """Whether the server knows what the device runs, and that it is what it should."""
    (seen,) = site.shown(agent.device_id)["models"]
    names = ("desired_sha256", "activated_sha256", "confirmed_sha256", "running_sha256")
    same = len({seen[name] for name in names}) == 1
    return same and seen["running"] == agent.release == release and not seen["fell_back"]
