"""Whether what a device measured keeps the signed gates. Pure.

The rule is the build's: a gate refuses where the interval of the figure lies beyond it. A figure
that could be on either side refuses nothing; the report has it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from agent.manifest import Floor, Gate
from agent.measurement import Measurement, Ratio, compare

_IN_SECONDS = ("latency_us", "load_us", "throughput_milli_per_s")
_UNPAIRED = ("load_us",)
"""In seconds, and not taken in turns with what it is held against: busy devices blur it too."""
_BUSY = "the device was busy; only ratios are judged then"
_MEDIAN = 500
_QUANTILES = {_MEDIAN: "p50", 900: "p90", 950: "p95", 990: "p99"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Breach:
    """A gate that does not hold here."""

    what: str
    """For a person, with both values."""
    gate: Gate | Floor


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judgement:
    """What the gates say."""

    breaches: tuple[Breach, ...]
    skipped: tuple[str, ...]
    """Gates that nothing here can be held against, and why."""

    @property
    def holds(self) -> bool:
        """Nothing is broken."""
        return not self.breaches


def judge(
    gates: Iterable[Gate],
    own: Measurement,
    *,
    running: Measurement | None,
    baseline: Measurement | None,
    quiet: bool = True,
    steady: bool = True,
) -> Judgement:
    """Hold a measurement against gates.

    Args:
        gates: of the manifest, and the assignment's own.
        own: of the variant that is to be activated.
        running: of the one that runs, from the same contest; None at a first install.
        baseline: of the ladder's baseline, from the same contest; None where it is not here.
        quiet: nothing else was at work. Else gates in seconds say nothing, and ratios do.
        steady: nor did anything come and go meanwhile. Else only what even the fastest turn breaks
            is broken: others can slow it down, and not make it faster.
    """
    breaches, skipped = [], []
    others = {"running": running, "baseline": baseline}
    for gate in gates:
        found: list[str | None] = []
        if gate.ratio_to is not None and gate.ratio_max_permille is not None:
            other = others[gate.ratio_to]
            if gate.quantity in _UNPAIRED and not (quiet and steady):
                skipped.append(f"{_named(gate)}: {_BUSY}")
            elif other is None:
                skipped.append(f"{_named(gate)} against the {gate.ratio_to} one: there is none")
            else:
                found.append(_ratio(gate, gate.ratio_max_permille, own, other))
        if gate.max is not None or gate.min is not None:
            clear = quiet and (steady or gate.quantity not in _UNPAIRED)
            if gate.quantity in _IN_SECONDS and not clear:
                skipped.append(f"{_named(gate)}: {_BUSY}")
            else:
                found.append(_absolute(gate, own, steady=steady))
        if None in found:
            skipped.append(f"{_named(gate)}: there were too few runs, or it is not known here")
        breaches += [Breach(what=what, gate=gate) for what in found if what]
    return Judgement(breaches=tuple(breaches), skipped=tuple(skipped))


def judge_floors(floors: Sequence[Floor], found: Mapping[str, float]) -> Judgement:
    """Hold the agreement of each output with the original's, 0 to 1, against the floors."""
    breaches = [
        Breach(
            what=f"{floor.output}: {floor.metric} {found.get(floor.output, 0.0):.6f}, the floor is "
            f"{floor.min_ppm / 1e6:.6f}",
            gate=floor,
        )
        for floor in floors
        if found.get(floor.output, 0.0) * 1e6 < floor.min_ppm
    ]
    return Judgement(breaches=tuple(breaches), skipped=())


def ratios(own: Measurement, running: Measurement) -> dict[str, float]:
    """How a variant compares with the one that runs, from one contest; what is known of it.

    Returns:
        `latency@500` (paired by turns), `latency@900` and so on, of the runs' quantiles, and
        `memory`, of the peaks -> that of the new one over that of the running one.
    """
    found = {}
    for permille, name in _QUANTILES.items():
        if permille == _MEDIAN:
            found[f"latency@{permille}"] = compare(own, running).value
            continue
        one, two = (each.latency_ms.bounds.get(name) for each in (own, running))
        if one is not None and two is not None and two.value:
            found[f"latency@{permille}"] = one.value / two.value
    if own.memory_peak_bytes and running.memory_peak_bytes:
        found["memory"] = own.memory_peak_bytes / running.memory_peak_bytes
    return found


def _absolute(gate: Gate, own: Measurement, *, steady: bool) -> str | None:
    """What is broken, nothing, or None where the figure is not known."""
    interval = _figure(gate, own)
    if interval is None:
        return None
    low, value, high = interval
    if not steady and gate.quantity == "latency_us":
        low = min(low, min(own.windows_ms) * 1e3)
    if gate.max is not None and low > gate.max:
        return f"{_named(gate)} is {value:.0f} (at least {low:.0f}), the gate is {gate.max}"
    if gate.min is not None and high < gate.min:
        return f"{_named(gate)} is {value:.0f} (at most {high:.0f}), the gate is {gate.min}"
    return ""


def _figure(gate: Gate, own: Measurement) -> tuple[float, float, float] | None:
    """(least, value, greatest) in the gate's unit."""
    if gate.quantity == "latency_us":
        name = _QUANTILES.get(gate.quantile_permille or _MEDIAN)
        bounds = own.latency_ms.bounds.get(name or "")
        if bounds is None:
            return None
        return bounds.low * 1e3, bounds.value * 1e3, bounds.high * 1e3
    if gate.quantity == "throughput_milli_per_s":
        per_s = sorted(1e3 / turn for turn in own.turns_ms if turn)
        value = own.throughput_per_s * 1e3
        return (per_s[0] * 1e3, value, per_s[-1] * 1e3) if per_s else (value, value, value)
    exact = {
        "load_us": own.load_ms * 1e3,
        "memory_peak_bytes": own.memory_peak_bytes,
        "memory_increment_bytes": own.memory_increment_bytes,
    }[gate.quantity]
    return None if exact is None else (float(exact), float(exact), float(exact))


def _ratio(gate: Gate, most_permille: int, own: Measurement, other: Measurement) -> str | None:
    """As `_absolute`; paired by turns where turns measure the quantity."""
    if gate.quantity == "latency_us" and gate.quantile_permille in (None, _MEDIAN):
        found = compare(own, other)
    elif gate.quantity == "throughput_milli_per_s":
        found = compare(own, other, "throughput")
    else:
        one, two = _figure(gate, own), _figure(gate, other)
        if one is None or two is None or not two[0]:
            return None
        found = Ratio(value=one[1] / two[1], low=one[0] / two[2], high=one[2] / two[0], rounds=1)
    if found.low * 1000 > most_permille:
        return (
            f"{_named(gate)} is {found.value:.3f} of the {gate.ratio_to} one's (at least "
            f"{found.low:.3f}), the gate is {most_permille / 1000:.3f}"
        )
    return ""


def _named(gate: Gate) -> str:
    quantile = f" at {gate.quantile_permille} permille" if gate.quantile_permille else ""
    return f"{gate.quantity}{quantile}"
