"""Keep what runs trustworthy: proven under this software, not revoked, whole, and affordable.

Looked at between actions. Each finding either is told and noted, or begins an ordinary action.
"""

from __future__ import annotations

import time

from agent.errors import SlipwayError
from agent.files import remove_tree
from agent.formats import formats
from agent.identity import fingerprint_digest
from agent.updates.home import Home
from agent.updates.install import from_slot, unfit
from agent.updates.journal import Action
from agent.updates.ladder import Strain, needs_of, offer, step
from agent.updates.obtain import Tell, needed
from agent.updates.outcome import is_whole
from agent.updates.proof import Proof
from agent.updates.proving import Prove, prove_apart, question
from agent.updates.slots import Slot
from agent.updates.strain import available_bytes, is_throttled
from agent.updates.trust import View

PROVEN, DOUBT, HASHED = "proven", "doubt", "hashed"
"""Facts of the journal: under which software a model was proven; why it is not trusted; in which
boot its slots were hashed."""


class Keeper:
    """Looks after what runs; it remembers since when there was room."""

    def __init__(self, prove: Prove = prove_apart) -> None:
        self.prove = prove
        self._calm_since = time.monotonic()

    def look(self, home: Home, view: View | None, tell: Tell) -> Action | None:
        """Look at every model that runs; the action that one of them takes, if one does."""
        hashed = home.journal.fact(HASHED)
        boot = home.clock().boot_id
        for model, slot in home.installed():
            action = (
                self._revoked(home, slot, view, tell)
                or (self._damaged(home, slot, tell) if hashed != boot else None)
                or self._reproven(home, slot, tell)
                or self._strained(home, model, slot, tell)
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
        return _away(home, slot, "it was revoked", tell)

    def _damaged(self, home: Home, slot: Slot, tell: Tell) -> Action | None:
        """Hashed once in each boot."""
        if is_whole(home.slots(slot.manifest.model), slot):
            return None
        return _away(home, slot, f"slot {slot.name} is damaged", tell)

    def _reproven(self, home: Home, slot: Slot, tell: Tell) -> Action | None:
        """Prove it anew where the driver, the system or the runtime is another one."""
        model = slot.manifest.model
        now = fingerprint_digest(home.fingerprint())
        name = f"{PROVEN}:{model}"
        under = home.journal.fact(name)
        if under == [slot.record.manifest_sha256, slot.record.variant, now]:
            return None
        if under is None or under[:2] != [slot.record.manifest_sha256, slot.record.variant]:
            # Its own preflight proved it, under this software.
            home.journal.set_fact(name, [slot.record.manifest_sha256, slot.record.variant, now])
            home.journal.set_fact(f"{DOUBT}:{model}", None)
            return None
        tell(f"{model}: the software of this device has changed; it is proven anew")
        proof = _proof_in_place(home, slot, self.prove)
        home.journal.set_fact(name, [slot.record.manifest_sha256, slot.record.variant, now])
        if proof.passed:
            home.journal.set_fact(f"{DOUBT}:{model}", None)
            tell(f"{model}: {slot.record.variant} holds under it")
            return None
        why = "; ".join(proof.reasons)
        home.journal.set_fact(f"{DOUBT}:{model}", why)
        tell(f"{model}: {slot.record.variant} does not hold under it: {why}")
        ladder = offer(slot.manifest, home.fingerprint(), formats(), None, [slot.record.variant])
        if any(_is_here(home, slot, rung.id) for rung in ladder.tried):
            return from_slot(home, slot, "step", why, without=(slot.record.variant,))
        return _away(home, slot, why, tell)

    def _strained(self, home: Home, model: str, slot: Slot, tell: Tell) -> Action | None:
        """Step along the ladder of the same release."""
        rungs = [
            rung
            for rung in offer(slot.manifest, home.fingerprint(), formats()).tried
            if rung.id == slot.record.variant or _is_here(home, slot, rung.id)
        ]
        names = [rung.id for rung in rungs]
        if slot.record.variant not in names or len(names) < 2:
            return None
        reserve = home.config.ladder.reserve_mib << 20
        free, hot = available_bytes(home.config.root_folder), is_throttled(home.config.root_folder)
        if free < reserve or hot:
            self._calm_since = time.monotonic()
        last = home.journal.last(model)
        if last is not None and last.kind == "step" and last.state != "CONFIRMED":
            return None  # the step was tried, and did not hold: not again before something changes
        strain = Strain(
            available_bytes=free,
            reserve_bytes=reserve,
            throttled=hot,
            calm_s=time.monotonic() - self._calm_since,
        )
        found = step([needs_of(rung) for rung in rungs], names.index(slot.record.variant), strain)
        if found.move == "stay":
            return None
        self._calm_since = time.monotonic()
        tell(f"{model}: one step {found.move} the ladder: {found.reason}")
        return from_slot(home, slot, "step", found.reason, variant=rungs[found.rung])


def _away(home: Home, slot: Slot, why: str, tell: Tell) -> Action | None:
    """Back to the other slot, where that can run; else it goes on, and that is told."""
    slots = home.slots(slot.manifest.model)
    old = slots.read(slots.spare())
    model = slot.manifest.model
    name = f"{DOUBT}:{model}"
    if old is None or unfit(home, old, by_itself=True) or not is_whole(slots, old):
        if home.journal.fact(name) != why:
            home.journal.set_fact(name, why)
            tell(f"{model} {slot.manifest.release}: {why}, and there is nothing to go back to")
        return None
    home.journal.set_fact(name, why)
    return from_slot(home, old, "rollback", why, variant=old.entry)


def _is_here(home: Home, slot: Slot, variant: str) -> bool:
    """Whether all that a variant needs is on this device."""
    chosen = [entry for entry in slot.manifest.variants if entry.id == variant]
    items = needed(slot.manifest, chosen).values()
    return bool(chosen) and all(home.blobs.has(item.sha256, item.length) for item in items)


def _proof_in_place(home: Home, slot: Slot, prove: Prove) -> Proof:
    folder = home.folder / "staging" / "reproof"
    try:
        asked = question(home, slot.manifest, slot.entry, (), None, folder / "try", quiet=False)
        return prove(
            home, asked, log=folder / "preflight.log", time_limit_s=home.config.preflight.seconds
        )
    finally:
        remove_tree(folder)
