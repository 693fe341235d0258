"""What runs stays trustworthy: re-proven, revoked, damaged, short of memory; and nothing for ever."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.config import Config, Idle, Ladder
from agent.errors import NetworkError
from agent.manifest import Gate
from agent.updates.home import Home
from agent.updates.install import confirm_now, go_back, take_back
from agent.updates.journal import Action
from agent.updates.keeping import HOT_S, STEP_AGAIN_S, Keeper
from agent.updates.ladder import CALM_S
from agent.updates.proof import Asked, Proof
from agent.updates.recover import recover
from agent.updates.run import look, once
from agent.updates.status import status
from agent.variant import prepared_name
from sdk.release import ceremony
from tests.updates.devices import fresh_fleet
from tests.updates.fleet import MODEL, Fleet, passing, reports_of, silent
from tests.updates.machine import machine

LADDER = {"large": b"large " * 100, "small": b"small", "tiny": b"tiny"}


class Test:
    """A device with an agent whose turns the test takes."""

    __test__ = False

    def __init__(self, fleet: Fleet, root: Path) -> None:
        self.fleet, self.root = fleet, root
        self.now = 0.0
        self.refuses: dict[str, str] = {}
        self.proven: list[str] = []
        self.lines: list[str] = []
        self.config = fleet.device(root_folder=machine(root), ladder=Ladder(reserve_mib=100))
        self.home = Home(self.config)
        self.keeper = Keeper(self.prove, lambda: self.now)

    def prove(self, home: Home, asked: Asked, *, log: Path, time_limit_s: float) -> Proof:
        name = asked.variant.record.id.rpartition("/")[2]
        self.proven.append(name)
        if name in self.refuses:
            return Proof(passed=False, stage="golden", reasons=(self.refuses[name],))
        return passing(home, asked, log=log, time_limit_s=time_limit_s)

    def look(self) -> Action | None:
        return look(self.home, self.keeper, self.lines.append)

    def confirmed(self, action: Action | None) -> Action:
        assert action is not None
        assert action.state == "TRIAL", action.reason
        return confirm_now(self.home, MODEL)

    def installed(
        self, release: str, variants: dict[str, bytes] | None = None, **build: Any
    ) -> None:
        made = self.fleet.build(f"build-{release}", variants or {"best": release.encode()}, **build)
        self.fleet.release(release, made)
        self.confirmed(self.look())

    def restarted(self, **config: Any) -> None:
        """The agent ends and starts again, maybe with another configuration."""
        self.home.close()
        self.config = dataclasses.replace(self.config, **config)
        self.home = Home(self.config)
        self.keeper = Keeper(self.prove, lambda: self.now)

    def software(self, release: str) -> None:
        (self.root / "etc").mkdir(exist_ok=True)
        (self.root / "etc/os-release").write_text(f"ID=debian\nVERSION_ID={release}\n")

    def settled(self) -> None:
        """Nothing more is done, however often it is looked."""
        before = len(self.proven), len(self.home.journal.unsent(1000))
        for _ in range(3):
            assert self.look() is None
        assert (len(self.proven), len(self.home.journal.unsent(1000))) == before

    @property
    def runs(self) -> str:
        slots = self.home.slots(MODEL)
        slot = slots.read(slots.current())
        assert slot is not None
        return f"{slot.manifest.release} {slot.record.variant.rpartition('/')[2]}"

    @property
    def doubt(self) -> str | None:
        (model,) = status(self.config)["models"]
        found: str | None = model["doubt"]
        return found


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Test]:
    test = Test(fresh_fleet(tmp_path), tmp_path / "root")
    yield test
    test.home.close()


@pytest.mark.long
def test_what_changes_nothing_does_nothing(device: Test) -> None:
    device.installed("1.0.0")
    device.settled()
    assert device.proven == ["best"]


def test_changed_software_is_proven_anew_once(device: Test) -> None:
    device.installed("1.0.0")
    device.software("13")
    assert device.look() is None
    assert device.proven == ["best", "best"]
    device.settled()
    assert device.doubt is None


@pytest.mark.long
def test_software_that_changed_during_a_trial_is_noticed(device: Test) -> None:
    device.fleet.release("1.0.0")
    action = device.look()
    device.software("13")
    device.confirmed(action)
    assert device.look() is None
    assert device.proven == ["best", "best"]


def test_what_does_not_hold_gives_way_to_another_rung(device: Test) -> None:
    device.installed("1.0.0", LADDER)
    device.software("13")
    device.refuses = {"large": "golden data off"}
    action = device.look()
    assert device.runs == "1.0.0 small"
    assert device.confirmed(action).kind == "step"
    device.settled()
    assert device.doubt is None


@pytest.mark.long
def test_what_does_not_hold_goes_back_where_no_rung_holds(device: Test) -> None:
    device.installed("1.0.0")
    device.installed("2.0.0", LADDER)
    device.software("13")
    device.refuses = dict.fromkeys(LADDER, "golden data off")
    step = device.look()
    assert step is not None
    assert (step.kind, step.state) == ("step", "FAILED")
    back = device.look()
    assert back is not None
    assert back.kind == "rollback"
    device.confirmed(back)
    assert device.runs == "1.0.0 best"
    device.settled()


def test_what_does_not_hold_and_has_no_way_out_goes_on_and_says_so(device: Test) -> None:
    device.installed("1.0.0")
    device.software("13")
    device.refuses = {"best": "golden data off"}
    assert device.look() is None
    device.settled()
    assert device.proven == ["best", "best"]
    assert device.runs == "1.0.0 best"
    assert device.doubt == "it does not hold under this software: golden data off"
    assert any("nothing to go back to" in line for line in device.lines)
    device.software("14")
    device.refuses = {}
    assert device.look() is None
    assert device.doubt is None, "and under the next software it holds again"


@pytest.mark.long
def test_what_cannot_be_proven_anew_is_not_said_to_fail(device: Test) -> None:
    device.installed("1.0.0")
    device.restarted(repository=None)
    golden = device.home.slots(MODEL).read("A")
    assert golden is not None
    device.home.blobs.path(golden.manifest.golden.sha256).unlink()
    device.software("13")
    device.settled()
    assert device.doubt is None
    assert any("is not here any more" in line for line in device.lines)


@pytest.mark.long
def test_a_lost_journal_has_it_proven_anew(device: Test) -> None:
    device.installed("1.0.0")
    device.home.close()
    for path in device.config.state.glob("agent.db*"):
        path.unlink()
    device.restarted(repository=None)
    assert device.look() is None
    assert device.proven == ["best", "best"]
    device.settled()


@pytest.mark.long
def test_proving_anew_waits_for_the_device_to_come_to_rest(device: Test, tmp_path: Path) -> None:
    device.installed("1.0.0")
    hook = tmp_path / "hook"
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    device.restarted(idle=Idle(hook=str(hook)))
    device.software("13")
    device.settled()
    assert any("waiting for the device to come to rest" in line for line in device.lines)
    hook.write_text("#!/bin/sh\nexit 0\n")
    assert device.look() is None
    assert device.proven == ["best", "best"]


def revoke(fleet: Fleet, release: str) -> None:
    ceremony.revoke(fleet.repository(), MODEL, int(release[0]))


def test_a_revoked_release_goes_back(device: Test) -> None:
    device.installed("1.0.0")
    device.installed("2.0.0")
    revoke(device.fleet, "2.0.0")
    action = device.look()
    assert device.runs == "1.0.0 best"
    assert device.confirmed(action).reason
    device.settled()
    assert device.doubt is None


@pytest.mark.long
def test_a_revoked_release_goes_back_without_a_word_of_the_application(device: Test) -> None:
    device.installed("1.0.0")
    device.installed("2.0.0")
    revoke(device.fleet, "2.0.0")
    action = device.look()
    assert action is not None
    assert action.deadline is not None
    passed = dataclasses.replace(action.deadline, uptime_s=0.0)
    device.home.journal.enter(action, "TRIAL", "", deadline=passed)
    done = device.look()
    assert done is not None
    assert done.state == "CONFIRMED", "its trial does not lead back to what was revoked"
    assert device.runs == "1.0.0 best"


@pytest.mark.long
def test_a_revoked_release_with_nothing_behind_it_goes_on_and_says_so(device: Test) -> None:
    device.installed("1.0.0")
    revoke(device.fleet, "1.0.0")
    device.settled()
    assert device.doubt == "it was revoked"
    (model,) = status(device.config)["models"]
    assert model["revoked"] is True


@pytest.mark.long
def test_a_way_back_that_fails_is_tried_once(device: Test) -> None:
    device.installed("1.0.0")
    device.installed("2.0.0")
    revoke(device.fleet, "2.0.0")
    device.refuses = {"best": "golden data off"}
    action = device.look()
    assert action is not None
    assert action.state == "FAILED"
    device.settled()
    assert device.runs == "2.0.0 best"


@pytest.mark.long
def test_a_way_back_whose_files_are_gone_waits_for_the_network(device: Test) -> None:
    device.installed("1.0.0")
    device.installed("2.0.0")
    slots = device.home.slots(MODEL)
    old = slots.read(slots.spare())
    assert old is not None
    revoke(device.fleet, "2.0.0")
    for blob in (device.config.state / "blobs/sha256").iterdir():
        if blob.name == old.record.files[0].sha256:
            blob.unlink()
    device.restarted()
    shutil.move(device.fleet.repo / "blobs", device.fleet.folder / "elsewhere")
    for _ in range(3):
        with pytest.raises(NetworkError):
            device.look()
    assert device.runs == "2.0.0 best"
    (device.fleet.folder / "elsewhere").rename(device.fleet.repo / "blobs")
    device.confirmed(device.look())
    assert device.runs == "1.0.0 best"


@pytest.mark.long
def test_what_was_taken_back_is_no_way_back(device: Test) -> None:
    device.installed("1.0.0")
    device.fleet.release("2.0.0")
    assert device.look() is not None
    take_back(device.home, MODEL, "worse")
    revoke(device.fleet, "1.0.0")
    device.settled()
    assert device.runs == "1.0.0 best"


@pytest.mark.long
def test_a_damaged_slot_is_found_once_in_each_boot(device: Test) -> None:
    device.installed("1.0.0")
    device.installed("2.0.0")
    assert device.look() is None
    slot = device.config.state / "models" / MODEL / "current" / "model.bin"
    slot.chmod(0o644)
    slot.write_bytes(b"2.0.x")
    device.settled()
    machine(device.root, boot="second")
    device.restarted()
    action = device.look()
    assert device.runs == "1.0.0 best"
    device.confirmed(action)
    device.settled()


def test_damage_with_nothing_behind_it_is_said_and_not_looked_for_again(device: Test) -> None:
    device.installed("1.0.0")
    slot = device.config.state / "models" / MODEL / "current" / "model.bin"
    slot.chmod(0o644)
    slot.write_bytes(b"1.0.x")
    machine(device.root, boot="second")
    device.restarted()
    device.settled()
    assert device.doubt == "a file in slot A has changed"
    # The same release, installed again, is whole.
    device.fleet.assign(
        device.fleet.publish("1.0.1", device.fleet.build("again", {"best": b"1.0.0"}))
    )
    device.confirmed(device.look())
    assert device.doubt is None


def test_short_of_memory_it_steps_down_and_up_again(device: Test) -> None:
    device.installed("1.0.0", LADDER)
    device.settled()
    machine(device.root, free_mib=50)
    down = device.look()
    assert device.runs == "1.0.0 small"
    assert "50 MiB" in device.confirmed(down).reason or "step down" in "".join(device.lines)
    machine(device.root, free_mib=1000)
    device.settled()
    device.now += CALM_S - 1
    device.settled()
    device.now += 2
    up = device.look()
    device.confirmed(up)
    assert device.runs == "1.0.0 large"
    device.now += 10 * CALM_S
    device.settled()


@pytest.mark.long
def test_one_rung_at_a_time_and_back_to_where_it_was(device: Test) -> None:
    device.installed("1.0.0", LADDER)
    machine(device.root, free_mib=50)
    for name in ("small", "tiny"):
        device.confirmed(device.look())
        assert device.runs == f"1.0.0 {name}"
    device.settled()
    assert any("no rung is lighter" in line for line in device.lines)
    assert sum("no rung is lighter" in line for line in device.lines) == 1
    machine(device.root, free_mib=1000)
    for name in ("small", "large"):
        device.look()
        device.now += CALM_S
        device.confirmed(device.look())
        assert device.runs == f"1.0.0 {name}"


@pytest.mark.long
def test_a_variant_that_was_measured_faster_is_not_stepped_up_from(device: Test) -> None:
    variants = {"large": b"p50=9 " * 9, "small": b"p50=2 "}
    device.installed("1.0.0", variants, selection="measure")
    assert device.runs == "1.0.0 small"
    device.now += 10 * CALM_S
    device.settled()


@pytest.mark.long
def test_heat_counts_only_when_it_lasts(device: Test) -> None:
    device.installed("1.0.0", LADDER)
    machine(device.root, celsius=90)
    device.settled()
    machine(device.root, celsius=80)
    device.look()
    device.now += HOT_S
    machine(device.root, celsius=90)
    device.settled()
    device.now += HOT_S
    device.confirmed(device.look())
    assert device.runs == "1.0.0 small"


@pytest.mark.long
def test_a_step_that_did_not_hold_is_tried_again_much_later(device: Test) -> None:
    device.installed("1.0.0", LADDER)
    machine(device.root, free_mib=50)
    device.refuses = {"small": "too slow"}
    action = device.look()
    assert action is not None
    assert action.state == "FAILED"
    device.settled()
    device.now += STEP_AGAIN_S
    again = device.look()
    assert again is not None
    assert again.id != action.id
    assert device.runs == "1.0.0 large"


@pytest.mark.long
def test_a_step_ignores_how_fast_the_heavier_one_is(device: Test) -> None:
    gate = Gate(quantity="latency_us", ratio_max_permille=900, ratio_to="running")
    seen: list[Asked] = []
    device.installed("1.0.0", LADDER, gates=(gate,))
    proving = device.prove

    def prove(home: Home, asked: Asked, **options: Any) -> Proof:
        seen.append(asked)
        return proving(home, asked, **options)

    device.keeper.prove = prove
    machine(device.root, free_mib=50)
    device.confirmed(device.look())
    assert [asked.running for asked in seen] == [None]


@pytest.mark.long
def test_a_step_needs_no_network(device: Test) -> None:
    device.installed("1.0.0", LADDER)
    device.restarted(repository=None)
    machine(device.root, free_mib=50)
    device.confirmed(device.look())
    assert device.runs == "1.0.0 small"


@pytest.mark.long
def test_an_operator_goes_back_and_nothing_waits_for_the_hook(device: Test, tmp_path: Path) -> None:
    device.installed("1.0.0")
    device.installed("2.0.0")
    device.restarted(idle=Idle(hook=str(tmp_path / "none")), repository=None)
    action = go_back(device.home, MODEL, "worse", silent, device.prove)
    assert action.state == "TRIAL"
    assert device.runs == "1.0.0 best"


class Waiting:
    """An update that waits for the operator's hook on a device that something happens to."""

    def __init__(self, device: Test, folder: Path) -> None:
        self.device, self.hook = device, folder / "hook"
        self.says(1)
        device.restarted(idle=Idle(hook=str(self.hook)))
        device.fleet.release("3.0.0")
        waiting = device.look()
        assert waiting is not None
        assert waiting.state == "STAGED"
        self.id = waiting.id

    def says(self, code: int) -> None:
        self.hook.write_text(f"#!/bin/sh\nexit {code}\n")
        self.hook.chmod(0o755)

    def goes_on(self) -> None:
        """As soon as the device is at rest it is installed, and is the last that was."""
        device = self.device
        still = device.look()
        assert still is not None
        assert (still.id, still.state) == (self.id, "STAGED")
        self.says(0)
        action = device.look()
        assert action is not None
        assert action.id == self.id
        device.confirmed(action)
        assert device.runs == "3.0.0 best"
        last = device.home.journal.last(MODEL)
        assert last is not None
        assert last.id == self.id
        device.settled()


