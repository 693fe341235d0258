"""Rollouts that go by what devices measured: signed reports to a real server, on both databases."""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from agent.codec import encode
from agent.manifest import Gate
from agent.updates.wire import Reports
from sdk.fleet import tables as t
from sdk.fleet.chores import move_on
from sdk.fleet.database import writing
from sdk.fleet.rules.bounds import median_of
from sdk.fleet.rules.gates import AdvanceIf, StageGate
from sdk.fleet.rules.rollout import Progress, Stage, Tally
from sdk.fleet.store import gates, rollouts
from tests.fleet.client import Client
from tests.fleet.postgres import fresh_database
from tests.fleet.world import PRINT, Device, World, doing, runs

ARM = dataclasses.replace(PRINT, identity={**PRINT.identity, "arch": "aarch64"})
ONE = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
"""Where it makes no difference which database it is."""
LATENCY = {"quantity": "latency", "limit_ppm": 1_100_000}
Facts = Mapping[str, Any]


class Line:
    """Devices of two kinds that run 1.0.0, and a release 1.1.0 to come."""

    def __init__(self, client: Client, groups: Mapping[str, int]) -> None:
        """So many devices of each kind in each group."""
        self.client, self.world = client, client.world
        self.old = self.world.fleet.publish("1.0.0").manifest_sha256
        self.new = self.world.fleet.publish("1.1.0").manifest_sha256
        self.devices: list[Device] = []
        for group, count in groups.items():
            for fingerprint in (PRINT, ARM):
                self.devices += [client.enrolled(group, print=fingerprint) for _ in range(count)]

    def of(self, arch: str) -> list[Device]:
        return [one for one in self.devices if one.print.identity["arch"] == arch]

    def assign(self, release: str = "1.1.0", **more: Any) -> str:
        body = {"model": "net", "release": release, "halt_if": [], **more}
        return str(self.client.do("POST", "/rollouts", body)["rollout"])

    def all_run(self, release: str) -> str:
        """Everybody takes a release that nothing is asked of, and confirms it."""
        rollout = self.assign(release)
        sha256 = {"1.0.0": self.old, "1.1.0": self.new}[release]
        for device in self.devices:
            assert self.client.poll(device).assignment is not None
            self.ends(device, rollout, "CONFIRMED", sha256)
        self.look()
        assert self.show(rollout)["state"] == "finished"
        return rollout

    def measure(
        self, rollout: str, facts: Mapping[str, Facts], devices: Sequence[Device] = ()
    ) -> int:
        """Those that are handed it try it, report by their kind of hardware, and confirm it."""
        took = 0
        for device in devices or self.devices:
            running = (runs(self.old, release="1.0.0"),)
            if self.client.poll(device, models=running).assignment is None:
                continue
            took += 1
            self.report(device, rollout, facts[device.print.identity["arch"]])
            self.ends(device, rollout, "CONFIRMED", self.new)
        self.look()
        return took

    def report(
        self, device: Device, rollout: str, facts: Facts, state: str = "TRIAL", **more: Any
    ) -> str:
        """What came of a signed report."""
        told = {"variant": "v", "proof": {"v": {"facts": facts}}, "manifest_sha256": self.new}
        envelope = device.report(f"{rollout}-{device.device_id}", state, **{**told, **more})
        found = self.client.signed(device, "/v1/reports", Reports(reports=(envelope,)))
        return str(found.json["results"][0])

    def ends(self, device: Device, rollout: str, state: Any, sha256: str) -> None:
        action = f"{rollout}-{device.device_id}"
        running = (runs(sha256),)
        self.client.poll(device, actions=(doing(action, state, 9),), models=running)

    def look(self) -> None:
        move_on(self.world.server)

    def show(self, rollout: str) -> Any:
        return self.client.do("GET", f"/rollouts/{rollout}")

    def verdicts(self, rollout: str) -> dict[tuple[str, str], str]:
        judged = self.show(rollout)["judged"]
        return {(one["gate"], one["hardware"]): one["verdict"] for one in judged}


