"""What runs on this device, and whether it can be trusted to go on: looked at, nothing is changed.

It takes no lock, so it answers beside an agent that is at work.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agent.boot import boot_id
from agent.codec import encode
from agent.config import Config
from agent.device import device_without_name, key_fingerprint, named
from agent.errors import SlipwayError, VerificationError
from agent.formats import formats
from agent.identity import fingerprint
from agent.membership import membership_of
from agent.shim import starts_of
from agent.updates.doubt import doubt_of
from agent.updates.freshness import TIME_FORM, freshness_of
from agent.updates.home import is_held, known_revoked
from agent.updates.journal import Journal
from agent.updates.slots import SLOTS, Slots
from agent.updates.trust import ROOT


def status(config: Config) -> dict[str, Any]:
    """What is installed, what is under way, how old the metadata is, what waits to be sent.

    Raises:
        StorageError: the journal cannot be read.
        UsageError: what enrolment left cannot be read.
    """
    now = dt.datetime.now(tz=dt.timezone.utc)
    fresh = freshness_of(config.state / "trust")
    with _journal(config) as journal:
        return {
            "device_id": named(config.state),
            "state": str(config.state),
            "boot_id": boot_id(config.root_folder),
            "agent_runs": is_held(config.state),
            "fleet": _fleet(config),
            "models": [_model(journal, Slots(folder)) for folder in _models(config)],
            "action": _under_way(journal),
            "metadata_age_s": fresh and fresh.age_s(now),
            "metadata_expires": fresh and f"{fresh.expires:{TIME_FORM}}",
            "metadata_expired": fresh and now >= fresh.expires,
            "reports_to_send": journal.reports_waiting() if journal else 0,
        }


def _fleet(config: Config) -> dict[str, Any] | None:
    found = membership_of(config.state)
    if found is None:
        return None
    return {
        "server": found.server,
        "tenant": found.tenant,
        "group": found.group,
        "status": found.status,
    }


def doctor(config: Config) -> dict[str, Any]:
    """What this device is and has, and what is wrong with its state folder, if anything is."""
    found, problems = dict[str, Any](), []
    try:
        found = status(config)
    except SlipwayError as error:
        problems.append(str(error))
    return {
        "device_id": named(config.state),
        "key_fingerprint": _key(config),
        "state": str(config.state),
        "repository": config.repository,
        "group": config.group,
        "fleet": found.get("fleet"),
        "agent_runs": is_held(config.state),
        "fingerprint": encode(fingerprint(config.root_folder)),
        "runtimes": _runtimes(),
        "problems": [*problems, *_problems(config, found)],
    }


def _key(config: Config) -> str | None:
    """What an operator compares; None where there is no key, or not for us to read."""
    try:
        return key_fingerprint(device_without_name(config.state).public_key)
    except VerificationError:
        return None


def _runtimes() -> dict[str, str]:
    """Format -> that it works, or how to get it."""
    from agent.sessions import import_runtime  # with it comes numpy

    runtimes: dict[str, str] = {}
    for name in formats():
        try:
            import_runtime(name)
            runtimes[name] = "works"
        except SlipwayError as error:
            runtimes[name] = error.remedy
    return runtimes


def _problems(config: Config, found: dict[str, Any]) -> Iterator[str]:
    state = config.state
    root = config.root or state / ROOT
    if not root.is_file():
        yield f"There is no root metadata at {root}: sdk-agent trust 1.root.json"
    if config.repository is None:
        yield "No repository is configured: only packages are installed."
    elif "://" not in config.repository and not Path(config.repository).is_dir():
        yield f"The repository {config.repository} is no folder: mount it, or correct agent.toml."
    fleet = found.get("fleet")
    if fleet is not None and fleet["status"] != "accepted":
        yield f"{fleet['server']} says that this device is {fleet['status']}: it gets no work."
    if state.is_dir() and not os.access(state, os.W_OK):
        yield f"{state} belongs to another user: what changes something is to be run as that one."
    if found.get("metadata_expired"):
        expires = found["metadata_expires"]
        yield f"The metadata expired at {expires}: what runs goes on; sdk repo refresh signs anew."
    hook = config.idle.hook
    if hook is not None and not os.access(hook, os.X_OK):
        yield f"The idle hook {hook} cannot be run: updates would wait for it for ever."
    for model in found.get("models", ()):
        if model["doubt"]:
            yield f"{model['model']} {model['release']}: {model['doubt']}"


def _models(config: Config) -> list[Path]:
    try:
        return sorted(path for path in (config.state / "models").iterdir() if path.is_dir())
    except OSError:
        return []


def _model(journal: Journal | None, slots: Slots) -> dict[str, Any]:
    model = slots.folder.name
    current = slots.current()
    slot = slots.read(current)
    other = slots.read(next((name for name in SLOTS if name != current), None))
    last = journal.last(model) if journal else None
    doubt = doubt_of(journal, slot) if journal and slot else None
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
        "revoked": known_revoked(journal, slot.manifest) if journal and slot else None,
        "doubt": doubt and doubt.why,
    }


def _under_way(journal: Journal | None) -> dict[str, Any] | None:
    action = journal.unfinished() if journal else None
    if action is None:
        return None
    return {
        "id": action.id,
        "model": action.model,
        "release": action.release,
        "state": action.state,
        "reason": action.reason,
    }


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