def test_a_step_goes_ahead_of_an_update_that_waits(device: Test, tmp_path: Path) -> None:
    device.installed("1.0.0", LADDER)
    waiting = Waiting(device, tmp_path)
    machine(device.root, free_mib=50)
    down = device.look()
    assert device.runs == "1.0.0 small"
    device.confirmed(down)
    machine(device.root, free_mib=1000)
    waiting.goes_on()


@pytest.mark.long
def test_a_step_that_fails_ahead_of_an_update_is_not_tried_at_every_poll(
    device: Test, tmp_path: Path
) -> None:
    device.installed("1.0.0", LADDER)
    waiting = Waiting(device, tmp_path)
    machine(device.root, free_mib=50)
    device.refuses = {"small": "too slow", "tiny": "too slow"}
    failed = device.look()
    assert failed is not None
    assert failed.state == "FAILED"
    for code in (2, 3):
        waiting.says(code)
        still = device.look()
        assert still is not None
        assert still.id == waiting.id
    machine(device.root, free_mib=1000)
    waiting.goes_on()


def test_a_revoked_release_is_left_while_an_update_waits(device: Test, tmp_path: Path) -> None:
    device.installed("1.0.0")
    device.installed("2.0.0")
    waiting = Waiting(device, tmp_path)
    revoke(device.fleet, "2.0.0")
    back = device.look()
    assert device.runs == "1.0.0 best"
    device.confirmed(back)
    waiting.goes_on()


