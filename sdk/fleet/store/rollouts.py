"""Rollouts as rows: begun, moved on, commanded, reverted.

Whoever moves a rollout on says from which stage and state: of two processes that want to, one does.
"""

from __future__ import annotations

import collections
import dataclasses
import secrets
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from agent.codec import encode
from agent.manifest import Fingerprint, Gate
from sdk.fleet import tables as t
from sdk.fleet.refusals import missing
from sdk.fleet.rules.fits import Kind
from sdk.fleet.rules.rollout import (
    Command,
    Decision,
    Rollout,
    Stage,
    commanded,
    decide,
    reached,
)
from sdk.fleet.store import gates
from sdk.fleet.store.progress import plan_of, progress
from sdk.fleet.store.targets import extend, members, reach, reopen, runs_it
from sdk.release.publish import Published

_MOST_REASON = 500


@dataclasses.dataclass(frozen=True, kw_only=True)
class Order:
    """What is to go out, how, and to whom."""

    tenant: str
    model: str
    release: str
    release_counter: int
    release_path: str
    manifest_sha256: str
    group: str | None
    """One of the two, or neither: all devices of the tenant."""
    device_id: str | None
    plan: Rollout
    gates: tuple[Gate, ...]
    deadline_s: int
    made_by: str
    unfit: tuple[str, ...] = ()
    """Fingerprints of devices that cannot run it."""
    reverts: str | None = None


def kinds(
    connection: sa.Connection,
    tenant: str,
    group: str | None,
    device_id: str | None,
    groups: Sequence[str] = (),
) -> list[Kind]:
    """The accepted devices that a rollout would be for, by what they are.

    Raises:
        RefusedError: there is no such group or device.
    """
    for name in groups or (group,):
        check_target(connection, tenant, name, device_id)
    known = t.device.c.fingerprint_sha256
    rows = connection.execute(
        sa.select(known, sa.func.count(), sa.func.min(t.device.c.id))
        .where(members(tenant, group, device_id, groups))
        .group_by(known)
    ).all()
    ids = [row[2] for row in rows if row[0] is not None]
    prints: dict[str, Any] = {}
    for begin in range(0, len(ids), 500):
        found = connection.execute(
            sa.select(t.device.c.fingerprint_sha256, t.device.c.fingerprint).where(
                t.device.c.id.in_(ids[begin : begin + 500])
            )
        )
        prints |= {row[0]: row[1] for row in found}
    return [
        Kind(
            fingerprint_sha256=sha256,
            fingerprint=Fingerprint(**prints[sha256]) if prints.get(sha256) else None,
            count=count,
        )
        for sha256, count, _ in rows
    ]


def count_running(
    connection: sa.Connection,
    tenant: str,
    release: Published,
    group: str | None,
    device_id: str | None,
    groups: Sequence[str] = (),
) -> int:
    """How many of the devices that a rollout would be for run the release already."""
    return connection.execute(
        sa.select(sa.func.count()).where(
            members(tenant, group, device_id, groups),
            runs_it(release.model, release.manifest_sha256),
        )
    ).scalar_one()


def check_target(
    connection: sa.Connection, tenant: str, group: str | None, device_id: str | None
) -> None:
    """Whether there is such a group or device.

    Raises:
        RefusedError: there is none.
    """
    if group is not None:
        where = sa.and_(t.device_group.c.tenant == tenant, t.device_group.c.name == group)
        if connection.execute(sa.select(t.device_group.c.name).where(where)).first() is None:
            raise missing("group", group)
    if device_id is not None:
        where = sa.and_(t.device.c.tenant == tenant, t.device.c.id == device_id)
        if connection.execute(sa.select(t.device.c.id).where(where)).first() is None:
            raise missing("device", device_id)


