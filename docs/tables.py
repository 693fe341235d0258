"""The tables and help texts in README and docs, from the code. Called by cog; see `make docs`."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

if TYPE_CHECKING:
    from profiles import Profile

ROOT = str(Path(__file__).resolve().parent.parent)
sys.path.insert(0, ROOT)

VERBS = (
    "init",
    "doctor",
    "targets",
    "profiles list",
    "profiles show",
    "profiles check",
    "profiles detect",
    "build",
    "fit",
    "bench",
    "verify",
    "compare",
    "report",
    "accept",
    "history",
    "keys init",
    "keys add-model",
    "keys rotate",
    "keys status",
    "publish",
    "assign",
    "revoke",
    "repo refresh",
    "fleet serve",
    "fleet backup",
    "fleet status",
    "fleet tokens add",
    "fleet tokens list",
    "fleet tokens drop",
    "fleet devices list",
    "fleet devices show",
    "fleet devices accept",
    "fleet devices reject",
    "fleet devices remove",
    "fleet devices move",
    "fleet devices announce",
    "fleet groups list",
    "fleet groups add",
    "fleet groups drop",
    "fleet releases list",
    "fleet assign",
    "fleet rollouts list",
    "fleet rollouts show",
    "fleet rollouts pause",
    "fleet rollouts resume",
    "fleet rollouts cancel",
    "fleet rollouts revert",
    "fleet revoke",
    "fleet watch",
    "fleet reports",
    "fleet export",
    "fleet api-keys list",
    "fleet api-keys add",
    "fleet api-keys revoke",
    "fleet audit",
    "hil list",
    "hil add",
    "hil probe",
    "hil doctor",
    "hil bench",
    "hil verify",
    "hil run",
    "hil install",
    "hil power",
    "hil lock",
    "hil unlock",
)


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def rig_outcomes() -> str:
    from hil.outcome import MEANING

    return table(
        ["outcome", "what happened"], [[f"`{one}`", told] for one, told in MEANING.items()]
    )


def exit_codes() -> str:
    from agent.errors import EXIT_CODES

    return table(["code", "meaning"], [[str(k), v] for k, v in EXIT_CODES.items()])


def states_picture() -> str:
    """The states of an action on a device, for whatever draws Mermaid."""
    from agent.updates.states import FINAL, TRANSITIONS

    lines = ["```mermaid", "stateDiagram-v2", "    [*] --> RECEIVED"]
    lines += [f"    {state} --> {then}" for state, follow in TRANSITIONS.items() for then in follow]
    lines += [f"    {state} --> [*]" for state in TRANSITIONS if state in FINAL]
    return "\n".join([*lines, "```"])


def states() -> str:
    """When one state follows another."""
    from agent.updates.states import TRANSITIONS

    rows = [
        [f"`{state}`", f"`{then}`", why]
        for state, follow in TRANSITIONS.items()
        for then, why in follow.items()
    ]
    return table(["from", "to", "when"], rows)


def agent_settings() -> str:
    """Every entry of agent.toml, as its dataclass tells it."""
    from agent.config import TABLES, Config

    hidden = {"state", *TABLES}
    rows = [row for row in _settings(Config, "") if row[0].strip("`") not in hidden]
    for name, kind in TABLES.items():
        rows += _settings(kind, f"{name}.")
    return table(["entry", "default", "meaning"], rows)


def _settings(kind: type, prefix: str) -> list[list[str]]:
    """A row for each field: its default, and the string that stands under it."""
    import ast
    import dataclasses
    import inspect
    import textwrap

    (body,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(body, ast.ClassDef)
    notes: dict[str, str] = {}
    for line, following in zip(body.body, body.body[1:], strict=False):
        if isinstance(line, ast.AnnAssign) and isinstance(following, ast.Expr):
            assert isinstance(line.target, ast.Name)
            assert isinstance(following.value, ast.Constant)
            notes[line.target.id] = " ".join(str(following.value.value).split())
    rows = []
    for field in dataclasses.fields(kind):
        if field.default is dataclasses.MISSING:
            default = ""
        else:
            default = "none" if field.default is None else f"`{field.default}`"
        rows.append([f"`{prefix}{field.name}`", default, notes[field.name]])
    return rows


def agent_helps() -> str:
    """The help of every command of the agent."""
    os.environ["COLUMNS"] = "80"
    from agent.cli import commands

    blocks = []
    for name, told in commands().items():
        blocks.append(f"### `sdk-agent {name}`\n\n```text\n{told.rstrip()}\n```")
    return "\n\n".join(blocks)


def limits() -> str:
    from sdk.limits import KINDS

    rows = [
        [f"`{name}`", "at most" if kind.at_most else "at least", kind.unit or "fraction", kind.help]
        for name, kind in KINDS.items()
    ]
    return table(["limit", "holds if", "unit", "meaning"], rows)


def constants() -> str:
    """The estimate's constants of every engine."""
    from sdk.estimate.constants import DEFAULT

    rows = []
    for engine, own in DEFAULT.engines.items():
        named = {
            f"{op_class} {precision}".removesuffix(" *"): figure
            for op_class, table in own.efficiency.items()
            for precision, figure in table.items()
        }
        named |= {
            "launch, ms": own.launch_ms,
            "launch per core, ms": own.launch_ms_per_core,
            "request, ms": own.request_ms,
        }
        for name, figure in named.items():
            if figure.value:
                rows.append([engine, name, f"{figure.value:g}", figure.source])
    return table(["engine", "constant", "value", "from"], rows)


