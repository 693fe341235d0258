"""What devices measured, a line for each variant in a report: what a fit learns from."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from typing import Any

import sqlalchemy as sa

from sdk.fleet import tables as t

_MOST_NOTES, _NOTE = 16, 200
_NUMBER = 40


def page(
    connection: sa.Connection, tenant: str, after: int, most: int
) -> tuple[list[dict[str, Any]], int | None]:
    """The measurements in the next so many reports, and where to go on; None: that was all.

    A device signs its reports and says what it likes: texts are cut, and whoever reads a number has
    to ask whether it is one. What the device is stands beside it, where it has not changed since.
    """
    known = sa.case(
        (t.device.c.fingerprint_sha256 == t.report.c.fingerprint_sha256, t.device.c.fingerprint)
    )
    rows = connection.execute(
        sa.select(
            t.report.c.id, t.report.c.device_id, t.report.c.received_s, t.report.c.model,
            t.report.c.release, t.report.c.manifest_sha256, t.report.c.fingerprint_sha256,
            t.report.c.envelope, known.label("fingerprint"),
        )
        .join(t.device, t.device.c.id == t.report.c.device_id)
        .where(t.report.c.tenant == tenant, t.report.c.id > after)
        .order_by(t.report.c.id)
        .limit(most)
    ).all()  # fmt: skip
    lines = []
    for row in rows:
        told = {
            name: getattr(row, name)
            for name in (
                *("id", "device_id", "received_s", "model", "release", "manifest_sha256"),
                *("fingerprint_sha256", "fingerprint"),
            )
        }
        lines += [{**told, **one} for one in _measured(row.envelope)]
    return lines, rows[-1].id if len(rows) == most else None


def _measured(envelope: bytes) -> Iterator[dict[str, Any]]:
    """{variant, p50_ms, stable, notes} of each variant that was measured; opened when it came."""
    payload = json.loads(base64.b64decode(json.loads(envelope)["payload"]))
    for variant, proof in (payload.get("proof") or {}).items():
        facts = proof.get("facts") if isinstance(proof, Mapping) else None
        found = facts.get("measurement") if isinstance(facts, Mapping) else None
        latency = found.get("latency_ms") if isinstance(found, Mapping) else None
        if not isinstance(found, Mapping) or not isinstance(latency, Mapping):
            continue
        notes = found.get("notes")
        yield {
            "variant": variant[:_NOTE],
            "p50_ms": str(latency.get("p50"))[:_NUMBER],
            "stable": latency.get("stable") is True,
            "notes": [str(note)[:_NOTE] for note in notes[:_MOST_NOTES]]
            if isinstance(notes, list)
            else [],
        }
