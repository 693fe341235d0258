"""What an operator asks beside what the release's signer did: tighter, or refused. Pure.

Each device judges the signed gates itself, whatever a server says; one that is looser here would
have no effect, and whoever asked for it would believe that it has.
"""

from __future__ import annotations

from collections.abc import Iterable

from agent.errors import UsageError
from agent.manifest import Gate, Manifest, VariantEntry
from sdk.fleet.rules.gates import AdvanceIf, StageGate

_MEDIAN = 500
_PAIRED = {"latency": "latency_us", "memory": "memory_peak_bytes"}


def check_not_looser(
    manifest: Manifest, gates: Iterable[Gate], stages: Iterable[AdvanceIf | None]
) -> None:
    """Whether a rollout asks for less than the release's signer does.

    A release has variants, each with gates of its own: what is looser than those of all of them has
    no effect on any device.

    Args:
        manifest: the release, signed.
        gates: those that devices are to judge themselves, beside the signed ones.
        stages: those of its stages.

    Raises:
        UsageError: it does; both values are told.
    """
    for gate in gates:
        for bound, told in _bounds(gate).items():
            least = bound == "min"
            signed = [_signed(variant, gate, bound, least=least) for variant in manifest.variants]
            _check(f"{gate.quantity}, {bound}", told, signed, least=least)
    for advance in stages:
        for one in advance.gates if advance is not None else ():
            found = [_signed_ppm(variant, one) for variant in manifest.variants]
            _check(f"{one.name}, in millionths", one.limit_ppm, found, least=one.is_least)


def _check(name: str, told: int, signed: list[int | None], *, least: bool) -> None:
    known = [one for one in signed if one is not None]
    if not known or len(known) < len(signed):
        return
    loosest = min(known) if least else max(known)
    if (told < loosest) if least else (told > loosest):
        raise UsageError(
            f"The gate {name}: {told} is looser than the release's own, {loosest}.",
            cause="The release's signer asks for more, and each device holds it to that itself.",
            remedy=f"It would have no effect: leave it out, or ask for {loosest} or tighter.",
        )


def _bounds(gate: Gate) -> dict[str, int]:
    told = {"max": gate.max, "min": gate.min, "ratio_max_permille": gate.ratio_max_permille}
    return {name: value for name, value in told.items() if value is not None}


def _signed(variant: VariantEntry, gate: Gate, bound: str, *, least: bool) -> int | None:
    """The tightest that a variant's signed gates say of the same thing."""
    found = [
        _bounds(one)[bound]
        for one in variant.gates
        if bound in _bounds(one)
        and one.quantity == gate.quantity
        and (one.quantile_permille or _MEDIAN) == (gate.quantile_permille or _MEDIAN)
        and (bound != "ratio_max_permille" or one.ratio_to == gate.ratio_to)
    ]
    if not found:
        return None
    return max(found) if least else min(found)


def _signed_ppm(variant: VariantEntry, gate: StageGate) -> int | None:
    """The same of a stage's gate, in its unit."""
    if gate.quantity == "agreement":
        return min((floor.min_ppm for floor in variant.floors), default=None)
    if gate.quantity == "drop":
        return variant.drop_max_ppm
    if gate.quantity not in _PAIRED:
        return None
    quantile = gate.quantile_permille if gate.quantity == "latency" else None
    found = [
        one.ratio_max_permille * 1000
        for one in variant.gates
        if one.quantity == _PAIRED[gate.quantity]
        and one.ratio_to == "running"
        and one.ratio_max_permille is not None
        and (one.quantile_permille or _MEDIAN) == (quantile or _MEDIAN)
    ]
    return min(found, default=None)
