"""Devices as an operator sees them: what each should run, has confirmed, and does run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from agent.device import key_fingerprint
from sdk.fleet import tables as t
from sdk.fleet.refusals import RefusedError, missing
from sdk.fleet.store.access import ensure_group
from sdk.fleet.store.targets import join_finished, reopen

_MODEL = (
    *("model", "desired_sha256", "desired", "activated_sha256", "confirmed_sha256"),
    *("running_sha256", "running", "variant", "slot", "previous_sha256", "fell_back"),
)
SILENT_S = 600.0
"""A device that was not heard of for so long counts as silent."""


def page(
    connection: sa.Connection,
    tenant: str,
    *,
    group: str | None = None,
    standing: str | None = None,
    after: str = "",
    most: int = 100,
) -> list[dict[str, Any]]:
    """Devices by their names, so many at a time.

    Args:
        connection: a view of the database.
        tenant: whose.
        group: only those in it.
        standing: only those that stand so.
        after: only those whose name comes later.
        most: at most so many.
    """
    wanted = _brief().where(t.device.c.tenant == tenant, t.device.c.id > after)
    if group is not None:
        wanted = wanted.where(t.device.c.group_name == group)
    if standing is not None:
        wanted = wanted.where(t.device.c.standing == standing)
    rows = connection.execute(wanted.order_by(t.device.c.id).limit(most)).all()
    models = _models(connection, [row.id for row in rows])
    return [{**_told(row), "models": models.get(row.id, [])} for row in rows]


def show(connection: sa.Connection, tenant: str, device_id: str) -> dict[str, Any]:
    """All that is known of one device.

    Raises:
        RefusedError: there is none of that name here.
    """
    row = connection.execute(
        _brief()
        .add_columns(t.device.c.fingerprint, t.device.c.enrolled_s)
        .where(t.device.c.tenant == tenant, t.device.c.id == device_id)
    ).first()
    if row is None:
        raise missing("device", device_id)
    work = connection.execute(
        sa.select(
            t.action.c.rollout_id, t.action.c.attempt, t.action.c.model, t.action.c.status,
            t.action.c.state, t.action.c.reason, t.action.c.assigned_s, t.action.c.heard_s,
            t.rollout.c.release,
        )
        .join(t.rollout, t.rollout.c.id == t.action.c.rollout_id)
        .where(t.action.c.device_id == device_id)
        .order_by(t.action.c.assignment_seq.desc())
        .limit(20)
    ).mappings()  # fmt: skip
    return {
        **_told(row),
        "fingerprint": row.fingerprint,
        "enrolled_s": row.enrolled_s,
        "models": _models(connection, [device_id]).get(device_id, []),
        "actions": [
            {"id": t.action_id(one["rollout_id"], device_id, one["attempt"]), **one} for one in work
        ],
    }


def accept(connection: sa.Connection, tenant: str, device_id: str, now_s: float) -> str:
    """Let a device in that waits, was turned away or is quarantined; how it stood before.

    Raises:
        RefusedError: there is none of that name here.
    """
    before = _locked(connection, tenant, device_id).standing
    connection.execute(
        t.device.update().where(t.device.c.id == device_id).values(standing="accepted", why="")
    )
    connection.execute(
        t.presence.update().where(t.presence.c.device_id == device_id).values(conflict_s=None)
    )
    if before != "accepted":
        reopen(connection, t.action.c.device_id == device_id, now_s)
        join_finished(connection, tenant, device_id, now_s)
    return str(before)


def reject(connection: sa.Connection, tenant: str, device_id: str, why: str, now_s: float) -> str:
    """Turn a device away, for good until it is accepted again; how it stood before.

    Its row stays: a device that was removed does not come back by itself.

    Raises:
        RefusedError: there is none of that name here.
    """
    before = _locked(connection, tenant, device_id).standing
    connection.execute(
        t.device.update()
        .where(t.device.c.id == device_id)
        .values(standing="rejected", why=why[:500])
    )
    connection.execute(
        t.action.update()
        .where(t.action.c.device_id == device_id, t.OPEN)
        .values(status="called_off", reason="the device was removed", over_s=now_s)
    )
    return str(before)


def move(
    connection: sa.Connection, tenant: str, device_id: str, group: str | None, now_s: float
) -> None:
    """Put a device into a group, or into none.

    Raises:
        RefusedError: there is no such device.
    """
    before = _locked(connection, tenant, device_id)
    if group is not None:
        ensure_group(connection, tenant, group, now_s)
    connection.execute(t.device.update().where(t.device.c.id == device_id).values(group_name=group))
    if before.standing == "accepted" and before.group_name != group:
        join_finished(connection, tenant, device_id, now_s)


def groups(connection: sa.Connection, tenant: str) -> list[dict[str, Any]]:
    """A tenant's groups, with how many accepted devices are in each."""
    count = (
        sa.select(sa.func.count())
        .where(
            t.device.c.tenant == tenant,
            t.device.c.group_name == t.device_group.c.name,
            t.device.c.standing == "accepted",
        )
        .scalar_subquery()
    )
    rows = connection.execute(
        sa.select(t.device_group.c.name, t.device_group.c.made_s, count.label("devices"))
        .where(t.device_group.c.tenant == tenant)
        .order_by(t.device_group.c.name)
    )
    return [dict(row) for row in rows.mappings()]


