"""What is wrong with a rig, from what it said: pure, each with what to do."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
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
    is_grave: bool = False
    """Nothing can be run there: nobody is to have it until this is well."""


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
    yield from checks_without_a_run(hello, now_s=now_s)
    cores = probe.fingerprint.identity.get("cores") or 1
    load = probe.conditions.get("load_1m")
    yield Check(
        what="load",
        found="not told" if load is None else f"{load:.2f} on {cores} processors",
        is_well=load is None or load <= max(1.0, MOST_LOAD * cores),
        remedy="Something else works there: what is measured meanwhile is not stable.",
    )
    works = sorted(name for name, state in probe.runtimes.items() if state["error"] is None)
    broken = sorted(probe.fingerprint.software.get("runtimes", {}).keys() - works)
    found = ", ".join(works) or "none"
    yield Check(
        what="runtimes",
        found=f"{found}; installed, and not to be loaded: {', '.join(broken)}" if broken else found,
        is_well=bool(works) and not broken,
        remedy="sdk hil probe NAME says why. Install one: sdk hil install NAME --wheels DIR ...",
        is_grave=bool(broken) and not works,
    )
    if differs is not None:
        yield Check(
            what="profile",
            found="fits" if not differs else "; ".join(differs),
            is_well=not differs,
            remedy="sdk hil probe NAME tells which one fits; correct `profile` in hil.toml.",
        )


def checks_without_a_run(hello: Mapping[str, Any], *, now_s: float) -> Iterator[Check]:
    """What can be told without a run there: of a rig that is somebody else's."""
    yield Check(
        what="Python", found=".".join(map(str, hello["python"])), is_well=True
    )  # one that is too old is refused before this
    free = int(hello["free_bytes"])
    yield Check(
        what="disk",
        found=f"{free / 2**30:.1f} GiB free",
        is_well=free >= LEAST_FREE_BYTES,
        remedy="Let go what was pushed: --clean; or free some space there.",
        is_grave=free == 0,
    )
    off_s = float(hello["time_s"]) - now_s
    yield Check(
        what="clock",
        found="right" if abs(off_s) <= MOST_CLOCK_S else f"{off_s:+.0f} s off",
        is_well=abs(off_s) <= MOST_CLOCK_S,
        remedy="Rigs do not mind; updates would: set it, or start its time service.",
    )
    aside = hello.get("aside")
    if aside and aside["hung_boot"] == hello["boot_id"]:
        yield Check(
            what="hang",
            found="a process that hangs was not ended since",
            is_well=False,
            remedy="Start the machine anew: sdk hil power NAME cycle",
            is_grave=True,
        )
    yield Check(
        what="lease",
        found=told_aside(aside) if aside else str(hello.get("holder") or "free"),
        is_well=not aside,
        remedy="It is back once it is well."
        if aside and aside["failed"]
        else "Ask them, or: sdk hil unlock NAME",
    )


def unfit(found: Iterable[Check]) -> str:
    """Why nobody is to have a rig that looks so; nothing where others may."""
    return "; ".join(
        f"{one.what}: {one.found}" for one in found if one.is_grave and not one.is_well
    )


def told_aside(aside: Mapping[str, Any]) -> str:
    """Who set a rig aside, and why, for a person."""
    reason = aside.get("reason") or "no reason is given"
    if aside.get("failed"):
        return f"off since it failed a check: {reason} (found by {aside.get('by')})"
    return f"set aside by {aside.get('by')}: {reason}"
