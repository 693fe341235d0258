"""Simulated devices: real keys, signatures and connections; and what loads a server with them."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import json
import math
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from agent.codec import encode
from agent.identity import fingerprint_digest
from sdk.fleet import tables as t
from sdk.fleet.hardware import hardware_of
from tests.fleet.world import PRINT, Device, doing, runs

_CONNECTIONS = 64


def seed(connection: sa.Connection, tenant: str, group: str, devices: Sequence[Device]) -> None:
    """Write enrolled devices into a database, as enrolment leaves them."""
    now = time.time()
    common = {
        "tenant": tenant, "standing": "accepted", "why": "", "group_name": group,
        "enrolled_s": now, "fingerprint": encode(PRINT),
        "fingerprint_sha256": fingerprint_digest(PRINT), "hardware": hardware_of(PRINT),
    }  # fmt: skip
    for begin in range(0, len(devices), 5000):
        part = devices[begin : begin + 5000]
        connection.execute(
            t.device.insert(),
            [{"id": one.device_id, "public_key": one.public_key, **common} for one in part],
        )
        connection.execute(
            t.presence.insert(),
            [
                {
                    "device_id": one.device_id, "request_seq": 0, "signed_s": 0.0,
                    "address": "", "boot_id": "", "agent": "", "reports_waiting": 0,
                    "models_sha256": "",
                }
                for one in part
            ],
        )  # fmt: skip


def request_bytes(device: Device, path: str, body: Any) -> bytes:
    """A signed request as it goes over the line."""
    content, headers = device.signed(path, body)
    lines = [f"POST {path} HTTP/1.1", "Host: fleet", f"Content-Length: {len(content)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + content


@dataclasses.dataclass(frozen=True)
class Load:
    """What a server bore."""

    per_s: float
    p50_ms: float
    p99_ms: float
    statuses: Counter[int]


def quantile(times: Sequence[float], share: float) -> float:
    """A quantile of some times, in milliseconds."""
    ordered = sorted(times)
    return 1e3 * ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)]


async def closed(port: int, requests: Sequence[bytes]) -> Load:
    """Send requests as fast as they are answered, over some connections."""
    waiting = list(reversed(requests))
    times: list[float] = []
    statuses: Counter[int] = Counter()

    async def one() -> None:
        line = await _Line.open(port)
        while waiting:
            request = waiting.pop()
            began = time.perf_counter()
            status, _ = await line.ask(request)
            times.append(time.perf_counter() - began)
            statuses[status] += 1
        line.close()

    began = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(_CONNECTIONS)))
    took = time.perf_counter() - began
    return Load(len(times) / took, quantile(times, 0.5), quantile(times, 0.99), statuses)


async def paced(port: int, requests: Sequence[bytes], per_s: float) -> Load:
    """Send requests at a steady rate, whether or not the ones before were answered.

    Times count from when a request was due, so a server that holds up is not let off.
    """
    free: asyncio.Queue[_Line] = asyncio.Queue()
    for _ in range(4 * _CONNECTIONS):
        free.put_nowait(await _Line.open(port))
    times: list[float] = []
    statuses: Counter[int] = Counter()

    async def one(request: bytes, due: float) -> None:
        line = await free.get()
        status, _ = await line.ask(request)
        free.put_nowait(line)
        times.append(time.perf_counter() - due)
        statuses[status] += 1

    gc.collect()
    gc.freeze()  # a pause of what loads the server is none of the server's
    began = time.perf_counter()
    tasks = []
    for number, request in enumerate(requests):
        due = began + number / per_s
        if (left := due - time.perf_counter()) > 0:
            await asyncio.sleep(left)
        tasks.append(asyncio.create_task(one(request, due)))
    await asyncio.gather(*tasks)
    took = time.perf_counter() - began
    while not free.empty():
        free.get_nowait().close()
    return Load(len(times) / took, quantile(times, 0.5), quantile(times, 0.99), statuses)


@dataclasses.dataclass
class Simulated:
    """A device that takes what it is assigned, and says so."""

    device: Device
    sha256: str | None = None
    action: str = ""
    state: str = ""

    async def turn(self, port: int) -> tuple[int, float]:
        """One poll over a connection of its own; (status, seconds)."""
        began = time.perf_counter()
        line = await _Line.open(port)
        actions = (doing(self.action, self.state, 5),) if self.action else ()
        body = self.device.poll(models=(runs(self.sha256),), actions=actions)
        status, content = await line.ask(request_bytes(self.device, "/v1/poll", body))
        took = time.perf_counter() - began
        if status == 200:
            await self._work(line, json.loads(content))
        line.close()
        return status, took

    async def _work(self, line: _Line, answer: dict[str, Any]) -> None:
        if self.state == "CONFIRMED":
            self.action, self.state = "", ""
        if answer.get("assignment") is None or self.action:
            if self.state == "TRIAL":
                await self._enter(line, "CONFIRMED")
            return
        import base64

        told = json.loads(base64.b64decode(answer["assignment"]["payload"]))
        self.action, self.sha256 = told["action_id"], told["manifest_sha256"]
        await self._enter(line, "TRIAL")

    async def _enter(self, line: _Line, state: str) -> None:
        self.state = state
        report = self.device.report(self.action, state, manifest_sha256=self.sha256)
        request = request_bytes(self.device, "/v1/reports", {"reports": [report]})
        status, content = await line.ask(request)
        if status != 200 or b"stored" not in content:
            raise RuntimeError(f"a report was answered with {status}: {content[:200]!r}")


class _Line:
    """A connection that asks one thing at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, port: int) -> _Line:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        self._writer.write(request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        status = int(head[9:12])
        begin = head.lower().index(b"content-length:") + 15
        length = int(head[begin : head.index(b"\r\n", begin)])
        return status, await self._reader.readexactly(length)

    def close(self) -> None:
        self._writer.close()