@pytest.mark.long
def test_a_step_goes_ahead_of_an_update_that_cannot_be_fetched(device: Test) -> None:
    device.installed("1.0.0", LADDER)
    device.fleet.release("2.0.0")
    blobs = device.fleet.repo / "blobs"
    away = blobs.rename(device.fleet.folder / "away")
    with pytest.raises(NetworkError):
        device.look()
    machine(device.root, free_mib=50)
    with pytest.raises(NetworkError):
        device.look()
    device.confirmed(device.home.journal.unfinished())
    assert device.runs == "1.0.0 small"
    away.rename(blobs)
    machine(device.root, free_mib=1000)
    action = device.look()
    assert device.confirmed(action).release == "2.0.0"
    assert device.runs == "2.0.0 best"


@pytest.mark.long
def test_an_operator_goes_back_ahead_of_an_update_that_waits(device: Test, tmp_path: Path) -> None:
    device.installed("1.0.0")
    device.installed("2.0.0")
    waiting = Waiting(device, tmp_path)
    action = go_back(device.home, MODEL, "worse", silent, device.prove)
    assert action.state == "TRIAL"
    device.confirmed(action)
    assert device.runs == "1.0.0 best"
    waiting.goes_on()


@pytest.mark.long
def test_a_restart_in_a_trial_ahead_of_an_update_loses_neither(
    device: Test, tmp_path: Path
) -> None:
    device.installed("1.0.0", LADDER)
    waiting = Waiting(device, tmp_path)
    machine(device.root, free_mib=50)
    device.look()
    device.restarted()
    trial = recover(device.home, silent)
    assert trial is not None
    assert (trial.kind, trial.state) == ("step", "TRIAL")
    device.confirmed(trial)
    machine(device.root, free_mib=1000)
    waiting.goes_on()


