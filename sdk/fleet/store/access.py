"""Who may do what: operators' keys and their roles, enrolment tokens, and what was done."""

from __future__ import annotations

import base64
import dataclasses
import secrets
from collections.abc import Mapping
from typing import Any, Literal

import sqlalchemy as sa

from agent.updates.wire import TOKEN
from sdk.fleet import tables as t
from sdk.fleet.database import insert_new, upsert
from sdk.fleet.refusals import RefusedError, missing
from sdk.fleet.store.enrolment import sha256_of

Role = Literal["viewer", "operator", "admin"]
ROLES: tuple[Role, ...] = ("viewer", "operator", "admin")
"""Each may do what those before it may: look; assign and let devices in; make keys."""
KEY = "slipway-api-"
"""How each key of an operator begins: scanners for leaked secrets find it."""
MOST_TOKEN_S = 86400.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Caller:
    """Who asks."""

    tenant: str
    name: str
    role: Role
    address: str = ""


def make_key(
    connection: sa.Connection, tenant: str, name: str, role: Role, now_s: float
) -> tuple[str, str]:
    """A new key for an operator: its id, and the key itself, which is shown once and not kept."""
    key = KEY + secrets.token_urlsafe(24)
    name_of_key = secrets.token_hex(4)
    connection.execute(
        t.api_key.insert().values(
            id=name_of_key,
            tenant=tenant,
            name=name,
            role=role,
            sha256=sha256_of(key),
            made_s=now_s,
        )
    )
    return name_of_key, key


def caller_of(connection: sa.Connection, key: str, address: str) -> Caller:
    """Whose key it is.

    Raises:
        RefusedError: nobody's, or it was revoked.
    """
    row = connection.execute(
        sa.select(t.api_key).where(
            t.api_key.c.sha256 == sha256_of(key), t.api_key.c.revoked_s.is_(None)
        )
    ).first()
    if row is None:
        raise RefusedError(
            "key",
            "The API key is not known here, or was revoked.",
            cause="It is another server's, or was cut when it was copied.",
            remedy="Set $SLIPWAY_API_KEY, or have an admin make one: sdk fleet api-keys add NAME",
        )
    return Caller(tenant=row.tenant, name=row.name, role=row.role, address=address)


def may(caller: Caller, role: Role) -> None:
    """Whether somebody has at least this role.

    Raises:
        RefusedError: not.
    """
    if ROLES.index(caller.role) < ROLES.index(role):
        raise RefusedError(
            "role",
            f"{caller.name} is {caller.role}; this takes the role {role}.",
            cause="The key was made for less.",
            remedy="Ask an admin for a key of that role.",
        )


def keys(connection: sa.Connection, tenant: str) -> list[dict[str, Any]]:
    """A tenant's keys, without the keys."""
    rows = connection.execute(
        sa.select(
            t.api_key.c.id, t.api_key.c.name, t.api_key.c.role, t.api_key.c.made_s,
            t.api_key.c.revoked_s,
        )
        .where(t.api_key.c.tenant == tenant)
        .order_by(t.api_key.c.made_s)
    )  # fmt: skip
    return [dict(row) for row in rows.mappings()]


def revoke_key(connection: sa.Connection, tenant: str, key_id: str, now_s: float) -> None:
    """No request counts with that key any more; said twice, it changes nothing more.

    Raises:
        RefusedError: there is none, or it is the last admin's.
    """
    mine = sa.and_(t.api_key.c.tenant == tenant, t.api_key.c.revoked_s.is_(None))
    row = connection.execute(
        sa.select(t.api_key).where(t.api_key.c.tenant == tenant, t.api_key.c.id == key_id)
    ).first()
    if row is None:
        raise missing("api-key", key_id)
    if row.revoked_s is not None:
        return
    admins = connection.execute(
        sa.select(sa.func.count()).where(mine, t.api_key.c.role == "admin")
    ).scalar_one()
    if row.role == "admin" and admins == 1:
        raise RefusedError(
            "conflict",
            f"{row.name} is the last admin of {tenant}.",
            cause="Nobody could make a key any more.",
            remedy="Make another admin's key first: sdk fleet api-keys add NAME --role admin",
        )
    connection.execute(t.api_key.update().where(t.api_key.c.id == key_id).values(revoked_s=now_s))


