"""Gates on the command line: how they are asked for, and how they look once they are judged."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from agent.errors import UsageError
from sdk.cli.fleet_common import plain, share

if TYPE_CHECKING:
    from rich.table import Table

FORM = "latency<=1.1, latency@950<=1.2, memory<=1.1, drop<=1%, agreement>=0.999, confirmed>=90%"
_GATE = re.compile(
    r"(?:(latency)(?:@([0-9]{1,3}))?|(memory|drop|agreement|confirmed))\s*(<=|>=)\s*"
    r"([0-9]{1,4}(?:\.[0-9]{1,6})?)(%?)"
)
_AT_LEAST = ("agreement", "confirmed")
_STYLES = {"passed": "green", "broken": "red", "unclear": "yellow", "unproven": "yellow"}
_HEADS = ("gate", "hardware", "devices", "median", "between", "limit", "")


def gate(text: str) -> dict[str, Any]:
    """A gate, as the server takes it.

    >>> gate("latency@950<=1.1")
    {'quantity': 'latency', 'limit_ppm': 1100000, 'quantile_permille': 950}
    >>> gate("confirmed>=90%")
    {'quantity': 'confirmed', 'limit_ppm': 900000}
    """
    found = _GATE.fullmatch(text.strip())
    name = (found[1] or found[3]) if found else ""
    if found is None or (found[4] == ">=") != (name in _AT_LEAST):
        raise UsageError(
            f"--gate cannot be {text!r}.",
            cause="A gate is a quantity, <= or >=, and a ratio or a share.",
            remedy=f"Such as {FORM}.",
        )
    limit_ppm = round(float(found[5]) * (10_000 if found[6] else 1_000_000))
    told = {"quantity": name, "limit_ppm": limit_ppm}
    return {**told, "quantile_permille": int(found[2])} if found[2] else told


def advance_if(
    gates: Sequence[str], devices: int, confidence: str, liars: str, unproven: str
) -> dict[str, Any] | None:
    """What each stage has to have proven, as the server takes it; None without a gate."""
    if not gates:
        return None
    return {
        "gates": [gate(one) for one in gates],
        "at_least": devices,
        "confidence": share(confidence, "--gate-confidence"),
        "liars": share(liars, "--liars"),
        "unproven": unproven,
    }


def gated(
    stages: Sequence[dict[str, Any]], asked: dict[str, Any] | None
) -> tuple[list[dict[str, Any]], list[str]]:
    """The stages with their gates, and what is to be said of them.

    A stage of a few devices, a canary, proves nothing; the next ones do.

    Raises:
        UsageError: the gates cannot be judged.
    """
    if asked is None:
        return list(stages), []
    from sdk.fleet.rules.gates import AdvanceIf, StageGate, why_not

    gates = tuple(StageGate(**one) for one in asked["gates"])
    advance = AdvanceIf(**{**asked, "gates": gates})
    why = why_not(advance, None)
    if why:
        raise UsageError(
            f"The gates cannot be judged: {why}.",
            cause="They contradict what devices measure, or each other.",
            remedy=f"Such as --gate {FORM}.",
        )
    needs = advance.needs
    made, said = [], []
    for number, stage in enumerate(stages, 1):
        if stage.get("count", needs) < needs and asked["unproven"] == "halt":
            told = f"stage {number} reaches {stage['count']} devices, and a gate needs {needs}"
            said.append(f"{told}: its gates are left out")
            made.append(dict(stage))
        else:
            made.append({**stage, "advance_if": asked})
    return made, said


def gate_table(found: Sequence[Mapping[str, Any]]) -> Table:
    """The gates of the open stage, for each kind of hardware."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(*_HEADS, box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for one in found:
        cells = [Text(plain(cell)) for cell in cells_of(one)]
        cells[-1].stylize(_STYLES[one["verdict"]])
        made.add_row(*cells)
    return made


def cells_of(one: Mapping[str, Any]) -> tuple[str, ...]:
    """A gate's row.

    >>> cells_of({"gate": "memory", "hardware": "pi-5", "devices": 4, "needs": 6, "value": 1.0,
    ...           "low": None, "high": None, "limit": 1.1, "is_least": False,
    ...           "verdict": "unproven", "waived": False})
    ('memory', 'pi-5', '4 of 6', '1.000', '-', '<= 1.1', 'unproven')
    """
    devices, needs = one["devices"], one["needs"]
    low, high = ("?" if one[name] is None else f"{one[name]:.3f}" for name in ("low", "high"))
    between = f"{low} to {high}" if {low, high} != {"?"} else "-"
    return (
        one["gate"],
        one["hardware"],
        str(devices) if devices >= needs else f"{devices} of {needs}",
        "-" if one["value"] is None else f"{one['value']:.3f}",
        between,
        f"{'>=' if one['is_least'] else '<='} {one['limit']:g}",
        one["verdict"] + (", waived" if one["waived"] else ""),
    )
