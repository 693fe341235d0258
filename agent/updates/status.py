"""What runs on this device, and whether it can be trusted to go on: looked at, nothing is changed.

It takes no lock, so it answers beside an agent that is at work.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
from collections.abc import Iterator
from typing import Any

from agent.codec import encode
from agent.config import Config
from agent.device import NAME
from agent.errors import SlipwayError
from agent.formats import formats
from agent.identity import fingerprint
from agent.shim import starts_of
from agent.updates.freshness import freshness_of
from agent.updates.journal import Journal
from agent.updates.slots import SLOTS, Slot, Slots
from agent.updates.states import FINAL


def status(config: Config) -> dict[str, Any]:
    """What is installed, what is under way, how old the metadata is, what waits to be sent.

    Raises:
        StorageError: the journal cannot be read.
    """
    with _journal(config) as journal:
        return {
            "device_id": _device_id(config),
            "state": str(config.state),
            "models": [_model(journal, Slots(folder)) for folder in _models(config)],
            "action": _under_way(journal),
            "metadata_age_s": _metadata_age_s(config),
            "reports_to_send": len(journal.unsent(1000)) if journal else 0,
        }


def doctor(config: Config) -> dict[str, Any]:
    """What this device is and has, and what is wrong with its state folder, if anything is."""
    from agent.sessions import import_runtime  # with it comes numpy

    runtimes: dict[str, str] = {}
    for name in formats():
        try:
            import_runtime(name)
            runtimes[name] = "works"
        except SlipwayError as error:
            runtimes[name] = error.remedy
    problems = []
    try:
        found = status(config)
    except SlipwayError as error:
        problems.append(str(error))
        found = {}
    root = config.root or config.state / "root.json"
    if not root.is_file():
        problems.append(f"There is no root metadata at {root}: sdk-agent trust ROOT.json")
    return {
        "device_id": found.get("device_id"),
        "state": str(config.state),
        "repository": config.repository,
        "group": config.group,
        "fingerprint": encode(fingerprint()),
        "runtimes": runtimes,
        "problems": problems,
    }


def _models(config: Config) -> list[Any]:
    folder = config.state / "models"
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def _model(journal: Journal | None, slots: Slots) -> dict[str, Any]:
    model = slots.folder.name
    current = slots.current()
    slot = slots.read(current)
    other = slots.read(next((name for name in SLOTS if name != current), None))
    last = journal.last(model) if journal else None
    doubt = journal.fact(f"doubt:{model}") if journal else None
    return {
        "model": model,
        "release": slot and slot.manifest.release,
        "variant": slot and slot.record.variant,
        "slot": current,
        "running_sha256": slot and slot.record.manifest_sha256,
        "previous_sha256": other and other.record.manifest_sha256,
        "previous": other and other.manifest.release,
        "last_release": last and last.release,
        "state": last and last.state,
        "reason": last and last.reason,
        "starts": starts_of(slots.folder) if last and last.state == "TRIAL" else None,
        "revoked": _is_revoked(journal, slot) if journal and slot else None,
        "doubt": doubt,
    }


def _is_revoked(journal: Journal, slot: Slot) -> bool:
    model, counter = slot.manifest.model, slot.manifest.release_counter or 0
    below = journal.number(f"revoked_below:{model}")
    return counter < below or counter in (journal.fact(f"revoked:{model}") or ())


def _under_way(journal: Journal | None) -> dict[str, Any] | None:
    action = journal.unfinished() if journal else None
    if action is None or action.state in FINAL:
        return None
    return {
        "id": action.id,
        "model": action.model,
        "release": action.release,
        "state": action.state,
        "reason": action.reason,
    }


def _metadata_age_s(config: Config) -> int | None:
    """Since the trusted timestamp was signed; None before there is one that says so."""
    found = freshness_of(config.state / "trust")
    return None if found is None else found.age_s(dt.datetime.now(tz=dt.timezone.utc))


def _device_id(config: Config) -> str | None:
    try:
        return str(json.loads((config.state / NAME).read_bytes())["device_id"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


@contextlib.contextmanager
def _journal(config: Config) -> Iterator[Journal | None]:
    path = config.state / "agent.db"
    if not path.exists():
        yield None
        return
    journal = Journal(path, read_only=True)
    try:
        yield journal
    finally:
        journal.close()