@pytest.mark.long
def test_a_release_waits_for_the_hook_and_says_so_once(device: Test, tmp_path: Path) -> None:
    device.installed("1.0.0")
    hook = tmp_path / "hook"
    device.restarted(idle=Idle(hook=str(hook)))
    device.fleet.release("2.0.0")
    for _ in range(3):
        action = device.look()
        assert action is not None
        assert action.state == "STAGED"
    assert "cannot be run" in status(device.config)["action"]["reason"]
    assert action.writes <= 4, "a poll costs no write"
    told = [(told["state"], told["reason"]) for told in reports_of(device.home)]
    assert told[-1][0] == "STAGED"
    assert "cannot be run" in told[-1][1]
    assert len(told) == 3
    hook.write_text("#!/bin/sh\necho noise; exit 1\n")
    hook.chmod(0o755)
    action = device.look()
    assert action is not None
    assert action.reason == "waiting for the device to come to rest"
    hook.write_text("#!/bin/sh\nexit 0\n")
    device.confirmed(device.look())
    assert device.runs == "2.0.0 best"


@pytest.mark.long
def test_facts_of_another_release_are_not_believed(device: Test) -> None:
    device.installed("1.0.0", LADDER)
    machine(device.root, free_mib=50)
    device.confirmed(device.look())
    machine(device.root)
    device.installed("2.0.0", {"small": b"small 2", "large": b"large 2"})
    assert json.dumps(device.home.journal.fact(f"stepped:{MODEL}"))
    device.now += 10 * CALM_S
    device.settled()
    assert device.runs == "2.0.0 small"


