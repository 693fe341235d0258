"""Which profiles a build is for, each with its limits, by project file and command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from agent.errors import UsageError
from agent.identity import fingerprint
from profiles import Profile, find
from sdk.limits import with_default
from sdk.options import Options
from sdk.plan import Assignment
from sdk.project import Project, profile_folders
from targets import target


def assign(project: Project, options: Options, cache: Path) -> tuple[Assignment, ...]:
    """Which profiles to build for, each with its limits.

    Raises:
        UsageError: no target is named, or a target or profile is not known.
    """
    names = options.targets or project.targets
    if not names:
        raise UsageError(
            "No target is named.",
            cause="Neither --target nor [build] targets says what to build for.",
            remedy="Name one: sdk build --target intel",
        )
    asked = _profiles_by_target(names, options.profiles, project.root)
    assignments = []
    for name in dict.fromkeys(names):
        default = (target(name).DEFAULT_PROFILE,)
        for profile_name in asked.get(name) or project.profiles.get(name) or default:
            profile = find_profile(name, profile_name, project.root, cache)
            limits = with_default(
                {**project.limits_for(name, profile.name), **options.limits},
                default=options.drop_default,
                most=options.drop_most,
            )
            assignments.append(Assignment(target=name, profile=profile, limits=limits))
    return tuple(assignments)


def find_profile(target_name: str, name: str, root: Path, cache: Path) -> Profile:
    """A profile by name; `host` and `<target>-host` are detected on this machine."""
    if name in ("host", f"{target_name}-host"):
        from sdk.detect import detect

        return detect(target_name, cache)
    return find(name, profile_folders(root))


def _profiles_by_target(
    targets: Sequence[str], asked: Sequence[str], root: Path
) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for entry in asked:
        target_name, separator, profile = entry.rpartition("=")
        if not separator:
            target_name = _owner(profile, targets, root)
        elif target_name not in targets:
            raise UsageError(
                f"--profile {entry}: {target_name!r} is not among the targets of this build "
                f"({', '.join(targets)}).",
                cause="The part before '=' is a target.",
                remedy=f"Add --target {target_name}, or correct it.",
            )
        found[target_name] = (*found.get(target_name, ()), profile)
    return found


def _owner(profile: str, targets: Sequence[str], root: Path) -> str:
    """Which of the build's targets a bare profile name belongs to.

    Raises:
        UsageError: none of them; or there is no profile of this name.
    """
    for name in targets:
        if profile == f"{name}-host":
            return name
    if profile == "host":
        arch = fingerprint().identity["arch"]
        hosts = [name for name in targets if arch == target(name).HOST_ARCH]
        return hosts[0] if hosts else targets[0]
    owner = find(profile, profile_folders(root)).target
    if owner not in targets:
        raise UsageError(
            f"--profile {profile} belongs to {owner!r}, which is not among the targets of this "
            f"build ({', '.join(targets)}).",
            cause="A profile serves one target.",
            remedy=f"Add --target {owner}, or name a profile of these: sdk profiles list",
        )
    return owner