def drop_group(connection: sa.Connection, tenant: str, group: str) -> None:
    """Remove a group; its devices are in none afterwards.

    Raises:
        RefusedError: there is none, or a rollout to it is not over.
    """
    rows = connection.execute(
        sa.select(t.rollout.c.id, t.rollout.c.group_name, t.rollout.c.plan).where(
            t.rollout.c.tenant == tenant,
            t.rollout.c.state.in_(("running", "paused", "halted")),
        )
    ).all()
    named = [
        row.id
        for row in rows
        if group in {row.group_name, *(stage["group"] for stage in row.plan["stages"])}
    ]
    if named:
        busy = named[0]
        raise RefusedError(
            "conflict",
            f"The rollout {busy} to the group {group} is not over.",
            cause="Its next devices would be nobody.",
            remedy=f"Cancel it first: sdk fleet rollouts cancel {busy}",
        )
    gone = connection.execute(
        t.device_group.delete().where(
            t.device_group.c.tenant == tenant, t.device_group.c.name == group
        )
    )
    if gone.rowcount != 1:
        raise missing("group", group)
    connection.execute(
        t.device.update()
        .where(t.device.c.tenant == tenant, t.device.c.group_name == group)
        .values(group_name=None)
    )


def counts(connection: sa.Connection, tenant: str | None, now_s: float) -> dict[str, Any]:
    """How many devices stand how, how many are silent, and how many run what they did not confirm.

    Args:
        connection: a view of the database.
        tenant: whose; None: of all together.
        now_s: seconds since 1970.
    """
    own = [] if tenant is None else [t.device.c.tenant == tenant]
    standings = connection.execute(
        sa.select(t.device.c.standing, sa.func.count()).where(*own).group_by(t.device.c.standing)
    ).all()
    silent = connection.execute(
        sa.select(sa.func.count())
        .join_from(t.device, t.presence, t.presence.c.device_id == t.device.c.id)
        .where(
            *own,
            t.device.c.standing == "accepted",
            sa.or_(t.presence.c.heard_s.is_(None), t.presence.c.heard_s < now_s - SILENT_S),
        )
    ).scalar_one()
    fell_back = connection.execute(
        sa.select(sa.func.count())
        .join_from(t.device, t.device_model, t.device_model.c.device_id == t.device.c.id)
        .where(*own, _fell_back())
    ).scalar_one()
    return {
        "standings": {row[0]: row[1] for row in standings},
        "silent": silent,
        "fell_back": fell_back,
    }


