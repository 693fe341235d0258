"""`/v1`: what devices ask. docs/reference/protocol/fleet.md is the same in words."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Path, Request, Response
from pydantic import TypeAdapter, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.types import Scope

from agent.updates.request import enrolment_statement
from agent.updates.wire import (
    Answer,
    Enrolled,
    Enrolment,
    Nonce,
    Poll,
    Reports,
    ReportsTaken,
    StateOf,
)
from sdk.fleet.database import written
from sdk.fleet.refusals import RefusedError
from sdk.fleet.server import Server
from sdk.fleet.store.enrolment import Introduction, Result, enrol
from sdk.fleet.web.desk import address_of, server_of
from sdk.fleet.web.errors import responses
from sdk.fleet.web.signed import Nonces, read_ask

T = TypeVar("T")
_NUL = rb"\u0000"
_ESCAPED_NUL = re.compile(rb"((?<!\\)(?:\\\\)*)\\u0000")
POLL, _REPORTS, _STATE = TypeAdapter(Poll), TypeAdapter(Reports), TypeAdapter(StateOf)
_ENROLMENT, _ENROLLED = TypeAdapter(Enrolment), TypeAdapter(Enrolled)
_ANSWERS: Mapping[type, TypeAdapter[Any]] = {
    Answer: TypeAdapter(Answer),
    ReportsTaken: TypeAdapter(ReportsTaken),
}
BODIES = (Enrolment, Poll, Reports, StateOf)
"""Bodies that routes read themselves, since what is signed is their bytes."""
_SIGNED = (
    ("Content-Digest", r"^sha-256=:[A-Za-z0-9+/]{43}=:$"),
    ("Slipway-Request-Seq", r"^[1-9][0-9]{0,15}$"),
    ("Signature-Input", r"^slipway=.*$"),
    ("Signature", r"^slipway=:[A-Za-z0-9+/]{86}==:$"),
)
_REFUSALS = responses(400, 401, 403, 408, 409, 413, 415, 429, 503)


router = APIRouter(prefix="/v1", tags=["devices"])


def _described(body: type, *, signed: bool = True) -> dict[str, Any]:
    """What a route takes, for its description."""
    reference = {"$ref": f"#/components/schemas/{body.__name__}"}
    found: dict[str, Any] = {
        "requestBody": {"required": True, "content": {"application/json": {"schema": reference}}}
    }
    if signed:
        found["parameters"] = [
            {
                "name": name,
                "in": "header",
                "required": True,
                "schema": {"type": "string", "pattern": pattern},
            }
            for name, pattern in _SIGNED
        ]
    return found


async def answered(
    server: Server,
    nonces: Nonces,
    scope: Scope,
    content: bytes,
    kind: TypeAdapter[Any],
    action_id: str = "",
) -> bytes:
    """The answer to a signed request, as JSON; durable when this returns.

    Raises:
        SlipwayError: it does not count, or cannot be written.
    """
    client = scope["client"]
    ask = read_ask(
        {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]},
        method=scope["method"],
        path=scope["raw_path"].partition(b"?")[0].decode("ascii", "replace"),
        query=scope["query_string"].decode("ascii", "replace"),
        content=content,
        body=_read(kind, content),
        action_id=action_id,
        address=client[0][:64] if client else "",
        fleet=server.fleet,
        nonces=nonces,
        now_s=server.now_s(),
    )
    reply = await server.committer.submit(ask)
    return b"{}" if reply is None else _ANSWERS[type(reply)].dump_json(reply)


async def _carried_out(request: Request, kind: TypeAdapter[Any], action_id: str = "") -> Response:
    content = await answered(
        server_of(request),
        request.app.state.nonces,
        request.scope,
        await request.body(),
        kind,
        action_id,
    )
    return Response(content, media_type="application/json")


@router.post(
    "/poll", responses={200: {"model": Answer}, **_REFUSALS}, openapi_extra=_described(Poll)
)
async def poll(request: Request) -> Response:
    """Say what is so on a device, and be told what to do."""
    return await _carried_out(request, POLL)  # sdk.fleet.web.lane is faster, and does the same


@router.post(
    "/reports",
    responses={200: {"model": ReportsTaken}, **_REFUSALS},
    openapi_extra=_described(Reports),
)
async def reports(request: Request) -> Response:
    """Hand signed reports over; each is kept once."""
    return await _carried_out(request, _REPORTS)


@router.post("/actions/{action_id}/state", responses=_REFUSALS, openapi_extra=_described(StateOf))
async def state(
    request: Request, action_id: Annotated[str, Path(min_length=1, max_length=200)]
) -> Response:
    """Say that an action has come further."""
    return await _carried_out(request, _STATE, action_id)


@router.get("/nonce", responses=responses(429))
async def nonce(request: Request) -> Nonce:
    """A challenge to sign instead of the time."""
    request.app.state.limits.enrolment(address_of(request))
    now_s = server_of(request).now_s()
    return Nonce(nonce=request.app.state.nonces.make(now_s), now=int(now_s))


@router.post(
    "/enroll",
    responses={
        200: {"model": Enrolled},
        **responses(400, 401, 403, 404, 408, 409, 413, 415, 429, 503),
    },
    openapi_extra=_described(Enrolment, signed=False),
)
async def enroll(request: Request) -> Response:
    """Introduce a device."""
    server = server_of(request)
    request.app.state.limits.enrolment(address_of(request))
    told = _introduction(await request.body(), address_of(request))
    if told.tenant not in server.tenants:
        raise RefusedError("missing", f"There is no tenant {told.tenant[:80]!r} here.")
    found = await run_in_threadpool(_enrol, server, told)
    answer = Enrolled(
        status=found.standing,
        fleet=server.fleet,
        tenant=found.tenant,
        group=found.group,
        repository=f"/v1/repo/{found.tenant}",
    )
    return Response(_ENROLLED.dump_json(answer), media_type="application/json")


def _enrol(server: Server, told: Introduction) -> Result:
    return written(server.engine, lambda connection: enrol(connection, told, server.now_s()))


def _introduction(content: bytes, address: str) -> Introduction:
    """A device's introduction, whose proof holds.

    Raises:
        RefusedError: it cannot be read, or is not signed by the key that it names.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    told = _read(_ENROLMENT, content)
    try:
        raw = json.loads(content)
        statement = enrolment_statement(raw)
        public_key = base64.b64decode(told.public_key, validate=True)
        proof = base64.b64decode(told.proof, validate=True)
        previous = told.previous_proof
        previous_proof = None if previous is None else base64.b64decode(previous, validate=True)
        Ed25519PublicKey.from_public_bytes(public_key).verify(proof, statement)
    except InvalidSignature as error:
        raise RefusedError(
            "unsigned",
            "The enrolment is not signed by the key that it names.",
            cause="It was changed on the way.",
            remedy="Enrol again: sdk-agent enroll URL",
        ) from error
    except ValueError as error:
        raise RefusedError("malformed", f"The enrolment cannot be read: {error}."[:300]) from error
    return Introduction(
        tenant=told.tenant,
        device_id=told.device_id,
        public_key=public_key,
        token=told.token,
        fingerprint=told.fingerprint,
        statement=statement,
        previous_proof=previous_proof,
        address=address,
    )


def _read(kind: TypeAdapter[T], content: bytes) -> T:
    if (
        _NUL in content
    ):  # PostgreSQL takes none in a text, and a device should be heard all the same
        content = _ESCAPED_NUL.sub(rb"\1\\ufffd", content)
    try:
        return kind.validate_json(content, strict=True)
    except (ValidationError, RecursionError) as error:
        told = str(error).replace("\n", " ")[:300]
        raise RefusedError("malformed", f"The body cannot be read: {told}") from error
