"""Hand work out: an action becomes an assignment, signed for one device and for a day."""

from __future__ import annotations

import collections
import datetime as dt
import json
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from agent.codec import decode
from agent.manifest import Gate
from agent.updates.assignment import Assignment
from agent.updates.freshness import TIME_FORM
from sdk.fleet import tables as t
from sdk.fleet.online import ASSIGNMENT_S, Tenant

_RENEWED_S = 3600.0
"""One that expires so soon is signed anew before it is handed out."""
_KEPT = 256


class Assignments:
    """What devices are handed, by the tenants' online keys."""

    def __init__(self, tenants: Mapping[str, Tenant]) -> None:
        self._tenants = tenants
        self._rollouts: collections.OrderedDict[str, Any] = collections.OrderedDict()

    def timestamp_version(self, tenant: str) -> int | None:
        """Of a tenant's repository."""
        found = self._tenants.get(tenant)
        return found.timestamp_version() if found is not None else None

    def hand_out(
        self, connection: sa.Connection, tenant: str, device_id: str, action_id: str, now_s: float
    ) -> tuple[dict[str, Any] | None, dict[str, Any]]:
        """The envelope for a device, and what is to be noted of its action: nothing if it is known.

        The envelope is None where the server does not serve that tenant any more.
        """
        row = connection.execute(
            sa.select(
                t.action.c.rollout_id, t.action.c.assignment_seq, t.action.c.handed_s,
                t.action.c.envelope, t.action.c.envelope_until_s,
            ).where(
                t.action.c.device_id == device_id,
                t.action.c.rollout_id == t.rollout_of(action_id),
            )
        ).one()  # fmt: skip
        own = self._tenants.get(tenant)
        if own is None:
            return None, {}
        if row.envelope is not None and row.envelope_until_s - now_s > _RENEWED_S:
            before = json.loads(row.envelope)
            if own.is_sealed(before):
                return before, {}
        rollout = self._rollout(connection, row.rollout_id)
        until_s = now_s + ASSIGNMENT_S
        envelope = own.seal(
            Assignment(
                action_id=action_id,
                assignment_seq=row.assignment_seq,
                issued=_text(now_s),
                expires=_text(until_s),
                model=rollout.model,
                release_path=rollout.release_path,
                manifest_sha256=rollout.manifest_sha256,
                device_id=device_id,
                gates=tuple(decode(Gate, gate, "gates") for gate in rollout.gates),
                deadline_s=rollout.deadline_s,
            )
        )
        noted: dict[str, Any] = {"envelope": envelope, "envelope_until_s": until_s}
        noted["handed_s"] = now_s if row.handed_s is None else row.handed_s
        return json.loads(envelope), noted

    def manifest_sha256(self, connection: sa.Connection, action_id: str) -> str:
        """Of the release that an action, which there is, is about."""
        found: str = self._rollout(connection, t.rollout_of(action_id)).manifest_sha256
        return found

    def _rollout(self, connection: sa.Connection, rollout_id: str) -> Any:
        """What of a rollout never changes; kept, since many devices ask for the same one."""
        if rollout_id not in self._rollouts:
            self._rollouts[rollout_id] = connection.execute(
                sa.select(
                    t.rollout.c.model, t.rollout.c.release_path, t.rollout.c.manifest_sha256,
                    t.rollout.c.gates, t.rollout.c.deadline_s,
                ).where(t.rollout.c.id == rollout_id)
            ).one()  # fmt: skip
            while len(self._rollouts) > _KEPT:
                self._rollouts.popitem(last=False)
        return self._rollouts[rollout_id]


def _text(moment_s: float) -> str:
    return dt.datetime.fromtimestamp(moment_s, tz=dt.timezone.utc).strftime(TIME_FORM)
