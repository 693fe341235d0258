"""Real agents beside a real server: enrolled by a token alone, their turns taken by the test."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from agent.config import Config, read_config
from agent.device import device_of
from agent.errors import SlipwayError
from agent.files import make_folders
from agent.membership import FILE
from agent.updates.enrol import enrol
from agent.updates.home import Home
from agent.updates.install import confirm_now
from agent.updates.journal import Action
from agent.updates.keeping import Keeper
from agent.updates.polling import poller_of
from agent.updates.recover import recover
from agent.updates.run import look
from agent.updates.status import status
from sdk.fleet import tables as t
from sdk.fleet.chores import move_on
from sdk.fleet.database import open_database
from sdk.fleet.online import Tenant
from sdk.fleet.server import Server
from sdk.fleet.web.app import make_app
from tests.fleet.client import Client
from tests.fleet.proxy import Proxy
from tests.fleet.world import World, listening
from tests.updates.fleet import MODEL, PASSPHRASE, passing

ROOT = Path(__file__).parent.parent.parent
SETTINGS = "reserve_mib = 0\npoll_s = 1\n"
GROUP = "line-3"


def configured(state: Path) -> Config:
    """What an installer leaves: a folder with settings in it, and nobody to trust."""
    make_folders(state)
    (state / "agent.toml").write_text(SETTINGS)
    return read_config(None, state)


class Agent:
    """A device whose agent is in this process; a turn is taken when the test says so."""

    def __init__(self, client: Client, state: Path) -> None:
        """Enrolled with a token that the server gives, and with nothing else; unless it was."""
        if not (state / FILE).exists():
            token = client.do("POST", "/tokens", {"group": GROUP})["token"]
            enrol(configured(state), client.address, token=token)
        self.client, self.state = client, state
        self.lines: list[str] = []
        self.start()

    def start(self) -> None:
        """The agent starts, as after the device did."""
        self.config = read_config(None, self.state)
        self.home = Home(self.config)
        recover(self.home, self.lines.append)
        self.poller = poller_of(self.home)
        self.keeper = Keeper(passing)

    def restart(self) -> None:
        self.home.close()
        self.start()

    def look(self) -> Action | None:
        """One turn."""
        return look(self.home, self.keeper, self.lines.append, self.poller)

    def confirm(self, model: str = MODEL) -> None:
        """The application says that it is well, and the server hears of it."""
        confirm_now(self.home, model)
        self.look()

    @property
    def device_id(self) -> str:
        return device_of(self.state).device_id

    def runs(self) -> dict[str, str | None]:
        """Model -> the release that it runs, as the device says."""
        return {one["model"]: one["release"] for one in status(self.config)["models"]}

    def seen(self, model: str = MODEL) -> dict[str, Any]:
        """What the server knows of a model on it."""
        found: list[dict[str, Any]] = self.shown()["models"]
        return next((one for one in found if one["model"] == model), {})

    def shown(self) -> dict[str, Any]:
        """All that the server knows of it."""
        found: dict[str, Any] = self.client.do("GET", f"/devices/{self.device_id}")
        return found


class Crew:
    """Agents at one server."""

    def __init__(self, client: Client, folder: Path) -> None:
        self.client, self.folder = client, folder
        self.agents: list[Agent] = []

    def joins(self) -> Agent:
        """One more."""
        return self.takes(self.folder / f"agent-{len(self.agents)}")

    def takes(self, state: Path) -> Agent:
        """An agent at work in a state folder, which is enrolled already or else by a token."""
        made = Agent(self.client, state)
        self.agents.append(made)
        return made

    def turn(self) -> None:
        """Everybody takes a turn, and says that what is on trial is well; the server takes its."""
        for agent in self.agents:
            with contextlib.suppress(SlipwayError):
                action = agent.look()
                if action is not None and action.state == "TRIAL":
                    agent.confirm(action.model)
        move_on(self.client.world.server)

    def close(self) -> None:
        for agent in self.agents:
            agent.home.close()


def assign(client: Client, release: str, model: str = MODEL, **more: Any) -> str:
    """A rollout to `GROUP`, unless it says otherwise."""
    whom = {} if "device" in more else {"group": GROUP}
    found = client.do("POST", "/rollouts", {"model": model, "release": release, **whom, **more})
    return str(found["rollout"])


def is_true(agent: Agent, release: str, model: str = MODEL) -> None:
    """The server's picture is what the device says: it is to run this, and does, confirmed."""
    assert agent.runs()[model] == release
    seen = agent.seen(model)
    assert (seen["desired"], seen["running"], seen["fell_back"]) == (release, release, False), seen
    names = ("desired_sha256", "activated_sha256", "confirmed_sha256", "running_sha256")
    assert len({seen[name] for name in names}) == 1, seen


def reports_of(world: World, device_id: str | None = None) -> list[tuple[str, str]]:
    """(action, state) of every report that is kept, in the order in which they came."""
    wanted = t.report.select().order_by(t.report.c.id)
    if device_id is not None:
        wanted = wanted.where(t.report.c.device_id == device_id)
    return [(row.action_id, row.state) for row in world.rows(wanted)]


_AGENT = """
import sys
from agent import cli
from agent.updates import run
from tests.updates.fleet import passing
run.run.__defaults__ = (passing,)  # no model runs here
sys.exit(cli.main(sys.argv[1:]))
"""


@contextlib.contextmanager
def process(
    log: Path, *arguments: str, inside: tuple[str, ...] = ()
) -> Iterator[subprocess.Popen[bytes]]:
    """A real process of `sdk-agent` with these arguments; killed at the end.

    Args:
        log: what it says is added to it.
        arguments: of the command.
        inside: what starts it, such as `ip netns exec NAME`.
    """
    with log.open("ab") as stream:
        started = subprocess.Popen(
            [*inside, sys.executable, "-c", _AGENT, *arguments],
            cwd=ROOT, stdout=stream, stderr=stream, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
    try:
        yield started
    finally:
        started.kill()
        started.wait()


def until(what: Callable[[], Any], log: Path | None = None, timeout_s: float = 60.0) -> Any:
    """Wait for something to hold; what it is."""
    deadline = time.monotonic() + timeout_s
    while not (found := what()):
        assert time.monotonic() < deadline, log.read_text() if log is not None else what
        time.sleep(0.05)
    return found


class Site:
    """A server that is stopped and started anew, always at the same address."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._listens = contextlib.ExitStack()
        self.proxy = Proxy(("127.0.0.1", 1))
        self.client = Client(self.proxy.url, world)
        self._listen()

    def restart(self, between: Callable[[], None] = lambda: None) -> None:
        """Another process over the same database, but for what is done to it in between."""
        self._listens.close()
        self.world.server.close()
        between()
        tenants = {
            name: Tenant(name, own.folder, self.world.fleet.folder / "keys", PASSPHRASE)
            for name, own in self.world.tenants.items()
        }
        self.world.tenants = tenants
        self.world.server = Server(open_database(self.world.url), tenants, self.world.settings)
        self.world.app = make_app(self.world.server)
        self._listen()

    def close(self) -> None:
        self.client.__exit__()
        self._listens.close()
        self.proxy.close()
        self.world.close()

    def _listen(self) -> None:
        url = self._listens.enter_context(listening(self.world))
        self.proxy.target = ("127.0.0.1", int(url.rpartition(":")[2]))
