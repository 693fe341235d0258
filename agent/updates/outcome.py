"""How an action ends: on trial, confirmed, taken back, refused; and what is tidied up then.

Every one of these can be cut off and repeated: `tidy` is done again after each start.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from agent import disk
from agent.errors import StorageError, VerificationError
from agent.files import remove_tree, storage_errors
from agent.formats import formats
from agent.local import Word
from agent.manifest import Manifest, VariantEntry, parse
from agent.shim import starts_of
from agent.updates import report
from agent.updates.home import Home
from agent.updates.journal import Action, waits
from agent.updates.ladder import offer
from agent.updates.obtain import needed
from agent.updates.prepared import sweep_prepared
from agent.updates.shim_file import end_count, keep_count
from agent.updates.slots import CURRENT, MANIFEST, SLOTS, Slot, SlotName, Slots, variant_record
from agent.updates.states import FINAL, MOST_STARTS, Clock, State, is_over, may_follow
from agent.variant import prepared_name

PROOF = "proof.json"
"""What the preflight found, kept with the action until its last report."""
FELL_BACK = "the shim fell back: too many starts and no good word"
_BEFORE_TRIAL: tuple[State, ...] = ("DOWNLOADING", "STAGED", "PREFLIGHT", "ACTIVATING")


def fail(home: Home, action: Action, reason: str) -> Action:
    """End an action that went wrong; what it has switched already is taken back.

    Args:
        home: the state folder.
        action: as it was when its step began: what was noted since then counts.
        reason: for a person.
    """
    action = home.journal.action(action.id) or action
    if action.state in FINAL:
        return action
    if action.state in ("TRIAL", "ROLLING_BACK") or _has_switched(home, action):
        return roll_back(home, action, reason)
    state: State = "REJECTED" if action.state == "RECEIVED" else "FAILED"
    try:
        action = home.journal.enter(action, state, reason)
    except StorageError:
        # A disk that is full of what was fetched has no room to note that.
        _shed(home)
        action = home.journal.enter(action, state, reason)
    return _ended(home, action)


def enter_trial(home: Home, action: Action, reason: str = "") -> Action:
    """Begin the trial of what `current` names already; or its time anew, after a boot."""
    assert action.slot is not None
    keep_count(home.slots(action.model).folder, action.slot, action.old_slot)
    here = home.clock()
    seconds = min(float(action.order.trial_s), home.config.trial.seconds)
    deadline = Clock(boot_id=here.boot_id, uptime_s=here.uptime_s + seconds)
    boots = action.boots + (action.deadline is not None)
    action = home.journal.enter(action, "TRIAL", reason, deadline=deadline, boots=boots)
    report.keep(home, action, _proof(home, action))
    return action


def watch(home: Home, action: Action, words: tuple[Word, ...]) -> Action:
    """Judge a trial by what was said, by starts, and by its time."""
    own = [word for word in words if word.model == action.model]
    bad = next((word for word in own if not word.good), None)
    if bad is not None:
        return roll_back(home, action, f"the application says: {bad.reason or 'bad'}")
    slots = home.slots(action.model)
    starts = starts_of(slots.folder)
    if starts > MOST_STARTS:
        return roll_back(home, action, f"{starts} starts and no good word")
    if slots.current() != action.slot:
        return roll_back(home, action, FELL_BACK)
    if own:
        return confirm(home, action, own[-1].reason or "the application is well")
    if is_over(action.deadline, home.clock()):
        if is_kept_without_word(home, action):
            return confirm(home, action, "no bad word until the deadline")
        return roll_back(home, action, "its time was up without a good word")
    return action


def is_kept_without_word(home: Home, action: Action) -> bool:
    """Whether a trial that ends without any word is passed.

    A way back always is: what ran here before is not to be left for what it stands in for.
    """
    return home.config.trial.confirm == "deadline" or action.kind == "rollback"


def confirm(home: Home, action: Action, reason: str) -> Action:
    """Keep the release for good; unless the shim was faster, and has fallen back.

    The count ends first: what is noted as confirmed, no shim may take back any more. If only that
    was done, the trial goes on, and counts anew.
    """
    if not end_count(home.slots(action.model).folder, action.slot):
        return roll_back(home, action, FELL_BACK)
    return _ended(home, home.journal.enter(action, "CONFIRMED", reason))


def roll_back(home: Home, action: Action, reason: str) -> Action:
    """Point `current` back at what worked before, if that is whole; else what runs goes on."""
    slots = home.slots(action.model)
    if action.state not in ("TRIAL", "ROLLING_BACK"):
        # The table knows a way back from a trial alone, and there was a moment of one.
        for state in _BEFORE_TRIAL:
            if may_follow(action.state, state):
                action = home.journal.enter(action, state, reason)
        action = enter_trial(home, action, reason)
    if action.state != "ROLLING_BACK":
        action = home.journal.enter(action, "ROLLING_BACK", reason)
    if action.old_slot is None:  # a first installation: nothing worked before
        with storage_errors(slots.folder):
            disk.unlink(slots.folder / CURRENT)
            disk.sync_folder(slots.folder)
    elif is_whole(slots, slots.read(slot_name(action.old_slot))):
        slots.activate(slot_name(action.old_slot))
    else:
        reason = f"{action.reason}; slot {action.old_slot} is damaged, so what ran goes on"
    return _ended(home, home.journal.enter(action, "ROLLED_BACK", reason or action.reason))


def tidy(home: Home) -> None:
    """Finish what follows from the last state of every action; done again, it changes nothing."""
    under_way = home.journal.under_way()
    for action in home.journal.unreported():
        report.keep(home, action, _proof(home, action))
    for model in home.models():
        if model not in {action.model for action in under_way if not waits(action)}:
            end_count(home.slots(model).folder)
    for folder in (home.folder / "staging").iterdir():
        if folder.name not in {action.id for action in under_way}:
            remove_tree(folder)
    _sweep(home, under_way)


def slot_name(name: str | None) -> SlotName:
    """A slot's name, checked.

    Raises:
        VerificationError: it is none.
    """
    found = next((slot for slot in SLOTS if slot == name), None)
    if found is None:
        raise VerificationError(f"{name!r} is no slot.")
    return found


def _ended(home: Home, action: Action) -> Action:
    assert action.state in FINAL
    tidy(home)
    return action


def is_whole(slots: Slots, slot: Slot | None) -> bool:
    """Whether a slot is complete, and every file still has its hash."""
    try:
        if slot is not None:
            slots.verify(slot)
    except (VerificationError, OSError):
        return False
    return slot is not None


def _has_switched(home: Home, action: Action) -> bool:
    return action.slot is not None and home.slots(action.model).current() == action.slot


def _shed(home: Home) -> None:
    """Make room: what was fetched goes before anything that works."""
    for folder in (home.folder / "staging").iterdir():
        remove_tree(folder)
    _sweep(home, ())


def _sweep(home: Home, under_way: Iterable[Action]) -> None:
    """Remove blobs that neither a slot nor its ladder nor an action needs."""
    wanted: set[str] = set()
    prepared: set[str] = set()
    for model in home.models():
        slots = home.slots(model)
        for name in SLOTS:
            slot = slots.read(name)
            if slot is not None:
                kept = [slot.entry, *_rungs(home, slot.manifest)]
                wanted |= set(needed(slot.manifest, kept))
                prepared |= {prepared_name(variant_record(slot.manifest, one)) for one in kept}
    for action in under_way:
        manifest = _manifest_of(home, action)
        if manifest is None:
            return  # it is not known yet what it needs
        wanted |= set(needed(manifest, manifest.variants))
        prepared |= {prepared_name(variant_record(manifest, one)) for one in manifest.variants}
    with storage_errors(home.blobs.folder):
        home.blobs.sweep(wanted)
        sweep_prepared(home, prepared)


def _rungs(home: Home, manifest: Manifest) -> tuple[VariantEntry, ...]:
    return offer(manifest, home.fingerprint(), formats()).tried


def _manifest_of(home: Home, action: Action) -> Manifest | None:
    try:
        return parse((home.staging(action.id) / MANIFEST).read_bytes())
    except (OSError, VerificationError):
        return None


def _proof(home: Home, action: Action) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads((home.staging(action.id) / PROOF).read_bytes())
    except (OSError, ValueError):
        return None
    return found
