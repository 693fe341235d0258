"""What a poll changes, and what the device is told. Pure.

The device's word counts: what it says that it does, it does. Work that the server has called off is
over once the device no longer speaks of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

from agent.updates.states import CANCELLABLE, FINAL, State
from agent.updates.wire import Doing, Poll

Call = Literal["open", "held", "withdrawn"]
"""What the server wants of an action: that it is done, that it waits, that it is given up."""
Status = Literal["open", "over", "called_off"]
"""How an action stands: to be done, ended, or given up before anything was done that lasts."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """An action that is open, as the server knows it."""

    id: str
    model: str
    call: Call
    assignment_seq: int
    state: State | None = None
    """What the device said last; None if it never spoke of it."""
    journal_seq: int = 0
    plain_sha256: str | None = None
    """Of the release's manifest, where it is to run here and nothing else was asked for."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Change:
    """What is to be noted of an action: the device spoke of it."""

    id: str
    status: Status
    state: State | None
    reason: str
    journal_seq: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What follows from a poll."""

    changes: tuple[Change, ...] = ()
    assign: str | None = None
    """The action to hand out."""
    cancel: str | None = None
    """The action to call off."""


def outcome(poll: Poll, works: Sequence[Work]) -> Outcome:
    """What follows from a poll of a device with this work.

    Args:
        poll: what the device says.
        works: its actions that are not over.
    """
    doing = {one.action_id: one for one in poll.actions}
    refused = {one.action_id: one.reason for one in poll.refused}
    changes: list[Change] = []
    waiting: list[Work] = []
    cancel = None
    newest = _newest(works)
    at_work = [one for one in poll.actions if one.state not in FINAL]
    for work in works:
        call = work.call if newest.get(work.model, work) is work else "withdrawn"
        told = doing.get(work.id)
        if told is not None:
            changes.append(said(work, told, call))
            if call != "open" and told.state in CANCELLABLE:
                cancel = cancel or work.id
        elif work.id in refused:
            status: Status = "over" if call == "open" else "called_off"
            changes.append(_ended(work, status, "REJECTED", refused[work.id]))
        elif call == "withdrawn":
            changes.append(_ended(work, "called_off", work.state, "it was called off"))
        elif call == "open" and not at_work and _runs(poll, work):
            # Done again it would fill the slot that the device falls back on with the same.
            changes.append(_ended(work, "over", "CONFIRMED", "it runs here already"))
        elif call == "open":
            waiting.append(work)
    busy = any(one.action_id != cancel for one in at_work)
    first = min(waiting, key=lambda work: work.assignment_seq, default=None)
    assign = None if busy or first is None else first.id
    return Outcome(changes=tuple(changes), assign=assign, cancel=cancel)


def said(work: Work, told: Doing, call: Call = "open") -> Change:
    """What a device's word changes of an action: its last one counts, and an end stays one.

    A failure after the server called the action off is that, and none of the release.
    """
    is_old = told.journal_seq < work.journal_seq and told.state not in FINAL
    state = work.state if is_old and work.state is not None else told.state
    status: Status = "over" if state in FINAL else "open"
    if call != "open" and state in ("FAILED", "REJECTED"):
        status = "called_off"
    return Change(
        id=work.id,
        status=status,
        state=state,
        reason=told.reason,
        journal_seq=max(work.journal_seq, told.journal_seq),
    )


def _runs(poll: Poll, work: Work) -> bool:
    """Whether a device that is at nothing runs what it is to run, and was never heard of it."""
    if work.plain_sha256 is None or work.state is not None:
        return False
    return any(
        one.model == work.model and one.running_sha256 == work.plain_sha256 for one in poll.models
    )


def _newest(works: Sequence[Work]) -> dict[str, Work]:
    """Of each model the last one that was assigned and still is: it takes the others' place."""
    alive = [work for work in works if work.call != "withdrawn"]
    return {work.model: work for work in sorted(alive, key=lambda one: one.assignment_seq)}


def _ended(work: Work, status: Status, state: State | None, reason: str) -> Change:
    return Change(
        id=work.id, status=status, state=state, reason=reason, journal_seq=work.journal_seq
    )
