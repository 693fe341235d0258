"""Publish through a server: what is signed elsewhere is taken whole, and nothing else is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agent.errors import SlipwayError, UsageError
from agent.updates.fetch import blob_path
from sdk.cli.app import run
from sdk.fleet.client import FleetClient
from sdk.fleet.publisher import ServerRepository
from sdk.release import ceremony
from sdk.release.keystore import KeyStore
from sdk.release.publish import publish
from tests.fleet.client import Client
from tests.fleet.world import World
from tests.updates.fleet import PASSPHRASE, write_build

ONLINE = ("snapshot", "timestamp", "assignment")


@pytest.fixture
def database(tmp_path: Path) -> str:
    """What is asked here does not depend on the kind of database."""
    return f"sqlite:///{tmp_path / 'fleet.db'}"


@pytest.fixture
def far(client: Client, world: World, tmp_path: Path) -> ServerRepository:
    """The repository as a publisher sees it, who has all keys but the server's."""
    import shutil

    keys = tmp_path / "publisher"
    shutil.copytree(world.fleet.folder / "keys", keys)
    for name in ONLINE:
        (keys / f"{name}.pem").unlink()
    asked = FleetClient(client.address, world.keys["default", "operator"])
    return ServerRepository(asked, KeyStore(keys, PASSPHRASE))


def state(world: World) -> dict[str, bytes]:
    """The metadata as it lies there."""
    return {path.name: path.read_bytes() for path in (world.fleet.repo / "metadata").iterdir()}


def test_a_release_is_published_and_reaches_a_device(
    client: Client, world: World, far: ServerRepository, tmp_path: Path
) -> None:
    found = publish(far, write_build(tmp_path / "b1", {"best": b"one" * 99}), "1.0.0")
    second = write_build(tmp_path / "b2", {"best": b"one" * 98 + b"two"})
    assert publish(far, second, "1.1.0").release_counter == found.release_counter + 1
    listed = client.do("GET", "/releases")["items"]
    assert [one["release"] for one in listed] == ["1.1.0", "1.0.0"]
    device = client.enrolled("g")
    client.do("POST", "/rollouts", {"model": "net", "release": "1.1.0", "group": "g"})
    assert client.poll(device).assignment is not None
    with pytest.raises(UsageError, match="published already"):
        publish(far, second, "1.1.0")


def test_a_model_is_added_and_a_release_revoked(
    client: Client, world: World, far: ServerRepository, tmp_path: Path
) -> None:
    ceremony.add_model(far, "other")
    found = publish(far, write_build(tmp_path / "b", {"best": b"x"}, model="other"), "1.0.0")
    assert ceremony.revoke(far, "other", found.release_counter)
    assert not ceremony.revoke(far, "other", found.release_counter)
    (listed,) = client.do("GET", "/releases?model=other")["items"]
    assert listed["revoked"]
    body = {"model": "other", "release": "1.0.0"}
    assert client.admin("POST", "/rollouts", body).code == "impossible"


def test_what_was_not_signed_by_the_model_is_not_taken(
    world: World, far: ServerRepository, tmp_path: Path
) -> None:
    before = state(world)
    build = write_build(tmp_path / "b", {"best": b"x"})
    ready: dict[str, str] = {}
    ask = far._client.ask

    def spy(method: str, *path: str, body: Any = None, **query: Any) -> Any:
        if path == ("changes",):
            ready.update(body["metadata"])
            raise UsageError("looked at")
        return ask(method, *path, body=body, **query)

    far._client.ask = spy  # type: ignore[method-assign]
    with pytest.raises(UsageError, match="looked at"):
        publish(far, build, "1.0.0")
    far._client.ask = ask  # type: ignore[method-assign]
    told = json.loads(ready["model-net"])
    spoilt = {
        "unsigned": {**told, "signatures": []},
        "changed": {**told, "signed": {**told["signed"], "version": told["signed"]["version"] + 1}},
        "of the past": {**told, "signed": {**told["signed"], "version": 1}},
        "expired": {**told, "signed": {**told["signed"], "expires": "2020-01-01T00:00:00Z"}},
        "nothing": {},
    }
    for name, content in spoilt.items():
        with pytest.raises(SlipwayError):
            ask("POST", "changes", body={"metadata": {"model-net": json.dumps(content)}})
        assert state(world) == before, name
    for name in ("root", "snapshot", "timestamp", "model-stranger", "../x"):
        with pytest.raises(SlipwayError):
            ask("POST", "changes", body={"metadata": {name: ready["model-net"]}})
        assert state(world) == before, name
    assert ask("POST", "changes", body={"metadata": ready})["written"][-1].endswith(
        "timestamp.json"
    )
    with pytest.raises(SlipwayError, match="comes next"):
        ask("POST", "changes", body={"metadata": ready})


def test_a_release_whose_files_are_not_here_is_not_taken(
    world: World, far: ServerRepository, tmp_path: Path
) -> None:
    before = state(world)
    put = far._client.put
    far._client.put = lambda *path, **how: (  # type: ignore[method-assign]
        put(*path, **how) if path[0] == "manifests" else None
    )
    with pytest.raises(UsageError, match="are not here"):
        publish(far, write_build(tmp_path / "b", {"best": b"x"}), "1.0.0")
    assert state(world) == before


def test_a_file_that_changed_on_the_way_is_not_kept(client: Client, world: World) -> None:
    headers = {"Authorization": f"Bearer {world.keys['default', 'operator']}"}
    found = client.ask("PUT", f"/v1/admin/blobs/{'a' * 64}", b"other", headers)
    assert found.code == "impossible"
    assert not (world.fleet.repo / blob_path("a" * 64)).exists()
    assert not list((world.fleet.repo / "blobs").rglob(".*"))


def test_a_viewer_publishes_nothing(client: Client, world: World) -> None:
    headers = {"Authorization": f"Bearer {world.keys['default', 'viewer']}"}
    assert client.ask("PUT", f"/v1/admin/blobs/{'a' * 64}", b"x", headers).code == "role"
    assert client.admin("POST", "/changes", {"metadata": {"x": "y"}}, role="viewer").code == "role"


def test_the_commands_take_a_server_for_a_repository(
    client: Client, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLIPWAY_PASSPHRASE", PASSPHRASE)
    monkeypatch.setenv("SLIPWAY_API_KEY", world.keys["default", "operator"])
    where = ["--repo", client.address, "--keys", str(world.fleet.folder / "keys")]
    build = write_build(tmp_path / "b", {"best": b"x"})
    assert run(["publish", str(build), "--release", "1.0.0", *where]) == 0
    assert run(["revoke", "net", "1.0.0", *where]) == 0
    assert run(["keys", "status", *where]) == 0
    assert run(["assign", "net", "1.0.0", "--group", "g", *where]) == 2
    assert run(["repo", "refresh", *where]) == 2
    monkeypatch.setenv("SLIPWAY_API_KEY", world.keys["default", "viewer"])
    again = write_build(tmp_path / "c", {"best": b"y"})
    assert run(["publish", str(again), "--release", "1.1.0", *where]) == 7
