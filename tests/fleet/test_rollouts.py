"""Rollouts on rows: who is reached when, what stops them, and the way back; on both databases."""

from __future__ import annotations

import time
from typing import Any

import pytest
import sqlalchemy as sa

from agent.codec import encode
from sdk.fleet import tables as t
from sdk.fleet.chores import follow_revocations, move_on
from sdk.fleet.database import place as place_in_sql
from sdk.fleet.database import reading, writing
from sdk.fleet.hardware import hardware_of
from sdk.fleet.rules.rollout import place
from sdk.fleet.store import rollouts
from sdk.release import ceremony
from tests.fleet.client import Client
from tests.fleet.world import PRINT, Device, World, doing, refused, runs

GROUP = "line-3"


@pytest.fixture
def sha256(world: World) -> str:
    """Of the manifest of the release that goes out: 1.1.0, after 1.0.0."""
    world.fleet.publish("1.0.0")
    return world.fleet.publish("1.1.0").manifest_sha256


def assign(client: Client, release: str = "1.1.0", **more: Any) -> str:
    body = {"model": "net", "release": release, "group": GROUP, **more}
    return str(client.do("POST", "/rollouts", body)["rollout"])


def taken(client: Client, device: Device) -> str | None:
    """The action that a device is handed."""
    answer = client.poll(device)
    if answer.assignment is None:
        return None
    import base64
    import json

    found: str = json.loads(base64.b64decode(answer.assignment["payload"]))["action_id"]
    return found


def end(client: Client, device: Device, action: str, state: str, **more: Any) -> None:
    client.poll(device, actions=(doing(action, state, 9, **more),))


def handed(client: Client, devices: list[Device]) -> dict[str, str]:
    found = {device.device_id: taken(client, device) for device in devices}
    return {name: action for name, action in found.items() if action is not None}


def show(client: Client, rollout: str) -> Any:
    return client.do("GET", f"/rollouts/{rollout}")


def test_the_database_and_the_rules_agree_on_the_order(world: World) -> None:
    wanted = sa.select(place_in_sql(sa.literal("r-ä"), sa.literal("d-1")))
    with reading(world.server.engine) as connection:
        found = connection.execute(wanted).scalar_one()
    assert int(found, 16) / 2.0**64 == place("r-ä", "d-1")


def test_stages_open_one_after_another(client: Client, world: World, sha256: str) -> None:
    devices = [client.enrolled(GROUP) for _ in range(6)]
    rollout = assign(client, stages=[{"count": 1}, {"share": 0.5}, {"share": 1.0}])
    reached = []
    for _ in range(3):
        by_id = {device.device_id: device for device in devices}
        new = handed(client, devices)
        reached.append(len(new))
        for name, action in new.items():
            end(client, by_id[name], action, "CONFIRMED")
        move_on(world.server)
    assert reached == [1, 2, 3]
    assert show(client, rollout)["state"] == "finished"
    late = client.enrolled(GROUP)
    assert taken(client, late) is not None  # whoever joins gets what the others have


def test_a_bad_release_stops_by_itself(client: Client, world: World, sha256: str) -> None:
    devices = [client.enrolled(GROUP) for _ in range(8)]
    stages = [{"count": 4}, {"share": 1.0}]
    rollout = assign(client, stages=stages, halt_if=[{"share": 0.5, "at_least": 2}])
    new = handed(client, devices)
    assert len(new) == 4
    by_id = {device.device_id: device for device in devices}
    for name, action in list(new.items())[:2]:
        end(client, by_id[name], action, "FAILED", reason="too slow here")
    move_on(world.server)
    found = show(client, rollout)
    assert (found["state"], found["stage"]) == ("halted", 0)
    assert found["reasons"] == [{"state": "FAILED", "reason": "too slow here", "devices": 2}]
    assert handed(client, devices) == {}
    for name, action in list(new.items())[2:]:  # those that had it are told to stop
        answer = client.poll(by_id[name], actions=(doing(action, "STAGED", 3),))
        assert answer.cancel == action


