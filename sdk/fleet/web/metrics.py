"""Numbers for Prometheus: few labels, and none that a device could make up."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agent.errors import StorageError
from sdk.fleet.database import reading
from sdk.fleet.rules.gates import Verdict
from sdk.fleet.server import Server
from sdk.fleet.store.devices import counts
from sdk.fleet.store.gates import verdicts

_KEPT_S = 10.0
"""The fleet is counted anew so often at most, however many scrape."""
_BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)


class Metrics:
    """One process's numbers."""

    def __init__(self, server: Server) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "slipway_requests", "Requests, by route and status.", ("route", "status"),
            registry=self.registry,
        )  # fmt: skip
        self._seconds = Histogram(
            "slipway_request_seconds", "Time to answer, by route.", ("route",),
            buckets=_BUCKETS, registry=self.registry,
        )  # fmt: skip
        self.registry.register(_Fleet(server))
        self._ways: dict[tuple[str, int], tuple[Counter, Histogram]] = {}

    def count(self, route: str, status: int, seconds: float) -> None:
        """One request was answered."""
        way = self._ways.get((route, status))
        if way is None:
            way = self._requests.labels(route, str(status)), self._seconds.labels(route)
            self._ways[route, status] = way
        way[0].inc()
        way[1].observe(seconds)


class Counted:
    """An ASGI layer that counts."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, counted."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, began = 500, time.perf_counter()

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noted)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            self._metrics.count(route, status, time.perf_counter() - began)


class _Fleet(Collector):
    """What the database says of all devices together."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._counted: tuple[float, dict[str, float]] = (float("-inf"), {})

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The gauges as they are now, or were a moment ago."""
        standings = GaugeMetricFamily(
            "slipway_devices", "Devices, by how they stand.", labels=("standing",)
        )
        told = self._count()
        for standing in ("accepted", "pending", "rejected", "quarantined"):
            standings.add_metric((standing,), told.get(standing, 0.0))
        yield standings
        yield GaugeMetricFamily(
            "slipway_devices_silent", "Accepted devices that do not poll.", told.get("silent", 0.0)
        )
        yield GaugeMetricFamily(
            "slipway_devices_fell_back", "Devices that run what they did not confirm last.",
            told.get("fell_back", 0.0),
        )  # fmt: skip
        gates = GaugeMetricFamily(
            "slipway_gates", "Gates of rollouts that are not over, by verdict.", labels=("verdict",)
        )
        for verdict in get_args(Verdict):
            gates.add_metric((verdict,), told.get(verdict, 0.0))
        yield gates
        yield GaugeMetricFamily(
            "slipway_waited_seconds", "How long requests wait to be written.",
            self._server.committer.waited_s,
        )  # fmt: skip

    def _count(self) -> dict[str, float]:
        if time.monotonic() - self._counted[0] > _KEPT_S:
            try:
                with reading(self._server.engine) as connection:
                    found = counts(connection, None, self._server.now_s())
                    judged = verdicts(connection)
            except StorageError:
                return self._counted[1]
            told = {**judged, **found["standings"], "silent": found["silent"]}
            self._counted = (time.monotonic(), {**told, "fell_back": found["fell_back"]})
        return self._counted[1]
