"""What a person asks for: a package from a stick, and the way back. All are ordinary actions."""

from __future__ import annotations

import secrets
from pathlib import Path

from agent.errors import UsageError
from agent.manifest import VariantEntry
from agent.updates.action import Means, Supply, advance, begin, begin_here
from agent.updates.assignment import (
    ASSIGNMENT_BYTES,
    check_for_device,
    claimed_issue,
    last_seen,
    opened,
)
from agent.updates.home import Home
from agent.updates.journal import Action, Kind, Order, waits
from agent.updates.obtain import Tell
from agent.updates.outcome import confirm, fail, roll_back
from agent.updates.package import ASSIGNMENT, PackageSource
from agent.updates.proving import Prove, prove_apart
from agent.updates.slots import MANIFEST, Slot
from agent.updates.source import read_short
from agent.updates.states import FINAL


def install(home: Home, path: Path, tell: Tell, prove: Prove = prove_apart) -> Action:
    """Install a package: the same two signatures, the same proof, the same trial.

    A package whose installation was cut off goes on where it was.

    Raises:
        UsageError: there is no such file, or another action is under way.
        VerificationError: it is not to be trusted, or not for this device.
    """
    with PackageSource(path) as source:
        content = read_short(source, ASSIGNMENT, ASSIGNMENT_BYTES)
        # Whose word counts is known only from the metadata, and how old that may be only from the
        # assignment. So its time is read first and believed later.
        view = home.trust.look_into(source, claimed_issue(content), home.now())
        keys = view.assignment_keys(offline=True)
        found = opened(content, keys)
        means = Means(tell=tell, supply=Supply(source=source, view=view), prove=prove)
        running = home.journal.unfinished()
        if running is not None and running.id == found.action_id:
            return advance(home, running, means)
        if found.action_id in {action.id for action in home.journal.under_way()}:
            _check_idle(home)  # it waits for what went ahead of it
        check_for_device(
            found,
            device_id=home.device.device_id,
            group=home.config.group,
            now=home.now(),
            last_seq=last_seen(home.journal.number, "offline", keys, found.model),
        )
        if running is not None and waits(running) and running.model == found.model:
            fail(home, running, f"{found.action_id} was installed instead")
        _check_idle(home)
        return advance(home, begin(home, found, "offline"), means)


def go_back(home: Home, model: str, reason: str, tell: Tell, prove: Prove = prove_apart) -> Action:
    """Take a trial back; else switch to the release before, which is proven anew first.

    Raises:
        UsageError: another action is under way, or there is nothing to go back to.
    """
    running = home.journal.unfinished()
    if running is not None and running.model == model and running.state == "TRIAL":
        return roll_back(home, running, reason)
    if running is None or not waits(running):
        _check_idle(home)
    slots = home.slots(model)
    old = slots.read(slots.spare())
    if old is None or slots.current() is None:
        raise UsageError(
            f"There is no release of {model} to go back to.",
            cause="Only one was ever installed, or the other slot was cleared.",
            remedy="Install the release that you want.",
        )
    why = unfit(home, old)
    if why:
        raise UsageError(
            f"{model} {old.manifest.release} {why}.",
            cause="It is no release to go back to.",
            remedy="Install another one.",
        )
    action = from_slot(home, old, "rollback", reason, variant=old.entry)
    return advance(home, action, Means(tell=tell, prove=prove))


def unfit(home: Home, old: Slot, *, by_itself: bool = False) -> str | None:
    """Why a release that lies in a slot should not run; None where nothing speaks against it.

    Args:
        home: the state folder.
        old: the slot.
        by_itself: nobody asked; then one attempt that failed is enough.
    """
    if home.is_revoked(old.manifest):
        return "was revoked"
    model, record = old.manifest.model, old.record
    last = home.journal.last_with(model, record.manifest_sha256, record.variant)
    if last is None or (last.kind == "rollback" and not by_itself):
        return None
    if last.state in FINAL and last.state != "CONFIRMED":
        return f"was refused or taken back here ({last.reason})"
    return None


def from_slot(
    home: Home,
    slot: Slot,
    kind: Kind,
    reason: str,
    *,
    variant: VariantEntry | None = None,
    without: tuple[str, ...] = (),
) -> Action:
    """Begin an action about a release that lies in a slot.

    Args:
        home: the state folder.
        slot: holds the release.
        kind: of the action.
        reason: for a person.
        variant: only this one.
        without: not these.
    """
    action = Action(
        id=f"{kind}-{secrets.token_hex(6)}",
        model=slot.manifest.model,
        kind=kind,
        order=Order(
            manifest_sha256=slot.record.manifest_sha256,
            release_path=f"models/{slot.manifest.model}/{slot.manifest.release}/{MANIFEST}",
            variant=None if variant is None else variant.id,
            without=without,
            trial_s=int(home.config.trial.seconds),
        ),
        reason=reason,
    )
    return begin_here(home, action, (slot.folder / MANIFEST).read_bytes())


def confirm_now(home: Home, model: str, reason: str = "an operator's word") -> Action:
    """Confirm the release that is on trial.

    Raises:
        UsageError: none is.
    """
    return confirm(home, _on_trial(home, model), reason)


def take_back(home: Home, model: str, reason: str) -> Action:
    """Take the release that is on trial back.

    Raises:
        UsageError: none is.
    """
    return roll_back(home, _on_trial(home, model), reason)


def _on_trial(home: Home, model: str) -> Action:
    action = home.journal.unfinished()
    if action is None or action.model != model or action.state != "TRIAL":
        state = "nothing is under way" if action is None else f"{action.model} is in {action.state}"
        raise UsageError(
            f"{model} is not on trial: {state}.",
            cause="It was confirmed or taken back already, or was never installed.",
            remedy="See what runs: sdk-agent status",
        )
    return action


def _check_idle(home: Home) -> None:
    running = home.journal.unfinished()
    if running is not None:
        raise UsageError(
            f"{running.model} is in {running.state}.",
            cause="There is at most one action at a time.",
            remedy="Wait until it is over (sdk-agent status), or end its trial: sdk-agent "
            "mark-good, sdk-agent mark-bad",
        )
