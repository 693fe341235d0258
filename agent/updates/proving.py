"""Prove a variant apart: the preflight in a process that is watched, and ended if need be."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from agent.bootstrap import own_command
from agent.codec import decode, encode
from agent.files import make_folders, remove_tree, storage_errors
from agent.manifest import Gate, Manifest, VariantEntry
from agent.processes import Child, ChildError
from agent.updates.blobs import Blobs
from agent.updates.home import Home
from agent.updates.proof import (
    STAGES,
    Asked,
    Found,
    Placed,
    Proof,
    Stage,
    joined,
    room_to_measure,
    unmeasured,
)
from agent.updates.slots import Slot, variant_record
from agent.updates.strain import available_bytes, is_quiet

IDLE_S = 10.0
"""The longest that the operator's hook may take."""


class Prove(Protocol):
    """How a variant is proven; tests have ways that take no runtime."""

    def __call__(self, home: Home, asked: Asked, *, log: Path, time_limit_s: float) -> Proof: ...


def question(
    home: Home,
    manifest: Manifest,
    variant: VariantEntry,
    more: Sequence[Gate],
    running: Slot | None,
    folder: Path,
    *,
    quiet: bool,
) -> Asked:
    """What to prove of a variant whose files are here, as blobs.

    Args:
        home: holds the blobs.
        manifest: the release.
        variant: of it.
        more: gates of the assignment, which have to hold beside the manifest's own.
        running: what runs now.
        folder: gets the variant's files, as links.
        quiet: nothing else is at work on this device.
    """
    gates = tightened(variant.gates, more)
    base = _baseline(manifest, variant, gates)
    if base is not None and not is_here(home.blobs, base):
        base = None  # a release that lay here for long keeps the files of its ladder alone
    pack = manifest.evaluation
    return Asked(
        variant=_placed(home.blobs, manifest, variant, folder / "new"),
        golden=home.blobs.path(manifest.golden.sha256),
        floors=variant.floors,
        evaluation=home.blobs.path(pack.sha256) if pack else None,
        metric=pack.metric if pack else None,
        higher_is_better=pack.higher_is_better if pack else True,
        drop_max_ppm=variant.drop_max_ppm,
        gates=gates,
        running=None if running is None else Placed(folder=running.folder, record=running.variant),
        baseline=None if base is None else _placed(home.blobs, manifest, base, folder / "baseline"),
        quiet=quiet,
        seconds_per_contestant=home.config.preflight.measure_s,
        memory_limit_mib=home.config.preflight.memory_mib,
    )


def tightened(gates: Sequence[Gate], more: Sequence[Gate]) -> tuple[Gate, ...]:
    """All gates of both: each has to hold, so that none can be loosened."""
    return (*gates, *(gate for gate in more if gate not in gates))


def relative(
    manifest: Manifest, variants: Sequence[VariantEntry], more: Sequence[Gate]
) -> list[VariantEntry]:
    """The baselines that gates of these variants, or those of the assignment, are relative to."""
    bases = [_baseline(manifest, v, tightened(v.gates, more)) for v in variants]
    return list({base.id: base for base in bases if base is not None}.values())


def is_here(blobs: Blobs, variant: VariantEntry) -> bool:
    """Whether all files of a variant lie in the store."""
    return all(blobs.has(file.sha256, file.length) for file in variant.files)


def prove_apart(home: Home, asked: Asked, *, log: Path, time_limit_s: float) -> Proof:
    """Prove it in processes of its own.

    Args:
        home: its folder keeps what is prepared.
        asked: what to prove.
        log: gets all that the runtime prints.
        time_limit_s: of all stages together.
    """
    deadline = time.monotonic() + time_limit_s
    proof = Proof(passed=False, stage=STAGES[0])
    with storage_errors(log):
        make_folders(log.parent)
    limit = asked.memory_limit_mib
    with _child(home, log, None if limit is None else limit << 20) as child:
        for stage in STAGES[:-1]:
            proof = joined(proof, stage, _answer(child, stage, asked, deadline))
            if proof.reasons:
                return proof
    own, most = (int(proof.facts[name]) for name in ("memory_bytes", "most_memory_bytes"))
    others = (asked.running is not None) + (asked.baseline is not None)
    short = room_to_measure(most, others, available_bytes(home.config.root_folder))
    if short is not None:
        return joined(proof, "speed", unmeasured(asked.gates, own, short))
    # Each of those that are measured has the limit for itself.
    with _child(home, log.with_name(f"speed-{log.name}"), None) as child:
        return joined(proof, "speed", _answer(child, "speed", asked, deadline))


@contextlib.contextmanager
def _child(home: Home, log: Path, most_bytes: int | None) -> Iterator[Child | ChildError]:
    """A process to ask, or why there is none; it ends with the block."""
    try:
        child = Child(
            own_command("agent.updates.apart"),
            log=log,
            folder=log.parent,
            memory_limit_bytes=most_bytes,
            # Sessions keep what they prepare under the cache.
            environment={"SLIPWAY_CACHE": str(home.folder)},
        )
    except (ChildError, OSError) as error:
        yield error if isinstance(error, ChildError) else ChildError("error", str(error))
        return
    try:
        yield child
    finally:
        child.end()


def _answer(child: Child | ChildError, stage: Stage, asked: Asked, deadline: float) -> Found:
    left = deadline - time.monotonic()
    if left <= 0:
        return Found(reasons=(f"{stage}: no time was left for it",))
    try:
        if isinstance(child, ChildError):
            raise child
        answer = child.ask({"verb": stage, "asked": encode(asked)}, time_limit_s=left)
    except ChildError as error:
        return Found(reasons=(f"{stage} failed ({error.kind}): {error}",))
    return decode(Found, answer, "answer")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rest:
    """What the operator's hook says of the device."""

    at_rest: bool
    why: str = ""
    """Why not."""


def rest_of(home: Home) -> Rest | None:
    """Whether a preflight may disturb the device now; None where no hook is there to say it."""
    hook = home.config.idle.hook
    if hook is None:
        return None
    try:
        done = subprocess.run(
            [hook],
            check=False,
            timeout=IDLE_S,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    except OSError as error:
        return Rest(at_rest=False, why=f"the idle hook {hook} cannot be run: {error.strerror}")
    except subprocess.TimeoutExpired:
        return Rest(at_rest=False, why=f"the idle hook {hook} did not end within {IDLE_S:g} s")
    return Rest(at_rest=done.returncode == 0, why="waiting for the device to come to rest")


def counts_as_quiet(home: Home, running: Slot | None) -> bool:
    """Whether figures in seconds are the variant's own: at rest, or next to nothing else runs."""
    rest = rest_of(home)
    if rest is not None:
        return rest.at_rest
    return running is None or is_quiet(os.cpu_count() or 1, home.config.root_folder)


def _baseline(
    manifest: Manifest, variant: VariantEntry, gates: Sequence[Gate]
) -> VariantEntry | None:
    """What gates are relative to, if one is."""
    if not any(gate.ratio_to == "baseline" for gate in gates):
        return None
    same = (v for v in manifest.variants if v.profile == variant.profile)
    return next((v for v in same if v.role == "baseline" and v.id != variant.id), None)


def _placed(blobs: Blobs, manifest: Manifest, variant: VariantEntry, folder: Path) -> Placed:
    with storage_errors(folder):
        remove_tree(folder)
        for file in variant.files:
            place = folder / file.path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(blobs.path(file.sha256))
    return Placed(folder=folder, record=variant_record(manifest, variant))
