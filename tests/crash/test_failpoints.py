"""Every operation of every way through an update, ended before it and after it; then a restart."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agent import disk
from agent.disk import Moment, Operation
from tests.crash.world import SCENARIOS, BrokenError, Scenario, World, check_end, forked

Die = Callable[[], object]
WAYS: dict[str, Die] = {
    "exit": lambda: os._exit(9),
    "SIGKILL": lambda: os.kill(os.getpid(), signal.SIGKILL),
}
RESTARTS = 3


class Fuse:
    """An observer that ends the process at its n-th call, and counts the calls."""

    def __init__(self, at: int, die: Die) -> None:
        self.at, self.die, self.calls = at, die, 0

    def __call__(self, _: Operation, __: Moment) -> None:
        if self.calls == self.at:
            self.die()
        self.calls += 1


def _work(world: World, scenario: Scenario, state: Path, at: int, die: Die) -> int:
    """Do it with a fuse; the calls that there were, as far as it came."""
    fuse = Fuse(at, die)
    with disk.observed(fuse), world.home(state, scenario.release) as home:
        scenario.work(world, home)
    return fuse.calls


def _calls(world: World, scenario: Scenario, folder: Path) -> int:
    state = world.device(scenario.kind, folder)
    calls = _work(world, scenario, state, -1, os.abort)
    check_end(world, scenario, state)
    shutil.rmtree(state)
    return calls


def _killed(world: World, scenario: Scenario, state: Path, at: int, way: str) -> bool:
    """Whether it was ended there; what has to hold then is checked."""
    status = forked(lambda: _work(world, scenario, state, at, WAYS[way]))
    if status not in (0, 9, -signal.SIGKILL):
        raise BrokenError(f"it failed with {status}")
    world.check_folder(state)
    return status != 0


def _matrix(world: World, scenario: Scenario, folder: Path, stride: int, offset: int) -> int:
    """End it at every `stride`-th moment, each in both ways, and go on; the cases."""
    cases = 0
    for at in range(offset % stride, _calls(world, scenario, folder / "count"), stride):
        for way in WAYS:
            state = world.device(scenario.kind, folder / "device")
            try:
                assert _killed(world, scenario, state, at, way)
                _work(world, scenario, state, -1, os.abort)
                check_end(world, scenario, state)
            except BaseException as error:
                error.add_note(f"{way} at call {at}")
                raise
            shutil.rmtree(state)
            cases += 1
    return cases


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_few_failpoints(world: World, memory: Path, name: str) -> None:
    assert _matrix(world, SCENARIOS[name], memory, stride=83, offset=len(name)) >= 2


@pytest.mark.long
@pytest.mark.parametrize("name", SCENARIOS)
def test_every_failpoint(
    world: World, memory: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = _matrix(world, SCENARIOS[name], memory, stride=1, offset=0)
    with capsys.disabled():
        sys.stdout.write(f"\nfailpoints, {name}: {cases} cases\n")
    assert cases >= 60


def _again_and_again(
    world: World, scenario: Scenario, folder: Path, rng: random.Random, calls: int
) -> None:
    """Ended in the work, and in the restarts that follow; the last one is let be."""
    state = world.device(scenario.kind, folder)
    moments = [rng.randrange(calls), *(rng.randrange(60) for _ in range(RESTARTS - 1))]
    for at in moments:
        if not _killed(world, scenario, state, at, "SIGKILL"):
            break
    _work(world, scenario, state, -1, os.abort)
    check_end(world, scenario, state)
    shutil.rmtree(state)


@pytest.mark.parametrize("name", SCENARIOS)
def test_ends_in_the_work_and_in_its_restarts(world: World, memory: Path, name: str) -> None:
    rng = random.Random(name)
    calls = _calls(world, SCENARIOS[name], memory / "count")
    for _ in range(2):
        _again_and_again(world, SCENARIOS[name], memory / "device", rng, calls)


@pytest.mark.long
@pytest.mark.parametrize("name", SCENARIOS)
def test_many_ends_in_the_work_and_in_its_restarts(world: World, memory: Path, name: str) -> None:
    rng = random.Random(f"many {name}")
    calls = _calls(world, SCENARIOS[name], memory / "count")
    for _ in range(100):
        _again_and_again(world, SCENARIOS[name], memory / "device", rng, calls)
