"""The fleet as a whole: rollouts and how far they have come, reports, the numbers of a status."""

from __future__ import annotations

import collections
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from agent.codec import encode
from sdk.fleet import tables as t
from sdk.fleet.refusals import missing
from sdk.fleet.rules.rollout import Tally
from sdk.fleet.store import devices, gates
from sdk.fleet.store.progress import progress

_BRIEF = (
    *("id", "model", "release", "group_name", "device_id", "state", "stage", "reason", "reverts"),
    *("made_s", "made_by", "changed_s"),
)


def status(connection: sa.Connection, tenant: str, now_s: float) -> dict[str, Any]:
    """Counts of devices, and the rollouts that are not over with their progress."""
    rows = connection.execute(
        sa.select(t.rollout)
        .where(
            t.rollout.c.tenant == tenant,
            t.rollout.c.state.in_(("running", "paused", "halted", "reverting")),
        )
        .order_by(t.rollout.c.made_s.desc())
        .limit(100)
    ).all()
    return {
        **devices.counts(connection, tenant, now_s),
        "rollouts": [_told(connection, row, now_s) for row in rows],
    }


def rollouts(connection: sa.Connection, tenant: str, most: int) -> list[dict[str, Any]]:
    """Rollouts, the newest first."""
    rows = connection.execute(
        sa.select(t.rollout)
        .where(t.rollout.c.tenant == tenant)
        .order_by(t.rollout.c.made_s.desc())
        .limit(most)
    )
    return [_brief(row) for row in rows]


def rollout(
    connection: sa.Connection, tenant: str, rollout_id: str, now_s: float
) -> dict[str, Any]:
    """How far a rollout has come; why devices refused it; how its speed compares, by hardware.

    Raises:
        RefusedError: there is none of that name here.
    """
    row = connection.execute(
        sa.select(t.rollout).where(t.rollout.c.tenant == tenant, t.rollout.c.id == rollout_id)
    ).first()
    if row is None:
        raise missing("rollout", rollout_id)
    reasons = connection.execute(
        sa.select(t.action.c.state, t.action.c.reason, sa.func.count().label("devices"))
        .where(
            t.action.c.rollout_id == rollout_id,
            t.action.c.state.in_(("FAILED", "REJECTED", "ROLLED_BACK")),
        )
        .group_by(t.action.c.state, t.action.c.reason)
        .order_by(sa.func.count().desc())
        .limit(20)
    ).mappings()
    return {
        **_told(connection, row, now_s),
        "plan": row.plan,
        "gates": row.gates,
        "manifest_sha256": row.manifest_sha256,
        "reasons": [dict(one) for one in reasons],
        "ratios": gates.medians(connection, rollout_id),
        "odd": gates.odd_devices(connection, row),
    }


def reports(
    connection: sa.Connection, tenant: str, device_id: str | None, after: int, most: int
) -> list[dict[str, Any]]:
    """Reports in the order in which they came, without their envelopes."""
    wanted = _reports(tenant, device_id).where(t.report.c.id > after)
    rows = connection.execute(wanted.order_by(t.report.c.id).limit(most))
    return [dict(row) for row in rows.mappings()]


def newest_reports(
    connection: sa.Connection, tenant: str, device_id: str | None, most: int
) -> list[dict[str, Any]]:
    """The last reports that came, in the order in which they did."""
    wanted = _reports(tenant, device_id).order_by(t.report.c.id.desc()).limit(most)
    rows = connection.execute(wanted).mappings().all()
    return [dict(row) for row in reversed(rows)]


def _reports(tenant: str, device_id: str | None) -> Any:
    columns = [column for column in t.report.c if column.name not in ("envelope", "tenant")]
    wanted = sa.select(*columns).where(t.report.c.tenant == tenant)
    return wanted if device_id is None else wanted.where(t.report.c.device_id == device_id)


def _told(connection: sa.Connection, row: Any, now_s: float) -> dict[str, Any]:
    found = progress(connection, row, now_s)
    return {
        **_brief(row),
        "stages": len(row.plan["stages"]),
        "progress": _sum(found.by_hardware.values()),
        "by_hardware": {name: _counts(one) for name, one in found.by_hardware.items()},
        "by_group": {name: _counts(one) for name, one in found.by_group.items()},
        "judged": [{**encode(one), "words": one.words} for one in gates.seen(row)],
    }


def _brief(row: Any) -> dict[str, Any]:
    groups = dict.fromkeys(stage["group"] for stage in row.plan["stages"] if stage["group"])
    return {**{name: getattr(row, name) for name in _BRIEF}, "groups": list(groups)}


def _sum(tallies: Iterable[Tally]) -> dict[str, int]:
    every: collections.Counter[str] = collections.Counter()
    for one in tallies:
        every.update(_counts(one))
    return dict(every)


def _counts(found: Tally) -> dict[str, int]:
    return {name: count for name, count in found.counts.items() if count}