def _brief() -> Any:
    return sa.select(
        t.device.c.id, t.device.c.standing, t.device.c.why, t.device.c.group_name,
        t.device.c.hardware, t.device.c.public_key, t.presence.c.heard_s, t.presence.c.address,
        t.presence.c.boot_id, t.presence.c.agent, t.presence.c.metadata_version,
        t.presence.c.metadata_age_s, t.presence.c.reports_waiting,
    ).join_from(t.device, t.presence, t.presence.c.device_id == t.device.c.id)  # fmt: skip


def _told(row: Any) -> dict[str, Any]:
    return {
        "id": row.id,
        "standing": row.standing,
        "why": row.why,
        "group": row.group_name,
        "hardware": row.hardware,
        "key_fingerprint": key_fingerprint(row.public_key),
        "heard_s": row.heard_s,
        "address": row.address,
        "boot_id": row.boot_id,
        "agent": row.agent,
        "metadata_version": row.metadata_version,
        "metadata_age_s": row.metadata_age_s,
        "reports_waiting": row.reports_waiting,
    }


def _models(connection: sa.Connection, ids: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Of each device: model -> what it should run, has activated and confirmed, and does run."""
    desired: dict[tuple[str, str], tuple[str, str]] = {}
    rows = connection.execute(
        sa.select(
            t.action.c.device_id, t.action.c.model, t.rollout.c.manifest_sha256,
            t.rollout.c.release,
        )
        .join(t.rollout, t.rollout.c.id == t.action.c.rollout_id)
        .where(
            t.action.c.device_id.in_(ids),
            sa.or_(
                sa.and_(t.OPEN, t.rollout.c.state.in_(("running", "paused", "finished"))),
                t.action.c.state == "CONFIRMED",
            ),
            t.rollout.c.state != "revoked",
        )
        .order_by(t.action.c.assignment_seq)
    )  # fmt: skip
    for row in rows:
        desired[row.device_id, row.model] = (row.manifest_sha256, row.release)
    runs = connection.execute(
        sa.select(t.device_model, _fell_back().label("fell_back")).where(
            t.device_model.c.device_id.in_(ids)
        )
    ).all()
    found: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        sha256, release = desired.pop((run.device_id, run.model), (None, None))
        found.setdefault(run.device_id, []).append(
            {
                "model": run.model,
                "desired_sha256": sha256,
                "desired": release,
                "activated_sha256": run.activated_sha256,
                "confirmed_sha256": run.confirmed_sha256,
                "running_sha256": run.running_sha256,
                "running": run.release,
                "variant": run.variant,
                "slot": run.slot,
                "previous_sha256": run.previous_sha256,
                "fell_back": bool(run.fell_back),
            }
        )
    for (device_id, model), (sha256, release) in desired.items():  # nothing of it runs there yet
        known = dict.fromkeys(_MODEL)
        known |= {"model": model, "desired_sha256": sha256, "desired": release, "fell_back": False}
        found.setdefault(device_id, []).append(known)
    return found


def _fell_back() -> sa.ColumnElement[bool]:
    """A device runs something else than it confirmed last, and no work of ours explains it."""
    works = (
        sa.select(t.action.c.device_id)
        .where(
            t.action.c.device_id == t.device_model.c.device_id,
            t.action.c.model == t.device_model.c.model,
            t.action.c.state.is_not(None),
            t.OPEN,
        )
        .exists()
    )
    confirmed, runs = t.device_model.c.confirmed_sha256, t.device_model.c.running_sha256
    return sa.and_(confirmed.is_not(None), runs.is_distinct_from(confirmed), ~works)


def _locked(connection: sa.Connection, tenant: str, device_id: str) -> Any:
    # Presence before the device, as polls do it: the other way round two could wait for each other.
    connection.execute(
        sa.select(t.presence.c.device_id)
        .where(t.presence.c.device_id == device_id)
        .with_for_update()
    )
    row = connection.execute(
        sa.select(t.device)
        .where(t.device.c.tenant == tenant, t.device.c.id == device_id)
        .with_for_update()
    ).first()
    if row is None:
        raise missing("device", device_id)
    return row
