"""The device protocol, over real connections, on both databases."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path

import pytest

from agent.updates.assignment import check_for_device, opened
from agent.updates.trust import Keys
from agent.updates.wire import Reports, StateOf
from sdk.fleet import tables as t
from sdk.fleet.server import Settings
from tests.fleet.client import Client
from tests.fleet.world import Device, World, doing, listening, runs

GROUP = "line-3"


def released(world: World, name: str = "1.0.0") -> str:
    """Publish a release that fits `PRINT`; its manifest's hash."""
    return world.fleet.publish(name, world.fleet.build(f"b-{name}")).manifest_sha256


def assigned(client: Client, name: str = "1.0.0", **more: object) -> str:
    body = {"model": "net", "release": name, "group": GROUP, **more}
    return str(client.do("POST", "/rollouts", body)["rollout"])


def test_a_device_is_let_in_by_its_token_once(client: Client) -> None:
    token = client.do("POST", "/tokens", {"group": GROUP})["token"]
    device = Device()
    found = client.enroll(device, token=token)
    assert found.json["status"] == "accepted"
    assert found.json["group"] == GROUP
    assert client.enroll(device, token=token).json["status"] == "accepted"  # again: nothing new
    assert client.enroll(Device(), token=token).code == "token"
    assert client.poll(device).assignment is None


def test_without_a_token_an_operator_has_to_look(client: Client) -> None:
    device = Device()
    assert client.enroll(device).json["status"] == "pending"
    assert client.signed(device, "/v1/poll", device.poll()).code == "pending"
    (shown,) = client.do("GET", "/devices?standing=pending")["items"]
    assert shown["id"] == device.device_id
    client.do("POST", f"/devices/{device.device_id}/accept")
    assert client.poll(device).next_poll_s > 0


def test_an_assignment_is_signed_for_the_device_and_ends_confirmed(
    client: Client, world: World
) -> None:
    sha256 = released(world)
    device = client.enrolled(GROUP)
    rollout = assigned(client)
    answer = client.poll(device, models=())
    assert answer.assignment is not None
    keys = world.tenants["default"]._load_signers(world.tenants["default"].repository())
    found = opened(
        json.dumps(answer.assignment).encode(),
        Keys(keys=tuple(key.public_key for key in keys), threshold=1),
    )
    import datetime as dt

    check_for_device(
        found,
        device_id=device.device_id,
        group=None,
        now=dt.datetime.now(tz=dt.timezone.utc),
        last_seq=0,
    )
    assert found.manifest_sha256 == sha256
    assert found.group is None
    again = client.poll(device).assignment
    assert again == answer.assignment
    assert (
        client.state(device, found.action_id, StateOf(state="TRIAL", journal_seq=5)).status == 200
    )
    assert client.poll(device, actions=(doing(found.action_id, "TRIAL", 5),)).assignment is None
    done = doing(found.action_id, "CONFIRMED", 6)
    client.poll(device, actions=(done,), models=(runs(sha256, release="1.0.0"),))
    (shown,) = client.do("GET", "/devices")["items"]
    (model,) = shown["models"]
    assert model["desired_sha256"] == model["confirmed_sha256"] == model["running_sha256"] == sha256
    assert not model["fell_back"]
    client.poll(device, models=(runs("b" * 64),))
    (shown,) = client.do("GET", "/devices")["items"]
    assert shown["models"][0]["fell_back"]
    assert client.do("GET", f"/rollouts/{rollout}")["progress"] == {"confirmed": 1}


def test_a_report_is_kept_once(client: Client, world: World) -> None:
    device = client.enrolled()
    envelope = device.report("a-1", "CONFIRMED")
    body = Reports(reports=(envelope, envelope))
    assert client.signed(device, "/v1/reports", body).json == {"results": ["stored", "known"]}
    assert client.signed(device, "/v1/reports", body).json == {"results": ["known", "known"]}
    assert world.count(t.report) == 1


REFUSED_REPORTS = {
    "another device's": {"device_id": "f" * 32},
    "no state": {"state": "GREAT"},
    "an infinite figure": {"variant": "v", "proof": {"v": {"facts": {"memory_bytes": "Infinity"}}}},
    "a negative ratio": {
        "variant": "v",
        "proof": {"v": {"facts": {"ratio_to_running": {"value": "-1.0"}}}},
    },
    "a long reason": {"reason": "x" * 2001},
    "a float": {"journal_seq": 1.5},
}


@pytest.mark.parametrize("name", REFUSED_REPORTS)
def test_what_cannot_be_is_refused(client: Client, world: World, name: str) -> None:
    device = client.enrolled()
    more = dict(REFUSED_REPORTS[name])
    envelope = device.report("a-1", str(more.pop("state", "CONFIRMED")), **more)
    found = client.signed(device, "/v1/reports", Reports(reports=(envelope,)))
    assert found.json["results"][0].startswith("refused: ")
    assert world.count(t.report) == 0


def test_a_replayed_request_changes_nothing(client: Client, world: World) -> None:
    device = client.enrolled()
    content, headers = device.signed("/v1/poll", device.poll(boot_id="first"))
    assert client.ask("POST", "/v1/poll", content, headers).status == 200
    client.poll(device, boot_id="second")
    replayed = client.ask("POST", "/v1/poll", content, headers)
    assert (replayed.status, replayed.code) == (409, "replayed")
    assert replayed.json["request_seq"] == 2
    (row,) = world.rows(t.presence.select())
    assert (row.boot_id, row.request_seq, row.conflict_s) == ("second", 2, None)


