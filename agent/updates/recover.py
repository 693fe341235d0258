"""After a start, whatever ended the last run: find what was interrupted, and decide."""

from __future__ import annotations

from agent.files import settle
from agent.shim import starts_of, trial_of
from agent.updates.freshness import TIME_FORM
from agent.updates.home import Home
from agent.updates.install import unfit
from agent.updates.journal import Action
from agent.updates.obtain import Tell
from agent.updates.outcome import (
    enter_trial,
    fail,
    is_kept_without_word,
    is_whole,
    roll_back,
    slot_name,
    tidy,
)
from agent.updates.shim_file import keep_count
from agent.updates.states import Decision, Found, reconcile

DAMAGED = "journal_damaged"
"""The fact that the journal was begun anew, and when."""


def recover(home: Home, tell: Tell) -> Action | None:
    """Bring an interrupted action to where it can go on, or to its end.

    Returns:
        The action that is not over yet; None where there is none.
    """
    _settle(home)
    if home.journal.was_damaged:
        home.journal.set_fact(DAMAGED, home.now().strftime(TIME_FORM))
        tell("the journal was damaged and is begun anew; what runs is told by the slots")
    action = home.journal.unfinished()
    _end_orphaned_trials(home, action, tell)
    _leave_broken_slots(home, action, tell)
    if action is not None:
        decision = reconcile(found(home, action))
        tell(f"{action.model}: {action.state} was interrupted ({decision.reason})")
        _go_on(home, action, decision)
    tidy(home)
    return home.journal.unfinished()


def found(home: Home, action: Action) -> Found:
    """What there is of an action on the disk."""
    slots = home.slots(action.model)
    new = slots.read(slot_name(action.slot)) if action.slot else None
    return Found(
        state=action.state,
        new_slot=action.slot,
        current=slots.current(),
        new_complete=is_whole(slots, new),
        starts=starts_of(slots.folder),
        boots=action.boots,
        writes=action.writes,
        deadline=action.deadline,
        now=home.clock(),
        silence_is_good=is_kept_without_word(home, action),
    )


def _go_on(home: Home, action: Action, decision: Decision) -> None:
    if decision.step in ("roll back", "finish rollback"):
        roll_back(home, action, decision.reason)
    elif decision.step == "give up":
        fail(home, action, decision.reason)
    elif decision.step == "enter trial":
        enter_trial(home, action, decision.reason)
    elif action.state == "TRIAL":
        if action.deadline is not None and action.deadline.boot_id != home.clock().boot_id:
            enter_trial(home, action, "the device was started anew")
            return
        assert action.slot is not None
        keep_count(home.slots(action.model).folder, action.slot, action.old_slot)


def _settle(home: Home) -> None:
    """What the last run may not have made durable any more; from the outside in."""
    staging, models, trust = (home.folder / name for name in ("staging", "models", "trust"))
    blobs = home.blobs.folder
    for folder in (home.folder, blobs.parent, blobs, staging, models, trust):
        settle(folder)
    for above in (staging, models):
        for folder in sorted(path for path in above.iterdir() if path.is_dir()):
            settle(folder)


def _end_orphaned_trials(home: Home, running: Action | None, tell: Tell) -> None:
    """A trial that the journal does not know, since it lost some of it: nobody could confirm it.

    The count of a trial ends before its release is noted as confirmed, so where there is one still,
    it was not.
    """
    for model in home.models():
        slots = home.slots(model)
        trial = trial_of(slots.folder)
        if trial is None or slots.current() != trial["slot"] or trial["old"] is None:
            continue
        if running is not None and (running.model, running.slot) == (model, trial["slot"]):
            continue
        old = slots.read(slot_name(trial["old"]))
        if old is not None and is_whole(slots, old):
            slots.activate(old.name)
            tell(f"{model}: a trial that nothing is known of was taken back")


def _leave_broken_slots(home: Home, running: Action | None, tell: Tell) -> None:
    """What runs lacks a file, since a disk failed: what worked before it is whole, perhaps."""
    for model in home.models():
        slots = home.slots(model)
        name = slots.current()
        if name is None or slots.read(name) is not None or (running and running.model == model):
            continue
        old = slots.read(slots.spare())
        if old is None or not is_whole(slots, old) or unfit(home, old, by_itself=True):
            tell(f"{model}: slot {name}, which runs, is not complete; nothing else is here")
            continue
        slots.activate(old.name)
        tell(f"{model}: slot {name} is not complete any more; {old.manifest.release} runs again")