def begin(connection: sa.Connection, order: Order, now_s: float) -> str:
    """Begin a rollout, and open its first stage.

    A running one of the same model for the same devices is over with that: cancelled.

    Returns:
        Its name.
    """
    if order.reverts is None:
        for row in _followed(connection, order):
            reason = f"{order.release} followed"
            _change(connection, row, state="cancelled", reason=reason, changed_s=now_s)
    name = f"r{secrets.token_hex(6)}"
    last = connection.execute(
        sa.select(sa.func.max(t.rollout.c.assignment_seq)).where(t.rollout.c.tenant == order.tenant)
    ).scalar()
    connection.execute(
        t.rollout.insert().values(
            id=name,
            tenant=order.tenant,
            model=order.model,
            release=order.release,
            release_counter=order.release_counter,
            release_path=order.release_path,
            manifest_sha256=order.manifest_sha256,
            group_name=order.group,
            device_id=order.device_id,
            plan=encode(order.plan),
            unfit=list(order.unfit),
            gates=encode(order.gates),
            deadline_s=order.deadline_s,
            # Microseconds grow, whichever server is asked, unless its clock is late.
            assignment_seq=max(int(now_s * 1e6), (last or 0) + 1),
            state="running",
            stage=0,
            stage_s=now_s,
            acknowledged={},
            reverts=order.reverts,
            made_s=now_s,
            made_by=order.made_by,
            changed_s=now_s,
        )
    )
    if order.reverts is None:
        _fill(connection, _row(connection, name), now_s)
    return name


def tick(connection: sa.Connection, rollout_id: str, now_s: float) -> Decision | None:
    """Look at a rollout, and do what its rules say; None where there is nothing to look at."""
    row = _row(connection, rollout_id, lock=True)
    if row is None or row.state != "running":
        return None
    _fill(connection, row, now_s)
    found = progress(connection, row, now_s)
    found = dataclasses.replace(found, gates=gates.judge(connection, row, found))
    if encode(found.gates) != (row.judged or []):
        _change(connection, row, judged=encode(found.gates))
    decision = decide(plan_of(row), row.state, found)
    if decision.step == "wait":
        if decision.reason[:_MOST_REASON] != row.reason:
            _change(connection, row, reason=decision.reason)
        return decision
    if decision.step == "open":
        _change(connection, row, stage=row.stage + 1, stage_s=now_s, reason=decision.reason)
        _fill(connection, _row(connection, rollout_id), now_s)
        return decision
    state = "finished" if decision.step == "finish" else "halted"
    judged = [dataclasses.replace(one, stopped=one in decision.gates) for one in found.gates]
    how: dict[str, Any] = {"state": state, "reason": decision.reason, "judged": encode(judged)}
    _change(connection, row, **how, changed_s=now_s)
    if state == "halted" and plan_of(row).on_halt == "revert":
        revert(connection, row, "the rollout's own rule", now_s)
    if row.reverts is not None:
        _end_revert(connection, row.reverts, now_s)
    return decision


def command(
    connection: sa.Connection, tenant: str, rollout_id: str, word: Command, who: str, now_s: float
) -> str:
    """Do what an operator says; the state afterwards. Said twice, it changes nothing more.

    Raises:
        RefusedError: there is no such rollout.
        UsageError: that cannot be done in its state.
    """
    row = _row(connection, rollout_id, lock=True)
    if row is None or row.tenant != tenant:
        raise missing("rollout", rollout_id)
    after = commanded(row.state, word)
    if after == row.state:
        return after
    if word == "revert":
        return revert(connection, row, who, now_s)
    changes: dict[str, Any] = {"state": after, "changed_s": now_s, "reason": f"{word} by {who}"}
    if word == "resume" and row.state == "halted":
        # What an operator has seen does not stop it again; those who were called off come back.
        changes["acknowledged"] = encode(progress(connection, row, now_s).strata)
        changes["waived"] = gates.all_seen(row)
        changes["stage_s"] = now_s
        reopen(connection, t.action.c.rollout_id == rollout_id, now_s)
    _change(connection, row, **changes)
    return after


def revert(connection: sa.Connection, row: Any, who: str, now_s: float) -> str:
    """Send the devices that took a release back to what they ran before.

    Each release that was run before becomes a rollout of its own, to all of its devices at once:
    there is no reason to wait with what worked.

    Returns:
        The state of the rollout that is reverted.
    """
    _change(connection, row, state="reverting", reason=f"reverted by {who}", changed_s=now_s)
    took = connection.execute(
        sa.select(t.action.c.device_id, t.action.c.before_sha256).where(
            t.action.c.rollout_id == row.id,
            t.action.c.state.in_(("TRIAL", "CONFIRMED")),
            t.action.c.before_sha256.is_not(None),
            t.action.c.before_sha256 != row.manifest_sha256,
        )
    ).all()
    by_release: dict[str, list[str]] = collections.defaultdict(list)
    for one in took:
        by_release[one.before_sha256].append(one.device_id)
    for sha256, devices in by_release.items():
        before = connection.execute(
            sa.select(t.rollout)
            .where(t.rollout.c.tenant == row.tenant, t.rollout.c.manifest_sha256 == sha256)
            .order_by(t.rollout.c.made_s.desc())
        ).first()
        if before is None:  # it was never assigned here: by hand, or by another server
            continue
        name = begin(connection, _way_back(before, row, len(devices), who), now_s)
        made = _row(connection, name)
        for first in range(0, len(devices), 500):
            part = devices[first : first + 500]
            extend(connection, made, len(part), now_s, only=part)
    return _end_revert(connection, row.id, now_s)


