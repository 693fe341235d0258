"""Forty agents that never get their work done in peace: each is killed, and started again.

Each goes from one assignment to the next: releases that are confirmed, taken back, fallen back from
by the shim, refused by the preflight, or made for other hardware. All are forked from a parent that
has everything imported, so that a kill lands in the work; after each kill the device is looked at.
"""

from __future__ import annotations

import collections
import dataclasses
import os
import random
import select
import signal
import sys
import time
import traceback
import warnings
from pathlib import Path

import pytest

from agent.shim import count_start
from agent.updates import run
from agent.updates.assignment import place_of
from agent.updates.home import Home
from agent.updates.install import confirm_now, take_back
from agent.updates.recover import recover
from agent.updates.states import FINAL, TRANSITIONS
from tests.crash.world import SLOTS_OF, Noted, World
from tests.updates.fleet import GROUP, MODEL, Fleet, passing, silent, write_build

AGENTS = 40
AT_ONCE = 2
SHORTEST_S, LONGEST_S = 0.001, 0.030
PLACE = place_of(group=GROUP)


@dataclasses.dataclass(frozen=True)
class Task:
    """One assignment, and what becomes of it."""

    then: str
    content: bytes


ENDS = {
    "confirm": "CONFIRMED",
    "take back": "ROLLED_BACK",
    "fall back": "ROLLED_BACK",
    "wrong": "FAILED",
    "other hardware": "REJECTED",
}


class Circle:
    """A repository with assignments that follow each other."""

    def __init__(self, world: World, folder: Path, rounds: int) -> None:
        self.world = world
        fleet: Fleet = world.fleet
        other = write_build(folder / "other", {"best": b"x"}, match={"identity.arch": "z80"})
        world.add(fleet.publish("2.0.0", other))
        releases = {
            "confirm": "1.1.0",
            "take back": "1.2.0",
            "fall back": "1.0.0",
            "wrong": "9.9.9",
            "other hardware": "2.0.0",
        }
        self.tasks = []
        for _ in range(rounds):
            for then, release in releases.items():
                fleet.assign(world.published[release])
                self.tasks.append(Task(then, (fleet.repo / PLACE).read_bytes()))

    def repository(self, folder: Path) -> Path:
        """One that an agent has for itself, but for what never changes."""
        folder.mkdir()
        for name in ("metadata", "targets", "blobs"):
            (folder / name).symlink_to(self.world.fleet.repo / name)
        (folder / "assignments").mkdir()
        return folder


@dataclasses.dataclass
class Agent:
    """One device, and how far it has come."""

    state: Path
    repository: Path
    task: int = -1
    starts: int = 0


