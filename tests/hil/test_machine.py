"""A rig in a network and with a boot of its own: its link is cut and slowed, it hangs, it is reset."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import hil.link
import hil.rig
from agent.bench import Budget, Measurement
from agent.errors import NetworkError, SlipwayError, StorageError
from agent.tensors import write_tensors
from hil import bench
from hil.bench import RunFailedError
from hil.outcome import LinkLostError
from hil.reach import Place
from hil.recovery import Patience, recovering
from hil.rig import Rig
from sdk.rig_bench import RigBench
from sdk.workers import Workers
from tests.hil.conftest import file_of, lend_runtimes
from tests.hil.machines import Machine, SlowLine
from tests.hil.stuck import stuck_file
from tests.hil.variants import tiny_onnx

pytestmark = [pytest.mark.device, pytest.mark.long]
SOON = Patience(reach_s=4.0, return_s=20.0)


@pytest.fixture(scope="module")
def made() -> Iterator[Machine]:
    with tempfile.TemporaryDirectory(prefix="slipway-rig-") as name:
        Path(name).chmod(0o755)
        found = Machine(Path(name))
        yield found
        found.down()


@pytest.fixture
def machine(made: Machine, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """On, and reachable; a client here finds in seconds what takes it half a minute."""
    monkeypatch.setattr(hil.rig, "ANSWER_S", 1.5)
    monkeypatch.setattr(hil.rig, "BEAT_S", 0.3)
    monkeypatch.setattr(hil.link, "CONNECT_S", 2.0)
    made.power("on")
    made.link("up")
    return made


def _leased(place: Place) -> Rig:
    until = time.monotonic() + 10
    while True:
        try:
            rig = place.open()
            break
        except NetworkError:  # for a moment after a cut nobody answers for its address
            if time.monotonic() > until:
                raise
        time.sleep(0.2)
    rig.lease("me@here a test", lambda _: None, wait_s=45)
    return rig


def _soon(work: object, after_s: float) -> None:
    timer = threading.Timer(after_s, work)  # type: ignore[arg-type]
    timer.daemon = True
    timer.start()


# The link


def test_a_push_over_a_slow_link_that_is_cut_goes_on_where_it_was(
    machine: Machine, tmp_path: Path
) -> None:
    content = os.urandom(6 << 20)
    name, path = file_of(tmp_path, content)
    entry = machine.place().entry
    slow = SlowLine(entry.host, entry.port, 2e6)
    machine.known_at(slow.port)
    place = machine.place(host="127.0.0.1", port=slow.port)
    rig = _leased(place)

    def cut(sent: int, of: int) -> None:
        if sent > of // 2:
            machine.link("down")

    with pytest.raises(LinkLostError) as caught:
        rig.push({name: path}, cut)
    assert caught.value.outcome == "link_lost"
    slow.close()
    machine.link("up")
    with _leased(machine.place()) as again:
        rest = again.push({name: path})
        assert 0 < rest < len(content), "what came through was kept"
        assert again.push({name: path}) == 0
    rig.close()
    assert machine.quiet()


def test_a_link_that_is_cut_for_a_moment_does_not_end_a_run(machine: Machine) -> None:
    with _leased(machine.place()) as rig:
        _soon(lambda: machine.link("down"), 0.3)
        _soon(lambda: machine.link("up"), 0.8)
        assert bench.command(rig, ["sleep", "4"], time_limit_s=90, on_output=lambda _: None) == 0


def test_a_link_that_is_cut_in_a_run_and_comes_back_is_link_lost(machine: Machine) -> None:
    place = machine.place(power=None)
    rig = _leased(place)
    _soon(lambda: machine.link("down"), 0.5)
    _soon(lambda: machine.link("up"), 4.0)
    with (
        pytest.raises(LinkLostError) as caught,
        recovering(place, rig, "me@here a test", lambda _: None, SOON),
    ):
        bench.command(rig, ["sleep", "77"], time_limit_s=90, on_output=lambda _: None)
    assert caught.value.outcome == "link_lost"
    assert machine.quiet(), "its run was ended there"
    with _leased(place) as again:
        assert bench.look(again).identity["arch"], "the next one has it"


def test_a_link_that_is_cut_in_a_fetch_is_link_lost(machine: Machine) -> None:
    entry = machine.place().entry
    slow = SlowLine(entry.host, entry.port, 4e6)
    machine.known_at(slow.port)
    rig = _leased(machine.place(host="127.0.0.1", port=slow.port))
    program = ["dd", "if=/dev/zero", "of=big", "bs=1M", "count=32", "status=none"]
    run = rig.run("command", program=program, time_limit_s=20)["run"]
    _soon(lambda: machine.link("down"), 1.0)
    with pytest.raises(LinkLostError):
        rig.fetch(run, "big")
    slow.close()
    machine.link("up")
    with _leased(machine.place()) as again:
        assert again.hello["holder"] is None or again.is_leased
    assert not list((machine.folder / "rig" / "runs").iterdir())
    assert machine.quiet()


# The machine


def _run_that_never_ends(place: Place, said: list[str]) -> RunFailedError:
    rig = _leased(place)
    with (
        pytest.raises(RunFailedError) as caught,
        recovering(place, rig, "me@here a test", said.append, SOON),
    ):
        bench.command(rig, ["sleep", "77"], time_limit_s=90, on_output=lambda _: None)
    return caught.value


def test_a_machine_that_is_reset_in_a_run_is_told_by_its_boot_id(machine: Machine) -> None:
    before = machine.boot_id

    def reset() -> None:
        machine.power("off")
        machine.power("on")

    _soon(reset, 1.0)
    said: list[str] = []
    error = _run_that_never_ends(machine.place(), said)
    assert error.outcome == "rig_reset"
    assert machine.boot_id != before
    rig = machine.place().open()
    assert rig.lease("me@here", lambda _: None, wait_s=20) == ["1 runs that were cut off"]
    rig.close()


def test_in_whose_turn_the_machine_goes_is_out_and_the_others_are_measured(
    machine: Machine, tmp_path: Path
) -> None:
    place = machine.place()
    lend_runtimes(place.entry)
    folders = {name: tmp_path / name for name in ("one", "fatal", "other")}
    for folder in folders.values():
        tiny_onnx(folder)
    x = np.ones((1, 8), np.float32)
    write_tensors(tmp_path / "inputs", [("00000/in/x", x)])
    (tmp_path / "logs").mkdir()
    before, said = machine.boot_id, list[str]()

    def reset_in_its_turn() -> None:
        while not list((machine.folder / "rig" / "runs").glob("*/fatal.log")):
            time.sleep(0.01)
        machine.power("off")
        machine.power("on")

    threading.Thread(target=reset_in_its_turn, daemon=True).start()
    rig = RigBench(place, said.append, tmp_path / "locks", tmp_path / "timed")
    with contextlib.closing(rig):
        there = rig.contest(
            folders, inputs=tmp_path / "inputs", budget=Budget(seconds_per_contestant=0.1),
            race=None, turn_limit_s=60, log_folder=tmp_path / "logs",
            workers=Workers(tmp_path / "locks"),
        )  # fmt: skip
    assert machine.boot_id != before
    assert there.found.keys() == {"one", "other"}
    assert all(isinstance(one, Measurement) for one in there.found.values())
    (lost,) = there.out.values()
    assert (lost.name, lost.kind) == ("fatal", "crashed")
    assert "started anew" in lost.message
    assert "started anew" in (tmp_path / "logs" / "fatal.log").read_text()
    assert "fatal is out: the run ended in its turn (rig_reset)" in said


def test_a_machine_that_hangs_is_switched_off_and_on(machine: Machine) -> None:
    before = machine.boot_id
    _soon(machine.freeze, 1.0)
    said: list[str] = []
    error = _run_that_never_ends(machine.place(), said)
    assert error.outcome == "hang"
    assert "is back" in error.what
    assert any("switched off and on" in line for line in said)
    assert machine.boot_id != before
    with _leased(machine.place()) as again:
        assert bench.look(again).identity["arch"]


def test_one_that_hangs_and_has_no_switch_says_so(machine: Machine) -> None:
    _soon(machine.freeze, 1.0)
    error = _run_that_never_ends(machine.place(power=None), [])
    assert error.outcome == "hang"
    assert "takes connections, and answers none" in error.what
    machine.power("off")


def test_a_process_that_cannot_be_ended_puts_the_rig_aside_until_a_new_start(
    machine: Machine,
) -> None:
    place = machine.place(power=None)
    machine.power("off")
    with stuck_file(machine.folder / "device") as stuck:
        machine.power("on")  # its view of the files begins with what is mounted now
        rig = _leased(place)
        with (
            pytest.raises(RunFailedError, match="put aside") as caught,
            recovering(place, rig, "me@here a test", lambda _: None, SOON),
        ):
            bench.command(rig, ["cat", str(stuck)], time_limit_s=1, on_output=lambda _: None)
        assert caught.value.outcome == "hang"
        rig.close()
        said: list[str] = []
        with pytest.raises(StorageError, match="cannot be ended"), place.leased(
            "you@there a build", said.append, wait_s=5
        ):  # fmt: skip
            pytest.fail("it was let in")
        assert "looked at again" in said[0]
    machine.power("off")
    machine.power("on")
    with place.leased("you@there a build", said.append, wait_s=5) as again:
        assert again.look_again()["aside"] is None


def test_a_link_that_stays_cut_is_told_within_the_patience(machine: Machine) -> None:
    place = machine.place(power=None)
    rig = _leased(place)
    _soon(lambda: machine.link("down"), 0.5)
    began = time.monotonic()
    with (
        pytest.raises(SlipwayError) as caught,
        recovering(place, rig, "me@here a test", lambda _: None, Patience(reach_s=3, return_s=3)),
    ):
        bench.command(rig, ["sleep", "77"], time_limit_s=90, on_output=lambda _: None)
    assert isinstance(caught.value, LinkLostError)
    assert time.monotonic() - began < 20