@pytest.fixture(
    params=["sqlite", pytest.param("postgresql", marks=[pytest.mark.postgresql, pytest.mark.long])]
)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """As in all tests of the fleet; the second kind takes its time."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'fleet.db'}"
    else:
        with fresh_database() as url:
            yield url


@pytest.fixture
def line(client: Client) -> Iterator[Line]:
    return Line(client, {"lab": 6, "factory": 1})  # type: ignore[return-value]


def ratio(latency: float, **more: float) -> Facts:
    told = {"latency@500": str(latency), **{name: str(value) for name, value in more.items()}}
    return {"ratios_to_running": told}


def staged(*told: Mapping[str, Any], **how: Any) -> list[dict[str, Any]]:
    """The laboratory, which has to prove it, and then the factory."""
    first = {"group": "lab", "share": 1.0, "advance_if": {"gates": list(told), **how}}
    return [first, {"group": "factory", "share": 1.0}]


@ONE
def test_a_release_that_is_as_fast_on_all_hardware_goes_on(line: Line) -> None:
    memory = {"quantity": "memory", "limit_ppm": 1_200_000}
    agreement = {"quantity": "agreement", "limit_ppm": 990_000}
    drop = {"quantity": "drop", "limit_ppm": 10_000}
    rollout = line.assign(stages=staged(LATENCY, memory, agreement, drop))
    facts = {
        **ratio(1.02, memory=1.1), "agreement": {"y": "0.999", "z": "0.995"},
        "drop": {"value": "0.002", "low": "0.0", "high": "0.009"},
    }  # fmt: skip
    lab, factory = line.devices[:12], line.devices[12:]
    assert line.measure(rollout, {"x86_64": facts, "aarch64": facts}, lab) == 12
    found = line.show(rollout)
    assert (found["stage"], found["state"]) == (1, "running")
    assert line.measure(rollout, {"x86_64": {}, "aarch64": {}}, factory) == 2
    assert line.show(rollout)["state"] == "finished"


@pytest.mark.parametrize("on_halt", ["pause", "revert"])
def test_one_kind_of_hardware_that_got_slower_stops_it_for_all(line: Line, on_halt: str) -> None:
    line.all_run("1.0.0")
    rollout = line.assign(stages=staged(LATENCY), on_halt=on_halt)
    facts = {"x86_64": ratio(0.9), "aarch64": ratio(1.3)}
    assert line.measure(rollout, facts) == 12
    found = line.show(rollout)
    assert found["stage"] == 0, "the factory has not seen it"
    assert line.verdicts(rollout) == {
        ("latency@500", "aarch64"): "broken", ("latency@500", "x86_64"): "passed",
    }  # fmt: skip
    scraped = line.client.ask("GET", "/metrics").content.decode().splitlines()
    broken = 1.0 if on_halt == "pause" else 0.0  # one that is taken back is over
    assert f'slipway_gates{{verdict="broken"}} {broken}' in scraped
    told = "stage 1: latency@500 of aarch64 is 1.3 (1.3 to 1.3) on 6 devices, at most 1.1 is asked"
    if on_halt == "pause":
        assert (found["state"], found["reason"]) == ("halted", f"{told}: broken")
        assert line.measure(rollout, facts) == 0
        return
    assert found["state"] == "reverting"
    (back,) = [one for one in line.client.do("GET", "/rollouts")["items"] if one["reverts"]]
    assert back["release"] == "1.0.0"
    for device in line.devices[:12]:
        assert line.client.poll(device, models=(runs(line.new),)).assignment is not None
        line.ends(device, back["id"], "CONFIRMED", line.old)
    line.look()
    assert line.show(rollout)["state"] == "reverted"


@ONE
def test_devices_that_report_first_do_not_decide(line: Line) -> None:
    """Whoever lies can be quick; what they say is held against all that are still out."""
    rollout = line.assign(stages=staged(LATENCY, liars=0.0))
    for device in line.devices:
        line.client.poll(device)
    for device in line.devices[:5]:
        line.report(device, rollout, ratio(9.0))
        line.ends(device, rollout, "CONFIRMED", line.new)
    line.look()
    found = line.show(rollout)
    assert (found["state"], found["stage"]) == ("running", 0)
    assert {(one["verdict"], one["low"]) for one in found["judged"]} == {("unclear", None)}
    for device in line.devices[5:12]:
        line.report(device, rollout, ratio(9.0))
    line.look()
    assert line.show(rollout)["state"] == "halted", "whatever the application says of it later"


@ONE
def test_what_did_not_stop_a_rollout_is_not_waived_with_what_did(line: Line) -> None:
    memory = {"quantity": "memory", "limit_ppm": 1_100_000}
    rollout = line.assign(
        stages=staged(LATENCY, memory), halt_if=[{"share": 0.5, "at_least": 1}]
    )  # fmt: skip
    line.client.poll(line.devices[0])
    line.ends(line.devices[0], rollout, "FAILED", line.old)
    line.look()
    assert line.show(rollout)["state"] == "halted"
    line.client.do("POST", f"/rollouts/{rollout}/resume")
    slow = {"latency@500": "2.0", "memory": "1.0"}
    facts = {"ratios_to_running": slow}
    line.measure(rollout, {"x86_64": facts, "aarch64": facts}, line.devices[1:])
    found = line.show(rollout)
    assert found["state"] == "halted", "no gate had stopped it, and none was waived"
    stopped = {(one["gate"], one["hardware"]) for one in found["judged"] if one["stopped"]}
    assert stopped == {("latency@500", "aarch64")}
    line.client.do("POST", f"/rollouts/{rollout}/resume")
    line.look()
    judged = line.show(rollout)["judged"]
    waived = {(one["gate"], one["hardware"]) for one in judged if one["waived"]}
    assert waived == {("latency@500", "aarch64")}


@ONE
def test_too_few_devices_stop_it_or_are_passed_over_as_was_asked(line: Line) -> None:
    body = {"model": "net", "release": "1.1.0", "dry_run": True}
    body["stages"] = staged(LATENCY, at_least=9)
    found = line.client.do("POST", "/rollouts", body)["fit"]["unproven"]
    assert found[0] == (
        "stage 1 reaches about 7 of the 7 devices of aarch64, and its gates need 9: it stops there"
    )
    facts = {"x86_64": ratio(0.9), "aarch64": ratio(0.9)}
    rollout = line.assign(stages=staged(LATENCY, at_least=9))
    line.measure(rollout, facts)
    found = line.show(rollout)
    assert (found["state"], found["stage"]) == ("running", 0)
    assert "on 6 devices of 9, at most 1.1 is asked: unproven" in found["reason"]
    with writing(line.world.server.engine) as connection:
        decision = rollouts.tick(connection, rollout, time.time() + 86401.0)
    assert decision is not None
    assert (decision.step, line.show(rollout)["state"]) == ("halt", "halted")
    line.client.do("POST", f"/rollouts/{rollout}/resume")
    line.look()
    found = line.show(rollout)
    assert (found["state"], found["stage"]) == ("running", 1), "an operator has seen it"


@ONE
def test_hardware_that_is_rare_is_passed_over_where_that_was_asked(line: Line) -> None:
    rollout = line.assign(stages=staged(LATENCY, at_least=7, unproven="pass"))
    line.measure(rollout, {"x86_64": ratio(0.9), "aarch64": ratio(0.9)})
    found = line.show(rollout)
    assert (found["state"], found["stage"]) == ("running", 1)
    assert "latency@500 of aarch64 is 0.9 (0.9 to 0.9) on 6 devices of 7" in found["reason"]


def test_a_device_counts_once_and_only_for_its_own_rollout(line: Line) -> None:
    rollout = line.assign(stages=staged(LATENCY))
    liar, other, outside = line.devices[0], line.devices[1], line.devices[-1]
    line.client.poll(liar)
    line.client.poll(other)
    for state in ("TRIAL", "CONFIRMED", "ROLLED_BACK", "FAILED"):
        assert line.report(liar, rollout, ratio(50.0), state) == "stored"
    assert line.report(other, rollout, ratio(1.0), manifest_sha256="b" * 64) == "stored"
    assert line.report(outside, rollout, ratio(1.0)) == "stored"
    assert [(row.device_id, row.value) for row in world_figures(line.world)] == [
        (liar.device_id, 50.0)
    ]
    for said in ("NaN", "Infinity", "-1.0", "0", "1e400", "1e7", "fast", True, None, []):
        facts = {"ratios_to_running": {"latency@500": said}}
        assert line.report(other, rollout, facts, "CONFIRMED").startswith("refused"), said
    assert len(world_figures(line.world)) == 1
    assert line.report(liar, rollout, ratio(2.0), "ROLLING_BACK") == "stored"
    assert [row.value for row in world_figures(line.world)] == [2.0], "its last one"


@ONE
def test_a_device_that_refused_the_release_is_heard_too(line: Line) -> None:
    """Or else those that it suits least would have no say."""
    rollout = line.assign(stages=staged(LATENCY))
    device = line.devices[0]
    line.client.poll(device)
    proof = {"a": {"facts": ratio(1.9)}, "b": {"facts": ratio(1.4)}, "c": {"facts": {}}}
    more = {"variant": None, "proof": proof}
    assert line.report(device, rollout, {}, "FAILED", **more) == "stored"
    assert [row.value for row in world_figures(line.world)] == [1.4]


@pytest.mark.long
def test_devices_that_lie_far_out_are_named_and_can_be_taken_out(client: Client) -> None:
    line = Line(client, {"lab": 20})
    asked = {"gates": [LATENCY], "at_least": 20}
    rollout = line.assign(stages=[{"share": 1.0, "advance_if": asked}])
    facts = {"x86_64": ratio(1.0), "aarch64": ratio(1.01)}
    liars = line.of("x86_64")[:4]
    line.measure(rollout, {"x86_64": ratio(30.0), "aarch64": {}}, liars)
    line.measure(rollout, facts, [one for one in line.devices if one not in liars])
    found = line.show(rollout)
    assert {one["device"] for one in found["odd"]} == {one.device_id for one in liars}
    assert {(one["gate"], one["value"], one["median"]) for one in found["odd"]} == {
        ("latency@500", 30.0, 1.0)
    }
    assert found["ratios"]["x86_64"] == {"median": 1.0, "devices": 20}
    # Of 20 devices, 4 that lie can hold it up; they cannot turn it.
    assert line.verdicts(rollout)["latency@500", "x86_64"] == "unclear"
    for one in liars[:2]:
        client.do("POST", f"/devices/{one.device_id}/reject", {"why": "it lies"})
    line.look()
    assert line.verdicts(rollout)["latency@500", "x86_64"] == "unproven", "18 of 20"


@ONE
def test_the_share_that_confirmed_it_is_a_gate_too(line: Line) -> None:
    confirmed = {"quantity": "confirmed", "limit_ppm": 900_000}
    stages = staged(confirmed, liars=0.0)
    stages[0]["confirmed_share"] = 0.01
    rollout = line.assign(stages=stages)
    for n, device in enumerate(line.devices[:12]):
        line.client.poll(device)
        is_arm = device.print is ARM
        line.ends(device, rollout, "FAILED" if is_arm and n % 2 else "CONFIRMED", line.new)
    line.look()
    assert line.verdicts(rollout) == {
        ("confirmed", "aarch64"): "broken", ("confirmed", "x86_64"): "unclear",
    }  # fmt: skip
    assert line.show(rollout)["state"] == "halted"


@ONE
def test_what_is_looser_than_the_release_is_refused(client: Client) -> None:
    world = client.world
    client.enrolled("lab")
    own = Gate(quantity="latency_us", ratio_max_permille=1300, ratio_to="running")
    world.fleet.publish("1.0.0", world.fleet.build(gates=(own,)))
    body = {"model": "net", "release": "1.0.0", "group": "lab"}

    def asked(over: int) -> list[dict[str, Any]]:
        gate = {"quantity": "latency", "limit_ppm": 1_300_000 + over}
        own_gate = encode(dataclasses.replace(own, ratio_max_permille=1300 + over))
        stage = {"share": 1.0, "advance_if": {"gates": [gate]}}
        return [{**body, "gates": [own_gate]}, {**body, "stages": [stage]}]

    for one, told in zip(asked(1), ("1301", "1300001"), strict=True):
        found = client.admin("POST", "/rollouts", one)
        assert (found.status, found.code) == (422, "impossible")
        what = found.json["error"]["what"]
        assert f": {told} is looser than the release's own, 1300" in what
    assert world.count(t.rollout) == 0
    for one in asked(0):
        assert client.do("POST", "/rollouts", {**one, "dry_run": True})["rollout"] is None


def test_the_database_finds_what_the_rules_do(world: World) -> None:
    draw, advance = random.Random(5), AdvanceIf(gates=(StageGate(quantity="memory", limit_ppm=1),))
    told = {f"d{n}": draw.choice([0.5, 1.0, draw.lognormvariate(0.0, 0.5)]) for n in range(57)}
    fill(world, "r1", "memory", told)
    for count, out in ((3, 0), (3, 9), (6, 0), (20, 0), (20, 3), (20, 40), (57, 0)):
        with writing(world.server.engine) as connection:
            names = list(told)[count:]
            connection.execute(t.figure.delete().where(t.figure.c.device_id.in_(names)))
            known = tried("x86_64", over=count, out=out)
            (found,) = gates.judge(connection, Row("r1", advance), known)
            connection.rollback()
        values = list(told.values())[:count]
        expected = median_of(values, advance.confidence, advance.liars, out)
        assert (found.devices, found.value) == (expected.devices, expected.value)
        assert (found.low, found.high) == (expected.low, expected.high)


def test_a_look_takes_no_more_questions_of_a_larger_fleet_and_a_poll_none(client: Client) -> None:
    world = client.world
    asked: list[str] = []
    sa.event.listen(
        world.server.engine, "before_cursor_execute",
        lambda *told: asked.append(told[2]),
    )  # fmt: skip
    advance = AdvanceIf(gates=(StageGate(quantity="memory", limit_ppm=1),))

    def questions(rollout: str, devices: int) -> int:
        fill(world, rollout, "memory", {f"{rollout}-{n}": 1.0 + n for n in range(devices)})
        asked.clear()
        with writing(world.server.engine) as connection:
            gates.judge(connection, Row(rollout, advance), tried("x86_64"))
        return sum("figure" in one for one in asked)

    assert questions("r1", 10) == questions("r2", 400) == 4
    line = Line(client, {"lab": 6})
    rollout = line.assign(stages=staged(LATENCY)[:1])
    line.measure(rollout, {"x86_64": ratio(1.0), "aarch64": ratio(1.0)}, line.devices[:5])
    asked.clear()
    client.poll(line.devices[0])
    client.poll(line.devices[-1])
    assert asked
    assert not [one for one in asked if "figure" in one]


@dataclasses.dataclass
class Row:
    """What is read of a rollout's row."""

    id: str
    advance: AdvanceIf
    waived: None = None

    @property
    def plan(self) -> Any:
        return encode({"stages": [Stage(share=1.0, advance_if=self.advance)]})


def tried(hardware: str, *, over: int = 1, out: int = 0) -> Progress:
    found = Tally({"confirmed": over, "trying": out})
    return Progress(
        stage=0, in_stage=found, quiet_s=0.0, in_stage_by_hardware={hardware: found}
    )  # fmt: skip


def fill(world: World, rollout: str, gate: str, told: Mapping[str, float]) -> None:
    """Devices that are known and have told this."""
    with writing(world.server.engine) as connection:
        connection.execute(
            t.device.insert(),
            [
                {"id": name, "tenant": "default", "public_key": b"", "standing": "accepted",
                 "enrolled_s": 0.0}
                for name in told
            ],
        )  # fmt: skip
        connection.execute(
            t.figure.insert(),
            [
                {"rollout_id": rollout, "device_id": name, "gate": gate, "hardware": "x86_64",
                 "value": value, "received_s": 0.0}
                for name, value in told.items()
            ],
        )  # fmt: skip


def world_figures(world: World) -> list[Any]:
    return world.rows(t.figure.select().order_by(t.figure.c.device_id, t.figure.c.gate))
