"""After a start, whatever ended the last run: find what was interrupted and decide."""

from __future__ import annotations

from agent import update
from agent.errors import VerificationError
from agent.home import Home
from agent.journal import Action
from agent.shim import starts_of
from agent.slots import Slots
from agent.states import Decision, Found, reconcile


def recover(home: Home, tell: update.Tell) -> Action | None:
    """Bring an interrupted action to where it can go on, or to its end.

    Returns:
        The action that is not over yet; None where nothing was interrupted.
    """
    action = home.journal.unfinished()
    if action is None:
        return None
    decision = reconcile(found(home, action))
    tell(f"{action.model}: {action.state} was interrupted ({decision.reason}): {decision.step}")
    return _done(home, action, decision)


def found(home: Home, action: Action) -> Found:
    """What there is of an action on the disk."""
    slots: Slots = home.slots(action.model)
    new = slots.read("A" if action.slot == "A" else "B") if action.slot else None
    old = slots.read("A" if action.old_slot == "A" else "B") if action.old_slot else None
    return Found(
        state=action.state,
        new_slot=action.slot,
        current=slots.current(),
        new_complete=new is not None and _verifies(slots, new),
        old_complete=old is not None,
        starts=starts_of(slots.folder),
        boots=action.boots,
        writes=action.writes,
        deadline=action.deadline,
        now=home.clock(),
    )


def _done(home: Home, action: Action, decision: Decision) -> Action | None:
    if decision.step in ("roll back", "finish rollback"):
        if action.state == "ACTIVATING":
            # The table knows a way back from a trial alone, and there was a moment of one.
            action = update.enter_trial(home, action, decision.reason)
        update.roll_back(home, action, decision.reason)
        return None
    if decision.step == "give up":
        update.fail(home, action, decision.reason)
        return None
    if decision.step == "enter trial":
        return update.enter_trial(home, action, decision.reason)
    if action.state == "TRIAL" and action.deadline is not None:
        if action.deadline.boot_id != home.clock().boot_id:
            return update.enter_trial(home, action, "the device was started anew")
    return action


def _verifies(slots: Slots, slot: object) -> bool:
    try:
        slots.verify(slot)  # type: ignore[arg-type]
    except (VerificationError, OSError):
        return False
    return True
