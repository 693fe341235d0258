"""Prove a variant apart: the preflight in a process that is watched, and ended if need be."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from agent.bootstrap import own_command
from agent.codec import decode, encode
from agent.files import make_folders, remove_tree, storage_errors
from agent.manifest import Gate, Manifest, VariantEntry
from agent.processes import Child, ChildError
from agent.updates.blobs import Blobs
from agent.updates.home import Home
from agent.updates.proof import STAGES, Asked, Found, Placed, Proof, joined
from agent.updates.slots import Slot, variant_record
from agent.updates.strain import is_quiet

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
    base = _baseline(manifest, variant) if any(g.ratio_to == "baseline" for g in gates) else None
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
    )


def tightened(gates: Sequence[Gate], more: Sequence[Gate]) -> tuple[Gate, ...]:
    """All gates of both: each has to hold, so that none can be loosened."""
    return (*gates, *(gate for gate in more if gate not in gates))


def relative(manifest: Manifest, variants: Sequence[VariantEntry]) -> list[VariantEntry]:
    """The baselines that gates of these variants are relative to."""
    found = {
        base.id: base
        for variant in variants
        if any(gate.ratio_to == "baseline" for gate in variant.gates)
        and (base := _baseline(manifest, variant)) is not None
    }
    return list(found.values())


def prove_apart(home: Home, asked: Asked, *, log: Path, time_limit_s: float) -> Proof:
    """Prove it in a process of its own.

    Args:
        home: its configuration limits the memory, and its folder keeps what is prepared.
        asked: what to prove.
        log: gets all that the runtime prints.
        time_limit_s: of all stages together.
    """
    deadline = time.monotonic() + time_limit_s
    most = home.config.preflight.memory_mib
    proof = Proof(passed=False, stage=STAGES[0])
    with storage_errors(log):
        make_folders(log.parent)
        child = Child(
            own_command("agent.updates.preflight"),
            log=log,
            folder=log.parent,
            memory_limit_bytes=None if most is None else most << 20,
            # Sessions keep what they prepare under the cache.
            environment={"SLIPWAY_CACHE": str(home.folder)},
        )
    try:
        for stage in STAGES:
            arguments: dict[str, Any] = {"asked": encode(asked)} if stage == "prepare" else {}
            left = max(1.0, deadline - time.monotonic())
            try:
                answer = child.ask({"verb": stage, **arguments}, time_limit_s=left)
            except ChildError as error:
                reason = f"{stage} failed ({error.kind}): {error}"
                return joined(proof, stage, Found(reasons=(reason,)))
            proof = joined(proof, stage, decode(Found, answer, "answer"))
            if proof.reasons:
                return proof
        return proof
    finally:
        child.end()


def is_at_rest(home: Home) -> bool | None:
    """What the operator's hook says; None where there is none, or it fails."""
    hook = home.config.idle.hook
    if hook is None:
        return None
    try:
        return subprocess.run([hook], check=False, timeout=IDLE_S).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return None


def counts_as_quiet(home: Home, running: Slot | None) -> bool:
    """Whether figures in seconds are the variant's own: at rest, or next to nothing else runs."""
    return is_at_rest(home) or running is None or is_quiet(os.cpu_count() or 1)


def _baseline(manifest: Manifest, variant: VariantEntry) -> VariantEntry | None:
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
