"""The states of one action on a device, and what to do about it after a restart. Pure.

The journal notes a state before the device acts on it. What runs is told by the link `current`
alone: where the two disagree after a crash, `reconcile` says who was ahead.
docs/explanation/updates.md draws the table.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

State = Literal[
    "RECEIVED",
    "DOWNLOADING",
    "STAGED",
    "PREFLIGHT",
    "ACTIVATING",
    "TRIAL",
    "CONFIRMED",
    "ROLLING_BACK",
    "ROLLED_BACK",
    "REJECTED",
    "FAILED",
]

TRANSITIONS: Mapping[State, Mapping[State, str]] = {
    "RECEIVED": {
        "DOWNLOADING": "it is signed, meant for this device, and one of its variants fits",
        "REJECTED": "it is not signed, not newer, revoked, or nothing in it fits this device",
    },
    "DOWNLOADING": {
        "STAGED": "every file that is needed is here, and has its hash",
        "FAILED": "a file cannot be had, the disk is too small, or it was called off",
    },
    "STAGED": {
        "PREFLIGHT": "the device is at rest, or may be disturbed",
        "FAILED": "it was called off, or a file has changed since",
    },
    "PREFLIGHT": {
        "ACTIVATING": "answers, accuracy, memory and speed hold here; the slot that does not run "
        "is filled",
        "FAILED": "one of them does not, for every variant that fits",
    },
    "ACTIVATING": {
        "TRIAL": "`current` names the new slot",
        "FAILED": "the link cannot be changed",
    },
    "TRIAL": {
        "CONFIRMED": "the application is well, and the deadline or its word has come",
        "ROLLING_BACK": "it is not, it was started too often, or its time is up without a word",
    },
    "ROLLING_BACK": {"ROLLED_BACK": "`current` names the old slot again"},
    "CONFIRMED": {},
    "ROLLED_BACK": {},
    "REJECTED": {},
    "FAILED": {},
}
"""State -> the states that may follow, and when."""

FINAL: frozenset[State] = frozenset(state for state, then in TRANSITIONS.items() if not then)
CANCELLABLE: frozenset[State] = frozenset({"RECEIVED", "DOWNLOADING", "STAGED"})
"""Where a server may still call an action off."""
MOST_STARTS = 3
"""Starts of the application in a trial, after which it is taken back."""
MOST_WRITES = 28
"""Journal entries of one action: more than any way through takes, twice over (Mender's figure)."""

Step = Literal["continue", "enter trial", "roll back", "finish rollback", "give up", "nothing"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clock:
    """A moment on this device: wall clocks jump, so deadlines are told by boot and uptime."""

    boot_id: str
    uptime_s: float
    """CLOCK_BOOTTIME: it goes on while the device sleeps."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """What a restart finds of an action that is not over."""

    state: State
    new_slot: str | None
    """The slot that it fills; None while none is chosen."""
    current: str | None
    """The slot that `current` names; None where nothing is installed."""
    new_complete: bool
    """The new slot holds every file that its manifest names."""
    starts: int
    """Of the application since `current` names the new slot."""
    boots: int
    """Of the device since then."""
    writes: int
    """Journal entries of the action."""
    deadline: Clock | None
    now: Clock
    silence_is_good: bool = False
    """A trial whose time is up without a bad word was a success: the operator's choice."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decision:
    """What to do next, and what to note of it."""

    step: Step
    reason: str


def may_follow(state: State, then: State) -> bool:
    """Whether the table has that transition; noting a state again is none."""
    return then in TRANSITIONS[state]


def reconcile(found: Found) -> Decision:
    """What to do after a restart, whatever was interrupted.

    >>> here = Clock(boot_id="b", uptime_s=10.0)
    >>> reconcile(Found(state="ACTIVATING", new_slot="B", current="B", new_complete=True,
    ...     starts=0, boots=0, writes=6, deadline=None, now=here)).step
    'enter trial'
    """
    if found.state in FINAL:
        return Decision(step="nothing", reason="it is over")
    if found.state == "ROLLING_BACK":
        return Decision(step="finish rollback", reason="it was being taken back")
    switched = found.new_slot is not None and found.current == found.new_slot
    if found.state == "TRIAL" and not switched:
        # The shim falls back on its own where an application does not come up.
        return Decision(step="finish rollback", reason="`current` names the old slot")
    if found.writes >= MOST_WRITES:
        why = f"{found.writes} journal entries, and it is not over"
        return Decision(step="roll back" if switched else "give up", reason=why)
    if switched and not found.new_complete:
        return Decision(step="roll back", reason="the slot that runs is not complete any more")
    if found.state == "ACTIVATING":
        return _activating(found, switched=switched)
    if found.state == "TRIAL":
        return _trial(found)
    if switched:
        # Nothing switches before ACTIVATING is noted: somebody else moved the link.
        return Decision(step="roll back", reason=f"`current` was switched in {found.state}")
    return Decision(step="continue", reason="it was interrupted")


def is_over(deadline: Clock | None, now: Clock) -> bool:
    """Whether a deadline has passed. One of another boot says nothing: its trial begins anew.

    That cannot go on for ever, since boots are counted.
    """
    if deadline is None or deadline.boot_id != now.boot_id:
        return False
    return now.uptime_s >= deadline.uptime_s


def _activating(found: Found, *, switched: bool) -> Decision:
    if switched:
        return Decision(step="enter trial", reason="the switch was done")
    if found.new_complete:
        return Decision(step="continue", reason="the switch was not done")
    return Decision(step="give up", reason="the slot is not complete any more")


def _trial(found: Found) -> Decision:
    if found.starts >= MOST_STARTS:
        return Decision(step="roll back", reason=f"{found.starts} starts and no good word")
    if found.boots >= MOST_STARTS:
        return Decision(step="roll back", reason=f"{found.boots} boots and no good word")
    if is_over(found.deadline, found.now) and not found.silence_is_good:
        return Decision(step="roll back", reason="its time was up without a good word")
    return Decision(step="continue", reason="it is on trial")
