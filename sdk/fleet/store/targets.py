"""Give devices their share of a rollout: rows of work, made by the database itself.

A hundred thousand devices are one statement. The order in which they come is a hash of the rollout
and the device, so nobody has to be remembered who has not come yet.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from agent.codec import decode
from sdk.fleet import tables as t
from sdk.fleet.database import place
from sdk.fleet.rules.rollout import Rollout


def members(
    tenant: str, group: str | None, device_id: str | None, groups: Sequence[str] = ()
) -> sa.ColumnElement[bool]:
    """The accepted devices that a rollout is for: of a group or several, one alone, or all."""
    found = [t.device.c.tenant == tenant, t.device.c.standing == "accepted"]
    if group is not None:
        found.append(t.device.c.group_name == group)
    if groups:
        found.append(t.device.c.group_name.in_(groups))
    if device_id is not None:
        found.append(t.device.c.id == device_id)
    return sa.and_(*found)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reach:
    """How far a rollout has come among some devices."""

    have: int
    """Devices that have it as work, or had."""
    left: int
    """Devices that could have it."""


def reach(connection: sa.Connection, rollout: Any, group: str | None = None) -> Reach:
    """How far a rollout has come: in one of its groups, or among all of its devices."""
    mine = members(rollout.tenant, group or rollout.group_name, rollout.device_id)
    left = connection.execute(sa.select(sa.func.count()).where(mine, *_lacking(rollout)))
    have = connection.execute(sa.select(sa.func.count()).where(mine, _has_it(rollout.id)))
    return Reach(have=have.scalar_one(), left=left.scalar_one())


def extend(
    connection: sa.Connection,
    rollout: Any,
    most: int,
    now_s: float,
    *,
    group: str | None = None,
    only: Sequence[str] = (),
) -> int:
    """Give work to the next devices of a rollout, up to so many more.

    What was assigned to them before for the same model is called off when they next come. Those
    that run the release, and have confirmed it, are left alone.

    Args:
        connection: a transaction that writes.
        rollout: its row.
        most: devices to add.
        now_s: seconds since 1970.
        group: one of the rollout's; all of its devices where none is named.
        only: these of the rollout's devices, some hundreds at most; all where none is named.

    Returns:
        How many devices were added.
    """
    if most <= 0:
        return 0
    wanted = [
        members(rollout.tenant, group or rollout.group_name, rollout.device_id),
        *_lacking(rollout),
    ]
    if only:
        wanted.append(t.device.c.id.in_(only))
    left = connection.execute(sa.select(sa.func.count()).where(*wanted)).scalar_one()
    if left > most:
        order = place(sa.literal(rollout.id), t.device.c.id)
        first = sa.select(t.device.c.id).where(*wanted).order_by(order, t.device.c.id).limit(most)
        wanted = [t.device.c.id.in_(first)]
    chosen = (
        sa.select(
            t.device.c.id.label("device_id"),
            sa.literal(rollout.id).label("rollout_id"),
            sa.literal(rollout.model).label("model"),
            sa.literal(rollout.assignment_seq, sa.BigInteger).label("assignment_seq"),
            t.device.c.hardware,
            sa.literal("open").label("status"),
            sa.literal(now_s, sa.Double).label("assigned_s"),
        )
        .where(*wanted)
        .order_by(t.device.c.id)  # in the order of the index that they go into
    )
    return connection.execute(
        t.action.insert().from_select(list(chosen.selected_columns.keys()), chosen)
    ).rowcount


def runs_it(model: str, manifest_sha256: str) -> sa.ColumnElement[bool]:
    """A device runs a release, and has confirmed it."""
    return (
        sa.select(t.device_model.c.device_id)
        .where(
            t.device_model.c.device_id == t.device.c.id,
            t.device_model.c.model == model,
            t.device_model.c.running_sha256 == manifest_sha256,
            t.device_model.c.confirmed_sha256 == manifest_sha256,
        )
        .exists()
    )


def reopen(connection: sa.Connection, where: sa.ColumnElement[bool], now_s: float) -> None:
    """Work that was called off is to be done after all: under a new name, as a device takes it."""
    connection.execute(
        t.action.update()
        .where(where, t.action.c.status == "called_off")
        .values(
            status="open",
            attempt=t.action.c.attempt + 1,
            assignment_seq=t.action.c.assignment_seq + 1,
            state=None,
            reason="",
            journal_seq=0,
            assigned_s=now_s,
            handed_s=None,
            heard_s=None,
            over_s=None,
            envelope=None,
        )
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
        groups = decode(Rollout, row.plan, "plan").groups
        if groups and device.group_name not in groups:
            continue
        seen.add(row.model)
        if row.state == "finished":
            extend(connection, row, 1, now_s, only=[device_id])


def _has_it(rollout_id: str) -> sa.ColumnElement[bool]:
    return (
        sa.select(t.action.c.device_id)
        .where(t.action.c.rollout_id == rollout_id, t.action.c.device_id == t.device.c.id)
        .exists()
    )


def _lacking(rollout: Any) -> list[sa.ColumnElement[bool]]:
    """Devices that have not got the work, do not run the release, and could run it."""
    found = [~_has_it(rollout.id), ~runs_it(rollout.model, rollout.manifest_sha256)]
    if rollout.unfit:
        known = t.device.c.fingerprint_sha256
        found.append(sa.or_(known.is_(None), known.not_in(rollout.unfit)))
    return found
