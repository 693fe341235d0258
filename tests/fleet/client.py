"""What asks a server in tests: devices and operators, over a real connection."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import urllib3

from agent.codec import encode
from agent.updates.wire import Answer
from tests.fleet.world import Device, World


@dataclasses.dataclass(frozen=True)
class Got:
    """An answer."""

    status: int
    content: bytes
    headers: dict[str, str]

    @property
    def json(self) -> Any:
        return json.loads(self.content)

    @property
    def code(self) -> str:
        return str(self.json["error"]["code"])


class Client:
    """One connection to a server."""

    def __init__(self, address: str, world: World) -> None:
        self.address = address
        self.world = world
        self._pool = urllib3.PoolManager(retries=False, timeout=30.0)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.clear()

    def ask(
        self, method: str, path: str, content: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> Got:  # fmt: skip
        found = self._pool.request(
            method, self.address + path, body=content, headers=headers or {}, redirect=False
        )
        return Got(found.status, found.data, dict(found.headers))

    def admin(
        self, method: str, path: str, body: Any = None, *, role: str = "operator",
        tenant: str = "default",
    ) -> Got:  # fmt: skip
        headers = {"Authorization": f"Bearer {self.world.keys[tenant, role]}"}
        content = None
        if body is not None:
            content, headers["Content-Type"] = json.dumps(body).encode(), "application/json"
        return self.ask(method, f"/v1/admin{path}", content, headers)

    def do(self, method: str, path: str, body: Any = None, **how: Any) -> Any:
        """The same, which has to succeed."""
        found = self.admin(method, path, body, **how)
        assert found.status == 200, found.content
        return found.json

    def enroll(self, device: Device, **more: Any) -> Got:
        found = self.ask(
            "POST", "/v1/enroll", json.dumps(device.enrolment(**more)).encode(),
            {"Content-Type": "application/json"},
        )  # fmt: skip
        if found.status == 200:
            device.fleet = found.json["fleet"]
        return found

    def enrolled(self, group: str | None = None, tenant: str = "default", **how: Any) -> Device:
        """A device that was let in by a token."""
        token = self.do("POST", "/tokens", {"group": group}, tenant=tenant)["token"]
        device = Device(**how)
        found = self.enroll(device, token=token)
        assert found.status == 200, found.content
        assert found.json["status"] == "accepted"
        return device

    def signed(self, device: Device, path: str, body: Any, **how: Any) -> Got:
        content, headers = device.signed(path, body, **how)
        return self.ask("POST", path, content, headers)

    def poll(self, device: Device, **more: Any) -> Answer:
        """A poll that has to count."""
        found = self.signed(device, "/v1/poll", device.poll(**more))
        assert found.status == 200, found.content
        return Answer(**found.json)

    def state(self, device: Device, action_id: str, body: Any) -> Got:
        return self.signed(device, f"/v1/actions/{action_id}/state", encode(body))
