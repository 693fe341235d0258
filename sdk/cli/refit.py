"""What `sdk fit --reports` and `sdk fleet fit` do alike: learn, say what, and write the profile."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.errors import LimitError
from sdk.cli.output import err_console, out_console, print_json

if TYPE_CHECKING:
    from profiles import Profile, Scale
    from sdk.learning.gather import Gathered, Sighting
    from sdk.learning.scales import Learnt


def profile_named(name: str, target: str | None, project: Path) -> Profile:
    """The profile of that name; `host` is this machine, as the target's."""
    from agent.folders import cache_folder
    from sdk.assign import find_profile
    from sdk.detect import host_target
    from targets import target_names

    hosts = {f"{one}-host": one for one in target_names()}
    owner = hosts.get(name) or (target or host_target() if name == "host" else "")
    return find_profile(owner, name, project, cache_folder())


def learn_from(
    sightings: Sequence[Sighting],
    profile: Profile,
    project: Path,
    *,
    out: Path | None,
    unstable: bool,
    dry_run: bool,
    json: bool,
) -> None:
    """Learn from reports, tell what, and write it into a copy of the profile.

    Raises:
        LimitError: nothing was learnt that is nearer than what the profile has.
    """
    from sdk.learning.gather import gather
    from sdk.learning.keeping import keep
    from sdk.learning.scales import learn, scales_of
    from sdk.report.learnt import gathered_lines, learnt_lines

    found = gather(sightings, profile, unstable=unstable)
    today = dt.datetime.now(tz=dt.timezone.utc).date().isoformat()
    learnt = learn(found.observations, profile, today)
    for line in gathered_lines(found):
        err_console().print(line, markup=False, soft_wrap=True)
    lines = [line for entry in learnt for line in learnt_lines(entry)]
    for line in () if json else lines:
        out_console().print(line, markup=False, soft_wrap=True)
    scales = scales_of(learnt, profile.scales)
    is_new = any(entry.used for entry in learnt)
    if is_new and not dry_run:
        written = keep(profile, scales, project, out)
        err_console().print(f"written to {written}", markup=False, soft_wrap=True)
    elif is_new:
        err_console().print("nothing is written: --dry-run", markup=False)
    if json:
        print_json(_told(profile, found, learnt, scales))
    if not is_new:
        raise LimitError(
            f"Nothing new was learnt of {profile.name}: nothing is written.",
            cause="No report of such a device counts, or what they say is no nearer to what was "
            "measured than what the profile has; the lines above say which.",
            remedy="Prove more models on such a device: sdk build --rig NAME",
        )


def _told(
    profile: Profile, found: Gathered, learnt: Sequence[Learnt], scales: Sequence[Scale]
) -> dict[str, Any]:
    from agent.codec import encode

    return {
        "profile": profile.name,
        "reports": found.total,
        "counted": len(found.observations),
        "refused": dict(found.refused),
        "aside": dict(found.aside),
        "learnt": [{**encode(entry), "used": entry.used} for entry in learnt],
        "scales": encode(list(scales)),
    }
