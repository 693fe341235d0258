"""A package from a stick, and the way back by hand: both are ordinary actions."""

from __future__ import annotations

import base64
import json
import secrets
from pathlib import Path

from agent import update
from agent.assignment import check_for_device, moment, opened
from agent.errors import SlipwayError, UsageError, VerificationError
from agent.home import Home
from agent.journal import Action
from agent.package import ASSIGNMENT, PackageSource
from agent.recover import recover

_ASSIGNMENT_BYTES = 64 << 10


def install(home: Home, path: Path, tell: update.Tell) -> Action:
    """Install a package: the same two signatures, the same proof, the same trial.

    Raises:
        UsageError: there is no such file, or another action is under way.
        VerificationError: it is not to be trusted, or not for this device.
    """
    with PackageSource(path) as source:
        interrupted = recover(home, tell)
        if interrupted is not None:
            return update.advance(home, interrupted, source, tell)
        with source.open(ASSIGNMENT) as stream:
            content = b"".join(stream.chunks)[: _ASSIGNMENT_BYTES + 1]
        # Whose word counts is known only from the metadata, and how old that may be only from the
        # assignment. So its time is read first and believed later.
        view = home.trust.look_into(source, moment(_claimed_issue(content)), home.now())
        found = opened(content, view.assignment_keys(offline=True))
        check_for_device(
            found,
            device_id=home.device.device_id,
            group=home.config.group,
            now=home.now(),
            last_seq=home.journal.number("assignment_seq:offline"),
        )
        action = update.begin(home, found, view, source, kind="offline")
        return update.advance(home, action, source, tell)


def go_back(home: Home, model: str, reason: str, tell: update.Tell) -> Action:
    """Switch to the release before, if its slot is still whole and it was not revoked.

    Raises:
        UsageError: an action is under way, or there is nothing to go back to.
    """
    running = recover(home, tell)
    if running is not None:
        if running.model == model and running.state == "TRIAL":
            return update.roll_back(home, running, reason)
        raise UsageError(
            f"{running.model} is in {running.state}.",
            cause="There is at most one action at a time.",
            remedy="Wait until it is over: sdk-agent status",
        )
    slots = home.slots(model)
    old = slots.read(slots.spare())
    if old is None or slots.current() is None:
        raise UsageError(
            f"There is no release of {model} to go back to.",
            cause="Only one was ever installed, or the other slot was cleared.",
            remedy="Install the release that you want.",
        )
    counter = old.manifest.release_counter or 0
    if counter < home.journal.number(f"revoked_below:{model}"):
        raise UsageError(
            f"{model} {old.manifest.release} was revoked.",
            cause="Whoever signs this model took it back.",
            remedy="Install a newer release.",
        )
    action = Action(
        id=f"rollback-{secrets.token_hex(6)}", model=model, kind="rollback", state="RECEIVED",
        order={
            "manifest_sha256": old.record.manifest_sha256, "release": old.manifest.release,
            "variant": old.record.variant,
        },
        slot=None, old_slot=None, variant=None, reason=reason, deadline=None, boots=0, writes=0,
    )  # fmt: skip
    home.journal.begin(action)
    update.keep_manifest(home, action, (old.folder / "manifest.json").read_bytes())
    return update.advance(home, action, None, tell)


def _claimed_issue(content: bytes) -> str:
    try:
        return str(json.loads(base64.b64decode(json.loads(content)["payload"]))["issued"])
    except (ValueError, KeyError, TypeError, SlipwayError) as error:
        raise VerificationError(
            f"The package's assignment cannot be read: {error}.",
            cause="It was cut short, or made by something else.",
            remedy="Export it anew: sdk publish --export FILE",
        ) from error
