"""One action, from its assignment to a release that is proven here: the way through the states.

Each function below does the work of one state and notes the next one before that is begun. All of
them can be cut off anywhere and begun again; `agent.recover` says with which.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from agent import delta, disk, report
from agent.assignment import Assignment, moment
from agent.blobs import Blobs
from agent.codec import decode, encode, pretty
from agent.errors import NetworkError, SlipwayError, StorageError, VerificationError
from agent.fetch import Wanted, blob_path, fetch
from agent.files import make_folders, storage_errors, write_atomic
from agent.home import Home
from agent.journal import Action
from agent.judge import tightened
from agent.ladder import Offer, offer
from agent.manifest import File, Gate, Manifest, VariantEntry, parse
from agent.names import check_distinct
from agent.preflight import Asked, Proof
from agent.processes import ChildError, run_limited
from agent.sessions import formats
from agent.shim import TRIAL
from agent.slots import Slot, SlotName, sha256_of_bytes
from agent.source import Source
from agent.states import FINAL, MOST_STARTS, Clock, State
from agent.trust import View
from agent.variant import VariantRecord

MANIFEST = "manifest.json"
_FETCH_S = 6 * 3600.0
_IDLE_S = 10.0
Tell = Callable[[str], None]


def begin(home: Home, found: Assignment, view: View, source: Source, *, kind: str) -> Action:
    """Take an assignment: what it names is signed by its model's key, and so is it.

    Args:
        home: the state folder.
        found: checked for this device already.
        view: of the repository or the package that it came with.
        source: of the same.
        kind: `online` or `offline`: their numbers are counted apart.

    Raises:
        VerificationError: the release is not signed, another one, revoked, or below what runs.
        NetworkError: its manifest cannot be fetched.
    """
    content = view.manifest(found.release_path, found.manifest_sha256)
    manifest = parse(content)
    _check(home, found, manifest, view)
    home.signed_at(moment(found.issued))
    home.journal.raise_number(f"assignment_seq:{kind}", found.assignment_seq)
    folder = home.staging(found.action_id)
    write_atomic(folder / MANIFEST, content)
    action = Action(
        id=found.action_id,
        model=found.model,
        kind="update",
        state="RECEIVED",
        order={**encode(found), "release": manifest.release},
        slot=None,
        old_slot=None,
        variant=None,
        reason="",
        deadline=None,
        boots=0,
        writes=0,
    )
    home.journal.begin(action)
    return action


def advance(home: Home, action: Action, source: Source | None, tell: Tell) -> Action:
    """Go on until the action is over, on trial, or has to wait.

    Args:
        home: the state folder.
        action: as the journal has it.
        source: where files come from; None without a network.
        tell: is told each step, for a person.

    Raises:
        NetworkError: a file cannot be fetched now; it goes on there the next time.
    """
    while action.state in _WORK:
        before = action
        try:
            action = _WORK[action.state](home, action, source, tell)
        except NetworkError:
            raise
        except SlipwayError as error:
            action = fail(home, action, error.what)
        if action == before:  # it has to wait
            return action
        tell(f"{action.model}: {action.state}{': ' + action.reason if action.reason else ''}")
    return action


def fail(home: Home, action: Action, reason: str) -> Action:
    """End an action that has not switched anything yet."""
    state: State = "REJECTED" if action.state == "RECEIVED" else "FAILED"
    return _over(home, home.journal.enter(action, state, reason))


def confirm(home: Home, action: Action, reason: str) -> Action:
    """Keep the release for good."""
    done = home.journal.enter(action, "CONFIRMED", reason)
    disk.unlink(home.slots(action.model).folder / TRIAL)
    counter = _manifest(home, action).release_counter
    if counter is not None:
        home.journal.raise_number(f"confirmed:{action.model}", counter)
    return _over(home, done)


def roll_back(home: Home, action: Action, reason: str) -> Action:
    """Point `current` back at what worked before; repeated after a crash, it does no harm."""
    if action.state != "ROLLING_BACK":
        action = home.journal.enter(action, "ROLLING_BACK", reason)
    slots = home.slots(action.model)
    if action.old_slot in ("A", "B") and slots.read(_slot(action.old_slot)) is not None:
        slots.activate(_slot(action.old_slot))
    else:  # a first installation: nothing ran before
        disk.unlink(slots.folder / "current")
        disk.sync_folder(slots.folder)
    disk.unlink(slots.folder / TRIAL)
    return _over(home, home.journal.enter(action, "ROLLED_BACK", action.reason))


def sweep(home: Home) -> int:
    """Remove blobs that no slot and no action needs; the bytes that this frees."""
    wanted: set[str] = set()
    for folder in (home.folder / "models").iterdir():
        slots = home.slots(folder.name)
        for name in ("A", "B"):
            slot = slots.read(_slot(name))
            if slot is not None:
                wanted |= _needed_by(slot.manifest, [slot.entry])
                wanted |= {file.sha256 for variant in _rungs(home, slot) for file in variant.files}
    action = home.journal.unfinished()
    if action is not None and (home.staging(action.id) / MANIFEST).exists():
        manifest = _manifest(home, action)
        wanted |= _needed_by(manifest, _offer(home, action, manifest).tried)
    return home.blobs.sweep(wanted)


def _received(home: Home, action: Action, source: Source | None, tell: Tell) -> Action:
    del source, tell
    manifest = _manifest(home, action)
    found = _offer(home, action, manifest)
    if not found.tried:
        asked = f" {action.order['variant']}" if action.order.get("variant") else ""
        raise VerificationError(
            f"No variant{asked} of {manifest.model} {manifest.release} fits this device.",
            cause="The release is for other hardware, or needs a runtime that is not installed.",
            remedy="sdk-agent doctor shows what this device is and has.",
        )
    return home.journal.enter(action, "DOWNLOADING")


def _downloading(home: Home, action: Action, source: Source | None, tell: Tell) -> Action:
    manifest = _manifest(home, action)
    tried = _offer(home, action, manifest).tried
    files = {file.sha256: file for variant in tried for file in variant.files}
    others = [blob for blob in (manifest.golden, manifest.evaluation) if blob is not None]
    missing = sum(
        item.length
        for item in (*files.values(), *others)
        if not home.blobs.has(item.sha256, item.length)
    )
    if missing > home.free_bytes():
        raise StorageError(
            f"The release takes {missing} bytes more, and {max(0, home.free_bytes())} are free.",
            cause="The disk is too small, or full of something else.",
            remedy="Free some space, or lower reserve_mib in the configuration.",
        )
    for file in files.values():
        _have(home, action, file, source, tell)
    for blob in others:
        _have_whole(home, action, blob.sha256, blob.length, source, tell)
    return home.journal.enter(action, "STAGED")


def _staged(home: Home, action: Action, source: Source | None, tell: Tell) -> Action:
    del source
    if not _is_idle(home, tell):
        return action
    return home.journal.enter(action, "PREFLIGHT")


def _preflight(home: Home, action: Action, source: Source | None, tell: Tell) -> Action:
    del source
    manifest = _manifest(home, action)
    found = _offer(home, action, manifest)
    slots = home.slots(action.model)
    running = slots.read(slots.current())
    proofs: dict[str, Proof] = {}
    for variant in found.tried:
        tell(f"{action.model}: proving {variant.id}")
        proofs[variant.id] = _proved(home, action, manifest, variant, running)
        if proofs[variant.id].passed and not found.measures:
            break
    passed = [variant for variant in found.tried if variant.id in proofs and proofs[variant.id].passed]
    if not passed:
        reasons = [f"{name}: {'; '.join(proof.reasons)}" for name, proof in proofs.items()]
        raise VerificationError(" · ".join(reasons))
    chosen = min(passed, key=lambda variant: _p50(proofs[variant.id])) if found.measures else passed[0]
    proof = proofs[chosen.id]
    write_atomic(home.staging(action.id) / "proof.json", pretty(proof))
    spare = slots.spare()
    slots.fill(spare, _manifest_bytes(home, action), chosen, home.blobs)
    return home.journal.enter(
        action, "ACTIVATING", slot=spare, old_slot=slots.current(), variant=chosen.id
    )


def _activating(home: Home, action: Action, source: Source | None, tell: Tell) -> Action:
    del source, tell
    slots = home.slots(action.model)
    name = _slot(action.slot)
    slot = slots.read(name)
    if slot is None:
        raise VerificationError(f"Slot {name} is not complete any more.")
    if slots.current() != name:
        slots.verify(slot)
        trial = {"slot": name, "old": action.old_slot, "starts": 0, "most": MOST_STARTS}
        write_atomic(slots.folder / TRIAL, pretty(trial))
        slots.activate(name)
    return enter_trial(home, action)


def enter_trial(home: Home, action: Action, reason: str = "") -> Action:
    """Begin the trial of what `current` names already, or its time anew after a boot."""
    here = home.clock()
    seconds = min(float(action.order.get("deadline_s", 3600)), home.config.trial.seconds)
    deadline = Clock(boot_id=here.boot_id, uptime_s=here.uptime_s + seconds)
    boots = action.boots + (action.deadline is not None)
    action = home.journal.enter(action, "TRIAL", reason, deadline=deadline, boots=boots)
    report.keep(home, action, _kept_proof(home, action))
    return action


_WORK: Mapping[State, Callable[[Home, Action, Source | None, Tell], Action]] = {
    "RECEIVED": _received,
    "DOWNLOADING": _downloading,
    "STAGED": _staged,
    "PREFLIGHT": _preflight,
    "ACTIVATING": _activating,
}


def _check(home: Home, found: Assignment, manifest: Manifest, view: View) -> None:
    if manifest.model != found.model or manifest.release_counter is None:
        raise VerificationError(
            f"The manifest is of {manifest.model} {manifest.release}, the assignment of "
            f"{found.model}.",
            cause="The release was published under another model's name.",
            remedy="Nothing was changed. Publish it anew.",
        )
    for variant in manifest.variants:
        check_distinct(file.path for file in variant.files)
    revoked = view.revoked(manifest.model)
    home.journal.raise_number(f"revoked_below:{manifest.model}", revoked.below)
    if (
        revoked.covers(manifest.release_counter)
        or manifest.release_counter < home.journal.number(f"revoked_below:{manifest.model}")
    ):
        raise VerificationError(
            f"{manifest.model} {manifest.release} was revoked.",
            cause="Whoever signs this model took it back.",
            remedy="Nothing was changed. Assign a newer release.",
        )


def _offer(home: Home, action: Action, manifest: Manifest) -> Offer:
    return offer(manifest, home.fingerprint(), formats(), action.order.get("variant"))


def _rungs(home: Home, slot: Slot) -> Sequence[VariantEntry]:
    return offer(slot.manifest, home.fingerprint(), formats()).tried


def _needed_by(manifest: Manifest, variants: Sequence[VariantEntry]) -> set[str]:
    blobs = [blob for blob in (manifest.golden, manifest.evaluation) if blob is not None]
    files = [file for variant in variants for file in variant.files]
    return {item.sha256 for item in (*blobs, *files)}


def _have(home: Home, action: Action, file: File, source: Source | None, tell: Tell) -> None:
    """A file by the smallest delta whose base is here, else whole."""
    if home.blobs.has(file.sha256, file.length):
        return
    fits = [d for d in file.deltas if home.blobs.path(d.base_sha256).is_file()]
    for found in sorted(fits, key=lambda d: d.length):
        if found.algo not in delta.ALGORITHMS or found.length >= file.length:
            continue
        try:
            place = _have_whole(home, action, found.sha256, found.length, source, tell)
            _apply(home, action, found.algo, home.blobs.path(found.base_sha256), place, file)
        except VerificationError as error:
            tell(f"{action.model}: {error.what} The whole file is fetched.")
        else:
            return
    _have_whole(home, action, file.sha256, file.length, source, tell)


def _apply(home: Home, action: Action, algo: str, base: Path, patch: Path, file: File) -> None:
    part = home.staging(action.id) / f"{file.sha256}.made"
    disk.unlink(part)
    with storage_errors(part), disk.Writer(part) as writer:
        for piece in delta.apply(algo, base, patch, file.length):
            writer.write(piece)
        writer.sync()
    home.blobs.adopt(part, file.sha256, file.length)


def _have_whole(
    home: Home, action: Action, sha256: str, length: int, source: Source | None, tell: Tell
) -> Path:
    if home.blobs.has(sha256, length):
        return home.blobs.path(sha256)
    if source is None:
        raise NetworkError(
            f"The blob {sha256[:16]}… is not here, and there is no network.",
            cause="The package that began this is gone.",
            remedy="Install the package again.",
        )
    folder = home.staging(action.id)
    make_folders(folder)
    tell(f"{action.model}: fetching {length} bytes")
    name = f"etag:{sha256}"
    with storage_errors(folder):
        return fetch(
            Wanted(path=blob_path(sha256), sha256=sha256, length=length),
            source,
            home.blobs,
            folder,
            deadline_s=_FETCH_S,
            etag=home.journal.fact(name),
            on_etag=lambda etag: home.journal.set_fact(name, etag),
        )


def _is_idle(home: Home, tell: Tell) -> bool:
    hook = home.config.idle.hook
    if hook is None:
        return True
    try:
        found = subprocess.run([hook], check=False, timeout=_IDLE_S)  # noqa: S603  the operator's
    except (OSError, subprocess.TimeoutExpired) as error:
        tell(f"the idle hook {hook} failed: {error}; the device counts as busy")
        return False
    return found.returncode == 0


def _proved(
    home: Home, action: Action, manifest: Manifest, variant: VariantEntry, running: Slot | None
) -> Proof:
    """The preflight of one variant, in a process of its own."""
    folder = _laid_out(home.blobs, home.staging(action.id) / "try", variant)
    evaluation = manifest.evaluation
    asked = Asked(
        folder=folder,
        record=_record(manifest, variant),
        golden=home.blobs.path(manifest.golden.sha256),
        floors=variant.floors,
        evaluation=home.blobs.path(evaluation.sha256) if evaluation else None,
        metric=evaluation.metric if evaluation else None,
        higher_is_better=evaluation.higher_is_better if evaluation else True,
        drop_max_ppm=variant.drop_max_ppm,
        gates=tightened(variant.gates, _gates(action)),
        running=(running.folder, running.variant) if running else None,
    )
    request = home.staging(action.id) / "request.json"
    write_atomic(request, pretty(asked))
    limits = home.config.preflight
    try:
        answer = run_limited(
            [sys.executable, "-m", "agent.preflight", str(request)],
            time_limit_s=limits.seconds,
            memory_limit_bytes=None if limits.memory_mib is None else limits.memory_mib << 20,
            log=home.staging(action.id) / "preflight.log",
        )
        return decode(Proof, json.loads(answer), "proof")
    except (ChildError, ValueError, VerificationError) as error:
        return Proof(passed=False, stage="prepare", reasons=(f"the preflight failed: {error}",))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _laid_out(blobs: Blobs, folder: Path, variant: VariantEntry) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    for file in variant.files:
        place = folder / file.path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(blobs.path(file.sha256))
    return folder


def _record(manifest: Manifest, variant: VariantEntry) -> VariantRecord:
    return VariantRecord(
        version=1, id=variant.id, model=manifest.model, target=variant.target,
        profile=variant.profile, runtime=variant.runtime, options=dict(variant.options),
        signature=manifest.signature, files=variant.files, provenance=variant.provenance,
    )  # fmt: skip


def _gates(action: Action) -> tuple[Gate, ...]:
    return tuple(decode(Gate, gate, "gate") for gate in action.order.get("gates", ()))


def _p50(proof: Proof) -> float:
    return float((proof.measurement or {}).get("latency_ms", {}).get("p50", float("inf")))


def _kept_proof(home: Home, action: Action) -> Mapping[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads((home.staging(action.id) / "proof.json").read_bytes())
    except (OSError, ValueError):
        return None
    return found


def _manifest_bytes(home: Home, action: Action) -> bytes:
    """The signed manifest that was kept with the action.

    Raises:
        VerificationError: it is gone, or was changed.
    """
    path = home.staging(action.id) / MANIFEST
    content = path.read_bytes() if path.is_file() else b""
    if sha256_of_bytes(content) != action.order["manifest_sha256"]:
        raise VerificationError(
            f"{path} is gone, or is not the manifest that was signed.",
            cause="The disk is failing, or somebody cleaned up.",
            remedy="Nothing was changed. It is fetched anew with the next assignment.",
        )
    return content


def _manifest(home: Home, action: Action) -> Manifest:
    return parse(_manifest_bytes(home, action))


def _over(home: Home, action: Action) -> Action:
    """Keep the last report, and tidy up."""
    assert action.state in FINAL
    report.keep(home, action, _kept_proof(home, action))
    shutil.rmtree(home.staging(action.id), ignore_errors=True)
    sweep(home)
    return action


def _slot(name: str | None) -> SlotName:
    if name == "A":
        return "A"
    if name == "B":
        return "B"
    raise VerificationError(f"{name!r} is no slot.")


