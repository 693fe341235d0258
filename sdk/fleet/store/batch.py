"""The rows that a batch of requests is about: read and locked at once, written at once.

Two processes cannot do that for one device at the same time.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from agent.updates.states import FINAL
from agent.updates.wire import Poll, Reports, StateOf
from sdk.fleet import tables as t
from sdk.fleet.database import upsert
from sdk.fleet.rules.claims import Claim
from sdk.fleet.rules.poll import Call, Change, Work
from sdk.fleet.store.reports import NewReport, store

_PRESENCE = (
    *("request_seq", "signed_s", "conflict_s", "heard_s", "address", "boot_id", "agent"),
    *("metadata_version", "metadata_age_s", "reports_waiting", "models_sha256"),
)
_CALLS: Mapping[str, Call] = {
    "halted": "held",
    "cancelled": "withdrawn",
    "revoked": "withdrawn",
    "reverting": "withdrawn",
    "reverted": "withdrawn",
}
"""State of a rollout -> what that means for its actions; otherwise they are to be done."""
_ACTION = t.action.update().where(
    t.action.c.rollout_id == sa.bindparam("of_rollout"),
    t.action.c.device_id == sa.bindparam("of_device"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ask:
    """A signed request; that its signature holds is still to be seen."""

    device_id: str
    claim: Claim
    base: bytes
    """What was signed."""
    signature: bytes
    body: Poll | Reports | StateOf
    action_id: str = ""
    """Of a `StateOf`."""
    address: str
    now_s: float


@dataclasses.dataclass
class Device:
    """A device as this batch has left it so far."""

    row: Any
    presence: dict[str, Any]
    fingerprint_sha256: str | None
    hardware: str
    quarantine: str = ""
    dirty: bool = False
    works: dict[str, Work] = dataclasses.field(default_factory=dict)


class Batch:
    """What is known of some devices, and what is to be written of them."""

    def __init__(self, connection: sa.Connection, asks: Iterable[Ask]) -> None:
        """Read what is known of the devices that ask."""
        self.connection = connection
        self.devices: dict[str, Device] = {}
        self.reports: list[NewReport] = []
        self._changes: dict[str, dict[str, Any]] = {}
        self._handed: list[dict[str, Any]] = []
        self._marks: list[dict[str, Any]] = []
        self._runs: dict[tuple[str, str], dict[str, Any]] = {}
        self._gone: list[tuple[str, set[str]]] = []
        self._load(list(asks))

    def note(self, device: Device, change: Change, now_s: float) -> None:
        """An action is to be as the device said."""
        ended = change.status != "open"
        if ended:
            del device.works[change.id]
        else:
            device.works[change.id] = dataclasses.replace(
                device.works[change.id], state=change.state, journal_seq=change.journal_seq
            )
        self._changes[change.id] = {
            **_named(change.id, device),
            "status": change.status,
            "state": change.state,
            "reason": change.reason,
            "journal_seq": change.journal_seq,
            "heard_s": now_s,
            "over_s": now_s if ended else None,
        }

    def note_handed(self, device: Device, work: Work, told: Mapping[str, Any]) -> None:
        """An action was handed out."""
        self._handed.append({**_named(work.id, device), **told})

    def note_fingerprint(self, device: Device, told: Mapping[str, Any]) -> None:
        """A device has told what it is."""
        self._marks.append({"of": device.row.id, **told})

    def note_gone(self, device: Device, models: set[str]) -> None:
        """A device has these models, and no others."""
        self._gone.append((device.row.id, models))

    def run(self, device_id: str, model: str, now_s: float) -> dict[str, Any]:
        """What is to be noted of a model on a device."""
        key = (device_id, model)
        return self._runs.setdefault(
            key, {"device_id": device_id, "model": model, "changed_s": now_s}
        )

    def is_stored(self, key: tuple[str, str, str]) -> bool:
        """Whether a report is kept already, or will be with this batch."""
        if key in {one.key for one in self.reports}:
            return True
        found = self.connection.execute(
            sa.select(t.report.c.id).where(
                t.report.c.device_id == key[0],
                t.report.c.action_id == key[1],
                t.report.c.state == key[2],
            )
        ).first()
        return found is not None

    def write(self) -> None:
        """All that changed, a statement for each kind of it."""
        dirty = [device for device in self.devices.values() if device.dirty]
        if dirty:
            self.connection.execute(
                t.presence.update().where(t.presence.c.device_id == sa.bindparam("of")),
                [{"of": device.row.id, **device.presence} for device in dirty],
            )
        self._write_devices()
        if self._changes:
            self.connection.execute(_ACTION, list(self._changes.values()))
        if self._handed:
            self.connection.execute(_ACTION, self._handed)
        self._write_models()
        if self.reports:
            store(self.connection, self.reports)

    def _load(self, asks: Sequence[Ask]) -> None:
        """Read, and lock, what is known of the devices."""
        ids = sorted({ask.device_id for ask in asks})
        rows = self.connection.execute(
            sa.select(
                t.device.c.id, t.device.c.tenant, t.device.c.public_key, t.device.c.previous_key,
                t.device.c.standing, t.device.c.fingerprint_sha256, t.device.c.hardware,
                *(t.presence.c[name] for name in _PRESENCE),
            )
            .join_from(t.device, t.presence, t.device.c.id == t.presence.c.device_id)
            .where(t.device.c.id.in_(ids))
            .order_by(t.device.c.id)
            .with_for_update(of=t.presence)
        )  # fmt: skip
        for row in rows:
            self.devices[row.id] = Device(
                row=row,
                presence={name: getattr(row, name) for name in _PRESENCE},
                fingerprint_sha256=row.fingerprint_sha256,
                hardware=row.hardware,
            )
        mine = t.action.c.device_id.in_(list(self.devices))
        self._load_works(sa.and_(mine, t.OPEN))
        spoken_of = _under_way(asks) - {
            name for device in self.devices.values() for name in device.works
        }
        if spoken_of:  # a device is at something that was called off, or helps itself
            known = t.action.c.rollout_id.in_({t.rollout_of(name) for name in spoken_of})
            unended = sa.or_(t.action.c.state.is_(None), t.action.c.state.not_in(FINAL))
            self._load_works(sa.and_(mine, known, t.action.c.status != "open", unended))

    def _load_works(self, where: sa.ColumnElement[bool]) -> None:
        rows = self.connection.execute(
            sa.select(
                t.action.c.rollout_id, t.action.c.device_id, t.action.c.attempt, t.action.c.model,
                t.action.c.status, t.action.c.assignment_seq, t.action.c.state,
                t.action.c.journal_seq, t.rollout.c.state.label("rollout_state"),
                t.rollout.c.gates, t.rollout.c.manifest_sha256,
            )
            .join(t.rollout, t.rollout.c.id == t.action.c.rollout_id)
            .where(where)
        )  # fmt: skip
        for row in rows:
            name = t.action_id(row.rollout_id, row.device_id, row.attempt)
            call = _CALLS.get(row.rollout_state, "open")
            self.devices[row.device_id].works[name] = Work(
                id=name,
                model=row.model,
                call=call if row.status == "open" else "withdrawn",
                assignment_seq=row.assignment_seq,
                state=row.state,
                journal_seq=row.journal_seq,
                plain_sha256=None if row.gates else row.manifest_sha256,
            )

    def _write_devices(self) -> None:
        if self._marks:
            self.connection.execute(
                t.device.update().where(t.device.c.id == sa.bindparam("of")), self._marks
            )
        bad = [device for device in self.devices.values() if device.quarantine]
        if bad:
            self.connection.execute(
                t.device.update().where(t.device.c.id == sa.bindparam("of")),
                [
                    {"of": one.row.id, "standing": "quarantined", "why": one.quarantine[:500]}
                    for one in bad
                ],
            )

    def _write_models(self) -> None:
        for device_id, models in self._gone:
            self.connection.execute(
                t.device_model.delete().where(
                    t.device_model.c.device_id == device_id,
                    t.device_model.c.model.not_in(models),
                )
            )
        alike = collections.defaultdict(list)
        for run in self._runs.values():
            alike[tuple(run)].append(run)
        for runs in alike.values():
            upsert(self.connection, t.device_model, ("device_id", "model"), runs)


def _named(name: str, device: Device) -> dict[str, str]:
    """The action that an update is of."""
    return {"of_rollout": t.rollout_of(name), "of_device": device.row.id}


def _under_way(asks: Sequence[Ask]) -> set[str]:
    """The actions that devices say they are at."""
    polls = [ask.body for ask in asks if isinstance(ask.body, Poll)]
    return {one.action_id for poll in polls for one in poll.actions if one.state not in FINAL}