def published(part: str) -> str:
    """The estimate beside published figures; takes some seconds."""
    if ROOT not in sys.path:  # cog puts the path back after each file, and imports this one once
        sys.path.insert(0, ROOT)
    from benchmarks.published import PARTS

    return PARTS[part]()


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
    """What is tried on each target's default profile, and not refused at sight."""
    from profiles import find
    from targets import target, target_names
    from targets.interface import Request

    rows = []
    for name in target_names():
        profile = find(target(name).DEFAULT_PROFILE, ())
        request = Request(profile=profile, program=None, has_data=True)
        recipes = target(name).recipes(request)
        usable = [r for r in recipes if not r.needs_isa or set(r.needs_isa) & set(profile.isa)]
        tried = ", ".join(recipe.name.rsplit("-", 1)[0] for recipe in usable)
        rows.append([f"`{name}`", f"`{profile.name}`", tried])
    return table(["target", "profile", "candidates"], rows)


def profiles() -> str:
    """Every shipped profile: what its file says, and what was ever done on such a device."""
    from sdk.report.profiles import evidence, size

    rows = []
    for p in _shipped():
        bandwidth = f"{p.bandwidth_gb_s.value:g}" if p.bandwidth_gb_s else "-"
        stacks = ", ".join(p.software) or "-"
        names = [f"`{p.name}`", p.title, size(p.memory_bytes), bandwidth]
        rows.append([p.target, *names, _peaks(p) or "-", stacks, evidence(p)])
    header = ["target", "profile", "device", "memory", "GB/s", "dense peak rates", "software"]
    return table([*header, "what was done on it"], rows)


def evidence_by_target() -> str:
    """Which profiles each target has, and on which of them anything was ever done."""
    from sdk.report.profiles import evidence

    rows = []
    shipped = _shipped()
    for name in sorted({p.target for p in shipped}):
        mine = [p for p in shipped if p.target == name]
        done = [f"`{p.name}`: {evidence(p)}" for p in mine if evidence(p) != "nothing"]
        rows.append(
            [f"`{name}`", ", ".join(f"`{p.name}`" for p in mine), "; ".join(done) or "nothing"]
        )
    return table(["target", "profiles", "what was done on such devices"], rows)


def _shipped() -> list[Profile]:
    from profiles import all_profiles

    return sorted(all_profiles(()).values(), key=lambda p: (p.target, p.name))


def _peaks(profile: Profile) -> str:
    from sdk.report.profiles import rate

    engines = [
        f"{name}: "
        + ", ".join(f"{key} {rate(key, figure.value)}" for key, figure in engine.peak.items())
        for name, engine in profile.engines.items()
        if engine.peak
    ]
    return "; ".join(engines)


def help_of(verb: str) -> str:
    """`sdk VERB --help`, in a width that does not depend on the terminal."""
    from sdk.cli.app import run

    shown = io.StringIO()
    width = mock.patch.dict(os.environ, {"COLUMNS": "100", "NO_COLOR": "1"})
    with width, contextlib.redirect_stdout(shown):
        run([*verb.split(), "--help"])
    body = "\n".join(line.rstrip() for line in shown.getvalue().strip().splitlines())
    return f"## `sdk {verb}`\n\n```text\n{body}\n```\n"


def all_help() -> str:
    return "\n".join(help_of(verb) for verb in VERBS)


def print_block(text: str) -> None:
    import cog

    cog.outl("\n" + text.rstrip() + "\n")
