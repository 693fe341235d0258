"""`/v1/admin`: enrolment tokens, announced keys, operators' keys, the audit log."""

from __future__ import annotations

from typing import Annotated

import sqlalchemy as sa
from fastapi import APIRouter, Query

from sdk.fleet.database import reading
from sdk.fleet.store import access
from sdk.fleet.web.admin_models import (
    Announced,
    Done,
    Items,
    MadeKey,
    MadeToken,
    NewKey,
    NewToken,
)
from sdk.fleet.web.desk import ALWAYS, Admin, Desk, Limit, Name, Operator, tenant_of, write

router = APIRouter(prefix="/v1/admin", tags=["access"], responses=ALWAYS)


@router.get("/tokens")
def tokens(server: Desk, caller: Operator) -> Items:
    """Enrolment tokens, without the tokens."""
    with reading(server.engine) as connection:
        return Items(items=access.tokens(connection, caller.tenant))


@router.post("/tokens")
def make_token(server: Desk, caller: Operator, body: NewToken) -> MadeToken:
    """Make a token that lets one device in."""
    root = tenant_of(server, caller).root_sha256()

    def do(connection: sa.Connection) -> tuple[str, str]:
        return access.make_token(
            connection,
            caller,
            group=body.group,
            valid_s=body.valid_s,
            root_sha256=root,
            now_s=server.now_s(),
        )

    token_id, token = write(server, caller, "token made", {"group": body.group}, do)
    return MadeToken(id=token_id, token=token)


@router.delete("/tokens/{token_id}")
def drop_token(server: Desk, caller: Operator, token_id: Name) -> Done:
    """Take a token back."""
    write(
        server, caller, "token dropped", {"token": token_id},
        lambda connection: access.drop_token(connection, caller.tenant, token_id),
    )  # fmt: skip
    return Done()


@router.get("/api-keys")
def keys(server: Desk, caller: Admin) -> Items:
    """Operators' keys, without the keys."""
    with reading(server.engine) as connection:
        return Items(items=access.keys(connection, caller.tenant))


@router.post("/api-keys")
def make_key(server: Desk, caller: Admin, body: NewKey) -> MadeKey:
    """Make a key for an operator or a script."""
    key_id, key = write(
        server, caller, "key made", {"name": body.name, "role": body.role},
        lambda connection: access.make_key(
            connection, caller.tenant, body.name, body.role, server.now_s()
        ),
    )  # fmt: skip
    return MadeKey(id=key_id, key=key)


@router.delete("/api-keys/{key_id}")
def revoke_key(server: Desk, caller: Admin, key_id: Name) -> Done:
    """No request counts with that key any more."""
    write(
        server, caller, "key revoked", {"key": key_id},
        lambda connection: access.revoke_key(
            connection, caller.tenant, key_id, server.now_s()
        ),
    )  # fmt: skip
    return Done()


@router.post("/announced-keys")
def announce(server: Desk, caller: Operator, body: Announced) -> Done:
    """Let a device in that is not there yet, by its public key."""
    write(
        server, caller, "key announced", body.model_dump(),
        lambda connection: access.announce(
            connection, caller.tenant, body.public_key, body.group, server.now_s()
        ),
    )  # fmt: skip
    return Done()


@router.get("/audit")
def audit(
    server: Desk,
    caller: Admin,
    before: Annotated[int | None, Query(ge=1, le=2**53)] = None,
    limit: Limit = 100,
) -> Items:
    """Who changed what, the newest first."""
    with reading(server.engine) as connection:
        return Items(items=access.audit(connection, caller.tenant, before, limit))
