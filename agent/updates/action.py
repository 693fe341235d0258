"""One action on its way: from an assignment to a release that is on trial here.

Each function below does the work of one state and notes the next one before that is begun. All of
them can be cut off anywhere and begun again; `agent.updates.recover` says with which.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from agent.codec import encode, pretty
from agent.errors import NetworkError, SlipwayError, VerificationError
from agent.files import remove_tree, storage_error, write_atomic
from agent.formats import formats
from agent.manifest import Manifest, parse
from agent.updates.assignment import SignedAssignment, moment
from agent.updates.home import Home
from agent.updates.journal import Action, Kind, Order
from agent.updates.ladder import Offer, offer
from agent.updates.obtain import Tell, all_of
from agent.updates.outcome import PROOF, enter_trial, fail, slot_name
from agent.updates.prepared import note_prepared
from agent.updates.proof import Proof
from agent.updates.proving import (
    Prove,
    counts_as_quiet,
    is_here,
    prove_apart,
    question,
    relative,
    rest_of,
)
from agent.updates.report import integers_only
from agent.updates.report import keep as keep_report
from agent.updates.shim_file import begin_count
from agent.updates.slots import MANIFEST, OWN_FILES, sha256_of_bytes
from agent.updates.sound import check_sound
from agent.updates.source import Source
from agent.updates.states import State
from agent.updates.trust import View

_ASSIGNED = ("online", "offline")
"""Actions that somebody assigned; the others are the device's own way to help itself."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Supply:
    """Where files come from, and what is trusted of it at this moment."""

    source: Source
    view: View


@dataclasses.dataclass(frozen=True, kw_only=True)
class Means:
    """What an action is done with."""

    tell: Tell
    """Is told each step, for a person."""
    supply: Supply | None = None
    """None without a network."""
    prove: Prove = prove_apart
    noted: Callable[[Action], None] | None = None
    """Is called with the action in each state that it comes to, once that is noted."""


def begin(home: Home, found: SignedAssignment, kind: Kind) -> Action:
    """Take an assignment that was checked for this device; its number counts as seen from now on.

    Args:
        home: the state folder.
        found: the assignment.
        kind: `online` or `offline`: their numbers are counted apart.

    Raises:
        VerificationError: another action is not over, or this one was done before.
    """
    action = Action(
        id=found.action_id,
        model=found.model,
        kind=kind,
        order=Order(
            manifest_sha256=found.manifest_sha256,
            release_path=found.release_path,
            variant=found.variant,
            gates=found.gates,
            trial_s=found.deadline_s,
        ),
    )
    home.slots(found.model)  # refuses what is no name
    home.staging(found.action_id)
    home.signed_at(moment(found.issued), found.signers)
    return home.journal.begin(action, found.counts(kind))


def begin_here(home: Home, action: Action, content: bytes) -> Action:
    """Begin an action about a release that is on this device already."""
    write_atomic(home.staging(action.id) / MANIFEST, content)
    return home.journal.begin(action)


def advance(home: Home, action: Action, means: Means) -> Action:
    """Go on until the action is over, on trial, or has to wait.

    Raises:
        NetworkError: something cannot be fetched now; it goes on there the next time.
    """
    while action.state in _WORK:
        before = action
        try:
            action = _WORK[action.state](home, action, means)
        except NetworkError:
            raise
        except SlipwayError as error:
            action = fail(home, action, error.what)
        except OSError as error:
            place = Path(str(error.filename or home.folder))
            action = fail(home, action, storage_error(error, place).what)
        if action.state == before.state:  # it has to wait
            return action
        reason = f": {action.reason}" if action.reason else ""
        means.tell(f"{action.model}: {action.state}{reason}")
        if means.noted is not None:
            means.noted(action)
    return action


def _received(home: Home, action: Action, means: Means) -> Action:
    """Have the manifest, if it is signed and not revoked, and fits; nothing is written before."""
    manifest = _kept_manifest(home, action)
    if manifest is None:
        manifest = _fetched_manifest(home, action, means)
    _check_fits(_offer(home, action, manifest), action, manifest)
    return home.journal.enter(action, "DOWNLOADING")


