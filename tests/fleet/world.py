"""A real server in a folder: its repository, its keys, its database; and devices that are only keys."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import uvicorn
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agent.codec import encode, pre_authentication
from agent.identity import fingerprint_digest
from agent.manifest import Fingerprint
from agent.updates.report import REPORT_TYPE
from agent.updates.request import enrolment_statement, signature_parameters, signed_headers
from agent.updates.wire import Doing, Poll, Refused, Running
from sdk.fleet.database import open_database, writing
from sdk.fleet.online import Tenant
from sdk.fleet.rules.enrolment import device_name
from sdk.fleet.server import Server, Settings
from sdk.fleet.store.access import Role, make_key
from sdk.fleet.web.app import make_app
from sdk.fleet.web.bounds import SLOW_S
from sdk.fleet.web.connection import Connection
from tests.updates.devices import fresh_fleet
from tests.updates.fleet import PASSPHRASE, Fleet

PRINT = Fingerprint(
    identity={"arch": "x86_64", "soc": "test", "cores": 4, "memory_bytes": 4 << 30, "isa": []},
    software={"os": "Debian 12", "runtimes": {"onnxruntime": "1.31.0"}},
    conditions={},
)


class World:
    """A server process in this one, with its repository and an admin's key for each tenant."""

    def __init__(
        self,
        folder: Path,
        url: str | None = None,
        settings: Settings | None = None,
        slow_s: float = SLOW_S,
    ) -> None:
        self.folder = folder
        self.fleet: Fleet = fresh_fleet(folder)
        self.url = url or f"sqlite:///{folder / 'fleet.db'}"
        self.settings = settings or Settings(
            poll_s=5.0,
            tick_s=0.1,
            enrolments_per_minute=100000,
            admin_per_minute=100000,
            requests_per_minute=100000,
        )
        self.tenants = {
            name: Tenant(name, self.fleet.repo, self.fleet.folder / "keys", PASSPHRASE)
            for name in ("default", "other")
        }
        self.server = Server(open_database(self.url), self.tenants, self.settings)
        self.app = make_app(self.server, slow_s=slow_s)
        self.keys = {
            (tenant, role): self._key(tenant, role)
            for tenant in self.tenants
            for role in ("viewer", "operator", "admin")
        }

    def _key(self, tenant: str, role: Role) -> str:
        with writing(self.server.engine) as connection:
            return make_key(connection, tenant, f"the {role}", role, time.time())[1]

    def rows(self, wanted: Any) -> list[Any]:
        """What a query finds, whoever writes."""
        with self.server.engine.connect() as connection:
            return list(connection.execute(wanted).all())

    def count(self, table: sa.Table) -> int:
        return int(self.rows(sa.select(sa.func.count()).select_from(table))[0][0])

    def close(self) -> None:
        self.server.close()


@contextlib.contextmanager
def listening(world: World, http: type[Connection] = Connection) -> Iterator[str]:
    """The address of the world's server, while it listens at a real port."""
    config = uvicorn.Config(
        world.app, host="127.0.0.1", port=0, log_config=None, access_log=False, lifespan="off",
        http=http, ws="none",
    )  # fmt: skip
    server = uvicorn.Server(config)
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until = time.monotonic() + 20.0
    while not server.started:
        assert time.monotonic() < until
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(20.0)


@dataclasses.dataclass
class Device:
    """A device that is a key and a counter: it signs what it is told to."""

    fleet: str = ""
    seq: int = 0
    key: Ed25519PrivateKey = dataclasses.field(default_factory=Ed25519PrivateKey.generate)
    device_id: str = ""
    print: Fingerprint = PRINT
    boot_id: str = "boot-1"

    def __post_init__(self) -> None:
        self.device_id = self.device_id or device_name(self.public_key)

    @property
    def public_key(self) -> bytes:
        return self.key.public_key().public_bytes_raw()

    def enrolment(self, **more: Any) -> dict[str, Any]:
        """The body of an enrolment, with its proof."""
        body = {
            "device_id": self.device_id,
            "public_key": base64.b64encode(self.public_key).decode(),
            "created": int(time.time()),
            "fingerprint": encode(self.print),
            **more,
        }
        proof = self.key.sign(enrolment_statement(body))
        return {**body, "proof": base64.b64encode(proof).decode()}

    def poll(self, **more: Any) -> Poll:
        values: dict[str, Any] = {
            "agent": "0.1.0",
            "boot_id": self.boot_id,
            "fingerprint_sha256": fingerprint_digest(self.print),
        }
        return Poll(**{**values, **more})

    def signed(
        self, path: str, body: Any, *, seq: int | None = None, created: float | None = None,
        nonce: str = "", method: str = "POST",
    ) -> tuple[bytes, dict[str, str]]:  # fmt: skip
        """The bytes of a request and its headers; its number is the next one."""
        if seq is None:
            self.seq += 1
            seq = self.seq
        content = json.dumps(encode(body)).encode()
        when = None if nonce else int(time.time() if created is None else created)
        headers = signed_headers(
            self.key.sign,
            method=method,
            path=path,
            body=content,
            seq=seq,
            parameters=signature_parameters(
                device_id=self.device_id, fleet=self.fleet, created=when, nonce=nonce
            ),
        )
        return content, {**headers, "Content-Type": "application/json"}

    def report(self, action_id: str, state: str, **more: Any) -> dict[str, Any]:
        """A signed report, as JSON has an envelope."""
        values = {
            "version": 1,
            "device_id": self.device_id,
            "action_id": action_id,
            "journal_seq": 1,
            "model": "net",
            "release": "1.0.0",
            "variant": None,
            "state": state,
            "reason": "",
            "fingerprint_sha256": fingerprint_digest(self.print),
            "at": "2026-11-22T12:00:00Z",
            "manifest_sha256": "a" * 64,
            **more,
        }
        payload = json.dumps(values, sort_keys=True, separators=(",", ":")).encode()
        signature = self.key.sign(pre_authentication(REPORT_TYPE, payload))
        return {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": REPORT_TYPE,
            "signatures": [{"keyid": self.device_id, "sig": base64.b64encode(signature).decode()}],
        }


def doing(action_id: str, state: Any, journal_seq: int = 1, reason: str = "") -> Doing:
    return Doing(action_id=action_id, state=state, journal_seq=journal_seq, reason=reason)


def refused(action_id: str, reason: str) -> Refused:
    return Refused(action_id=action_id, reason=reason)


def runs(sha256: str | None, model: str = "net", **more: Any) -> Running:
    return Running(model=model, running_sha256=sha256, **more)


def told(content: bytes) -> Mapping[str, Any]:
    found: Mapping[str, Any] = json.loads(content)
    return found
