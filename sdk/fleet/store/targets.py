"""Give devices their share of a rollout: rows of work, made by the database itself.

A hundred thousand devices are one statement. The order in which they come is a hash of the rollout
and the device, so nobody has to be remembered who has not come yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from sdk.fleet import tables as t
from sdk.fleet.database import place


def members(tenant: str, group: str | None, device_id: str | None) -> sa.ColumnElement[bool]:
    """The accepted devices that a rollout is for: of a group, one alone, or all."""
    found = [t.device.c.tenant == tenant, t.device.c.standing == "accepted"]
    if group is not None:
        found.append(t.device.c.group_name == group)
    if device_id is not None:
        found.append(t.device.c.id == device_id)
    return sa.and_(*found)


def extend(
    connection: sa.Connection,
    rollout: Any,
    most: int,
    now_s: float,
    only: Sequence[str] = (),
) -> int:
    """Give work to the next devices of a rollout, up to so many more.

    What was assigned to them before for the same model, and is not over, is called off.

    Args:
        connection: a transaction that writes.
        rollout: its row.
        most: devices to add.
        now_s: seconds since 1970.
        only: these of the rollout's devices, some hundreds at most; all where none is named.

    Returns:
        How many devices were added.
    """
    if most <= 0:
        return 0
    order = place(sa.literal(rollout.id), t.device.c.id)
    has_it = (
        sa.select(t.action.c.id)
        .where(t.action.c.rollout_id == rollout.id, t.action.c.device_id == t.device.c.id)
        .exists()
    )
    wanted = [members(rollout.tenant, rollout.group_name, rollout.device_id), ~has_it]
    if only:
        wanted.append(t.device.c.id.in_(only))
    if rollout.unfit:
        known = t.device.c.fingerprint_sha256
        wanted.append(sa.or_(known.is_(None), known.not_in(rollout.unfit)))
    chosen = (
        sa.select(
            (sa.literal(f"{rollout.id}-") + t.device.c.id).label("id"),
            t.device.c.tenant,
            t.device.c.id.label("device_id"),
            sa.literal(rollout.id).label("rollout_id"),
            sa.literal(rollout.model).label("model"),
            sa.literal(rollout.assignment_seq, sa.BigInteger).label("assignment_seq"),
            order.label("place"),
            t.device.c.hardware,
            sa.literal("open").label("status"),
            sa.literal(now_s, sa.Double).label("assigned_s"),
        )
        .where(*wanted)
        .order_by(order, t.device.c.id)
        .limit(most)
    )
    added = connection.execute(
        t.action.insert().from_select(list(chosen.selected_columns.keys()), chosen)
    ).rowcount
    if added:
        _supersede(connection, rollout, now_s)
    return added


def withdraw(
    connection: sa.Connection, where: sa.ColumnElement[bool], reason: str, now_s: float
) -> None:
    """Call work off: what no device has been given is over at once, the rest once it says so."""
    is_open = sa.and_(t.NOT_OVER, t.action.c.status == "open")
    connection.execute(
        t.action.update()
        .where(where, is_open, t.action.c.handed_s.is_(None))
        .values(status="over", reason=reason, over_s=now_s)
    )
    connection.execute(
        t.action.update().where(where, is_open).values(status="withdrawn", reason=reason)
    )


def join_finished(connection: sa.Connection, tenant: str, device_id: str, now_s: float) -> None:
    """Give a device that joined what the others in its group have finished with.

    Of each model the newest rollout counts, and only if it was not stopped.
    """
    device = connection.execute(sa.select(t.device).where(t.device.c.id == device_id)).one()
    rows = connection.execute(
        sa.select(t.rollout)
        .where(
            t.rollout.c.tenant == tenant,
            t.rollout.c.reverts.is_(None),
            t.rollout.c.device_id.is_(None),
            sa.or_(t.rollout.c.group_name.is_(None), t.rollout.c.group_name == device.group_name),
        )
        .order_by(t.rollout.c.made_s.desc())
        .limit(200)
    ).all()
    seen = set()
    for row in rows:
        if row.model in seen:
            continue
        seen.add(row.model)
        if row.state == "finished":
            extend(connection, row, 1, now_s, only=[device_id])


def _supersede(connection: sa.Connection, rollout: Any, now_s: float) -> None:
    mine = sa.select(t.action.c.device_id).where(t.action.c.rollout_id == rollout.id)
    older = sa.and_(
        t.action.c.model == rollout.model,
        t.action.c.assignment_seq < rollout.assignment_seq,
        t.action.c.device_id.in_(mine),
    )
    withdraw(connection, older, f"{rollout.release} was assigned instead", now_s)