def test_an_operator_resumes_what_was_halted(client: Client, world: World, sha256: str) -> None:
    devices = [client.enrolled(GROUP) for _ in range(4)]
    rollout = assign(
        client, stages=[{"share": 1.0, "confirmed_share": 0.5}], halt_if=[{"share": 0.2}]
    )
    by_id = {device.device_id: device for device in devices}
    bad, *rest = handed(client, devices).items()
    end(client, by_id[bad[0]], bad[1], "ROLLED_BACK")
    move_on(world.server)
    assert show(client, rollout)["state"] == "halted"
    assert client.do("POST", f"/rollouts/{rollout}/resume")["state"] == "running"
    assert client.do("POST", f"/rollouts/{rollout}/resume")["state"] == "running"
    for name, action in rest:
        assert taken(client, by_id[name]) == action
        end(client, by_id[name], action, "CONFIRMED")
    move_on(world.server)
    assert show(client, rollout)["state"] == "finished"


@pytest.mark.parametrize("on_halt", ["pause", "revert"])
def test_what_was_taken_goes_back_where_that_is_asked_for(
    client: Client, world: World, on_halt: str
) -> None:
    old = world.fleet.publish("1.0.0").manifest_sha256
    new = world.fleet.publish("1.1.0").manifest_sha256
    devices = [client.enrolled(GROUP) for _ in range(3)]
    by_id = {device.device_id: device for device in devices}
    assign(client, "1.0.0")
    for name, action in handed(client, devices).items():
        end(client, by_id[name], action, "CONFIRMED")
        client.poll(by_id[name], models=(runs(old, release="1.0.0"),))
    move_on(world.server)
    rollout = assign(client, halt_if=[{"share": 0.3, "at_least": 3}], on_halt=on_halt)
    actions = {}
    for device in devices:
        answer = client.poll(device, models=(runs(old, release="1.0.0"),))
        assert answer.assignment is not None
        actions[device.device_id] = f"{rollout}-{device.device_id}"
    good = devices[:2]
    for device in good:
        end(client, device, actions[device.device_id], "CONFIRMED")
        client.poll(device, models=(runs(new, release="1.1.0"),))
    end(client, devices[2], actions[devices[2].device_id], "FAILED")
    move_on(world.server)
    back = handed(client, devices)
    if on_halt == "pause":
        assert show(client, rollout)["state"] == "halted"
        assert back == {}
        return
    assert show(client, rollout)["state"] == "reverting"
    assert set(back) == {device.device_id for device in good}
    for name, action in back.items():
        end(client, by_id[name], action, "CONFIRMED")
        client.poll(by_id[name], models=(runs(old, release="1.0.0"),))
    move_on(world.server)
    assert show(client, rollout)["state"] == "reverted"
    for device in good:
        (model,) = client.do("GET", f"/devices/{device.device_id}")["models"]
        assert model["confirmed_sha256"] == model["running_sha256"] == old


def test_a_newer_release_takes_the_place_of_an_older_one(
    client: Client, world: World, sha256: str
) -> None:
    device = client.enrolled(GROUP)
    older = assign(client, "1.0.0")
    action = taken(client, device)
    assert action is not None
    newer = assign(client)
    answer = client.poll(device, actions=(doing(action, "DOWNLOADING", 2),))
    assert answer.cancel == action
    assert answer.assignment is not None
    client.poll(device, actions=(doing(action, "FAILED", 3),))
    assert show(client, older)["state"] == "cancelled"
    assert taken(client, device) == f"{newer}-{device.device_id}"


def test_work_on_trial_is_not_interrupted(client: Client, world: World, sha256: str) -> None:
    device = client.enrolled(GROUP)
    assign(client, "1.0.0")
    action = taken(client, device)
    assert action is not None
    client.poll(device, actions=(doing(action, "TRIAL", 5),))
    newer = assign(client)
    answer = client.poll(device, actions=(doing(action, "TRIAL", 5),))
    assert (answer.cancel, answer.assignment) == (None, None)
    end(client, device, action, "CONFIRMED")
    assert taken(client, device) == f"{newer}-{device.device_id}"


def test_a_device_that_refuses_is_counted_and_not_asked_again(
    client: Client, world: World, sha256: str
) -> None:
    device = client.enrolled(GROUP)
    rollout = assign(client)
    action = taken(client, device)
    assert action is not None
    answer = client.poll(device, refused=(refused(action, "its clock is years off"),))
    assert answer.assignment is None
    assert show(client, rollout)["progress"] == {"rejected": 1}