def make_token(
    connection: sa.Connection,
    caller: Caller,
    *,
    group: str | None,
    valid_s: float,
    root_sha256: bytes,
    now_s: float,
) -> tuple[str, str]:
    """A new enrolment token: its id, and the token itself, which is shown once and not kept.

    Args:
        connection: a transaction that writes.
        caller: who makes it.
        group: that the device will be in; made if it is not there.
        valid_s: at most `MOST_TOKEN_S`.
        root_sha256: of `1.root.json`, which the token vouches for.
        now_s: seconds since 1970.
    """
    if group is not None:
        ensure_group(connection, caller.tenant, group, now_s)
    root = base64.urlsafe_b64encode(root_sha256).decode().rstrip("=")
    secret = base64.urlsafe_b64encode(secrets.token_bytes(16)).decode().rstrip("=")
    token = f"{TOKEN}-{secret}-{root}"
    token_id = secrets.token_hex(4)
    connection.execute(
        t.enrolment_token.insert().values(
            id=token_id,
            tenant=caller.tenant,
            sha256=sha256_of(token),
            group_name=group,
            made_s=now_s,
            made_by=caller.name,
            expires_s=now_s + min(valid_s, MOST_TOKEN_S),
        )
    )
    return token_id, token


def tokens(connection: sa.Connection, tenant: str) -> list[dict[str, Any]]:
    """A tenant's tokens, without the tokens; the newest first."""
    columns = [column for column in t.enrolment_token.c if column.name not in ("sha256", "tenant")]
    rows = connection.execute(
        sa.select(*columns)
        .where(t.enrolment_token.c.tenant == tenant)
        .order_by(t.enrolment_token.c.made_s.desc())
        .limit(1000)
    )
    return [dict(row) for row in rows.mappings()]


def drop_token(connection: sa.Connection, tenant: str, token_id: str) -> None:
    """A token that was not used lets nobody in any more.

    Raises:
        RefusedError: there is none.
    """
    gone = connection.execute(
        t.enrolment_token.delete().where(
            t.enrolment_token.c.tenant == tenant, t.enrolment_token.c.id == token_id
        )
    )
    if gone.rowcount != 1:
        raise missing("token", token_id)


def ensure_group(connection: sa.Connection, tenant: str, group: str, now_s: float) -> bool:
    """Make a group unless it is there; whether it is new."""
    return insert_new(
        connection, t.device_group, {"tenant": tenant, "name": group, "made_s": now_s}
    )


def announce(
    connection: sa.Connection, tenant: str, public_key: str, group: str | None, now_s: float
) -> None:
    """Let a device in that will come with this key; said again, its group is another one.

    Args:
        connection: a transaction that writes.
        tenant: whose device it will be.
        public_key: in hexadecimal.
        group: that it will be in; made if it is not there.
        now_s: seconds since 1970.
    """
    if group is not None:
        ensure_group(connection, tenant, group, now_s)
    upsert(
        connection,
        t.announced_key,
        ("tenant", "public_key"),
        [{"tenant": tenant, "public_key": public_key, "group_name": group, "made_s": now_s}],
    )


def note(
    connection: sa.Connection, caller: Caller, did: str, about: Mapping[str, Any], now_s: float
) -> None:
    """Write down who did what; in the same transaction as what was done."""
    connection.execute(
        t.audit.insert().values(
            tenant=caller.tenant,
            at_s=now_s,
            who=caller.name,
            role=caller.role,
            did=did,
            about=dict(about),
            address=caller.address,
        )
    )


def audit(connection: sa.Connection, tenant: str, before: int | None, most: int) -> list[Any]:
    """What was done, the newest first."""
    wanted = sa.select(t.audit).where(t.audit.c.tenant == tenant)
    if before is not None:
        wanted = wanted.where(t.audit.c.id < before)
    rows = connection.execute(wanted.order_by(t.audit.c.id.desc()).limit(most))
    return [dict(row) for row in rows.mappings()]
