"""Gates of a stage: what its devices measured, for each kind of hardware, against limits. Pure.

A device counts once, with its own figure: how the release compares there with what ran before. The
median over the devices is held against the limit, and never the mean, so that no figure counts for
more by being absurd. A gate is passed where the honest devices' median keeps the limit with the
stated confidence, broken where it exceeds it, and otherwise waits for more devices. Before all have
reported it is either only if nothing that is still to come could change that.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from sdk.fleet.rules.bounds import Sample, fewest

Quantity = Literal["confirmed", "latency", "memory", "agreement", "drop"]
Verdict = Literal["passed", "broken", "unclear", "unproven"]

QUANTILES = (500, 900, 950, 990)
"""Permille of the runs: those that devices measure."""
MEDIAN_LATENCY = f"latency@{QUANTILES[0]}"
"""What is told of every rollout, whether a gate reads it or not."""
_LEAST: tuple[Quantity, ...] = ("confirmed", "agreement")
"""Of these more is better."""
_PPM = 1_000_000
_MOST: Mapping[Quantity, int] = {
    "confirmed": _PPM - 1,
    "latency": 100 * _PPM,
    "memory": 100 * _PPM,
    "agreement": _PPM,
    "drop": _PPM,
}
_FENCES = 3.0
"""Interquartile ranges beyond the quartiles: what Tukey called far out."""
_ALIKE = 0.05
"""Closer to the median than this no figure is odd, however much alike the others are."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageGate:
    """A limit on what the devices of one kind of hardware measured."""

    quantity: Quantity
    """`latency` and `memory` (the peak): over that of what ran before on the same device, measured
    in turns. `agreement`: with the original on the golden data, of the worst output. `drop`: of the
    metric on the evaluation pack. `confirmed`: the share of those that tried it."""
    limit_ppm: int
    """In millionths: 1100000 lets a latency be a tenth longer. The least of `agreement` and
    `confirmed`, the most of the others."""
    quantile_permille: int = 500
    """Of the latency."""

    @property
    def name(self) -> str:
        """As it is told, and as figures are kept.

        >>> StageGate(quantity="latency", quantile_permille=950, limit_ppm=1100000).name
        'latency@950'
        """
        quantile = f"@{self.quantile_permille}" if self.quantity == "latency" else ""
        return f"{self.quantity}{quantile}"

    @property
    def limit(self) -> float:
        """As a ratio or a share."""
        return self.limit_ppm / _PPM

    @property
    def is_least(self) -> bool:
        """Whether the limit is the least that there may be."""
        return self.quantity in _LEAST


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdvanceIf:
    """What has to be proven, for each kind of hardware, before the next stage opens."""

    gates: tuple[StageGate, ...]
    at_least: int = 1
    """Nothing is judged of fewer devices; nor of fewer than the confidence takes."""
    confidence: float = 0.95
    """Of each bound."""
    liars: float = 0.2
    """The bounds hold though so many of the devices report what they like."""
    unproven: Literal["halt", "pass"] = "halt"
    """Of hardware with too few devices that report: not to go on, or to go on without a proof."""

    @property
    def needs(self) -> int:
        """So many devices of a kind have to report.

        >>> AdvanceIf(gates=()).needs
        6
        """
        return max(self.at_least, fewest(self.confidence, self.liars))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judged:
    """A gate, held against what the devices of one kind of hardware said."""

    gate: str
    hardware: str
    verdict: Verdict
    limit: float
    is_least: bool
    needs: int
    """Devices that have to report."""
    devices: int
    """That did."""
    value: float | None
    low: float | None
    high: float | None
    waived: bool = False
    """An operator has seen it, and went on."""
    stopped: bool = False
    """The rollout was halted over it."""

    @property
    def words(self) -> str:
        """For a person.

        >>> Judged(gate="memory", hardware="pi-5", verdict="broken", limit=1.1, is_least=False,
        ...        needs=6, devices=9, value=1.3, low=1.25, high=1.4).words
        'memory of pi-5 is 1.3 (1.25 to 1.4) on 9 devices, at most 1.1 is asked: broken'
        """
        asked = f"at {'least' if self.is_least else 'most'} {_short(self.limit)} is asked"
        if self.value is None:
            told = f"is not told by any device of {self.needs}"
        else:
            told = f"is {_short(self.value)}{self._between} on {self.devices} devices"
            if self.devices < self.needs:
                told += f" of {self.needs}"
        return f"{self.gate} of {self.hardware} {told}, {asked}: {self.verdict}"

    @property
    def _between(self) -> str:
        if self.low is None:
            return "" if self.high is None else f" ({_short(self.high)} at most)"
        if self.high is None:
            return f" ({_short(self.low)} at least)"
        return f" ({_short(self.low)} to {_short(self.high)})"


