"""What a device says of an action: signed when it is stored, sent when there is a line, once."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from agent.codec import canonical
from agent.identity import fingerprint_digest
from agent.updates.freshness import TIME_FORM

if TYPE_CHECKING:
    from agent.updates.home import Home
    from agent.updates.journal import Action

REPORT_TYPE = "application/vnd.slipway.report.v1+json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """One state of one action."""

    version: int
    device_id: str
    action_id: str
    journal_seq: int
    model: str
    release: str | None
    manifest_sha256: str
    """Of the release, as its action was told it."""
    variant: str | None
    state: str
    reason: str
    fingerprint_sha256: str
    """Of identity and software: under what this holds."""
    at: str
    """The device's own clock, UTC; its order is `journal_seq`."""
    proof: Mapping[str, Any] | None = None
    """What the preflight found, numbers as strings: what is signed holds integers only."""


def keep(home: Home, action: Action, proof: Mapping[str, Any] | None = None) -> None:
    """Sign and keep the report of the state that an action is in; kept once."""
    name = f"{action.id}/{action.state}"
    if home.journal.has_report(name):
        return
    sequence = home.journal.history(action.id)[-1][0]
    report = Report(
        version=1,
        device_id=home.device.device_id,
        action_id=action.id,
        journal_seq=sequence,
        model=action.model,
        release=action.release,
        manifest_sha256=action.order.manifest_sha256,
        variant=action.variant,
        state=action.state,
        reason=action.reason,
        fingerprint_sha256=fingerprint_digest(home.fingerprint()),
        at=home.now().strftime(TIME_FORM),
        proof=None if proof is None else integers_only(proof),
    )
    envelope = home.device.envelope(canonical(report), REPORT_TYPE)
    home.journal.keep_report(name, action.id, action.state, envelope)


def integers_only(value: Any) -> Any:
    """The same with every float as a string, such as "1.25".

    >>> integers_only({"ms": 1.25, "n": 3})
    {'ms': '1.25', 'n': 3}
    """
    if isinstance(value, float):
        return json.dumps(value)
    if isinstance(value, Mapping):
        return {str(key): integers_only(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [integers_only(item) for item in value]
    return value
