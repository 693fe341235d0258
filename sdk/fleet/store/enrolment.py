"""Let devices in: the rules of enrolment, on rows."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import sqlalchemy as sa

from agent.codec import encode
from agent.identity import fingerprint_digest
from agent.manifest import Fingerprint
from agent.updates.wire import Standing
from sdk.fleet import tables as t
from sdk.fleet.hardware import hardware_of
from sdk.fleet.refusals import RefusedError
from sdk.fleet.rules.enrolment import Applicant, Enrolled, Ruling, Token, rule
from sdk.fleet.store.targets import join_finished

_WORDS = {
    "token unknown": ("token", "The token is not known here.", "Ask for a new one."),
    "token used": ("token", "The token was used by another device.", "Each device needs its own."),
    "token expired": ("token", "The token has expired.", "Ask for a new one."),
    "taken": (
        "taken",
        "There is a device of this name with another key.",
        "Enrol with the key that it had; without it, begin anew with another state folder.",
    ),
    "misnamed": (
        "malformed",
        "The device's name does not follow from its key.",
        "Let sdk-agent enroll make both; if the key was replaced, in another state folder.",
    ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Introduction:
    """A device that introduces itself; its proof holds."""

    tenant: str
    device_id: str
    public_key: bytes
    token: str | None
    fingerprint: Fingerprint | None
    statement: bytes
    """What the proofs sign."""
    previous_proof: bytes | None
    address: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """How the device stands from now on."""

    tenant: str
    standing: Standing
    group: str | None


def enrol(connection: sa.Connection, told: Introduction, now_s: float) -> Result:
    """Let a device in, have it wait, or turn it away.

    Raises:
        RefusedError: it is turned away; nothing was changed.
    """
    token = _token(connection, told.token)
    tenant = token.tenant if token is not None else told.tenant
    row = connection.execute(
        sa.select(t.device).where(t.device.c.id == told.device_id).with_for_update()
    ).first()
    if row is not None and row.tenant != tenant:
        raise _refused("taken")
    announced = connection.execute(
        sa.select(t.announced_key).where(
            t.announced_key.c.tenant == tenant,
            t.announced_key.c.public_key == told.public_key.hex(),
        )
    ).first()
    applicant = Applicant(
        device_id=told.device_id,
        public_key=told.public_key,
        has_token=told.token is not None,
        token=None
        if token is None
        else Token(expires_s=token.expires_s, used_by=token.used_by, group=token.group_name),
        announced=announced is not None,
        announced_group=None if announced is None else announced.group_name,
        vouched_by=_voucher(row, told),
    )
    found = None if row is None else Enrolled(public_key=row.public_key, standing=row.standing)
    ruling = rule(applicant, found, now_s)
    if ruling.refusal:
        raise _refused(ruling.refusal)
    if ruling.spends_token:
        _spend(connection, told, now_s)
    group = _carry_out(connection, ruling, told, row, tenant, now_s)
    return Result(tenant=tenant, standing=ruling.standing, group=group)


def sha256_of(secret: str) -> str:
    """How the server keeps a token or a key: it cannot be read from there."""
    return hashlib.sha256(secret.encode()).hexdigest()


def _token(connection: sa.Connection, token: str | None) -> Any:
    if token is None:
        return None
    return connection.execute(
        sa.select(t.enrolment_token).where(t.enrolment_token.c.sha256 == sha256_of(token))
    ).first()


def _spend(connection: sa.Connection, told: Introduction, now_s: float) -> None:
    """Use a token up; of two devices that come with it at once, one is first."""
    spent = connection.execute(
        t.enrolment_token.update()
        .where(
            t.enrolment_token.c.sha256 == sha256_of(told.token or ""),
            sa.or_(
                t.enrolment_token.c.used_by.is_(None),
                t.enrolment_token.c.used_by == told.device_id,
            ),
        )
        .values(used_s=now_s, used_by=told.device_id)
    )
    if spent.rowcount != 1:
        raise _refused("token used")


def _voucher(row: Any, told: Introduction) -> bytes | None:
    """The device's present key, if it signed the change to the new one."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    if row is None or told.previous_proof is None:
        return None
    try:
        key = Ed25519PublicKey.from_public_bytes(row.public_key)
        key.verify(told.previous_proof, told.statement)
    except InvalidSignature:
        return None
    found: bytes = row.public_key
    return found


def _carry_out(
    connection: sa.Connection, ruling: Ruling, told: Introduction, row: Any, tenant: str,
    now_s: float,
) -> str | None:  # fmt: skip
    """Write what was ruled; the group that the device is in."""
    if ruling.step == "replace key":
        connection.execute(
            t.device.update()
            .where(t.device.c.id == told.device_id)
            .values(public_key=told.public_key, previous_key=row.public_key)
        )
    if row is None:
        known = told.fingerprint
        connection.execute(
            t.device.insert().values(
                id=told.device_id,
                tenant=tenant,
                public_key=told.public_key,
                standing=ruling.standing,
                group_name=ruling.group,
                enrolled_s=now_s,
                fingerprint=None if known is None else encode(known),
                fingerprint_sha256=None if known is None else fingerprint_digest(known),
                hardware=hardware_of(known),
            )
        )
        connection.execute(
            t.presence.insert().values(
                device_id=told.device_id,
                request_seq=0,
                signed_s=0.0,
                address=told.address,
                boot_id="",
                agent="",
                reports_waiting=0,
                models_sha256="",
            )
        )
    elif ruling.step == "accept":
        connection.execute(
            t.device.update()
            .where(t.device.c.id == told.device_id)
            .values(standing="accepted", group_name=ruling.group or row.group_name)
        )
    if ruling.step == "accept":
        join_finished(connection, tenant, told.device_id, now_s)
    group: str | None = ruling.group or (row.group_name if row is not None else None)
    return group


def _refused(refusal: str) -> RefusedError:
    code, what, remedy = _WORDS[refusal]
    return RefusedError(code, what, cause="Nothing was changed on the server.", remedy=remedy)
