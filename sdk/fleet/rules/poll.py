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

Status = Literal["open", "withdrawn", "over"]
"""Of an action, at the server: to be done, called off while the device may be at it, or done."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """An action that is not over, as the server knows it."""

    id: str
    model: str
    status: Status
    assignment_seq: int
    state: State | None = None
    """What the device said last; None if it never spoke of it."""
    journal_seq: int = 0


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
    for work in works:
        told = doing.get(work.id)
        if told is not None:
            changes.append(said(work, told))
            if work.status == "withdrawn" and told.state in CANCELLABLE:
                cancel = cancel or work.id
        elif work.id in refused:
            changes.append(_refused(work, refused[work.id]))
        elif work.status == "withdrawn":
            changes.append(_over(work))
        else:
            waiting.append(work)
    busy = any(one.state not in FINAL and one.action_id != cancel for one in poll.actions)
    first = min(waiting, key=lambda work: work.assignment_seq, default=None)
    assign = None if busy or first is None else first.id
    return Outcome(changes=tuple(changes), assign=assign, cancel=cancel)


def said(work: Work, told: Doing) -> Change:
    """What a device's word changes of an action: its last one counts, and an end stays one."""
    is_old = told.journal_seq < work.journal_seq and told.state not in FINAL
    state = work.state if is_old and work.state is not None else told.state
    return Change(
        id=work.id,
        status="over" if state in FINAL else work.status,
        state=state,
        reason=told.reason,
        journal_seq=max(work.journal_seq, told.journal_seq),
    )


def _refused(work: Work, reason: str) -> Change:
    return Change(
        id=work.id,
        status="over",
        state="REJECTED",
        reason=reason,
        journal_seq=work.journal_seq,
    )


def _over(work: Work) -> Change:
    return Change(
        id=work.id,
        status="over",
        state=work.state,
        reason="called off",
        journal_seq=work.journal_seq,
    )