def test_who_cannot_run_it_is_said_before(client: Client, world: World) -> None:
    world.fleet.publish("1.0.0", world.fleet.build(match={"identity.arch": "aarch64"}))
    for _ in range(3):
        client.enrolled(GROUP)
    body = {"model": "net", "release": "1.0.0", "group": GROUP}
    found = client.admin("POST", "/rollouts", body)
    assert found.status == 422
    assert "3 devices: no variant is for its hardware (x86_64, test)" in found.json["error"]["what"]
    assert world.count(t.rollout) == 0
    arm = Device(print=PRINT.__class__(**{**encode(PRINT), "identity": {"arch": "aarch64"}}))
    token = client.do("POST", "/tokens", {"group": GROUP})["token"]
    client.enroll(arm, token=token)
    found = client.do("POST", "/rollouts", {**body, "dry_run": True})
    assert found["rollout"] is None
    assert (found["fit"]["fits"], sum(found["fit"]["reasons"].values())) == (1, 3)
    client.do("POST", "/rollouts", body)
    assert [row.device_id for row in world.rows(t.action.select())] == [arm.device_id]


def test_a_group_with_a_rollout_under_way_is_not_dropped(
    client: Client, world: World, sha256: str
) -> None:
    client.enrolled(GROUP)
    rollout = assign(client)
    assert client.admin("DELETE", f"/groups/{GROUP}").code == "conflict"
    client.do("POST", f"/rollouts/{rollout}/cancel")
    client.do("POST", f"/rollouts/{rollout}/cancel")
    assert client.admin("POST", f"/rollouts/{rollout}/pause").status == 422
    client.do("DELETE", f"/groups/{GROUP}")
    assert client.do("GET", "/devices")["items"][0]["group"] is None


def test_a_device_that_is_removed_gets_no_work(client: Client, world: World, sha256: str) -> None:
    device = client.enrolled(GROUP)
    assign(client)
    client.do("POST", f"/devices/{device.device_id}/reject", {"why": "stolen"})
    assert client.signed(device, "/v1/poll", device.poll()).code == "rejected"
    client.do("POST", f"/devices/{device.device_id}/accept")
    assert client.poll(device).next_poll_s > 0


def test_devices_that_fall_silent_have_failed(client: Client, world: World, sha256: str) -> None:
    devices = [client.enrolled(GROUP) for _ in range(3)]
    stage = {"share": 1.0, "timeout_s": 100.0, "min_devices": 1}
    rollout = assign(client, stages=[stage], halt_if=[{"share": 0.5}])
    first, second, _ = devices
    for device in (first, second):
        action = taken(client, device)
        assert action is not None
        client.poll(device, actions=(doing(action, "DOWNLOADING", 2),))
    end(client, first, f"{rollout}-{first.device_id}", "CONFIRMED")
    with writing(world.server.engine) as connection:
        decision = rollouts.tick(connection, rollout, time.time() + 101.0)
    assert decision is not None
    assert decision.step == "halt"
    assert "timed out" in decision.reason


