"""What of a report's figures is kept: known names, finite numbers that could be measured. Pure.

A device signs what it likes. What goes into tables, metrics and gates is only what could have been
measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from agent.errors import VerificationError
from agent.updates.report import Report
from agent.updates.states import TRANSITIONS
from sdk.fleet.rules.gates import QUANTILES

MOST_PROOF = 64
"""Variants that one report speaks of."""
_LENGTHS: Mapping[str, int] = {
    **dict.fromkeys(("action_id", "model", "release", "variant"), 200),
    **dict.fromkeys(("manifest_sha256", "fingerprint_sha256"), 64),
    "reason": 2000,
}
_MOST_SEQ = 2**53
_RATIOS = (*(f"latency@{permille}" for permille in QUANTILES), "memory")
_RANGES: Mapping[str, tuple[float, float]] = {
    "memory_bytes": (0.0, 2.0**50),
    "ratio_to_running": (1e-6, 1e6),
    "p50_ms": (1e-6, 1e9),
    "drop": (-1e6, 1e6),
    "agreement": (-1.0, 1.0),
    **dict.fromkeys(_RATIOS, (1e-6, 1e6)),
}
"""Name -> the least and the most that could be measured."""


def check(report: Report, device_id: str) -> dict[str, Any]:
    """The figures of a report about the variant that was chosen.

    Of a release that was refused no variant was chosen: then the one that came closest counts, or
    else those devices would be heard of least that like it least.

    Returns:
        Of `memory_bytes`, `p50_ms`, `agreement` of the worst output, `drop` and `ratio_to_running`
        {value, low, high}, `ratios` {gate: ratio} those that the report has.

    Raises:
        VerificationError: it is another device's, of no known state, or a figure is impossible.
    """
    if report.device_id != device_id:
        raise _refused(f"it is of the device {report.device_id[:64]!r}")
    if report.state not in TRANSITIONS:
        raise _refused(f"there is no state {report.state[:40]!r}")
    for name, most in _LENGTHS.items():
        text = getattr(report, name) or ""
        if len(text) > most:
            raise _refused(f"its {name} has {len(text)} characters")
        if "\0" in text:
            raise _refused(f"its {name} holds a NUL")
    if not 0 <= report.journal_seq <= _MOST_SEQ:
        raise _refused(f"its journal_seq is {report.journal_seq}")
    proofs = report.proof or {}
    if len(proofs) > MOST_PROOF:
        raise _refused(f"it speaks of {len(proofs)} variants")
    if report.variant is not None:
        return _figures(proofs.get(report.variant))
    if report.state != "FAILED":
        return {}
    return min((_figures(proof) for proof in proofs.values()), key=_distance, default={})


def compared(figures: Mapping[str, Any]) -> dict[str, float]:
    """What gates read of a report's figures: the name of a gate -> the figure.

    >>> compared({"ratio_to_running": {"value": 0.9}, "drop": {"value": 0.01}})
    {'latency@500': 0.9, 'drop': 0.01}
    """
    told = {"latency@500": figures.get("ratio_to_running"), "drop": figures.get("drop")}
    found = {name: one["value"] for name, one in told.items() if one and "value" in one}
    if "agreement" in figures:
        found["agreement"] = figures["agreement"]
    return {**found, **figures.get("ratios", {})}


def _figures(proof: Any) -> dict[str, Any]:
    facts = proof.get("facts") if isinstance(proof, Mapping) else None
    if not isinstance(facts, Mapping):
        return {}
    found: dict[str, Any] = {}
    if facts.get("memory_bytes") is not None:
        found["memory_bytes"] = _number("memory_bytes", facts["memory_bytes"])
    measured = facts.get("measurement")
    latency = measured.get("latency_ms") if isinstance(measured, Mapping) else None
    if isinstance(latency, Mapping) and latency.get("p50") is not None:
        found["p50_ms"] = _number("p50_ms", latency["p50"])
    for name in ("drop", "ratio_to_running"):
        told = facts.get(name)
        if isinstance(told, Mapping):
            found[name] = {
                key: _number(name, told[key]) for key in ("value", "low", "high") if key in told
            }
    agreement = facts.get("agreement")
    if isinstance(agreement, Mapping) and agreement:
        found["agreement"] = min(_number("agreement", told) for told in agreement.values())
    ratios = facts.get("ratios_to_running")
    if isinstance(ratios, Mapping):
        known = {name: _number(name, ratios[name]) for name in _RATIOS if name in ratios}
        if known:
            found["ratios"] = known
    return found


def _distance(figures: Mapping[str, Any]) -> tuple[float, float]:
    """How far a variant that was refused is from one that would be taken."""
    found = compared(figures)
    return found.get("latency@500", math.inf), -found.get("agreement", -1.0)


def _number(name: str, told: Any) -> float:
    """A number, or the string of one: what is signed holds integers only."""
    least, most = _RANGES[name]
    if isinstance(told, bool) or not isinstance(told, (int, float, str)) or len(str(told)) > 40:
        raise _refused(f"{name} is {str(told)[:40]!r}, and no number")
    try:
        value = float(told)
    except ValueError as error:
        raise _refused(f"{name} is {str(told)[:40]!r}, and no number") from error
    if not (math.isfinite(value) and least <= value <= most):
        raise _refused(f"{name} is {value:g}, and lies between {least:g} and {most:g}")
    return value


def _refused(why: str) -> VerificationError:
    return VerificationError(
        f"The report is not taken: {why}.",
        cause="The device, or whoever has its key, does not tell what was measured.",
        remedy="Look at the device: sdk fleet devices show ID",
    )
