"""Real agents against the real server: what it shows is what they do, whatever happens between."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.codec import encode
from agent.device import device_of, key_fingerprint
from agent.errors import VerificationError
from agent.manifest import Gate
from agent.updates.enrol import enrol
from agent.updates.home import Home
from agent.updates.install import go_back, take_back
from agent.updates.judge import judge
from agent.updates.proof import Asked, Proof
from agent.updates.server import StandingError
from agent.updates.status import status
from sdk.fleet import tables as t
from sdk.fleet.database import writing
from sdk.release import ceremony
from tests.fleet.agents import (
    Agent,
    Crew,
    assign,
    configured,
    is_true,
    reports_of,
)
from tests.fleet.client import Client
from tests.fleet.world import World
from tests.updates.fleet import MODEL, passing
from tests.updates.test_judge import measured


@pytest.fixture
def crew(client: Client, tmp_path: Path) -> Iterator[Crew]:
    made = Crew(client, tmp_path)
    yield made
    made.close()


def refusing(home: Home, asked: Asked, *, log: Path, time_limit_s: float) -> Proof:
    """The preflight of hardware that is slower: it refuses what says that it is heavy."""
    if b"heavy" in (asked.variant.folder / "model.bin").read_bytes():
        return Proof(passed=False, stage="speed", reasons=("it is too slow here",))
    return passing(home, asked, log=log, time_limit_s=time_limit_s)


def converged(crew: Crew, agent: Agent, release: str, **more: object) -> str:
    """The rollout that brought a release to an agent, confirmed and told."""
    rollout = assign(crew.client, release, **more)
    for _ in range(3):
        crew.turn()
    is_true(agent, release)
    return rollout


def test_a_release_goes_from_the_token_to_confirmed(
    client: Client, world: World, crew: Crew
) -> None:
    agent = crew.joins()
    world.fleet.publish("1.0.0")
    rollout = assign(client, "1.0.0")
    action = agent.look()
    assert action is not None
    assert (action.id, action.state) == (f"{rollout}-{agent.device_id}", "TRIAL")
    seen = agent.seen()
    assert (seen["desired"], seen["running"], seen["confirmed_sha256"]) == ("1.0.0", "1.0.0", None)
    agent.confirm()
    is_true(agent, "1.0.0")
    for _ in range(3):
        agent.look()
        agent.restart()
    assert reports_of(world) == [(action.id, "TRIAL"), (action.id, "CONFIRMED")]
    crew.turn()
    assert client.do("GET", f"/rollouts/{rollout}")["state"] == "finished"
    shown = agent.shown()
    assert (shown["reports_waiting"], shown["standing"]) == (0, "accepted")
    assert shown["key_fingerprint"] == key_fingerprint(device_of(agent.state).public_key)


def test_whom_to_trust_is_held_against_the_token(
    client: Client, world: World, tmp_path: Path
) -> None:
    token = client.do("POST", "/tokens", {"group": None})["token"]
    config = configured(tmp_path / "device")
    first = world.fleet.repo / "metadata/1.root.json"
    root = first.read_bytes()
    first.write_bytes(root + b" ")
    with pytest.raises(VerificationError, match="not the root that this device was told to trust"):
        enrol(config, client.address, token=token)
    assert not (config.state / "root.json").exists()
    assert not (config.state / "fleet.json").exists()
    first.write_bytes(root)
    told = enrol(config, client.address, token=token)
    assert told["status"] == "accepted", "the token was used by this very device"
    assert (config.state / "root.json").read_bytes() == root


def test_a_device_without_a_token_waits_and_is_accepted(
    client: Client, world: World, crew: Crew, tmp_path: Path
) -> None:
    state = tmp_path / "waits"
    root_sha256 = world.tenants["default"].root_sha256().hex()
    told = enrol(configured(state), client.address, root_sha256=root_sha256)
    assert told["status"] == "pending"
    agent = crew.takes(state)
    world.fleet.publish("1.0.0")
    with pytest.raises(StandingError, match="pending"):
        agent.look()
    assert agent.shown()["key_fingerprint"] == told["key_fingerprint"]
    client.do("POST", f"/devices/{agent.device_id}/accept")
    converged(crew, agent, "1.0.0", device=agent.device_id)
    assert status(agent.config)["fleet"]["status"] == "accepted"


def test_a_key_that_was_announced_is_let_in_at_once(
    client: Client, world: World, tmp_path: Path
) -> None:
    config = configured(tmp_path / "device")
    key = device_of(config.state).public_key.hex()
    client.do("POST", "/announced-keys", {"public_key": key, "group": "line-7"})
    root_sha256 = world.tenants["default"].root_sha256().hex()
    told = enrol(config, client.address, root_sha256=root_sha256)
    assert (told["status"], told["group"]) == ("accepted", "line-7")


@pytest.mark.slow
def test_a_release_that_other_hardware_refuses_halts_and_goes_back(
    client: Client, world: World, crew: Crew
) -> None:
    agents = [crew.joins() for _ in range(4)]
    world.fleet.publish("1.0.0")
    heavy = world.fleet.build("heavy", {"best": b"heavy 2.0.0"})
    world.fleet.publish("2.0.0", heavy)
    assign(client, "1.0.0")
    for _ in range(2):
        crew.turn()
    rollout = assign(
        client, "2.0.0", stages=[{"count": 2}, {"share": 1.0}], on_halt="revert",
        halt_if=[{"share": 0.4, "at_least": 3}],
    )  # fmt: skip
    crew.turn()
    first = [agent for agent in agents if agent.runs() == {MODEL: "2.0.0"}]
    assert len(first) == 2, "the second stage opens when the first is over"
    for agent in agents:
        if agent not in first:
            agent.keeper.prove = refusing
    for _ in range(5):
        crew.turn()
    found = client.do("GET", f"/rollouts/{rollout}")
    assert found["state"] == "reverted"
    (reason,) = found["reasons"]
    assert (reason["state"], reason["devices"]) == ("FAILED", 2)
    assert "too slow here" in reason["reason"]
    for agent in agents:
        is_true(agent, "1.0.0")
        states = [state for _, state in reports_of(world, agent.device_id)]
        assert len(states) == len(set(reports_of(world, agent.device_id)))
        assert states[-1] == ("CONFIRMED" if agent in first else "FAILED")


def measuring(latency: float) -> Any:
    """A preflight that passes, and has measured what runs in so many times the latency."""

    def prove(home: Home, asked: Asked, *, log: Path, time_limit_s: float) -> Proof:
        found = passing(home, asked, log=log, time_limit_s=time_limit_s)
        if asked.running is None:
            return found
        ratios = {"latency@500": latency, "memory": 1.0}
        return dataclasses.replace(found, facts={**found.facts, "ratios_to_running": ratios})

    return prove


@pytest.mark.long
@pytest.mark.parametrize(("latency", "ends"), [(1.02, "finished"), (1.5, "reverted")])
def test_what_devices_measured_opens_the_next_stage_or_takes_it_back(
    client: Client, world: World, crew: Crew, latency: float, ends: str
) -> None:
    agents = [crew.joins() for _ in range(4)]
    for release in ("1.0.0", "2.0.0"):
        world.fleet.publish(release)
    assign(client, "1.0.0")
    for _ in range(2):
        crew.turn()
    for agent in agents:
        agent.keeper.prove = measuring(latency)
    gates = [{"quantity": name, "limit_ppm": 1_100_000} for name in ("latency", "memory")]
    asked = {"gates": gates, "confidence": 0.75, "liars": 0.0}
    stages = [{"count": 2, "advance_if": asked}, {"share": 1.0, "advance_if": asked}]
    rollout = assign(client, "2.0.0", stages=stages, on_halt="revert")
    crew.turn()
    tried = [agent for agent in agents if agent.runs() == {MODEL: "2.0.0"}]
    assert len(tried) == 2
    for _ in range(5):
        crew.turn()
    found = client.do("GET", f"/rollouts/{rollout}")
    assert found["state"] == ends
    devices = {one["gate"]: (one["verdict"], one["devices"]) for one in found["judged"]}
    if ends == "finished":
        assert devices == {"latency@500": ("passed", 4), "memory": ("passed", 4)}
        assert found["ratios"][found["judged"][0]["hardware"]] == {"median": 1.02, "devices": 4}
    else:
        assert devices == {"latency@500": ("broken", 2), "memory": ("passed", 2)}
        assert found["progress"] == {"confirmed": 2}, "the others were never given it"
    for agent in agents:
        is_true(agent, "2.0.0" if ends == "finished" else "1.0.0")


def test_a_server_that_was_taken_over_loosens_no_gate_that_was_signed(
    client: Client, world: World, crew: Crew
) -> None:
    """Its rows say what an assignment says; the device holds the release to both."""
    agent = crew.joins()
    signed = Gate(quantity="latency_us", ratio_max_permille=1100, ratio_to="running")
    world.fleet.publish("1.0.0")
    converged(crew, agent, "1.0.0")
    world.fleet.publish("2.0.0", world.fleet.build("heavy", gates=(signed,)))
    asked: list[tuple[Gate, ...]] = []

    def prove(home: Home, question: Asked, *, log: Path, time_limit_s: float) -> Proof:
        asked.append(question.gates)
        before = measured(1.0)
        judged = judge(question.gates, measured(2.0), running=before, baseline=None)
        reasons = tuple(breach.what for breach in judged.breaches)
        return Proof(passed=judged.holds, stage="speed", reasons=reasons)

    agent.keeper.prove = prove
    rollout = assign(client, "2.0.0")
    loose = [encode(dataclasses.replace(signed, ratio_max_permille=9000))]
    with writing(world.server.engine) as connection:
        connection.execute(t.rollout.update().values(gates=loose))
    agent.look()
    assert [gate.ratio_max_permille for gate in asked[0]] == [1100, 9000]
    (reason,) = client.do("GET", f"/rollouts/{rollout}")["reasons"]
    assert reason["state"] == "FAILED"
    assert "the gate is 1.100" in reason["reason"]
    assert agent.runs() == {MODEL: "1.0.0"}


def test_a_rollback_by_hand_is_seen_until_it_is_confirmed(
    client: Client, world: World, crew: Crew
) -> None:
    agent = crew.joins()
    for release in ("1.0.0", "2.0.0"):
        world.fleet.publish(release)
        converged(crew, agent, release)
    go_back(agent.home, MODEL, "it jitters", agent.lines.append, passing)
    agent.look()
    seen = agent.seen()
    assert (seen["desired"], seen["running"], seen["fell_back"]) == ("2.0.0", "1.0.0", True)
    assert client.do("GET", "/status")["fell_back"] == 1
    agent.confirm()
    seen = agent.seen()
    assert (seen["desired"], seen["running"], seen["fell_back"]) == ("2.0.0", "1.0.0", False)
    assert seen["confirmed_sha256"] == seen["running_sha256"] != seen["desired_sha256"]


def test_what_is_revoked_while_it_runs_is_left(client: Client, world: World, crew: Crew) -> None:
    agent = crew.joins()
    for release in ("1.0.0", "2.0.0"):
        published = world.fleet.publish(release)
        converged(crew, agent, release)
    ceremony.revoke(world.fleet.repository(), MODEL, published.release_counter)
    crew.turn()
    crew.turn()
    assert agent.runs() == {MODEL: "1.0.0"}
    seen = agent.seen()
    assert (seen["running"], seen["fell_back"]) == ("1.0.0", False)
    assert seen["confirmed_sha256"] == seen["activated_sha256"] == seen["running_sha256"]
    before = reports_of(world)
    crew.turn()
    assert reports_of(world) == before, "it is left once"


def test_a_trial_that_ends_badly_is_shown_as_it_is(
    client: Client, world: World, crew: Crew
) -> None:
    agent = crew.joins()
    for release in ("1.0.0", "2.0.0"):
        world.fleet.publish(release)
    converged(crew, agent, "1.0.0")
    rollout = assign(client, "2.0.0", halt_if=[{"share": 1.0}])
    agent.look()
    take_back(agent.home, MODEL, "NaN")
    crew.turn()
    is_back = agent.seen()
    assert (is_back["desired"], is_back["running"], is_back["fell_back"]) == (
        "1.0.0", "1.0.0", False,
    )  # fmt: skip
    assert client.do("GET", f"/rollouts/{rollout}")["state"] == "halted"


def test_two_models_are_brought_one_after_another(client: Client, world: World, crew: Crew) -> None:
    ceremony.add_model(world.fleet.repository(), "other")
    world.fleet.publish("1.0.0")
    world.fleet.publish("5.0.0", world.fleet.build("other-5", model="other"))
    agent = crew.joins()
    rollouts = [assign(client, "1.0.0"), assign(client, "5.0.0", "other")]
    for _ in range(4):
        crew.turn()
    is_true(agent, "1.0.0")
    is_true(agent, "5.0.0", "other")
    states = [client.do("GET", f"/rollouts/{rollout}")["state"] for rollout in rollouts]
    assert states == ["finished", "finished"]
    assert len(reports_of(world)) == len(set(reports_of(world))) == 4
