"""Reports as rows: opened, checked, stored once."""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from agent.codec import decode, loads_signed, pre_authentication
from agent.errors import VerificationError
from agent.updates.report import REPORT_TYPE, Report
from sdk.fleet import tables as t
from sdk.fleet.database import upsert
from sdk.fleet.rules import figures
from sdk.fleet.rules.gates import MEDIAN_LATENCY
from sdk.fleet.store.progress import plan_of

MOST_BYTES = 256 << 10
"""No report is longer."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class NewReport:
    """A report whose signature holds."""

    report: Report
    figures: Mapping[str, Any]
    envelope: bytes
    tenant: str = ""
    hardware: str = ""
    received_s: float = 0.0

    @property
    def key(self) -> tuple[str, str, str]:
        """It is kept once for this."""
        return self.report.device_id, self.report.action_id, self.report.state


def opened_report(
    envelope: Mapping[str, Any], device_id: str, public_keys: Sequence[bytes]
) -> NewReport:
    """The report in an envelope, if the device signed it and what it says could be.

    Args:
        envelope: DSSE, as JSON has it.
        device_id: whose it has to be.
        public_keys: the device's, the present one and the one before it.

    Raises:
        VerificationError: it is malformed, not signed so, or says what cannot be.
    """
    payload = _payload(envelope, public_keys)
    try:
        value = loads_signed(payload)
    except ValueError as error:
        raise _malformed(f"{error}") from error
    report = decode(Report, value, "report")
    # PostgreSQL takes no NUL in a text; what a broken program printed is worth keeping.
    report = dataclasses.replace(report, reason=report.reason.replace("\0", "\ufffd"))
    content = json.dumps(envelope, separators=(",", ":"), sort_keys=True).encode()
    return NewReport(report=report, figures=figures.check(report, device_id), envelope=content)


def store(connection: sa.Connection, reports: Sequence[NewReport]) -> None:
    """Keep reports that are not kept yet, and what in them gates are held against."""
    told: dict[tuple[str, str, str], dict[str, Any]] = {}
    for new in reports:
        report = new.report
        connection.execute(
            t.report.insert(),
            {
                "tenant": new.tenant,
                "device_id": report.device_id,
                "action_id": report.action_id,
                "state": report.state,
                "journal_seq": report.journal_seq,
                "received_s": new.received_s,
                "model": report.model,
                "release": report.release,
                "variant": report.variant,
                "manifest_sha256": report.manifest_sha256,
                "fingerprint_sha256": report.fingerprint_sha256,
                "hardware": new.hardware,
                "reason": report.reason,
                "figures": dict(new.figures),
                "envelope": new.envelope,
            },
        )
        for row in _figures(connection, new):
            told[row["rollout_id"], row["device_id"], row["gate"]] = row
    upsert(connection, t.figure, ("rollout_id", "device_id", "gate"), list(told.values()))


def _figures(connection: sa.Connection, new: NewReport) -> list[dict[str, Any]]:
    """What gates read of a report: of the device's own action, about the release of its rollout."""
    found = figures.compared(new.figures)
    if not found:
        return []
    report = new.report
    action = connection.execute(
        sa.select(t.action.c.rollout_id, t.action.c.hardware, t.rollout.c.plan)
        .join(t.rollout, t.rollout.c.id == t.action.c.rollout_id)
        .where(
            t.action.c.rollout_id == t.rollout_of(report.action_id),
            t.action.c.device_id == report.device_id,
            t.rollout.c.manifest_sha256 == report.manifest_sha256,
        )
    ).first()
    if action is None:
        return []
    own = {"rollout_id": action.rollout_id, "device_id": report.device_id}
    more = {"hardware": action.hardware, "received_s": new.received_s}
    wanted = {MEDIAN_LATENCY, *plan_of(action).gates}
    return [{**own, "gate": name, "value": found[name], **more} for name in found.keys() & wanted]


def _payload(envelope: Mapping[str, Any], public_keys: Sequence[bytes]) -> bytes:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        kind = envelope["payloadType"]
        payload = base64.b64decode(envelope["payload"], validate=True)
        (signature,) = envelope["signatures"]
        sig = base64.b64decode(signature["sig"], validate=True)
    except (LookupError, TypeError, ValueError) as error:
        raise _malformed(f"{type(error).__name__}: {error}"[:200]) from error
    if kind != REPORT_TYPE or len(payload) > MOST_BYTES:
        raise _malformed(f"it is of the type {str(kind)[:80]!r} and has {len(payload)} bytes")
    for key in public_keys:
        try:
            Ed25519PublicKey.from_public_bytes(key).verify(sig, pre_authentication(kind, payload))
        except InvalidSignature:
            continue
        return payload
    raise VerificationError(
        "The report is not signed by the device that sends it.",
        cause="It is another device's, or was changed on the way.",
        remedy="Nothing was stored.",
    )


def _malformed(why: str) -> VerificationError:
    return VerificationError(
        f"The report cannot be read: {why}.",
        cause="It was cut short, or made by something else.",
        remedy="Nothing was stored.",
    )
