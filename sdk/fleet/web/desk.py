"""What the routes of the admin API share: who asks, with what role, and that it is written down."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeVar

import sqlalchemy as sa
from fastapi import Depends, Path, Query, Request

from sdk.fleet.database import reading, written
from sdk.fleet.online import Tenant
from sdk.fleet.refusals import RefusedError
from sdk.fleet.server import Server
from sdk.fleet.store import access
from sdk.fleet.store.access import Caller, Role
from sdk.fleet.store.enrolment import sha256_of
from sdk.fleet.web.errors import responses
from sdk.fleet.web.limits import Limits

T = TypeVar("T")
ALWAYS = responses(400, 401, 403, 404, 408, 409, 413, 415, 422, 429, 503)
"""What every route of the admin API may answer beside a success."""
Name = Annotated[str, Path(min_length=1, max_length=64, pattern=r"^[0-9A-Za-z._-]+$")]
Limit = Annotated[int, Query(ge=1, le=1000)]


def server_of(request: Request) -> Server:
    """The process that answers."""
    found: Server = request.app.state.server
    return found


def address_of(request: Request) -> str:
    """Where a request comes from."""
    return request.client.host[:64] if request.client is not None else ""


def viewer(request: Request) -> Caller:
    """Whoever may look."""
    return _caller(request, "viewer")


def operator(request: Request) -> Caller:
    """Whoever may assign, and let devices in."""
    return _caller(request, "operator")


def admin(request: Request) -> Caller:
    """Whoever may make keys."""
    return _caller(request, "admin")


Desk = Annotated[Server, Depends(server_of)]
Viewer = Annotated[Caller, Depends(viewer)]
Operator = Annotated[Caller, Depends(operator)]
Admin = Annotated[Caller, Depends(admin)]


def write(
    server: Server,
    caller: Caller,
    did: str,
    about: Mapping[str, Any],
    do: Callable[[sa.Connection], T],
) -> T:
    """Do something and write down who did; both or neither."""

    def done(connection: sa.Connection) -> T:
        found = do(connection)
        access.note(connection, caller, did, about, server.now_s())
        return found

    return written(server.engine, done)


def tenant_of(server: Server, caller: Caller) -> Tenant:
    """The repository and the keys of whoever asks.

    Raises:
        RefusedError: this server has them not.
    """
    found = server.tenants.get(caller.tenant)
    if found is None:
        raise RefusedError(
            "conflict",
            f"This server does not serve the tenant {caller.tenant}.",
            cause="It was taken out of its configuration.",
            remedy="Start the server with the tenant's repository.",
        )
    return found


def _caller(request: Request, role: Role) -> Caller:
    server = server_of(request)
    limits: Limits = request.app.state.limits
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    address = address_of(request)
    if scheme.lower() != "bearer" or not key.startswith(access.KEY) or len(key) > 200:
        raise RefusedError(
            "key",
            "There is no API key.",
            cause="The header `Authorization: Bearer KEY` is missing, or holds something else.",
            remedy="Set $SLIPWAY_API_KEY; an admin makes keys: sdk fleet api-keys add NAME",
        )
    limits.admin(sha256_of(key))
    try:
        with reading(server.engine) as connection:
            found = access.caller_of(connection, key, address)
    except RefusedError:
        limits.guess(address)
        raise
    access.may(found, role)
    return found