def test_only_one_of_two_moves_a_rollout_on(client: Client, world: World, sha256: str) -> None:
    import threading

    devices = [client.enrolled(GROUP) for _ in range(4)]
    rollout = assign(client, stages=[{"count": 1}, {"count": 2}, {"count": 3}, {"share": 1.0}])
    (action,) = handed(client, devices).items()
    by_id = {device.device_id: device for device in devices}
    end(client, by_id[action[0]], action[1], "CONFIRMED")
    threads = [threading.Thread(target=move_on, args=(world.server,)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert show(client, rollout)["stage"] == 1
    assert world.count(t.action) == 2


def test_hardware_is_named_by_a_profile_and_never_by_a_device() -> None:
    odd = PRINT.__class__(identity={"arch": "x\ny", "soc": "=cmd()"}, software={}, conditions={})
    assert hardware_of(odd) == "unknown"
    assert hardware_of(PRINT) in ("x86_64", "intel-any") or hardware_of(PRINT).isascii()


def test_stages_may_name_groups(client: Client, world: World, sha256: str) -> None:
    canaries = [client.enrolled("canary") for _ in range(2)]
    others = [client.enrolled(GROUP) for _ in range(3)]
    stages = [
        {"group": "canary", "share": 1.0},
        {"group": GROUP, "count": 1},
        {"group": GROUP, "share": 1.0},
    ]
    body = {"model": "net", "release": "1.1.0", "stages": stages}
    thresholds = [{"share": 0.5, "at_least": 1}]
    rollout = str(client.do("POST", "/rollouts", {**body, "halt_if": thresholds})["rollout"])
    by_id = {device.device_id: device for device in [*canaries, *others]}
    new = handed(client, list(by_id.values()))
    assert set(new) == {device.device_id for device in canaries}
    assert client.admin("DELETE", f"/groups/{GROUP}").code == "conflict"
    for name, action in new.items():
        end(client, by_id[name], action, "CONFIRMED")
    move_on(world.server)
    ((name, action),) = handed(client, others).items()
    end(client, by_id[name], action, "FAILED", reason="not here")
    move_on(world.server)
    found = show(client, rollout)
    # One of three failed, and all of its own group that tried it.
    assert found["state"] == "halted"
    assert f"the group {GROUP}" in found["reason"]
    assert found["by_group"] == {"canary": {"confirmed": 2}, GROUP: {"failed": 1}}
    assert handed(client, others) == {}


def test_a_rollout_names_groups_in_one_place(client: Client, world: World, sha256: str) -> None:
    client.enrolled(GROUP)
    stages = [{"group": GROUP, "share": 1.0}]
    body = {"model": "net", "release": "1.1.0", "stages": stages}
    assert client.admin("POST", "/rollouts", {**body, "group": GROUP}).code == "impossible"
    body["stages"] = [{"group": "nobody", "share": 1.0}]
    assert client.admin("POST", "/rollouts", body).code == "missing"


def test_rollouts_to_other_groups_are_left_alone(client: Client, world: World, sha256: str) -> None:
    for group in ("a", "b", "c"):
        client.enrolled(group)

    def staged(*groups: str) -> str:
        stages = [{"group": group, "share": 1.0} for group in groups]
        body = {"model": "net", "release": "1.1.0", "stages": stages}
        return str(client.do("POST", "/rollouts", body)["rollout"])

    first = staged("a", "b")
    second = staged("c")
    assert show(client, first)["state"] == "running"
    staged("b", "c")
    assert show(client, first)["state"] == show(client, second)["state"] == "cancelled"


def test_a_device_that_runs_it_is_left_alone(client: Client, world: World, sha256: str) -> None:
    first, second = (client.enrolled(GROUP) for _ in range(2))
    assign(client)
    action = taken(client, first)
    assert action is not None
    done = doing(action, "CONFIRMED", 9)
    client.poll(first, actions=(done,), models=(runs(sha256, release="1.1.0"),))
    rollout = assign(client)
    (row,) = world.rows(t.action.select().where(t.action.c.rollout_id == rollout))
    assert row.device_id == second.device_id
    assert client.poll(first, models=(runs(sha256, release="1.1.0"),)).assignment is None
    action = taken(client, second)
    assert action is not None
    done = doing(action, "CONFIRMED", 9)
    client.poll(second, actions=(done,), models=(runs(sha256, release="1.1.0"),))
    move_on(world.server)
    assert show(client, rollout)["state"] == "finished"
    body = {"model": "net", "release": "1.1.0", "group": GROUP}
    found = client.admin("POST", "/rollouts", body)
    assert (found.status, found.code) == (409, "conflict")
    assert "2 devices run net 1.1.0 already" in found.json["error"]["what"]


def test_a_device_joins_what_its_own_group_has_finished(
    client: Client, world: World, sha256: str
) -> None:
    device = client.enrolled("a")
    stages = [{"group": "a", "share": 1.0}]
    body = {"model": "net", "release": "1.1.0", "stages": stages}
    client.do("POST", "/rollouts", body)
    action = taken(client, device)
    assert action is not None
    end(client, device, action, "CONFIRMED")
    move_on(world.server)
    assert taken(client, client.enrolled("b")) is None
    assert taken(client, client.enrolled("a")) is not None


def test_what_was_revoked_is_given_to_nobody(client: Client, world: World, sha256: str) -> None:
    device = client.enrolled(GROUP)
    rollout = assign(client)
    action = taken(client, device)
    assert action is not None
    end(client, device, action, "CONFIRMED")
    move_on(world.server)
    assert show(client, rollout)["state"] == "finished"
    found = world.tenants["default"].release("net", "1.1.0")
    ceremony.revoke(world.fleet.repository(), "net", found.release_counter)
    follow_revocations(world.server)
    assert show(client, rollout)["state"] == "revoked"
    assert taken(client, client.enrolled(GROUP)) is None
    client.poll(device, models=(runs(sha256, release="1.1.0"),))
    (model,) = client.do("GET", f"/devices/{device.device_id}")["models"]
    assert (model["running"], model["desired"]) == ("1.1.0", None)
    assert client.do("POST", f"/rollouts/{rollout}/revert")["state"] == "reverted"