def running(connection: sa.Connection) -> list[str]:
    """The rollouts that may have to move on."""
    return list(
        connection.execute(
            sa.select(t.rollout.c.id)
            .where(t.rollout.c.state == "running")
            .order_by(t.rollout.c.made_s)
        ).scalars()
    )


def follow_revocations(
    connection: sa.Connection, tenant: str, manifests: Sequence[str], now_s: float
) -> int:
    """Call off what is about releases that were taken back; how many rollouts that ends."""
    return connection.execute(
        t.rollout.update()
        .where(
            t.rollout.c.tenant == tenant,
            t.rollout.c.manifest_sha256.in_(manifests),
            t.rollout.c.state.in_(("running", "paused", "halted", "finished")),
        )
        .values(state="revoked", reason="the release was revoked", changed_s=now_s)
    ).rowcount


def _fill(connection: sa.Connection, row: Any, now_s: float) -> None:
    """Give work to as many devices as the open stages reach, whoever has joined since."""
    if row.reverts is not None:  # its devices were named one by one
        return
    plan = plan_of(row)
    for group in dict.fromkeys(stage.group for stage in plan.stages[: row.stage + 1]):
        found = reach(connection, row, group)
        most = reached(plan, row.stage, found.have + found.left, group) - found.have
        extend(connection, row, most, now_s, group=group)


def _followed(connection: sa.Connection, order: Order) -> list[Any]:
    """Rollouts of the same model, to the same device or groups, that are not over."""
    rows = connection.execute(
        sa.select(t.rollout).where(
            t.rollout.c.tenant == order.tenant,
            t.rollout.c.model == order.model,
            t.rollout.c.state.in_(("running", "paused", "halted")),
            t.rollout.c.device_id.is_not_distinct_from(order.device_id),
        )
    ).all()
    own = _groups(order.group, order.plan)
    return [
        row
        for row in rows
        if (own & (other := _groups(row.group_name, plan_of(row)))) or own == other
    ]


def _groups(group: str | None, plan: Rollout) -> frozenset[str]:
    """The groups that a rollout is for; none: all devices."""
    return frozenset(plan.groups if group is None else (group,))


def _end_revert(connection: sa.Connection, rollout_id: str, now_s: float) -> str:
    """A rollout is reverted once all the ways back are done; its state."""
    left = connection.execute(
        sa.select(sa.func.count()).where(
            t.rollout.c.reverts == rollout_id, t.rollout.c.state == "running"
        )
    ).scalar_one()
    state = "reverting" if left else "reverted"
    connection.execute(
        t.rollout.update().where(t.rollout.c.id == rollout_id).values(state=state, changed_s=now_s)
    )
    return state


def _way_back(before: Any, row: Any, devices: int, who: str) -> Order:
    timeout_s = plan_of(row).stages[0].timeout_s
    return Order(
        tenant=row.tenant,
        model=before.model,
        release=before.release,
        release_counter=before.release_counter,
        release_path=before.release_path,
        manifest_sha256=before.manifest_sha256,
        group=None,
        device_id=None,
        plan=Rollout(stages=(Stage(count=devices, timeout_s=timeout_s),)),
        gates=(),
        deadline_s=before.deadline_s,
        made_by=who,
        reverts=row.id,
    )


def _change(connection: sa.Connection, row: Any, **values: Any) -> None:
    if "reason" in values:
        values["reason"] = values["reason"][:_MOST_REASON]
    connection.execute(t.rollout.update().where(t.rollout.c.id == row.id).values(**values))


def _row(connection: sa.Connection, rollout_id: str, *, lock: bool = False) -> Any:
    wanted = sa.select(t.rollout).where(t.rollout.c.id == rollout_id)
    return connection.execute(wanted.with_for_update() if lock else wanted).first()