def test_two_machines_with_one_key_are_quarantined(client: Client) -> None:
    device = client.enrolled()
    now = time.time()
    for seq in range(1, 4):
        content, headers = device.signed("/v1/poll", device.poll(), seq=seq, created=now - 50 + seq)
        assert client.ask("POST", "/v1/poll", content, headers).status == 200
    lost = device.signed("/v1/poll", device.poll(), seq=1, created=now - 20)
    assert client.ask("POST", "/v1/poll", *lost).code == "replayed"  # a lost journal is forgiven
    again = device.signed("/v1/poll", device.poll(), seq=2, created=now - 10)
    assert client.ask("POST", "/v1/poll", *again).code == "quarantined"
    device.seq = 10
    assert client.signed(device, "/v1/poll", device.poll()).code == "quarantined"
    client.do("POST", f"/devices/{device.device_id}/accept")
    assert client.poll(device).next_poll_s > 0


def test_another_machine_under_the_same_name_is_quarantined(client: Client) -> None:
    import dataclasses

    device = client.enrolled()
    device.print = dataclasses.replace(
        device.print, identity={**device.print.identity, "soc": "another"}
    )
    assert client.poll(device).send_fingerprint
    found = client.signed(device, "/v1/poll", device.poll(fingerprint=device.print))
    assert found.code == "quarantined"
    shown = client.do("GET", f"/devices/{device.device_id}")
    assert "soc" in shown["why"]


def test_a_device_without_a_clock_signs_a_nonce(client: Client) -> None:
    device = client.enrolled()
    late = device.signed("/v1/poll", device.poll(), created=0)
    assert client.ask("POST", "/v1/poll", *late).code == "clock"
    nonce = client.ask("GET", "/v1/nonce").json["nonce"]
    found = device.signed("/v1/poll", device.poll(), nonce=nonce)
    assert client.ask("POST", "/v1/poll", *found).status == 200
    forged = base64.urlsafe_b64encode(b"x" * 24).decode()
    found = device.signed("/v1/poll", device.poll(), nonce=forged)
    assert client.ask("POST", "/v1/poll", *found).code == "unsigned"


@pytest.mark.parametrize(
    "header", ["Content-Digest", "Slipway-Request-Seq", "Signature-Input", "Signature"]
)
def test_a_request_without_one_of_its_headers_is_not_signed(client: Client, header: str) -> None:
    device = client.enrolled()
    content, headers = device.signed("/v1/poll", device.poll())
    del headers[header]
    assert client.ask("POST", "/v1/poll", content, headers).code == "unsigned"


def test_what_was_changed_on_the_way_is_not_signed(client: Client) -> None:
    device = client.enrolled()
    content, headers = device.signed("/v1/poll", device.poll())
    assert client.ask("POST", "/v1/poll", content + b" ", headers).code == "unsigned"
    assert client.ask("POST", "/v1/poll?x=1", content, headers).code == "unsigned"
    assert client.ask("POST", "/v1/reports", content, headers).status in (400, 401)
    other = {**headers, "Slipway-Request-Seq": "9"}
    assert client.ask("POST", "/v1/poll", content, other).code == "unsigned"
    stranger = Device(fleet=device.fleet, device_id=device.device_id)
    assert client.signed(stranger, "/v1/poll", stranger.poll()).code == "unsigned"
    unknown = Device(fleet=device.fleet)
    assert client.signed(unknown, "/v1/poll", unknown.poll()).code == "unknown"


def test_bodies_are_bounded(client: Client) -> None:
    device = client.enrolled()
    content, headers = device.signed("/v1/poll", device.poll())
    assert client.ask("POST", "/v1/poll", b"x" * (2 << 20), headers).code == "large"
    packed = {**headers, "Content-Encoding": "gzip"}
    assert client.ask("POST", "/v1/poll", content, packed).code == "encoded"
    deep = b"[" * 100_000
    assert client.ask("POST", "/v1/poll", deep, headers).code == "malformed"
    assert client.poll(device).next_poll_s > 0


def test_a_key_is_replaced_with_the_word_of_the_one_before(client: Client) -> None:
    device = client.enrolled()
    new = Device(fleet=device.fleet, device_id=device.device_id, seq=10)
    assert client.enroll(new).code == "taken"
    from agent.updates.request import enrolment_statement

    body = new.enrolment()
    proof = device.key.sign(enrolment_statement(body))
    body["previous_proof"] = base64.b64encode(proof).decode()
    headers = {"Content-Type": "application/json"}
    found = client.ask("POST", "/v1/enroll", json.dumps(body).encode(), headers)
    assert found.json["status"] == "accepted"
    assert client.poll(new).next_poll_s > 0
    assert client.signed(device, "/v1/poll", device.poll()).code == "unsigned"
    old = device.report("a-1", "CONFIRMED")  # signed when it was stored, before the change
    found = client.signed(new, "/v1/reports", Reports(reports=(old,)))
    assert found.json["results"] == ["stored"]


def test_a_device_that_asks_without_end_is_told_to_wait(tmp_path: Path) -> None:
    world = World(tmp_path, settings=Settings(requests_per_minute=3, enrolments_per_minute=9))
    with listening(world) as address, Client(address, world) as client:
        first, second = client.enrolled(), client.enrolled()
        for _ in range(3):
            client.poll(first)
        found = client.signed(first, "/v1/poll", first.poll())
        assert (found.status, found.code) == (429, "busy")
        assert 0 < int(found.headers["retry-after"]) <= 60
        assert client.poll(second).next_poll_s > 0
    world.close()
