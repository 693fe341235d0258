"""After a start, whatever ended the last run: find what was interrupted, and decide."""

from __future__ import annotations

import json

from agent.errors import SlipwayError, VerificationError
from agent.shim import TRIAL, starts_of
from agent.updates.home import Home
from agent.updates.journal import Action
from agent.updates.obtain import Tell
from agent.updates.outcome import (
    enter_trial,
    fail,
    is_kept_without_word,
    roll_back,
    slot_name,
    tidy,
)
from agent.updates.slots import Slot, Slots
from agent.updates.states import Decision, Found, State, may_follow, reconcile


def recover(home: Home, tell: Tell) -> Action | None:
    """Bring an interrupted action to where it can go on, or to its end.

    Returns:
        The action that is not over yet; None where there is none.
    """
    if home.journal.was_damaged:
        tell("the journal was damaged and is begun anew; what runs is told by the slots")
    action = home.journal.unfinished()
    _end_orphaned_trials(home, action, tell)
    if action is not None:
        decision = reconcile(found(home, action))
        tell(f"{action.model}: {action.state} was interrupted ({decision.reason})")
        action = _done(home, action, decision)
    tidy(home)
    return action


def found(home: Home, action: Action) -> Found:
    """What there is of an action on the disk."""
    slots = home.slots(action.model)
    new = slots.read(slot_name(action.slot)) if action.slot else None
    old = slots.read(slot_name(action.old_slot)) if action.old_slot else None
    return Found(
        state=action.state,
        new_slot=action.slot,
        current=slots.current(),
        new_complete=new is not None and is_whole(slots, new),
        old_complete=old is not None,
        starts=starts_of(slots.folder),
        boots=action.boots,
        writes=action.writes,
        # Whoever watches the trial confirms it then.
        deadline=None if is_kept_without_word(home, action) else action.deadline,
        now=home.clock(),
    )


def is_whole(slots: Slots, slot: Slot) -> bool:
    """Whether every file still has its hash."""
    try:
        slots.verify(slot)
    except (VerificationError, OSError):
        return False
    return True


def _done(home: Home, action: Action, decision: Decision) -> Action | None:
    if decision.step in ("roll back", "finish rollback"):
        if action.state not in ("TRIAL", "ROLLING_BACK"):
            # The table knows a way back from a trial alone, and there was a moment of one.
            action = _as_on_trial(home, action, decision.reason)
        roll_back(home, action, decision.reason)
        return None
    if decision.step == "give up":
        fail(home, action, decision.reason)
        return None
    if decision.step == "enter trial":
        return enter_trial(home, action, decision.reason)
    deadline = action.deadline if action.state == "TRIAL" else None
    if deadline is not None and deadline.boot_id != home.clock().boot_id:
        return enter_trial(home, action, "the device was started anew")
    return action


def _as_on_trial(home: Home, action: Action, reason: str) -> Action:
    steps: tuple[State, ...] = ("DOWNLOADING", "STAGED", "PREFLIGHT", "ACTIVATING")
    for state in steps:
        if may_follow(action.state, state):
            action = home.journal.enter(action, state, reason)
    return enter_trial(home, action, reason)


def _end_orphaned_trials(home: Home, running: Action | None, tell: Tell) -> None:
    """A trial that the journal does not know, since it was damaged: nobody could confirm it."""
    for model in home.models():
        slots = home.slots(model)
        if home.journal.last(model) is not None or (running and running.model == model):
            continue
        try:
            trial = json.loads((slots.folder / TRIAL).read_bytes())
            old = slots.read(slot_name(trial["old"]))
        except (OSError, ValueError, KeyError, TypeError, SlipwayError):
            continue
        if old is not None and slots.current() == trial.get("slot"):
            slots.activate(old.name)
            tell(f"{model}: a trial that nothing is known of was taken back")
