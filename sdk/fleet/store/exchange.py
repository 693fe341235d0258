"""What devices say and are told: many requests in one transaction, in the order in which they came.

All that is needed of the devices is read at once, each request is judged in turn by what the one
before it left, and all that changed is written at once. Two processes cannot do that for one device
at the same time: the rows are locked.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from agent.codec import encode
from agent.errors import SlipwayError
from agent.identity import fingerprint_digest
from agent.manifest import Fingerprint
from agent.updates.states import FINAL
from agent.updates.wire import Answer, Doing, Poll, Reports, ReportsTaken, StateOf
from sdk.fleet import tables as t
from sdk.fleet.hardware import hardware_of
from sdk.fleet.refusals import RefusedError
from sdk.fleet.rules.claims import Claim, Known, judge, other_machine, remembered
from sdk.fleet.rules.poll import Call, Change, Work, outcome, said
from sdk.fleet.store.assignments import Assignments
from sdk.fleet.store.reports import NewReport, opened_report, store

_PRESENCE = (
    *("request_seq", "signed_s", "conflict_s", "heard_s", "address", "boot_id", "agent"),
    *("metadata_version", "metadata_age_s", "reports_waiting", "models_sha256"),
)
_CALLS: Mapping[str, Call] = {
    "halted": "held",
    "cancelled": "withdrawn",
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


Reply = Answer | ReportsTaken | None


@dataclasses.dataclass
class _Device:
    """A device as this batch has left it so far."""

    row: Any
    presence: dict[str, Any]
    fingerprint_sha256: str | None
    hardware: str
    quarantine: str = ""
    dirty: bool = False
    works: dict[str, Work] = dataclasses.field(default_factory=dict)


class Exchange:
    """Carries out what devices ask."""

    def __init__(self, assignments: Assignments, next_poll_s: Callable[[], int]) -> None:
        self._assignments = assignments
        self._next_poll_s = next_poll_s

    def carry_out(self, connection: sa.Connection, asks: Sequence[Ask]) -> list[Reply | Exception]:
        """Judge and answer each; everything is written when this returns, and not committed yet."""
        batch = _Batch(connection, self._assignments, self._next_poll_s)
        batch.load(asks)
        found: list[Reply | Exception] = []
        for ask in asks:
            try:
                found.append(batch.answer(ask))
            except SlipwayError as error:
                found.append(error)
        batch.write()
        return found


class _Batch:
    def __init__(
        self, connection: sa.Connection, assignments: Assignments, next_poll_s: Callable[[], int]
    ) -> None:
        self._connection = connection
        self._assignments = assignments
        self._next_poll_s = next_poll_s
        self._devices: dict[str, _Device] = {}
        self._changes: dict[str, dict[str, Any]] = {}
        self._runs: dict[tuple[str, str], dict[str, Any]] = {}
        self._gone: list[tuple[str, set[str]]] = []
        self._marks: list[dict[str, Any]] = []
        self._reports: list[NewReport] = []
        self._told: list[dict[str, Any]] = []

    def load(self, asks: Iterable[Ask]) -> None:
        """Read, and lock, what is known of the devices."""
        ids = sorted({ask.device_id for ask in asks})
        rows = self._connection.execute(
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
            self._devices[row.id] = _Device(
                row=row,
                presence={name: getattr(row, name) for name in _PRESENCE},
                fingerprint_sha256=row.fingerprint_sha256,
                hardware=row.hardware,
            )
        mine = t.action.c.device_id.in_(list(self._devices))
        self._load_works(sa.and_(mine, t.OPEN))
        spoken_of = _under_way(asks) - {
            name for device in self._devices.values() for name in device.works
        }
        if spoken_of:  # a device is at something that was called off, or helps itself
            known = t.action.c.rollout_id.in_({t.rollout_of(name) for name in spoken_of})
            unended = sa.or_(t.action.c.state.is_(None), t.action.c.state.not_in(FINAL))
            self._load_works(sa.and_(mine, known, t.action.c.status != "open", unended))

    def _load_works(self, where: sa.ColumnElement[bool]) -> None:
        rows = self._connection.execute(
            sa.select(
                t.action.c.rollout_id, t.action.c.device_id, t.action.c.attempt, t.action.c.model,
                t.action.c.status, t.action.c.assignment_seq, t.action.c.state,
                t.action.c.journal_seq, t.rollout.c.state.label("rollout_state"),
            )
            .join(t.rollout, t.rollout.c.id == t.action.c.rollout_id)
            .where(where)
        )  # fmt: skip
        for row in rows:
            name = t.action_id(row.rollout_id, row.device_id, row.attempt)
            call = _CALLS.get(row.rollout_state, "open")
            self._devices[row.device_id].works[name] = Work(
                id=name,
                model=row.model,
                call=call if row.status == "open" else "withdrawn",
                assignment_seq=row.assignment_seq,
                state=row.state,
                journal_seq=row.journal_seq,
            )

    def answer(self, ask: Ask) -> Reply:
        """What one request changes, and what the device is told.

        Raises:
            RefusedError: it does not count.
        """
        device = self._devices.get(ask.device_id)
        if device is None:
            raise RefusedError(
                "unknown",
                f"There is no device {ask.device_id}.",
                cause="It was not enrolled here, or was removed.",
                remedy="Enrol it: sdk-agent enroll URL --token TOKEN",
            )
        self._check(device, ask)
        body = ask.body
        if isinstance(body, Poll):
            return self._poll(device, ask, body)
        if isinstance(body, StateOf):
            self._state(device, ask, body)
            return None
        return self._take(device, ask, body)

    def write(self) -> None:
        """All that changed, a statement for each kind of it."""
        dirty = [device for device in self._devices.values() if device.dirty]
        if dirty:
            self._connection.execute(
                t.presence.update().where(t.presence.c.device_id == sa.bindparam("of")),
                [{"of": device.row.id, **device.presence} for device in dirty],
            )
        self._write_devices()
        if self._changes:
            self._connection.execute(_ACTION, list(self._changes.values()))
        if self._told:
            self._connection.execute(_ACTION, self._told)
        self._write_models()
        if self._reports:
            store(self._connection, self._reports)

    def _check(self, device: _Device, ask: Ask) -> None:
        _verify(device.row.public_key, ask)
        presence = device.presence
        known = Known(
            standing="quarantined" if device.quarantine else device.row.standing,
            request_seq=presence["request_seq"],
            signed_s=presence["signed_s"],
            conflict_s=presence["conflict_s"],
        )
        verdict = judge(known, ask.claim)
        after = remembered(known, ask.claim, verdict)
        device.quarantine = device.quarantine or verdict.quarantine
        if after != known:
            presence.update(
                request_seq=after.request_seq,
                signed_s=after.signed_s,
                conflict_s=after.conflict_s,
            )
            device.dirty = True
        if verdict.code == "ok":
            presence.update(heard_s=ask.now_s, address=ask.address)
            return
        raise _refusal(verdict.code, device, ask)

    def _poll(self, device: _Device, ask: Ask, poll: Poll) -> Answer:
        device.presence.update(
            boot_id=poll.boot_id,
            agent=poll.agent,
            metadata_version=poll.metadata_version,
            metadata_age_s=poll.metadata_age_s,
            reports_waiting=poll.reports_waiting,
        )
        self._identify(device, poll)
        if device.quarantine:
            raise _refusal("quarantined", device, ask)
        self._note_models(device, poll, ask.now_s)
        found = outcome(poll, list(device.works.values()))
        for change in found.changes:
            self._note(device, change, ask.now_s)
        envelope = None
        if found.assign is not None:
            running = {one.model: one.running_sha256 for one in poll.models}
            work = device.works[found.assign]
            envelope, told = self._assignments.hand_out(
                self._connection, device.row.tenant, device.row.id, work.id, ask.now_s
            )
            if told:
                before = {"before_sha256": running.get(work.model)}
                self._told.append({**_named(work.id, device), **before, **told})
        return Answer(
            next_poll_s=self._next_poll_s(),
            assignment=envelope,
            cancel=found.cancel,
            send_fingerprint=device.fingerprint_sha256 != poll.fingerprint_sha256,
            metadata_version=self._assignments.timestamp_version(device.row.tenant),
        )

    def _identify(self, device: _Device, poll: Poll) -> None:
        told = poll.fingerprint
        if told is None or poll.fingerprint_sha256 == device.fingerprint_sha256:
            return
        if fingerprint_digest(told) != poll.fingerprint_sha256:
            raise RefusedError("malformed", "The fingerprint has another digest than was told.")
        row = self._connection.execute(
            sa.select(t.device.c.fingerprint).where(t.device.c.id == device.row.id)
        ).scalar()
        if row:
            why = other_machine(Fingerprint(**row), told)
            if why:
                device.quarantine = f"it is another machine than the one that enrolled: {why}"
                return
        device.fingerprint_sha256, device.hardware = poll.fingerprint_sha256, hardware_of(told)
        self._marks.append(
            {
                "of": device.row.id,
                "fingerprint": encode(told),
                "fingerprint_sha256": poll.fingerprint_sha256,
                "hardware": device.hardware,
            }
        )

    def _note_models(self, device: _Device, poll: Poll, now_s: float) -> None:
        digest = hashlib.sha256(repr(poll.models).encode()).hexdigest()
        if digest == device.presence["models_sha256"]:
            return
        device.presence["models_sha256"] = digest
        for one in poll.models:
            self._run(device.row.id, one.model, now_s).update(
                running_sha256=one.running_sha256,
                release=one.release,
                variant=one.variant,
                slot=one.slot,
                previous_sha256=one.previous_sha256,
            )
        self._gone.append((device.row.id, {one.model for one in poll.models}))

    def _state(self, device: _Device, ask: Ask, told: StateOf) -> None:
        work = device.works.get(ask.action_id)
        if work is None:  # it is over, or the device's own affair
            return
        doing = Doing(
            action_id=work.id, state=told.state, journal_seq=told.journal_seq, reason=told.reason
        )
        self._note(device, said(work, doing, work.call), ask.now_s)

    def _take(self, device: _Device, ask: Ask, reports: Reports) -> ReportsTaken:
        results = []
        for envelope in reports.reports:
            try:
                keys = [device.row.public_key, device.row.previous_key]
                new = opened_report(envelope, device.row.id, [key for key in keys if key])
            except SlipwayError as error:
                results.append(f"refused: {error.what}"[:500])
                continue
            report = new.report
            key = (report.device_id, report.action_id, report.state)
            if key in {one.key for one in self._reports} or self._is_stored(key):
                results.append("known")
                continue
            self._reports.append(
                dataclasses.replace(
                    new,
                    tenant=device.row.tenant,
                    hardware=device.hardware,
                    received_s=ask.now_s,
                )
            )
            results.append("stored")
            self._confirm(
                device.row.id, report.model, report.state, report.manifest_sha256, ask.now_s
            )
            work = device.works.get(report.action_id)
            if work is not None:
                doing = Doing(
                    action_id=work.id,
                    state=report.state,  # type: ignore[arg-type]  # checked to be one
                    journal_seq=report.journal_seq,
                    reason=report.reason,
                )
                self._note(device, said(work, doing, work.call), ask.now_s)
        return ReportsTaken(results=tuple(results))

    def _is_stored(self, key: tuple[str, str, str]) -> bool:
        found = self._connection.execute(
            sa.select(t.report.c.id).where(
                t.report.c.device_id == key[0],
                t.report.c.action_id == key[1],
                t.report.c.state == key[2],
            )
        ).first()
        return found is not None

    def _note(self, device: _Device, change: Change, now_s: float) -> None:
        before = device.works[change.id]
        ended = change.status != "open"
        if ended:
            del device.works[change.id]
        else:
            device.works[change.id] = dataclasses.replace(
                before, state=change.state, journal_seq=change.journal_seq
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
        if change.state != before.state and change.state in ("TRIAL", "CONFIRMED"):
            sha256 = self._assignments.manifest_sha256(self._connection, change.id)
            self._confirm(device.row.id, before.model, change.state, sha256, now_s)

    def _confirm(
        self, device_id: str, model: str, state: str, manifest_sha256: str | None, now_s: float
    ) -> None:
        if manifest_sha256 is None or state not in ("TRIAL", "CONFIRMED"):
            return
        run = self._run(device_id, model, now_s)
        run["activated_sha256"] = manifest_sha256
        if state == "CONFIRMED":
            run["confirmed_sha256"] = manifest_sha256

    def _run(self, device_id: str, model: str, now_s: float) -> dict[str, Any]:
        key = (device_id, model)
        return self._runs.setdefault(
            key, {"device_id": device_id, "model": model, "changed_s": now_s}
        )

    def _write_devices(self) -> None:
        if self._marks:
            self._connection.execute(
                t.device.update().where(t.device.c.id == sa.bindparam("of")), self._marks
            )
        bad = [device for device in self._devices.values() if device.quarantine]
        if bad:
            self._connection.execute(
                t.device.update().where(t.device.c.id == sa.bindparam("of")),
                [
                    {"of": one.row.id, "standing": "quarantined", "why": one.quarantine[:500]}
                    for one in bad
                ],
            )

    def _write_models(self) -> None:
        for device_id, models in self._gone:
            self._connection.execute(
                t.device_model.delete().where(
                    t.device_model.c.device_id == device_id,
                    t.device_model.c.model.not_in(models),
                )
            )
        for values in self._runs.values():
            upsert(self._connection, t.device_model, ("device_id", "model"), values)


def upsert(
    connection: sa.Connection, table: sa.Table, key: Sequence[str], values: Mapping[str, Any]
) -> None:
    """Insert a row, or change what is given of the one that is there."""
    dialect: Any
    if connection.dialect.name == "postgresql":
        from sqlalchemy.dialects import postgresql as dialect
    else:
        from sqlalchemy.dialects import sqlite as dialect
    insert = dialect.insert(table).values(dict(values))
    changed = {name: insert.excluded[name] for name in values if name not in key}
    connection.execute(insert.on_conflict_do_update(index_elements=list(key), set_=changed))


def _named(name: str, device: _Device) -> dict[str, str]:
    """The action that an update is of."""
    return {"of_rollout": t.rollout_of(name), "of_device": device.row.id}


def _under_way(asks: Iterable[Ask]) -> set[str]:
    """The actions that devices say they are at."""
    polls = [ask.body for ask in asks if isinstance(ask.body, Poll)]
    return {one.action_id for poll in polls for one in poll.actions if one.state not in FINAL}


def _verify(public_key: bytes, ask: Ask) -> None:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(ask.signature, ask.base)
    except InvalidSignature as error:
        raise RefusedError(
            "unsigned",
            f"The request is not signed by the device {ask.device_id}.",
            cause="It has another key than the one that enrolled, or the request was changed.",
            remedy="Enrol the device again.",
        ) from error


def _refusal(code: str, device: _Device, ask: Ask) -> RefusedError:
    if code == "replayed":
        seq = device.presence["request_seq"]
        return RefusedError(
            "replayed",
            f"Request {ask.claim.seq} comes after request {seq}.",
            cause="It was sent before, or the device has lost its journal.",
            remedy="Go on with a higher number.",
            request_seq=seq,
        )
    words = {
        "pending": ("waits for an operator", "Compare its key's fingerprint, then: "),
        "rejected": ("was turned away or removed", "If it may come back: "),
        "quarantined": ("is quarantined", "Find the second machine; then: "),
    }
    told, remedy = words[code]
    return RefusedError(
        code,
        f"The device {ask.device_id} {told}.",
        cause=device.quarantine or "",
        remedy=f"{remedy}sdk fleet devices accept {ask.device_id}",
    )
