"""What a device and a fleet server say to each other: the bodies of the device protocol, `/v1`.

docs/reference/protocol/fleet.md is this page in words. The server checks against the same classes,
so a bound that stands here is what it refuses.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal

from agent.codec import MOST_INTEGER
from agent.manifest import Fingerprint
from agent.updates.states import State

VERSION = 1
ENROLMENT_TYPE = "application/vnd.slipway.enrolment.v1+json"
"""What a device signs when it enrols: the DSSE pre-authentication encoding of the rest."""
MOST_BODY_BYTES = 1 << 20
"""No request is longer (Mender's figure)."""
MOST_REPORTS = 100
"""In one request."""
SHORTEST_POLL_S, LONGEST_POLL_S = 1, 3600
"""Whatever a server asks for, a device comes no sooner and no later."""
TOKEN = "slipway"  # noqa: S105  how each token begins

Standing = Literal["accepted", "pending", "rejected", "quarantined"]
"""Of a device: it gets work, an operator has to look at it first, it was turned away, or two
machines were found under its name."""


class Most(int):
    """So many characters or items at most; pydantic reads it too, where the server has it."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """A schema that refuses more."""
        return {**handler(source), "max_length": int(self)}


class Within(int):
    """No further from 0 than this: no database takes numbers without end."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """A schema that refuses more."""
        return {**handler(source), "ge": -int(self), "le": int(self)}


Name = Annotated[str, Most(200)]
Reason = Annotated[str, Most(2000)]
Hash = Annotated[str, Most(64)]
Number = Annotated[int, Within(MOST_INTEGER)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Enrolment:
    """`POST /v1/enroll`: who a device is."""

    device_id: Hash
    public_key: Name
    """Ed25519, 32 bytes in base64."""
    created: Number
    """Seconds since 1970, by the device's clock."""
    proof: Name
    """base64 of the signature, by that key, over all else here."""
    tenant: Name = "default"
    token: Name | None = None
    fingerprint: Fingerprint | None = None
    previous_proof: Name | None = None
    """The same signature by the key that this one replaces."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Enrolled:
    """What the server says to that."""

    status: Standing
    fleet: str
    """The server's own name, which every request of the device is bound to."""
    tenant: str
    group: str | None
    repository: str
    """A path on the same server, such as `/v1/repo/default`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Running:
    """One model on a device."""

    model: Name
    running_sha256: Hash | None
    """Of the manifest that `current` leads to; None: nothing runs."""
    release: Name | None = None
    variant: Name | None = None
    slot: Name | None = None
    previous_sha256: Hash | None = None
    """Of the manifest in the other slot."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Doing:
    """How far an action has come."""

    action_id: Name
    state: State
    journal_seq: Number
    reason: Reason = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Refused:
    """An assignment that a device did not take: it never became an action."""

    action_id: Name
    reason: Reason


@dataclasses.dataclass(frozen=True, kw_only=True)
class Poll:
    """`POST /v1/poll`: what is so on a device now."""

    version: Number = VERSION
    agent: Name
    boot_id: Name
    fingerprint_sha256: Hash
    """Of identity and software."""
    fingerprint: Fingerprint | None = None
    """Where the last answer asked for it."""
    models: Annotated[tuple[Running, ...], Most(256)] = ()
    actions: Annotated[tuple[Doing, ...], Most(256)] = ()
    """Those that are not over, and those whose end the server has not heard of."""
    refused: Annotated[tuple[Refused, ...], Most(256)] = ()
    metadata_version: Number | None = None
    """Of the timestamp that is trusted."""
    metadata_age_s: Number | None = None
    reports_waiting: Annotated[int, Within(2**31 - 1)] = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """What the server says to a poll. Nothing of it is believed but what is signed in it."""

    next_poll_s: int
    assignment: dict[str, Any] | None = None
    """A DSSE envelope, signed by the online assignment key, for this device alone."""
    cancel: str | None = None
    """An action to give up, as long as it is not beyond STAGED."""
    send_fingerprint: bool = False
    metadata_version: Number | None = None
    """Of the repository's timestamp: where the device's is lower, it looks there."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StateOf:
    """`POST /v1/actions/{id}/state`: an action has come further."""

    state: State
    journal_seq: Number
    reason: Reason = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reports:
    """`POST /v1/reports`: signed reports, the oldest first."""

    reports: Annotated[tuple[dict[str, Any], ...], Most(MOST_REPORTS)]
    """DSSE envelopes."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportsTaken:
    """What became of each, in their order."""

    results: tuple[str, ...]
    """`stored`, `known`, or `refused: ` and why; none of them is to be sent again."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Nonce:
    """`GET /v1/nonce`: for a device whose clock is not to be trusted."""

    nonce: str
    now: int
    """Seconds since 1970."""
