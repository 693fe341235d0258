"""The tables and help texts in README and docs, from the code. Called by cog; see `make docs`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

VERBS = (
    "init",
    "doctor",
    "targets",
    "profiles list",
    "profiles show",
    "profiles detect",
    "build",
    "bench",
    "verify",
    "compare",
    "report",
    "history",
)


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def exit_codes() -> str:
    from agent.errors import EXIT_CODES

    return table(["code", "meaning"], [[str(k), v] for k, v in EXIT_CODES.items()])


def limits() -> str:
    from sdk.limits import KINDS

    rows = [
        [f"`{name}`", "at most" if kind.at_most else "at least", kind.unit or "fraction", kind.help]
        for name, kind in KINDS.items()
    ]
    return table(["limit", "holds if", "unit", "meaning"], rows)


def targets() -> str:
    from targets import target, target_names

    rows = [
        [f"`{name}`", target(name).TITLE, f"`{target(name).DEFAULT_PROFILE}`"]
        for name in target_names()
    ]
    return table(["target", "devices", "default profile"], rows)


def toolchains() -> str:
    from agent.sessions import formats
    from targets import toolchain, toolchain_names

    rows = [
        [f"`{name}`", f"`pip install 'slipway-sdk[{toolchain(name).EXTRA}]'`"]
        for name in toolchain_names()
    ]
    assert set(toolchain_names()) <= set(formats())
    return table(["toolchain", "installed by"], rows)


def candidates() -> str:
    """What each shipped profile's plan tries, and what it refuses at sight."""
    from profiles import all_profiles
    from targets import target
    from targets.interface import Request

    rows = []
    for profile in sorted(all_profiles(()).values(), key=lambda p: (p.target, p.name)):
        request = Request(profile=profile, program=None, has_data=True)
        recipes = list(target(profile.target).recipes(request))
        usable = [r for r in recipes if not r.needs_isa or set(r.needs_isa) & set(profile.isa)]
        names = ", ".join(recipe.name.rsplit("-", 1)[0] for recipe in usable)
        rows.append([profile.target, f"`{profile.name}`", names])
    return table(["target", "profile", "candidates"], rows)


def status() -> str:
    """What was ever done on each device type, as its profile says."""
    from profiles import all_profiles

    profiles = sorted(all_profiles(()).values(), key=lambda p: (p.target, p.name))
    rows = [
        [f"`{p.name}`", p.title, *(p.status.get(k, "not tried") for k in _STATUS)] for p in profiles
    ]
    return table(["profile", "device", *_STATUS], rows)


_STATUS = ("compiled", "emulated", "measured")


def help_of(verb: str) -> str:
    """`sdk VERB --help`, in a width that does not depend on the terminal."""
    environment = {**os.environ, "COLUMNS": "100", "TERMINAL_WIDTH": "100", "NO_COLOR": "1"}
    found = subprocess.run(
        [sys.executable, "-m", "sdk", *verb.split(), "--help"],
        check=True,
        capture_output=True,
        text=True,
        env=environment,
    )
    body = "\n".join(line.rstrip() for line in found.stdout.strip().splitlines())
    return f"## `sdk {verb}`\n\n```text\n{body}\n```\n"


def all_help() -> str:
    return "\n".join(help_of(verb) for verb in VERBS)


def print_block(text: str) -> None:
    import cog

    cog.outl("\n" + text.rstrip() + "\n")
