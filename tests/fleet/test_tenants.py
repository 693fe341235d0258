"""Nothing of another tenant or device is seen or changed; no role does more than it may."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from agent.updates.request import enrolment_statement
from agent.updates.wire import Reports, StateOf
from sdk.fleet import tables as t
from tests.fleet.client import Client, Got
from tests.fleet.dump import dump
from tests.fleet.world import Device, World, doing, refused, runs

GROUP = "secret-line"
ROLES = ("viewer", "operator", "admin")
OWN = {"own": "file"}
OWN_SHA256 = hashlib.sha256(json.dumps(OWN).encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class Case:
    """A route, as another tenant asks for what is not its own."""

    role: str
    """The least that may."""
    path: str
    """With the names of what the first tenant has."""
    body: Any = None
    status: int = 200
    """What the other tenant is answered: its own, which is nothing, or that there is none."""


HIDDEN: dict[tuple[str, str], Case] = {
    ("get", "/me"): Case("viewer", "/me"),
    ("put", "/blobs/{sha256}"): Case("operator", f"/blobs/{OWN_SHA256}", OWN),
    ("put", "/manifests/{model}/{release}/{sha256}"): Case(
        "operator", f"/manifests/own/1.0.0/{OWN_SHA256}", OWN
    ),
    ("post", "/changes"): Case("operator", "/changes", {"metadata": {"model-x": "{}"}}, status=422),
    ("get", "/tokens"): Case("operator", "/tokens"),
    ("post", "/tokens"): Case("operator", "/tokens", {"group": "own"}),
    ("delete", "/tokens/{token_id}"): Case("operator", "/tokens/{token}", status=404),
    ("get", "/api-keys"): Case("admin", "/api-keys"),
    ("post", "/api-keys"): Case("admin", "/api-keys", {"name": "own", "role": "viewer"}),
    ("delete", "/api-keys/{key_id}"): Case("admin", "/api-keys/{key}", status=404),
    ("post", "/announced-keys"): Case("operator", "/announced-keys", {"public_key": "ab" * 32}),
    ("get", "/audit"): Case("admin", "/audit"),
    ("get", "/status"): Case("viewer", "/status"),
    ("get", "/devices"): Case("viewer", "/devices?group={group}"),
    ("get", "/devices/{device_id}"): Case("viewer", "/devices/{device}", status=404),
    ("post", "/devices/{device_id}/accept"): Case(
        "operator", "/devices/{device}/accept", status=404
    ),
    ("post", "/devices/{device_id}/reject"): Case(
        "operator", "/devices/{device}/reject", {"why": "x"}, status=404
    ),
    ("put", "/devices/{device_id}/group"): Case(
        "operator", "/devices/{device}/group", {"group": "own"}, status=404
    ),
    ("get", "/groups"): Case("viewer", "/groups"),
    ("post", "/groups"): Case("operator", "/groups", {"name": "own"}),
    ("delete", "/groups/{group}"): Case("operator", "/groups/{group}", status=404),
    ("get", "/reports"): Case("viewer", "/reports?device={device}"),
    ("get", "/export/{what}"): Case("viewer", "/export/reports"),
    ("get", "/releases"): Case("viewer", "/releases"),
    ("post", "/rollouts"): Case(
        "operator", "/rollouts",
        {"model": "net", "release": "1.0.0", "device": "{device}"}, status=404,
    ),
    ("get", "/rollouts"): Case("viewer", "/rollouts"),
    ("get", "/rollouts/{rollout}"): Case("viewer", "/rollouts/{rollout}", status=404),
    ("post", "/rollouts/{rollout}/{command}"): Case(
        "operator", "/rollouts/{rollout}/cancel", status=404
    ),
}  # fmt: skip
"""Every route of the admin API: a new one without a case fails the first test."""


@dataclasses.dataclass(frozen=True)
class Stock:
    """What the first tenant has, of everything something."""

    device: Device
    names: dict[str, str]

    def filled(self, case: Case) -> tuple[str, Any]:
        """The path and the body, with names."""
        body = json.loads(json.dumps(case.body).replace("{device}", self.device.device_id))
        return case.path.format(**self.names), body


@pytest.fixture
def stock(client: Client, world: World) -> Stock:
    world.fleet.publish("1.0.0", world.fleet.build("b"))
    device = client.enrolled(GROUP)
    rollout = client.do("POST", "/rollouts", {"model": "net", "release": "1.0.0", "group": GROUP})[
        "rollout"
    ]
    assert client.poll(device, models=(runs("a" * 64),)).assignment is not None
    report = device.report(f"{rollout}-{device.device_id}", "TRIAL")
    assert client.signed(device, "/v1/reports", Reports(reports=(report,))).status == 200
    token = client.do("POST", "/tokens", {"group": GROUP})
    key = client.do("POST", "/api-keys", {"name": "the secret key"}, role="admin")
    names = {
        "device": device.device_id, "group": GROUP, "rollout": rollout, "token": token["id"],
        "key": key["id"],
    }  # fmt: skip
    return Stock(device, names)


def test_every_route_of_the_admin_api_has_a_case(world: World) -> None:
    described = {
        (method, path.removeprefix("/v1/admin"))
        for path, methods in world.app.openapi()["paths"].items()
        if path.startswith("/v1/admin")
        for method in methods
    }
    assert described == set(HIDDEN)


def test_nothing_of_another_tenant_is_seen_or_changed(
    client: Client, world: World, stock: Stock
) -> None:
    before = dump(world, tenant="default")
    for (method, route), case in HIDDEN.items():
        path, body = stock.filled(case)
        for role in ROLES[ROLES.index(case.role) :]:
            found = client.admin(method.upper(), path, body, role=role, tenant="other")
            assert found.status == case.status, (method, route, found.content)
            seen = found.content.decode()
            if found.status == 200:  # a refusal repeats the name that was asked for
                assert not [one for one in stock.names.values() if one in seen], (route, seen)
            assert "the secret key" not in seen
    assert dump(world, tenant="default") == before


def test_the_tenant_itself_sees_and_changes_all_of_that(client: Client, stock: Stock) -> None:
    """Or else the test before would show nothing."""
    ends = ("delete", "reject", "cancel")
    for (method, route), case in sorted(
        HIDDEN.items(), key=lambda item: any(end in f"{item[0][0]}{item[1].path}" for end in ends)
    ):
        if (method, route) in (("delete", "/groups/{group}"), ("post", "/changes")):
            continue  # a rollout goes there; test_publication.py has what is taken
        path, body = stock.filled(case)
        found = client.admin(method.upper(), path, body, role="admin")
        assert found.status == 200, (method, route, found.content)


def test_no_role_does_more_than_it_may(client: Client, world: World, stock: Stock) -> None:
    before = dump(world)
    for (method, route), case in HIDDEN.items():
        path, body = stock.filled(case)
        assert case.role != "viewer" or method == "get"
        for role in ROLES[: ROLES.index(case.role)]:
            found = client.admin(method.upper(), path, body, role=role)
            assert (found.status, found.code) == (403, "role"), (method, route, role)
        content = None if body is None else json.dumps(body).encode()
        for header in ({}, {"Authorization": "Bearer x"}, {"Authorization": _key("unknown")}):
            headers = {"Content-Type": "application/json", **header}
            found = client.ask(method.upper(), f"/v1/admin{path}", content, headers)
            assert (found.status, found.code) == (401, "key"), (method, route)
    assert dump(world) == before


def test_a_revoked_key_opens_nothing(client: Client, world: World) -> None:
    made = client.do("POST", "/api-keys", {"name": "gone", "role": "admin"}, role="admin")
    headers = {"Authorization": f"Bearer {made['key']}"}
    assert client.ask("GET", "/v1/admin/status", headers=headers).status == 200
    client.do("DELETE", f"/api-keys/{made['id']}", role="admin")
    assert client.ask("GET", "/v1/admin/status", headers=headers).code == "key"
    shown = client.admin("GET", "/api-keys", role="admin").content.decode()
    assert made["key"] not in shown
    assert made["key"] not in str(dump(world))


def _key(secret: str) -> str:
    return f"Bearer slipway-api-{secret}"


Attack = Callable[[Client, Device, Device, str], Got]


def _state(client: Client, a: Device, b: Device, action: str) -> Got:
    return client.state(a, action, StateOf(state="FAILED", journal_seq=99))


def _poll(client: Client, a: Device, b: Device, action: str) -> Got:
    body = a.poll(actions=(doing(action, "FAILED", 99),), refused=(refused(action, "no"),))
    return client.signed(a, "/v1/poll", body)


def _bs_name_with_as_key(client: Client, a: Device, b: Device, action: str) -> Got:
    false = dataclasses.replace(a, device_id=b.device_id, seq=500)
    return client.signed(false, "/v1/poll", false.poll(actions=(doing(action, "FAILED", 99),)))


def _report_of_b(client: Client, a: Device, b: Device, action: str) -> Got:
    false = a.report(action, "FAILED", device_id=b.device_id)
    return client.signed(a, "/v1/reports", Reports(reports=(false,)))


def _bs_own_report(client: Client, a: Device, b: Device, action: str) -> Got:
    return client.signed(a, "/v1/reports", Reports(reports=(b.report(action, "FAILED"),)))


def _enrol_as_b(client: Client, a: Device, b: Device, action: str) -> Got:
    return client.enroll(dataclasses.replace(a, device_id=b.device_id))


def _vouch_for_itself(client: Client, a: Device, b: Device, action: str) -> Got:
    body = dataclasses.replace(a, device_id=b.device_id).enrolment()
    proof = a.key.sign(enrolment_statement(body))
    body["previous_proof"] = base64.b64encode(proof).decode()
    headers = {"Content-Type": "application/json"}
    return client.ask("POST", "/v1/enroll", json.dumps(body).encode(), headers)


MATRIX: dict[str, tuple[Attack, str]] = {
    "the state of its action": (_state, "{}"),
    "its action in a poll": (_poll, '"assignment":null'),
    "its name": (_bs_name_with_as_key, '"unsigned"'),
    "its name in a report": (_report_of_b, '"refused: '),
    "its own report": (_bs_own_report, '"refused: '),
    "its name at enrolment": (_enrol_as_b, '"taken"'),
    "its name with a word of its own": (_vouch_for_itself, '"taken"'),
}


@pytest.mark.parametrize("tenant", ["default", "other"])
def test_a_device_changes_nothing_of_another(
    client: Client, world: World, stock: Stock, tenant: str
) -> None:
    b, action = stock.device, f"{stock.names['rollout']}-{stock.device.device_id}"
    a = client.enrolled("own", tenant)
    own = t.device.c.id == b.device_id
    tables = [
        t.device.select().where(own),
        *(
            table.select().where(table.c.device_id == b.device_id)
            for table in (t.presence, t.device_model, t.action, t.report, t.figure)
        ),
    ]
    before = [world.rows(one) for one in tables]
    for name, (attack, told) in MATRIX.items():
        found = attack(client, a, b, action)
        assert told in found.content.decode(), (name, found.content)
        assert [world.rows(one) for one in tables] == before, name


@pytest.mark.parametrize("tenant", ["default", "other"])
def test_a_device_has_no_say_in_a_rollout_that_is_not_its_own(
    client: Client, world: World, stock: Stock, tenant: str
) -> None:
    action = f"{stock.names['rollout']}-{stock.device.device_id}"
    a = client.enrolled("own", tenant)
    told = {"value": "9.0", "low": "8.0", "high": "10.0"}
    envelope = a.report(
        action, "TRIAL", variant="v", proof={"v": {"facts": {"ratio_to_running": told}}}
    )
    found = client.signed(a, "/v1/reports", Reports(reports=(envelope,)))
    assert found.json["results"] == ["stored"]  # under its own name
    assert world.rows(sa.select(t.figure)) == []
    shown = client.do("GET", f"/rollouts/{stock.names['rollout']}")
    assert shown["ratios"] == {}
    assert shown["progress"] == {"trying": 1}
