"""What the processes of one server share: secrets, and who of them does the common work."""

from __future__ import annotations

import secrets

import sqlalchemy as sa

from sdk.fleet import tables as t
from sdk.fleet.database import insert_new


def shared_secret(connection: sa.Connection, name: str) -> bytes:
    """32 random bytes that all processes have alike; made by the first that asks."""
    insert_new(connection, t.secret, {"name": name, "value": secrets.token_bytes(32)})
    found: bytes = connection.execute(
        sa.select(t.secret.c.value).where(t.secret.c.name == name)
    ).scalar_one()
    return found


def hold(connection: sa.Connection, name: str, holder: str, for_s: float, now_s: float) -> bool:
    """Whether this process does the common work for the next seconds, and no other one does."""
    mine = connection.execute(
        t.lease.update()
        .where(
            t.lease.c.name == name,
            sa.or_(t.lease.c.holder == holder, t.lease.c.until_s < now_s),
        )
        .values(holder=holder, until_s=now_s + for_s)
    )
    if mine.rowcount:
        return True
    return insert_new(
        connection, t.lease, {"name": name, "holder": holder, "until_s": now_s + for_s}
    )