class Killer:
    """Runs and ends agents."""

    def __init__(self, circle: Circle, folder: Path, rng: random.Random, agents: int) -> None:
        self.circle, self.rng, self.folder = circle, rng, folder
        self.world = circle.world
        self.kills = self.done = 0
        self.hit: collections.Counter[str] = collections.Counter()
        self.agents = []
        for number in range(agents):
            state = self.world.device("one", folder / f"device-{number}")
            self.agents.append(Agent(state, circle.repository(folder / f"repository-{number}")))
            self._next(self.agents[-1])

    def run(self, kills: int, most_s: float) -> None:
        """Until there were so many, and each state was hit; at most so long."""
        until = time.monotonic() + most_s
        waiting = collections.deque(self.agents)
        running: dict[int, tuple[Agent, int, float | None]] = {}  # child -> its pipe, its end
        while (self.kills < kills or not self._all_hit()) and time.monotonic() < until:
            while len(running) < AT_ONCE:
                agent = waiting.popleft()
                child, pipe = self._started(agent)
                running[child] = agent, pipe, None
            self._wait(running)
            for child in list(running):
                agent, pipe, end = running[child]
                if end is not None and time.monotonic() >= end:
                    os.kill(child, signal.SIGKILL)
                elif not _is_over(child):
                    continue
                _, status = os.waitpid(child, 0)
                os.close(pipe)
                del running[child]
                self._look(agent, os.waitstatus_to_exitcode(status))
                waiting.append(agent)
        for child, (_, pipe, _) in running.items():
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            os.close(pipe)

    def finish(self) -> None:
        """Let every agent end what it is at, and look at it."""
        for agent in self.agents:
            self._work(agent)
            self._check_end(agent, self.world.check_settled(agent.state))

    def _all_hit(self) -> bool:
        return set(TRANSITIONS) <= set(self.hit)

    def _wait(self, running: dict[int, tuple[Agent, int, float | None]]) -> None:
        """Until an agent has begun with its work, or ended, or has to be ended."""
        silent_yet = [pipe for _, pipe, end in running.values() if end is None]
        ends = [end for _, _, end in running.values() if end is not None]
        left = max(0.0, min(ends) - time.monotonic()) if ends else 5.0
        ready, _, _ = select.select(silent_yet, [], [], left)
        for child, (agent, pipe, _) in list(running.items()):
            if pipe in ready:
                after = self.rng.uniform(SHORTEST_S, LONGEST_S)
                running[child] = agent, pipe, time.monotonic() + after

    def _started(self, agent: Agent) -> tuple[int, int]:
        heard, tells = os.pipe()
        early = self.rng.random() < 0.2
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child:
            os.close(tells)
            return child, heard
        try:
            self._work(agent, tells, early=early)
            os._exit(0)
        except BaseException:  # noqa: BLE001  it must not go on as the parent
            traceback.print_exc()
        finally:
            os._exit(70)

    def _work(self, agent: Agent, tells: int | None = None, *, early: bool = False) -> None:
        """Do the agent's task; `tells` hears when the action is begun, or with `early`, before."""
        config = dataclasses.replace(
            self.world.config(agent.state, None), repository=str(agent.repository)
        )
        task = self.circle.tasks[agent.task]
        with Home(config) as home:
            if tells is not None:
                _tell_when_begun(tells, early=early)
            action = run.once(home, silent, passing)
            if action is None or action.state != "TRIAL":
                return
            if task.then == "take back":
                take_back(home, MODEL, "an operator's word")
            elif task.then == "fall back":
                for _ in range(4):
                    count_start(agent.state / SLOTS_OF)
                recover(home, silent)
            else:
                confirm_now(home, MODEL)

    def _look(self, agent: Agent, status: int) -> None:
        agent.starts += 1
        assert status in (0, -signal.SIGKILL), f"{agent.state} failed with {status}"
        try:
            noted = self.world.check_folder(agent.state, shim=True)
            if status == 0:
                self.world.check_settled(agent.state)
                self.done += 1
                self._check_end(agent, noted)
                self._next(agent)
            else:
                self.kills += 1
                self.hit[noted[-1].state] += 1
        except AssertionError as error:
            error.add_note(f"{agent.state.name}, task {agent.task}, start {agent.starts}")
            raise

    def _check_end(self, agent: Agent, noted: tuple[Noted, ...]) -> None:
        task = self.circle.tasks[agent.task]
        # The first installation of all devices, then one action for each task so far: none was
        # lost, none was done twice.
        assert len(noted) == 2 + agent.task
        assert noted[-1].state in FINAL
        assert noted[-1].state == ENDS[task.then]

    def _next(self, agent: Agent) -> None:
        agent.task = agent.task + 1
        assert agent.task < len(self.circle.tasks), "there are too few tasks"
        beside = agent.repository / "assignment.new"
        beside.write_bytes(self.circle.tasks[agent.task].content)
        beside.rename(agent.repository / PLACE)


def _tell_when_begun(tells: int, *, early: bool) -> None:
    advance = run.advance

    def told(*arguments: object) -> object:
        os.write(tells, b".")
        return advance(*arguments)  # type: ignore[arg-type]

    if early:
        os.write(tells, b".")
    else:
        run.advance = told  # type: ignore[assignment]


def _is_over(child: int) -> bool:
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _hunt(
    world: World,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    *,
    agents: int,
    kills: int,
    most_s: float,
) -> Killer:
    killer = Killer(Circle(world, folder, 40), folder, random.Random(20), agents)
    killer.run(kills, most_s)
    killer.finish()
    with capsys.disabled():
        sys.stdout.write(f"\n{killer.kills} kills of {agents} agents, {killer.done} tasks done\n")
        for state in TRANSITIONS:
            sys.stdout.write(f"  {state:13}{killer.hit[state]:6}\n")
    return killer


def test_a_few_agents_are_killed(
    world: World, memory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    killer = Killer(Circle(world, memory, 12), memory, random.Random(20), 4)
    killer.run(6, 2.0)
    killer.finish()
    assert killer.kills >= 2


@pytest.mark.long
def test_forty_agents_are_killed_two_thousand_times(
    world: World, memory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    killer = _hunt(world, memory, capsys, agents=AGENTS, kills=2000, most_s=480.0)
    assert killer.kills >= 2000
    assert set(TRANSITIONS) <= set(killer.hit)