def why_not(advance: AdvanceIf, most_devices: int | None) -> str:
    """Why gates cannot be judged; empty if they can.

    Args:
        advance: of a stage.
        most_devices: that the stage reaches; None: a share of them.
    """
    names = [gate.name for gate in advance.gates]
    if not names or len(set(names)) < len(names):
        return f"it has the gates {', '.join(names) or 'of nothing'}: each once, and one at least"
    for gate in advance.gates:
        if gate.quantity == "latency" and gate.quantile_permille not in QUANTILES:
            known = ", ".join(map(str, QUANTILES))
            return (
                f"devices do not measure the latency at {gate.quantile_permille} permille ({known})"
            )
        if gate.quantity != "latency" and gate.quantile_permille != QUANTILES[0]:
            return f"{gate.quantity} has no quantile, and {gate.quantile_permille} was given"
        if not 0 < gate.limit_ppm <= _MOST[gate.quantity]:
            most = _MOST[gate.quantity]
            return f"{gate.name} is held to {gate.limit_ppm} millionths, of 1 to {most}"
    if not 0.5 <= advance.confidence <= 0.9999 or not 0.0 <= advance.liars <= 0.4:
        told = f"a confidence of {advance.confidence:g}, though {advance.liars:g} lie"
        return f"it asks for {told}: 0.5 to 0.9999, and 0.4 at most are possible"
    if advance.at_least < 1:
        return f"it judges {advance.at_least} devices"
    if most_devices is not None and most_devices < advance.needs and advance.unproven == "halt":
        return f"it reaches {most_devices} devices, and its gates need {advance.needs}"
    return ""


def judged_all(
    advance: AdvanceIf,
    hardware: Iterable[str],
    samples: Mapping[tuple[str, str], Sample],
    waived: Iterable[tuple[str, str]] = (),
) -> tuple[Judged, ...]:
    """Every gate, for each kind of hardware.

    Args:
        advance: of the stage.
        hardware: kinds of which a device tried the release.
        samples: (gate, hardware) -> what the devices said.
        waived: those that an operator has seen broken, or not proven, and went on.
    """
    known = set(waived)
    return tuple(
        judged(
            advance,
            gate,
            kind,
            samples.get((gate.name, kind), Sample(devices=0)),
            waived=(gate.name, kind) in known,
        )
        for kind in sorted(hardware)
        for gate in advance.gates
    )


def judged(
    advance: AdvanceIf, gate: StageGate, hardware: str, sample: Sample, *, waived: bool = False
) -> Judged:
    """One gate, for one kind of hardware."""
    low = -math.inf if sample.low is None else sample.low
    high = math.inf if sample.high is None else sample.high
    verdict: Verdict = "unclear"
    if sample.devices < advance.needs:
        verdict = "unproven"
    elif (low >= gate.limit) if gate.is_least else (high <= gate.limit):
        verdict = "passed"
    elif (high < gate.limit) if gate.is_least else (low > gate.limit):
        verdict = "broken"
    return Judged(
        gate=gate.name,
        hardware=hardware,
        verdict=verdict,
        limit=gate.limit,
        is_least=gate.is_least,
        needs=advance.needs,
        devices=sample.devices,
        value=sample.value,
        low=sample.low,
        high=sample.high,
        waived=waived,
    )


def broken(found: Sequence[Judged]) -> tuple[Judged, ...]:
    """Those that stop a rollout at once."""
    return tuple(one for one in found if one.verdict == "broken" and not one.waived)


def missing(advance: AdvanceIf, found: Sequence[Judged]) -> tuple[Judged, ...]:
    """Those that the next stage has to wait for."""
    fine = ("passed", "unproven") if advance.unproven == "pass" else ("passed",)
    return tuple(one for one in found if one.verdict not in fine and not one.waived)


def fences(low: float, middle: float, high: float) -> tuple[float, float]:
    """Beyond these a device's figure is odd, and an operator is to look at it.

    Args:
        low: the first quartile of the devices' figures.
        middle: their median.
        high: the third quartile.

    >>> fences(0.99, 1.0, 1.01)
    (0.93, 1.07)
    """
    near = _ALIKE * abs(middle)
    beyond = _FENCES * (high - low)
    least = min(low - beyond, middle - near)
    most = max(high + beyond, middle + near)
    return round(least, 12), round(most, 12)


def _short(value: float) -> str:
    return f"{value:.4g}" if abs(value - 1.0) > 1e-3 else f"{value:.6g}"
