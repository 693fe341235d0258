"""What the server's own keys do: seal assignments, keep the timestamp fresh, follow a rotation."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import pytest

from agent.errors import UsageError, VerificationError
from agent.updates.freshness import signed_time
from sdk.fleet.chores import renew
from sdk.fleet.online import Tenant
from sdk.release import ceremony
from tests.fleet.client import Client
from tests.fleet.world import World
from tests.updates.fleet import PASSPHRASE

GROUP = "line-3"


@pytest.fixture
def database(tmp_path: Any) -> str:
    """What is asked here does not depend on the kind of database."""
    return f"sqlite:///{tmp_path / 'fleet.db'}"


def timestamp(world: World) -> Any:
    return world.fleet.repository().role("timestamp").signed


def test_the_timestamp_is_signed_anew_each_hour(world: World) -> None:
    before = timestamp(world)
    renew(world.server)
    assert timestamp(world).version == before.version  # it is fresh
    tenant = world.tenants["default"]
    assert tenant.renew(older_than_s=0.0)
    after = timestamp(world)
    assert after.version == before.version + 1
    assert signed_time(after.unrecognized_fields) is not None
    assert after.expires > dt.datetime.now(tz=dt.timezone.utc) + dt.timedelta(hours=23)
    snapshots = list((world.fleet.repo / "metadata").glob("*.snapshot.json"))
    assert tenant.renew(older_than_s=0.0)
    assert list((world.fleet.repo / "metadata").glob("*.snapshot.json")) == snapshots


def test_a_repository_that_was_edited_is_not_signed_as_if_it_were_whole(world: World) -> None:
    version = timestamp(world).snapshot_meta.version
    path = world.fleet.repo / "metadata" / f"{version}.snapshot.json"
    path.write_bytes(path.read_bytes() + b" ")
    before = (world.fleet.repo / "metadata" / "timestamp.json").read_bytes()
    with pytest.raises(VerificationError):
        world.tenants["default"].renew(older_than_s=0.0)
    renew(world.server)
    assert (world.fleet.repo / "metadata" / "timestamp.json").read_bytes() == before


def test_keys_that_are_missing_are_named(world: World) -> None:
    (world.folder / "fleet" / "keys" / "assignment.pem").rename(world.folder / "away.pem")
    with pytest.raises(UsageError, match="assignment"):
        Tenant("t", world.fleet.repo, world.fleet.folder / "keys", PASSPHRASE).check()


def test_a_wrong_passphrase_is_said_at_the_start(world: World) -> None:
    with pytest.raises(VerificationError, match="passphrase"):
        Tenant("t", world.fleet.repo, world.fleet.folder / "keys", "wrong").check()


def test_a_running_server_follows_a_rotation(client: Client, world: World) -> None:
    world.fleet.publish("1.0.0")
    device = client.enrolled(GROUP)
    client.do("POST", "/rollouts", {"model": "net", "release": "1.0.0", "group": GROUP})
    first = client.poll(device).assignment
    assert client.poll(device).assignment == first
    ceremony.rotate(world.fleet.repository(), "assignment")
    second = client.poll(device).assignment
    assert first is not None
    assert second is not None
    assert second["signatures"][0]["keyid"] != first["signatures"][0]["keyid"]
    root = world.fleet.repository().role("root").signed
    named = root.unrecognized_fields["x-slipway"]["assignment"]["keyids"]
    assert [second["signatures"][0]["keyid"]] == named
    assert json.dumps(second) != json.dumps(first)
