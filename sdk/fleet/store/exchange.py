"""What devices say and are told: many requests in one transaction, in the order in which they came.

Each request is judged in turn by what the one before it left.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence

import sqlalchemy as sa

from agent.codec import encode
from agent.errors import SlipwayError
from agent.identity import fingerprint_digest
from agent.manifest import Fingerprint
from agent.updates.wire import Answer, Doing, Poll, Reports, ReportsTaken, StateOf
from sdk.fleet import tables as t
from sdk.fleet.hardware import hardware_of
from sdk.fleet.refusals import RefusedError
from sdk.fleet.rules.claims import Known, judge, other_machine, remembered
from sdk.fleet.rules.pace import Minutes
from sdk.fleet.rules.poll import Change, outcome, said
from sdk.fleet.store.assignments import Assignments
from sdk.fleet.store.batch import Ask, Batch, Device
from sdk.fleet.store.reports import opened_report

Reply = Answer | ReportsTaken | None


class Exchange:
    """Carries out what devices ask."""

    def __init__(
        self, assignments: Assignments, next_poll_s: Callable[[], int], most_per_minute: int
    ) -> None:
        """`most_per_minute` requests of one device are answered, by this process."""
        self._assignments = assignments
        self._next_poll_s = next_poll_s
        self._minutes = Minutes(most_per_minute)

    def carry_out(self, connection: sa.Connection, asks: Sequence[Ask]) -> list[Reply | Exception]:
        """Judge and answer each; everything is written when this returns, and not committed yet."""
        batch = Batch(connection, asks)
        answers = _Answers(batch, self._assignments, self._next_poll_s, self._minutes)
        found: list[Reply | Exception] = []
        for ask in asks:
            try:
                found.append(answers.answer(ask))
            except SlipwayError as error:
                found.append(error)
        batch.write()
        return found


class _Answers:
    """Answers the requests of one batch."""

    def __init__(
        self,
        batch: Batch,
        assignments: Assignments,
        next_poll_s: Callable[[], int],
        minutes: Minutes,
    ) -> None:
        self._minutes = minutes
        self._batch = batch
        self._assignments = assignments
        self._next_poll_s = next_poll_s

    def answer(self, ask: Ask) -> Reply:
        """What one request changes, and what the device is told.

        Raises:
            RefusedError: it does not count.
        """
        device = self._batch.devices.get(ask.device_id)
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

    def _check(self, device: Device, ask: Ask) -> None:
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
            wait_s = self._minutes.wait_s(ask.device_id, ask.now_s)
            if wait_s:
                raise RefusedError(
                    "busy",
                    f"The device {ask.device_id} asks too often.",
                    cause="It is broken, or somebody who has its key wears the server out.",
                    remedy="Come again after the time in Retry-After.",
                    retry_after_s=wait_s,
                )
            return
        raise _refusal(verdict.code, device, ask)

    def _poll(self, device: Device, ask: Ask, poll: Poll) -> Answer:
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
                self._batch.connection, device.row.tenant, device.row.id, work.id, ask.now_s
            )
            if told:
                before = {"before_sha256": running.get(work.model)}
                self._batch.note_handed(device, work, {**before, **told})
        return Answer(
            next_poll_s=self._next_poll_s(),
            assignment=envelope,
            cancel=found.cancel,
            send_fingerprint=device.fingerprint_sha256 != poll.fingerprint_sha256,
            metadata_version=self._assignments.timestamp_version(device.row.tenant),
        )

    def _identify(self, device: Device, poll: Poll) -> None:
        told = poll.fingerprint
        if told is None or poll.fingerprint_sha256 == device.fingerprint_sha256:
            return
        if fingerprint_digest(told) != poll.fingerprint_sha256:
            raise RefusedError("malformed", "The fingerprint has another digest than was told.")
        row = self._batch.connection.execute(
            sa.select(t.device.c.fingerprint).where(t.device.c.id == device.row.id)
        ).scalar()
        if row:
            why = other_machine(Fingerprint(**row), told)
            if why:
                device.quarantine = f"it is another machine than the one that enrolled: {why}"
                return
        device.fingerprint_sha256, device.hardware = poll.fingerprint_sha256, hardware_of(told)
        self._batch.note_fingerprint(
            device,
            {
                "fingerprint": encode(told),
                "fingerprint_sha256": poll.fingerprint_sha256,
                "hardware": device.hardware,
            },
        )

    def _note_models(self, device: Device, poll: Poll, now_s: float) -> None:
        digest = hashlib.sha256(repr(poll.models).encode()).hexdigest()
        if digest == device.presence["models_sha256"]:
            return
        device.presence["models_sha256"] = digest
        for one in poll.models:
            self._batch.run(device.row.id, one.model, now_s).update(
                running_sha256=one.running_sha256,
                release=one.release,
                variant=one.variant,
                slot=one.slot,
                previous_sha256=one.previous_sha256,
            )
        self._batch.note_gone(device, {one.model for one in poll.models})

    def _state(self, device: Device, ask: Ask, told: StateOf) -> None:
        work = device.works.get(ask.action_id)
        if work is None:  # it is over, or the device's own affair
            return
        doing = Doing(
            action_id=work.id, state=told.state, journal_seq=told.journal_seq, reason=told.reason
        )
        self._note(device, said(work, doing, work.call), ask.now_s)

    def _take(self, device: Device, ask: Ask, reports: Reports) -> ReportsTaken:
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
            if self._batch.is_stored(key):
                results.append("known")
                continue
            self._batch.reports.append(
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

    def _note(self, device: Device, change: Change, now_s: float) -> None:
        before = device.works[change.id]
        self._batch.note(device, change, now_s)
        if change.state != before.state and change.state in ("TRIAL", "CONFIRMED"):
            sha256 = self._assignments.manifest_sha256(self._batch.connection, change.id)
            self._confirm(device.row.id, before.model, change.state, sha256, now_s)

    def _confirm(
        self, device_id: str, model: str, state: str, manifest_sha256: str | None, now_s: float
    ) -> None:
        if manifest_sha256 is None or state not in ("TRIAL", "CONFIRMED"):
            return
        run = self._batch.run(device_id, model, now_s)
        run["activated_sha256"] = manifest_sha256
        if state == "CONFIRMED":
            run["confirmed_sha256"] = manifest_sha256


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


def _refusal(code: str, device: Device, ask: Ask) -> RefusedError:
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
