"""Why what runs is not trusted, as the journal remembers it."""

from __future__ import annotations

import dataclasses
from typing import Literal

from agent.codec import decode, encode
from agent.updates.journal import Journal
from agent.updates.slots import Slot
from agent.updates.states import FINAL

Kind = Literal["revoked", "damaged", "unproven"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Doubt:
    """What speaks against a release that runs."""

    kind: Kind
    why: str
    slot: tuple[str, str]
    """What it is about: manifest and variant."""
    after: str | None
    """The model's last action when it was noted: a later one has tried to help."""
    software: str | None = None
    """Under which the proof failed, where one did."""


def doubt_of(journal: Journal, slot: Slot) -> Doubt | None:
    """What speaks against the release that runs; None where nothing is known.

    A later action that was confirmed has installed it anew.
    """
    told = journal.fact(_name(slot))
    if told is None:
        return None
    doubt = decode(Doubt, told, "doubt")
    last = journal.last_over(slot.manifest.model)
    installed_since = last is not None and last.id != doubt.after and last.state == "CONFIRMED"
    return None if doubt.slot != _about(slot) or installed_since else doubt


def note_doubt(
    journal: Journal, slot: Slot, kind: Kind, why: str, software: str | None = None
) -> Doubt:
    """Note a doubt, unless it is known already: what was tried about it is not forgotten."""
    known = doubt_of(journal, slot)
    if known is not None and (known.kind, known.software) == (kind, software):
        return known
    last = journal.last_over(slot.manifest.model)
    doubt = Doubt(
        kind=kind,
        why=why,
        slot=_about(slot),
        after=None if last is None else last.id,
        software=software,
    )
    journal.set_fact(_name(slot), encode(doubt))
    return doubt


def clear_doubt(journal: Journal, slot: Slot, kind: Kind) -> None:
    """That doubt is gone."""
    known = doubt_of(journal, slot)
    if known is not None and known.kind == kind:
        journal.set_fact(_name(slot), None)


def was_tried(journal: Journal, slot: Slot, doubt: Doubt, kind: str | None = None) -> bool:
    """Whether an action, or one of that kind, has tried to help since the doubt was noted."""
    last = journal.last_over(slot.manifest.model)
    if last is None or last.id == doubt.after or last.state not in FINAL:
        return False
    return kind in (None, last.kind)


def _name(slot: Slot) -> str:
    return f"doubt:{slot.manifest.model}"


def _about(slot: Slot) -> tuple[str, str]:
    return slot.record.manifest_sha256, slot.record.variant