@pytest.mark.long
def test_once_looks_after_things_too(device: Test) -> None:
    device.installed("1.0.0")
    device.installed("2.0.0")
    revoke(device.fleet, "2.0.0")
    assert once(device.home, silent, passing) is not None
    assert device.runs == "1.0.0 best"


@pytest.mark.long
def test_a_configuration_is_no_part_of_what_is_proven(device: Test) -> None:
    device.installed("1.0.0")
    device.restarted(poll_s=10.0)
    assert isinstance(device.config, Config)
    device.settled()


@pytest.mark.long
def test_what_was_prepared_here_is_hashed_like_the_rest(device: Test) -> None:
    proving = device.prove

    def prepares(home: Home, asked: Asked, **options: Any) -> Proof:
        folder = home.folder / "prepared" / prepared_name(asked.variant.record)
        if not folder.exists():
            folder.mkdir()
            (folder / "engine").write_bytes(b"made here")
        return proving(home, asked, **options)

    device.keeper.prove = prepares
    device.installed("1.0.0")
    (folder,) = (device.config.state / "prepared").iterdir()
    device.settled()
    (folder / "engine").write_bytes(b"made elsewhere")
    device.settled()  # each file is hashed once in a boot
    machine(device.root, boot="second")
    device.restarted()
    device.keeper.prove = prepares
    assert device.look() is None
    assert device.proven == ["best", "best"]
    assert (folder / "engine").read_bytes() == b"made here"
    device.settled()
    # What is prepared for releases that are gone goes as well.
    device.installed("2.0.0")
    device.installed("3.0.0")
    assert folder not in set((device.config.state / "prepared").iterdir())
    assert len(list((device.config.state / "prepared").iterdir())) == 2
