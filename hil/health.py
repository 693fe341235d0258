"""What is wrong with a rig, from what it said: pure, each with what to do."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from hil.bench import Probe

LEAST_FREE_BYTES = 1 << 30
MOST_CLOCK_S = 60.0
MOST_LOAD = 0.5
"""Of its processors, by the average of the last minute: more is somebody's work."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Check:
    """One look at a rig."""

    what: str
    found: str
    is_well: bool
    remedy: str = ""


def checks(
    hello: Mapping[str, Any], probe: Probe, *, now_s: float, differs: list[str] | None
) -> Iterator[Check]:
    """All that is looked at, what is well included.

    Args:
        hello: what it said when it was reached.
        probe: what its jobs' Python sees.
        now_s: this machine's time, since 1970.
        differs: what is another way there than its profile asks; None where it has no profile.
    """
    yield Check(
        what="Python", found=".".join(map(str, hello["python"])), is_well=True
    )  # one that is too old is refused before this
    free = int(hello["free_bytes"])
    yield Check(
        what="disk",
        found=f"{free / 2**30:.1f} GiB free",
        is_well=free >= LEAST_FREE_BYTES,
        remedy="Let go what was pushed: --clean; or free some space there.",
    )
    off_s = float(hello["time_s"]) - now_s
    yield Check(
        what="clock",
        found="right" if abs(off_s) <= MOST_CLOCK_S else f"{off_s:+.0f} s off",
        is_well=abs(off_s) <= MOST_CLOCK_S,
        remedy="Rigs do not mind; updates would: set it, or start its time service.",
    )
    cores = probe.fingerprint.identity.get("cores") or 1
    load = probe.conditions.get("load_1m")
    yield Check(
        what="load",
        found="not told" if load is None else f"{load:.2f} on {cores} processors",
        is_well=load is None or load <= max(1.0, MOST_LOAD * cores),
        remedy="Something else works there: what is measured meanwhile is not stable.",
    )
    aside = hello.get("aside")
    yield Check(
        what="lease",
        found=f"set aside by {aside['by']}" if aside else str(hello.get("holder") or "free"),
        is_well=not aside,
        remedy="Ask them, or: sdk hil unlock NAME",
    )
    works = sorted(name for name, state in probe.runtimes.items() if state["error"] is None)
    yield Check(
        what="runtimes",
        found=", ".join(works) or "none",
        is_well=bool(works),
        remedy="Install one: sdk hil install NAME --wheels DIR numpy onnxruntime",
    )
    if differs is not None:
        yield Check(
            what="profile",
            found="fits" if not differs else "; ".join(differs),
            is_well=not differs,
            remedy="sdk hil probe NAME tells which one fits; correct `profile` in hil.toml.",
        )
