"""The server's description of itself is true: whatever is sent, by whomever, is answered as it says.

The requests are made from that description, by schemathesis; half of them break it on purpose.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from agent.updates.request import signature_parameters, signed_headers
from tests.fleet.client import Client
from tests.fleet.postgres import fresh_database
from tests.fleet.world import Device, World, listening, runs

CHECKS: list[Any] = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
]
ROLES = ("nobody", "viewer", "operator", "admin")


@pytest.fixture(
    scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)]
)
def client(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Client]:
    """A server with a device, a release and a rollout; no test here needs it as it was."""
    folder = tmp_path_factory.mktemp("openapi")
    if request.param == "sqlite":
        yield from _serving(folder, f"sqlite:///{folder / 'fleet.db'}")
    else:
        with fresh_database() as url:
            yield from _serving(folder, url)


def _serving(folder: Path, url: str) -> Iterator[Client]:
    world = World(folder, url)
    with listening(world) as address, Client(address, world) as made:
        world.fleet.publish("1.0.0", world.fleet.build("b"))
        device = made.enrolled("line-3")
        made.do("POST", "/rollouts", {"model": "net", "release": "1.0.0", "group": "line-3"})
        made.poll(device, models=(runs("a" * 64),))
        yield made
    world.close()


@functools.cache
def _operations(address: str) -> dict[str, Any]:
    """Each operation of the description, by its label."""
    schema = schemathesis.openapi.from_url(f"{address}/openapi.json")
    return {found.ok().label: found.ok() for found in schema.get_all_operations()}


def _try(
    client: Client, label: str, mode: GenerationMode, examples: int, send: Callable[[Case], Any]
) -> collections.Counter[int]:
    """Send some requests of an operation, and hold each answer against the description."""
    operation = _operations(client.address)[label]
    statuses: collections.Counter[int] = collections.Counter()

    @settings(
        max_examples=examples, deadline=None, database=None, derandomize=True,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(operation.as_strategy(generation_mode=mode))
    def tried(case: Case) -> None:
        found = send(case)
        statuses[found.status_code] += 1
        case.validate_response(found, checks=CHECKS)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the generator's, about what it cannot make
        with contextlib.suppress(Unsatisfiable):  # nothing in it could be wrong
            tried()
    return statuses


def _labels(client: Client, kind: str) -> list[str]:
    """The operations of operators, of devices that sign, and of everybody."""
    found = {"operators": [], "signed": [], "open": []}
    for label, operation in _operations(client.address).items():
        is_signed = "Signature" in {one.name for one in operation.headers}
        whose = "signed" if is_signed else "open"
        found["operators" if operation.path.startswith("/v1/admin/") else whose].append(label)
    return found[kind]


def test_every_route_is_described(client: Client) -> None:
    assert len(_labels(client, "operators")) > 20
    assert _labels(client, "signed") == [
        "POST /v1/poll", "POST /v1/reports", "POST /v1/actions/{action_id}/state",
    ]  # fmt: skip
    assert {"POST /v1/enroll", "GET /v1/nonce", "GET /metrics"} <= set(_labels(client, "open"))


@pytest.mark.parametrize("mode", list(GenerationMode))
@pytest.mark.parametrize("role", ROLES)
def test_operators_are_answered_as_is_described(
    client: Client, role: str, mode: GenerationMode
) -> None:
    statuses = _operators(client, role, mode, 4)
    assert statuses[500] == 0
    if mode is GenerationMode.POSITIVE:
        assert bool(statuses[200]) == (role != "nobody")


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_devices_are_answered_as_is_described(client: Client, mode: GenerationMode) -> None:
    statuses = _devices(client, mode, 5)
    assert statuses[200]
    assert statuses[400] or mode is GenerationMode.POSITIVE


@pytest.mark.long
@pytest.mark.parametrize("mode", list(GenerationMode))
def test_whatever_is_sent_is_answered_as_is_described(client: Client, mode: GenerationMode) -> None:
    for role in ROLES:
        _operators(client, role, mode, 20)
    _devices(client, mode, 60)


def _operators(
    client: Client, role: str, mode: GenerationMode, examples: int
) -> collections.Counter[int]:
    statuses: collections.Counter[int] = collections.Counter()
    headers = {}
    if role != "nobody":
        headers["Authorization"] = f"Bearer {client.world.keys['default', role]}"
    with requests.Session() as session:
        for label in _labels(client, "operators"):
            statuses += _try(
                client, label, mode, examples,
                lambda case: case.call(
                    base_url=client.address, headers=headers, session=session
                ),
            )  # fmt: skip
    return statuses


def _devices(client: Client, mode: GenerationMode, examples: int) -> collections.Counter[int]:
    statuses: collections.Counter[int] = collections.Counter()
    device = client.enrolled("line-3")
    with requests.Session() as session:
        for label in _operations(client.address):
            statuses += _try(
                client, label, mode, examples,
                lambda case: case.call(base_url=client.address, session=session),
            )  # fmt: skip
        for label in _labels(client, "signed"):
            statuses += _try(
                client, label, mode, examples,
                lambda case: case.call(
                    base_url=client.address, session=session, auth=_Signing(device)
                ),
            )  # fmt: skip
    device.seq += 1000
    assert client.poll(device).next_poll_s > 0
    return statuses


class _Signing(requests.auth.AuthBase):
    """Signs whatever was made, as the device does."""

    def __init__(self, device: Device) -> None:
        self._device = device

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        self._device.seq += 1
        body = request.body or b""
        path, _, query = request.path_url.partition("?")
        request.headers.update(
            signed_headers(
                self._device.key.sign,
                method=str(request.method),
                path=path,
                query=query,
                body=body if isinstance(body, bytes) else body.encode(),
                seq=self._device.seq,
                parameters=signature_parameters(
                    device_id=self._device.device_id,
                    fleet=self._device.fleet,
                    created=int(time.time()),
                    nonce="",
                ),
            )
        )
        return request
