"""Engines that a rig builds before it is asked for anything, and what it timed on the way.

Only formats whose session has `prepare` have them. The rig keeps its engines itself, by the
software part of its fingerprint; the timing cache is carried from one rig of a kind to the next.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from agent.engine_build import TIME_LIMIT_S
from agent.files import write_atomic
from agent.rig.engine import TIMED
from agent.sessions import session_module
from agent.variant import read_record
from hil.bench import push_files, push_variant, ran
from hil.rig import OnProgress, Rig

_SAID_S = 30.0


def prepare(
    rig: Rig,
    folder: Path,
    timed: Path,
    say: Callable[[str], None],
    on_progress: OnProgress | None = None,
) -> bool:
    """Have the rig build a variant's engine, where it needs one and has none; whether it did.

    Args:
        rig: that is leased.
        folder: of the variant.
        timed: a folder of this machine that keeps what the builders of each kind of rig timed.
        say: is told twice a minute how a build goes on.
        on_progress: is told what was sent: (bytes, of).

    Raises:
        ToolchainError: it cannot be built there.
        NetworkError: the line ended; the same call begins anew.
    """
    record = read_record(folder)
    if not hasattr(session_module(record.runtime.format), "prepare"):
        return False
    variant = push_variant(rig, folder, on_progress)
    standing = ran(rig, "engine", None, time_limit_s=TIME_LIMIT_S, variant=variant)["found"]
    if standing["is_built"]:
        return False
    kept = timed / f"{standing['timing']}.cache"
    timing = push_files(rig, {TIMED: kept}) if kept.is_file() else None
    say(f"{rig.name} builds the engine of {record.id}; large networks take tens of minutes")
    said = time.monotonic()

    def heard(event: Mapping[str, Any]) -> None:
        nonlocal said
        if event.get("event") == "building" and time.monotonic() - said >= _SAID_S:
            said = time.monotonic()
            say(f"{rig.name} has built for {event['seconds']:.0f} s: {event['line']}")

    found = ran(
        rig, "prepare", heard, time_limit_s=TIME_LIMIT_S, variant=variant, timing=timing
    )  # fmt: skip
    if found["found"]["has_timed"]:
        timed.mkdir(parents=True, exist_ok=True)
        write_atomic(kept, rig.fetch(found["run"], TIMED))
    say(f"{rig.name} built the engine of {record.id} in {found['found']['seconds']:.0f} s")
    return True