def _fetched_manifest(home: Home, action: Action, means: Means) -> Manifest:
    path = action.order.release_path
    if means.supply is None or path is None:
        raise NetworkError(
            f"The manifest of {action.model} is not here, and there is nowhere to fetch it from.",
            cause="There is no network, or the package that began this is gone.",
            remedy="It is tried again by itself; a package is to be installed again.",
        )
    content = means.supply.view.manifest(path, action.order.manifest_sha256)
    manifest = parse(content)
    _check(home, action, manifest, means.supply.view)
    _check_fits(_offer(home, action, manifest), action, manifest)
    write_atomic(home.staging(action.id) / MANIFEST, content)
    return manifest


def _downloading(home: Home, action: Action, means: Means) -> Action:
    manifest = _manifest(home, action)
    tried = _offer(home, action, manifest).tried
    source = means.supply.source if means.supply else None
    bases = relative(manifest, tried, action.order.gates)
    if source is None:  # a way back needs no network: gates without their baseline are skipped
        bases = [base for base in bases if is_here(home.blobs, base)]

    def told(line: str) -> None:
        means.tell(f"{action.model}: {line}")

    all_of(
        manifest,
        [*tried, *bases],
        home.blobs,
        source,
        home.staging(action.id),
        free_bytes=home.free_bytes(),
        tell=told,
    )
    return home.journal.enter(action, "STAGED")


def _staged(home: Home, action: Action, means: Means) -> Action:
    """Wait for the operator's hook, where there is one; what saves the device does not wait."""
    del means
    rest = rest_of(home) if action.kind in _ASSIGNED else None
    if rest is not None and not rest.at_rest:
        if action.reason != rest.why:  # noted once: `status` tells it, and a poll costs no write
            action = home.journal.enter(action, "STAGED", rest.why)
            keep_report(home, action)  # a device that never comes to rest is not to be guessed at
        return action
    return home.journal.enter(action, "PREFLIGHT")


def _preflight(home: Home, action: Action, means: Means) -> Action:
    """Prove what fits, and fill the slot that does not run with the one that is chosen."""
    manifest = _manifest(home, action)
    found = _offer(home, action, manifest)
    proofs = _proofs(home, action, manifest, found, means)
    write_atomic(home.staging(action.id) / PROOF, pretty(integers_only(encode(proofs))))
    passed = [v for v in found.tried if v.id in proofs and proofs[v.id].passed]
    if not passed:
        told = [f"{name}: {'; '.join(proof.reasons)}" for name, proof in proofs.items()]
        raise VerificationError(" · ".join(told))
    chosen = passed[0]
    if found.measures:
        chosen = min(passed, key=lambda variant: proofs[variant.id].p50_ms)
    slots = home.slots(action.model)
    spare = slots.spare()
    home.note_proven(action.model, spare, action.order.manifest_sha256, chosen.id)
    content = _manifest_bytes(home, action)
    prepared = home.prepared(manifest, chosen)
    note_prepared(home, prepared)
    slots.fill(spare, content, chosen, home.blobs, prepared=prepared)
    return home.journal.enter(
        action, "ACTIVATING", slot=spare, old_slot=slots.current(), variant=chosen.id
    )


def _activating(home: Home, action: Action, means: Means) -> Action:
    """The switch: one rename, of a slot whose files were hashed just now."""
    del means
    slots = home.slots(action.model)
    name = slot_name(action.slot)
    slot = slots.read(name)
    if slot is None:
        raise VerificationError(f"Slot {name} of {action.model} is not complete any more.")
    if slots.current() != name:
        slots.verify(slot)
        begin_count(slots.folder, name, action.old_slot)
        slots.activate(name)
    return enter_trial(home, action)


