"""How far a rollout has come: the rows of its devices, counted by the database."""

from __future__ import annotations

import collections
from typing import Any

import sqlalchemy as sa

from agent.codec import decode
from sdk.fleet import tables as t
from sdk.fleet.rules.rollout import Progress, Rollout, Seen, Standing, Tally, standing

_Counts = collections.defaultdict[str, "collections.Counter[Standing]"]
"""Stratum -> how many of its devices stand where."""


def plan_of(row: Any) -> Rollout:
    """The rules of a rollout."""
    return decode(Rollout, row.plan, "plan")


def progress(connection: sa.Connection, row: Any, now_s: float) -> Progress:
    """How far a rollout has come."""
    plan = plan_of(row)
    stage = plan.stages[min(row.stage, len(plan.stages) - 1)]
    cutoff = now_s - stage.timeout_s
    is_silent = sa.case((t.action.c.heard_s < cutoff, 1), else_=0)
    was_asked = sa.case((t.action.c.assigned_s < cutoff, 1), else_=0)
    strata = (t.action.c.hardware, t.device.c.group_name)
    seen = (t.action.c.state, is_silent, was_asked)
    rows = connection.execute(
        sa.select(*strata, *seen, sa.func.count(), sa.func.max(t.action.c.over_s))
        .join(t.device, t.device.c.id == t.action.c.device_id)
        .where(t.action.c.rollout_id == row.id, t.action.c.status != "called_off")
        .group_by(*strata, *seen)
    ).all()
    by_hardware, by_group = _Counts(collections.Counter), _Counts(collections.Counter)
    in_stage = _Counts(collections.Counter)
    every: collections.Counter[Standing] = collections.Counter()
    named = {one.group for one in plan.stages if one.group is not None}
    last_s = row.stage_s
    for hardware, group, state, silent, asked, count, over_s in rows:
        said = Seen(
            assigned_s=cutoff - 1.0 if asked else now_s,
            heard_s=None if state is None else (cutoff - 1.0 if silent else now_s),
            state=state,
        )
        stands = standing(said, now_s=now_s, timeout_s=stage.timeout_s)
        every[stands] += count
        by_hardware[hardware][stands] += count
        if group in named:
            by_group[group][stands] += count
        if stage.group in (None, group):
            in_stage[hardware][stands] += count
        last_s = max(last_s, over_s or 0.0)
    return Progress(
        stage=row.stage,
        in_stage=Tally(every if stage.group is None else by_group[stage.group]),
        quiet_s=now_s - last_s,
        by_hardware={name: Tally(one) for name, one in by_hardware.items()},
        in_stage_by_hardware={name: Tally(one) for name, one in in_stage.items()},
        by_group={name: Tally(one) for name, one in by_group.items()},
        acknowledged={
            name: decode(Tally, told, "acknowledged") for name, told in row.acknowledged.items()
        },
    )
