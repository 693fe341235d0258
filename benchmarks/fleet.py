"""What a fleet server bears: polls beside a bare FastAPI POST, a fleet of 10,000, 100,000 rows.

The server has one core to itself, and what loads it the other one.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from agent.processes import memory
from benchmarks.fleet_devices import Load, Simulated, closed, paced, quantile, request_bytes, seed
from sdk.fleet import tables as t
from sdk.fleet.database import migrate, open_database, reading, writing
from sdk.fleet.rules.rollout import Rollout, Stage
from sdk.fleet.store import rollouts
from sdk.fleet.store.shared import shared_secret
from tests.fleet.world import Device, runs
from tests.updates.fleet import PASSPHRASE, Fleet

if TYPE_CHECKING:
    from benchmarks.run import Row

WINDOWS, IN_WINDOW = 5, 4000
DEVICES, POLL_S, MINUTES_S, STORM_S = 10_000, 60.0, 300.0, 10.0
ROWS = 100_000
GROUP = "line-3"
_BARE = """
import sys
import uvicorn
from fastapi import FastAPI
from agent.updates.wire import Answer, Poll

app = FastAPI()

@app.post("/v1/poll")
async def poll(body: Poll) -> Answer:
    return Answer(next_poll_s=60)

uvicorn.run(app, port=int(sys.argv[1]), access_log=False, log_level="warning")
"""


def polls(folder: Path) -> Iterator[Row]:
    """Signed, durable polls beside a bare FastAPI POST of the same body, on the same core."""
    from benchmarks.run import Row

    with _Served(folder / "polls") as served, _bare() as bare_port:
        devices = [Device(fleet=served.fleet) for _ in range(1000)]
        served.seed(devices)
        windows = [_window(served.port, bare_port, devices) for _ in range(WINDOWS)]
        rates, base = [one.fast.per_s for one in windows], [one.bare.per_s for one in windows]
        p99 = [one.calm.p99_ms for one in windows]
        base_p99 = [one.bare_calm.p99_ms for one in windows]
        ratios = [ours / bare for ours, bare in zip(rates, base, strict=True)]
        p50 = statistics.median(one.calm.p50_ms for one in windows)
        for told, figures in (("ours", rates), ("bare", base)):
            print(f"{told}: {', '.join(f'{one:.0f}' for one in figures)} a second")
        for told, figures in (("ours", p99), ("bare", base_p99)):
            print(f"{told}, p99 at 70 %: {', '.join(f'{one:.1f}' for one in figures)} ms")
        print(f"p50 at 70 %: {p50:.1f} ms; ratios {', '.join(f'{one:.2f}' for one in ratios)}")
        yield Row(
            name="a bare FastAPI POST / a signed, durable poll, requests per second",
            value=1 / statistics.median(ratios), bound=1 / 0.35, unit="x",
        )  # fmt: skip
        yield Row(
            name="p99 of polls at 70 % of that rate", value=statistics.median(p99), bound=50.0,
            unit="ms",
        )  # fmt: skip
        yield from _growth(folder, served)


def fleet_of_ten_thousand(folder: Path) -> Iterator[Row]:
    """10,000 devices, an update for all of them, and all of them coming back at once."""
    from benchmarks.run import Row

    with _Served(folder / "fleet", poll_s=POLL_S) as served:
        devices = [Simulated(Device(fleet=served.fleet)) for _ in range(DEVICES)]
        served.seed([one.device for one in devices])
        served.assign()
        statuses, times, peak = asyncio.run(_days(served, devices))
        with reading(served.engine) as connection:
            confirmed = connection.execute(
                sa.select(sa.func.count()).where(t.action.c.state == "CONFIRMED")
            ).scalar_one()
            state = connection.execute(sa.select(t.rollout.c.state)).scalar_one()
        errors = sum(count for status, count in statuses.items() if status != 200)
        told = f"{sum(statuses.values())} polls, p50 {quantile(times, 0.5):.1f} ms, "
        print(told + f"p99 {quantile(times, 0.99):.1f} ms, rollout {state}, {dict(statuses)}")
        yield Row(name="polls that were not answered", value=errors, bound=0, unit="")
        yield Row(
            name="devices not at the right state", value=DEVICES - confirmed, bound=0, unit=""
        )
        yield Row(name="resident memory of the server", value=peak / 1e6, bound=1000, unit="MB")


def rows(folder: Path, postgres: str | None = None) -> Iterator[Row]:
    """A release is assigned to 100,000 devices in one go."""
    from benchmarks.run import Row

    folder.mkdir(parents=True)
    for name, url in (("SQLite", f"sqlite:///{folder / 'rows.db'}"), ("PostgreSQL", postgres)):
        if url is None:
            print("PostgreSQL is not measured: name an empty database in $SLIPWAY_POSTGRES")
            continue
        engine = open_database(url)
        migrate(engine)
        with writing(engine) as connection:
            seed(connection, "default", GROUP, [_named(number) for number in range(ROWS)])
        times = []
        for _ in range(3):
            began = time.perf_counter()
            with writing(engine) as connection:
                rollouts.begin(connection, _order("a" * 64), time.time())
            times.append(time.perf_counter() - began)
        engine.dispose()
        print(f"{name}: {[round(value, 2) for value in times]} s")
        yield Row(
            name=f"a release assigned to 100,000 devices, {name}", value=max(times), bound=2.0,
            unit="s",
        )  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Window:
    """What ours and the bare server bore, as fast as they go and at 70 % of that."""

    fast: Load
    bare: Load
    calm: Load
    bare_calm: Load


def _window(port: int, bare: int, devices: list[Device]) -> _Window:
    """Ours and bare as fast as they go, then each at 70 % of what it just bore.

    A shared machine is a third faster in one minute than in the next: a rate of some minutes ago
    would load the server with anything between a half and all that it can bear.
    """
    fast = [asyncio.run(closed(one, _polls(devices))) for one in (port, bare)]
    calm = [
        asyncio.run(paced(one, _polls(devices, 2 * IN_WINDOW), 0.7 * load.per_s))
        for one, load in zip((port, bare), fast, strict=True)
    ]
    _check([*fast, *calm])
    return _Window(fast=fast[0], bare=fast[1], calm=calm[0], bare_calm=calm[1])


def _growth(folder: Path, small: _Served) -> Iterator[Row]:
    """The same polls where a hundred times as many devices are enrolled."""
    from benchmarks.run import Row

    with _Served(folder / "large") as large:
        devices = {one: [Device(fleet=one.fleet) for _ in range(1000)] for one in (small, large)}
        for one, own in devices.items():
            one.seed(own)
        large.seed([_named(number) for number in range(ROWS - 1000)])
        rates: dict[_Served, list[float]] = {small: [], large: []}
        for _ in range(WINDOWS):
            for one, own in devices.items():
                load = asyncio.run(closed(one.port, _polls(own)))
                _check([load])
                rates[one].append(load.per_s)
        pairs = zip(rates[small], rates[large], strict=True)
        yield Row(
            name="cost of a poll among 100,000 devices / among some thousand",
            value=statistics.median(a / b for a, b in pairs), bound=1.1, unit="x",
        )  # fmt: skip


async def _days(served: _Served, devices: list[Simulated]) -> tuple[Counter[int], list[float], int]:
    """Polls at their pace, then all at once; (status -> polls, seconds of each, peak bytes)."""
    statuses: Counter[int] = Counter()
    times: list[float] = []
    peak = 0

    async def turn(one: Simulated, wait_s: float) -> None:
        await asyncio.sleep(wait_s)
        try:
            status, took = await one.turn(served.port)
        except OSError:
            statuses[0] += 1
            return
        statuses[status] += 1
        times.append(took)

    async def watch() -> None:
        nonlocal peak
        while True:
            peak = max(peak, memory(served.pid) or 0)
            await asyncio.sleep(1.0)

    watching = asyncio.create_task(watch())
    for _ in range(round(MINUTES_S / POLL_S)):
        waits = [random.uniform(0, POLL_S) for _ in devices]
        await asyncio.gather(*(turn(*pair) for pair in zip(devices, waits, strict=True)))
    waits = [random.uniform(0, STORM_S) for _ in devices]
    await asyncio.gather(*(turn(*pair) for pair in zip(devices, waits, strict=True)))
    watching.cancel()
    return statuses, times, peak


class _Served:
    """A real `sdk fleet serve` on the first core."""

    def __init__(self, folder: Path, poll_s: float = 60.0) -> None:
        self._fleet = Fleet(folder)
        self.manifest_sha256 = self._fleet.publish("1.0.0").manifest_sha256
        self.engine = open_database(f"sqlite:///{folder / 'fleet.db'}")
        command = [
            *_pinned(0), sys.executable, "-P", "-m", "sdk", "fleet", "serve", "--port", "0",
            "--db", f"sqlite:///{folder / 'fleet.db'}", "--repo", str(self._fleet.repo),
            "--keys", str(folder / "keys"), "--poll", str(poll_s),
        ]  # fmt: skip
        self._process = subprocess.Popen(
            command, cwd=folder, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "SLIPWAY_PASSPHRASE": PASSPHRASE, "PYTHONPATH": str(Path.cwd())},
        )  # fmt: skip
        assert self._process.stderr is not None
        self.pid = self._process.pid
        line = self._process.stderr.readline()
        found = re.search(r":([0-9]+)$", line.strip())
        if found is None:
            raise RuntimeError(line + self._process.stderr.read())
        self.port = int(found[1])
        with writing(self.engine) as connection:
            self.fleet = shared_secret(connection, "fleet").hex()[:32]

    def seed(self, devices: list[Device]) -> None:
        with writing(self.engine) as connection:
            seed(connection, "default", GROUP, devices)

    def assign(self) -> None:
        with writing(self.engine) as connection:
            rollouts.begin(connection, _order(self.manifest_sha256), time.time())

    def __enter__(self) -> _Served:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        told = self._process.communicate(timeout=30)[1]
        self.engine.dispose()
        if "traceback" in told.lower():
            raise RuntimeError(told[-3000:])


@contextlib.contextmanager
def _bare() -> Iterator[int]:
    """A FastAPI app that does nothing, on the same core; its port."""
    port = 18231
    command = [*_pinned(0), sys.executable, "-c", _BARE, str(port)]
    with subprocess.Popen(command) as process:
        time.sleep(4.0)
        yield port
        process.terminate()


def _pinned(core: int) -> list[str]:
    """A command runs on this core; what calls it takes the other one."""
    os.sched_setaffinity(0, {1})
    return ["taskset", "-c", str(core)]


def _polls(devices: list[Device], count: int = IN_WINDOW) -> list[bytes]:
    body = (runs("a" * 64, release="1.0.0", variant="best", slot="A"),)
    return [
        request_bytes(one, "/v1/poll", one.poll(models=body))
        for number in range(count)
        for one in (devices[number % len(devices)],)
    ]


def _check(loads: list[Load]) -> None:
    for load in loads:
        if set(load.statuses) != {200}:
            raise RuntimeError(f"not all polls were answered: {load.statuses}")


def _named(number: int) -> Device:
    """A device that never speaks: making a key for each would take longer than all else."""
    return Device(device_id=f"{number:032x}", key=_KEY)


def _order(manifest_sha256: str) -> rollouts.Order:
    return rollouts.Order(
        tenant="default", model="net", release="1.0.0", release_counter=1,
        release_path="models/net/1.0.0/manifest.json", manifest_sha256=manifest_sha256,
        group=GROUP, device_id=None, plan=Rollout(stages=(Stage(share=1.0),)), gates=(),
        deadline_s=3600, made_by="benchmark",
    )  # fmt: skip


_KEY: Any = Device().key