_WORK: Mapping[State, Callable[[Home, Action, Means], Action]] = {
    "RECEIVED": _received,
    "DOWNLOADING": _downloading,
    "STAGED": _staged,
    "PREFLIGHT": _preflight,
    "ACTIVATING": _activating,
}


def _check(home: Home, action: Action, manifest: Manifest, view: View) -> None:
    if manifest.model != action.model or manifest.release_counter is None:
        raise VerificationError(
            f"The manifest is of {manifest.model} {manifest.release}, the assignment is of "
            f"{action.model}.",
            cause="The release was published under another model's name.",
            remedy="Nothing was changed. Publish it anew.",
        )
    check_sound(manifest, OWN_FILES)
    if home.is_revoked(manifest, view.revoked(manifest.model)):
        raise VerificationError(
            f"{manifest.model} {manifest.release} was revoked.",
            cause="Whoever signs this model took it back.",
            remedy="Nothing was changed. Assign a newer release.",
        )


def _check_fits(found: Offer, action: Action, manifest: Manifest) -> None:
    if not found.tried:
        asked = f" {action.order.variant}" if action.order.variant else ""
        raise VerificationError(
            f"No variant{asked} of {manifest.model} {manifest.release} fits this device.",
            cause="The release is for other hardware, or needs a runtime that is not installed.",
            remedy="sdk-agent doctor shows what this device is and has.",
        )


def _offer(home: Home, action: Action, manifest: Manifest) -> Offer:
    order = action.order
    return offer(manifest, home.fingerprint(), formats(), order.variant, order.without)


def _proofs(
    home: Home, action: Action, manifest: Manifest, found: Offer, means: Means
) -> dict[str, Proof]:
    """Variant -> its proof, in the order of the offer, until one passes or the time is up."""
    slots = home.slots(action.model)
    running = slots.read(slots.current())
    quiet = counts_as_quiet(home, running)
    gates = action.order.gates
    if action.kind not in _ASSIGNED:
        # What ran before, or is lighter, may well be slower than what it stands in for.
        running = None
    folder = home.staging(action.id)
    deadline = time.monotonic() + home.config.preflight.seconds
    proofs: dict[str, Proof] = {}
    for variant in found.tried:
        left = deadline - time.monotonic()
        if proofs and left <= 0:
            means.tell(f"{action.model}: no time is left to try {variant.id}")
            break
        means.tell(f"{action.model}: proving {variant.id}")
        asked = question(home, manifest, variant, gates, running, folder / "try", quiet=quiet)
        log = folder / "preflight.log"
        # One that hangs leaves as much time again to those after it.
        limit_s = left if variant is found.tried[-1] else left / 2
        proofs[variant.id] = means.prove(home, asked, log=log, time_limit_s=max(1.0, limit_s))
        remove_tree(folder / "try")
        for note in proofs[variant.id].notes:
            means.tell(f"{action.model}: {variant.id}: {note}")
        if proofs[variant.id].passed and not found.measures:
            break
    return proofs


def _kept_manifest(home: Home, action: Action) -> Manifest | None:
    """The one that is here already, if it is the one that was asked for."""
    path: Path = home.staging(action.id) / MANIFEST
    try:
        content = path.read_bytes()
    except OSError:
        return None
    return parse(content) if sha256_of_bytes(content) == action.order.manifest_sha256 else None


def _manifest_bytes(home: Home, action: Action) -> bytes:
    """The signed manifest that was kept with the action.

    Raises:
        VerificationError: it is gone, or was changed.
    """
    path = home.staging(action.id) / MANIFEST
    content = path.read_bytes() if path.is_file() else b""
    if sha256_of_bytes(content) != action.order.manifest_sha256:
        raise VerificationError(
            f"{path} is gone, or is not the manifest that was signed.",
            cause="The disk is failing, or somebody cleaned up.",
            remedy="Nothing was changed. Assign the release again.",
        )
    return content


def _manifest(home: Home, action: Action) -> Manifest:
    return parse(_manifest_bytes(home, action))


__all__ = ["Means", "Supply", "advance", "begin", "begin_here"]
