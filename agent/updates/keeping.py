"""Keep what runs trustworthy: proven under this software, not revoked, whole, and affordable.

Looked at between actions. What is found either is told and noted, or begins an ordinary action; of
one finding there is at most one attempt at another rung and one at the way back, so that a device
that can do nothing about it does not try for ever.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from agent.errors import SlipwayError
from agent.files import remove_tree, storage_errors
from agent.formats import formats
from agent.manifest import VariantEntry
from agent.updates.doubt import Doubt, clear_doubt, doubt_of, note_doubt, was_tried
from agent.updates.home import Home
from agent.updates.install import from_slot, unfit
from agent.updates.journal import Action
from agent.updates.ladder import Strain, needs_of, offer, step
from agent.updates.obtain import Tell, needed
from agent.updates.outcome import is_whole
from agent.updates.prepared import forget_prepared, is_as_prepared, note_prepared
from agent.updates.proof import Proof
from agent.updates.proving import Prove, counts_as_quiet, prove_apart, question, rest_of
from agent.updates.slots import Slot
from agent.updates.strain import available_bytes, is_too_hot
from agent.updates.trust import View

_ANEW = "the software of this device, or what was prepared on it, has changed"
HASHED = "hashed"
"""Fact of the journal: in which boot the slots were hashed."""
HOT_S = 60.0
"""So long it has to be too hot before a lighter variant is taken: a peak passes by itself."""
STEP_AGAIN_S = 3600.0
"""After a step that did not hold, none is tried for so long."""


class Keeper:
    """Looks after what runs; it remembers since when there was room."""

    def __init__(
        self, prove: Prove = prove_apart, now: Callable[[], float] = time.monotonic
    ) -> None:
        """`now` gives seconds."""
        self.prove = prove
        self._now = now
        self._calm_since = now()
        self._hot_since: float | None = None
        self._strain_told: set[str] = set()
        self._failed_step_seen: dict[str, float] = {}

    def look(self, home: Home, view: View | None, tell: Tell) -> Action | None:
        """Look at every model that runs; the action that one of them takes, if one does."""
        hashed = home.journal.fact(HASHED)
        boot = home.clock().boot_id
        strain = self._strain(home)
        for _, slot in home.installed():
            action = (
                self._revoked(home, slot, view, tell)
                or (self._damaged(home, slot, tell) if hashed != boot else None)
                or self._reproven(home, slot, tell)
                or self._strained(home, slot, strain, tell)
            )
            if action is not None:
                return action
        if hashed != boot:
            home.journal.set_fact(HASHED, boot)
        return None

    def _revoked(self, home: Home, slot: Slot, view: View | None, tell: Tell) -> Action | None:
        try:
            said = view.revoked(slot.manifest.model) if view is not None else None
        except SlipwayError as error:
            tell(error.what)
            said = None
        if not home.is_revoked(slot.manifest, said):
            return None
        doubt = note_doubt(home.journal, slot, "revoked", "it was revoked")
        return _away(home, slot, doubt, tell)

    def _damaged(self, home: Home, slot: Slot, tell: Tell) -> Action | None:
        """Hashed once in each boot."""
        prepared = slot.record.prepared
        if prepared is not None and not is_as_prepared(home, prepared):
            tell(f"{slot.manifest.model}: what was prepared here has changed; it is made anew")
            forget_prepared(home, prepared)
            home.forget_proven(slot)
        if is_whole(home.slots(slot.manifest.model), slot):
            clear_doubt(home.journal, slot, "damaged")
            return None
        why = f"a file in slot {slot.name} has changed"
        return _away(home, slot, note_doubt(home.journal, slot, "damaged", why), tell)

    def _reproven(self, home: Home, slot: Slot, tell: Tell) -> Action | None:
        """Prove it anew where the driver, the system or the runtime is another one."""
        if home.is_proven(slot):
            return None
        model, software = slot.manifest.model, home.software()
        if not _is_here(home, slot, slot.entry):
            tell(f"{model}: what it would be proven anew with is not here any more")
            return None
        doubt = doubt_of(home.journal, slot)
        if doubt is None or doubt.software != software:
            rest = rest_of(home)
            if rest is not None and not rest.at_rest:
                tell(f"{model}: {slot.record.variant} is to be proven anew ({_ANEW}); {rest.why}")
                return None
            tell(f"{model}: {slot.record.variant} is proven anew: {_ANEW}")
            proof = _proof_in_place(home, slot, self.prove)
            if proof.passed:
                home.note_proven(model, slot.name, slot.record.manifest_sha256, slot.record.variant)
                note_prepared(home, slot.record.prepared)
                clear_doubt(home.journal, slot, "unproven")
                tell(f"{model}: {slot.record.variant} holds under it")
                return None
            why = f"it does not hold under this software: {'; '.join(proof.reasons)}"
            doubt = note_doubt(home.journal, slot, "unproven", why, software)
            tell(f"{model}: {slot.record.variant}: {why}")
        rungs = [rung for rung in _rungs(home, slot) if rung.id != slot.record.variant]
        if rungs and not was_tried(home.journal, slot, doubt):
            without = [v.id for v in slot.manifest.variants if v not in rungs]
            return from_slot(home, slot, "step", doubt.why, without=tuple(without))
        return _away(home, slot, doubt, tell)

    def _strain(self, home: Home) -> Strain:
        root, reserve = home.config.root_folder, home.config.ladder.reserve_mib << 20
        now, free, hot = self._now(), available_bytes(root), is_too_hot(root)
        if not hot:
            self._hot_since = None
        elif self._hot_since is None:
            self._hot_since = now
        if free < reserve or hot:
            self._calm_since = now
        return Strain(
            available_bytes=free,
            reserve_bytes=reserve,
            hot=self._hot_since is not None and now - self._hot_since >= HOT_S,
            calm_s=now - self._calm_since,
        )

    def _strained(self, home: Home, slot: Slot, strain: Strain, tell: Tell) -> Action | None:
        """Step along the ladder of the same release."""
        model, own = slot.manifest.model, slot.record.variant
        rungs = _rungs(home, slot)
        names = [rung.id for rung in rungs]
        if own not in names or self._waits_after_failure(home, model):
            return None
        before = home.journal.fact(f"stepped:{model}") or [None, None]
        known = before[0] == slot.record.manifest_sha256 and before[1] in names
        at = names.index(own)
        best = names.index(before[1]) if known else at
        found = step([needs_of(rung) for rung in rungs], at, strain, best)
        if not strain.is_on:
            self._strain_told.discard(model)
        if found.move == "stay":
            if found.reason and model not in self._strain_told:
                self._strain_told.add(model)
                tell(f"{model}: {found.reason}")
            return None
        rest = rest_of(home)
        if found.move == "up" and rest is not None and not rest.at_rest:
            return None
        if found.move == "down" and best == at:
            home.journal.set_fact(f"stepped:{model}", [slot.record.manifest_sha256, own])
        self._calm_since = self._now()
        tell(f"{model}: one step {found.move} the ladder: {found.reason}")
        return from_slot(home, slot, "step", found.reason, variant=rungs[found.rung])

    def _waits_after_failure(self, home: Home, model: str) -> bool:
        last = home.journal.last_over(model)
        if last is None or last.kind != "step" or last.state == "CONFIRMED":
            return False
        seen = self._failed_step_seen.setdefault(last.id, self._now())
        return self._now() - seen < STEP_AGAIN_S


def _rungs(home: Home, slot: Slot) -> list[VariantEntry]:
    """What of the release that runs fits this device and lies on it."""
    tried = offer(slot.manifest, home.fingerprint(), formats()).tried
    return [rung for rung in tried if _is_here(home, slot, rung)]


def _is_here(home: Home, slot: Slot, variant: VariantEntry) -> bool:
    items = needed(slot.manifest, [variant]).values()
    return all(home.blobs.has(item.sha256, item.length) for item in items)


def _away(home: Home, slot: Slot, doubt: Doubt, tell: Tell) -> Action | None:
    """Back to the other slot, where that can run; else it goes on, and that is told."""
    model = slot.manifest.model
    slots = home.slots(model)
    old = slots.read(slots.spare())
    if (
        old is None
        or was_tried(home.journal, slot, doubt, "rollback")
        or unfit(home, old, by_itself=True)
        or not is_whole(slots, old)
    ):
        tell(f"{model} {slot.manifest.release}: {doubt.why}, and there is nothing to go back to")
        return None
    tell(f"{model} {slot.manifest.release}: {doubt.why}; back to {old.manifest.release}")
    return from_slot(home, old, "rollback", doubt.why, variant=old.entry)


def _proof_in_place(home: Home, slot: Slot, prove: Prove) -> Proof:
    folder = home.folder / "staging" / "reproof"
    quiet = counts_as_quiet(home, slot)
    with storage_errors(folder):
        remove_tree(folder)
        try:
            asked = question(home, slot.manifest, slot.entry, (), None, folder / "try", quiet=quiet)
            return prove(
                home,
                asked,
                log=folder / "preflight.log",
                time_limit_s=home.config.preflight.seconds,
            )
        finally:
            remove_tree(folder)
