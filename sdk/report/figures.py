"""Figures as people read them: units, intervals, names, the cells of a table. Pure."""

from __future__ import annotations

from sdk.limits import KINDS, Evidence, LimitVerdict, Verdict, overall
from sdk.summary import CandidateSummary, ProfileSummary

NONE = "-"
"""What stands where nothing was measured."""
LIMITS = {
    "latency_p50_ms": "median latency",
    "latency_p90_ms": "90th-percentile latency",
    "latency_p95_ms": "95th-percentile latency",
    "latency_p99_ms": "99th-percentile latency",
    "throughput_per_s": "throughput",
    "peak_memory_mib": "peak memory",
    "size_mib": "size",
    "accuracy_drop": "accuracy drop",
    "sqnr_min_db": "signal to quantisation noise",
    "speedup": "speed-up over the baseline",
    "memory_reduction": "memory saved against the baseline",
    "size_reduction": "size saved against the baseline",
}
"""Every limit in words."""
EVIDENCE: dict[Evidence | None, str] = {
    "device": "measured on such a device",
    "emulated": "emulated: no figure of speed",
    "host": "seen on another machine",
    "estimate": "estimated",
    None: "nothing known",
}
_ROLES = {
    "chosen": "chosen",
    "runner_up": "runner-up",
    "baseline": "baseline",
    "smaller": "smaller",
}
_STEPS = {"plan": "planned", "estimate": "estimated", "lower": "lowered"}
_VERDICTS = {"met": "meets every limit", "unmet": "breaks a limit", "unproven": "unproven"}


def number(value: float | None) -> str:
    """Three significant digits, never in powers of ten.

    >>> [number(value) for value in (0.92244, 12.345, 12345.6, 0.0, None)]
    ['0.922', '12.3', '12346', '0', '-']
    """
    if value is None:
        return NONE
    if abs(value) >= 999.5:
        return f"{value:.0f}"
    shown = f"{value:.3g}"
    return shown if "e" not in shown else f"{value:.6f}".rstrip("0").rstrip(".")


def rough(value: float) -> str:
    """Two significant digits: what an estimate deserves.

    >>> rough(1.5021), rough(565.7)
    ('1.5', '570')
    """
    return number(float(f"{value:.2g}"))


def milliseconds(value: float | None) -> str:
    """Milliseconds with three digits, or a dash."""
    return number(value)


def size_mib(size_bytes: float | None) -> str:
    """Bytes as MiB with three digits, or a dash."""
    return number(None if size_bytes is None else size_bytes / (1 << 20))


def weight(size_bytes: float) -> str:
    """Bytes in the unit that suits them.

    >>> weight(8_724_152), weight(69_400)
    ('8.32 MiB', '67.8 KiB')
    """
    if size_bytes < 0.1 * (1 << 20):
        return f"{number(size_bytes / 1024)} KiB"
    return f"{size_mib(size_bytes)} MiB"


def percent(value: float | None) -> str:
    """A fraction in percent, to a hundredth.

    >>> percent(0.01402), percent(-0.00001)
    ('1.40', '0.00')
    """
    return NONE if value is None else f"{100 * value + 0.0:.2f}".replace("-0.00", "0.00")


def limit_figure(name: str, value: float | None) -> str:
    """A limit's value, or what was found for it, with its unit.

    >>> limit_figure("accuracy_drop", 0.02), limit_figure("latency_p90_ms", 12.34)
    ('2 %', '12.3 ms')
    """
    if value is None:
        return NONE
    if KINDS[name].is_fraction:
        return f"{float(f'{100 * value:.3g}') + 0.0:g} %"
    unit = {"x": "x", "/s": "per second"}.get(KINDS[name].unit, KINDS[name].unit)
    return f"{number(value)} {unit}".strip()


def evidence(limit: LimitVerdict) -> str:
    """Where a limit's figure comes from. Files are the same on every machine."""
    return "known from the files" if limit.name == "size_mib" else EVIDENCE[limit.evidence]


def demand(name: str, limit: float) -> str:
    """A limit in words: `at most 10 ms`."""
    return f"{'at most' if KINDS[name].at_most else 'at least'} {limit_figure(name, limit)}"


def own_name(identifier: str) -> str:
    """A candidate's name within its profile."""
    return identifier.rsplit("/", 1)[-1]


def name_and_digest(identifier: str) -> tuple[str, str]:
    """A candidate's recipe, and the digest that tells it from others of that name.

    >>> name_and_digest("digits/intel-host/openvino-int8-3fa91c02")
    ('openvino-int8', '3fa91c02')
    """
    name, _, digest = own_name(identifier).rpartition("-")
    return (name, digest) if name else (digest, "")


def chosen_of(result: ProfileSummary) -> CandidateSummary | None:
    """The selected candidate."""
    return next((c for c in result.candidates if c.identifier == result.selected), None)


def baseline_of(result: ProfileSummary) -> CandidateSummary | None:
    """The candidate that others are held against."""
    return next((c for c in result.candidates if c.identifier == result.baseline), None)


def verdict_of(candidate: CandidateSummary) -> Verdict | None:
    """All its limits together; None for one that was not built or judged."""
    return overall(candidate.limits) if candidate.status == "built" else None


def outcome(candidate: CandidateSummary) -> str:
    """What became of a candidate, in two or three words."""
    verdict = verdict_of(candidate)
    if verdict is not None:
        return _VERDICTS[verdict]
    if candidate.status == "failed":
        return f"failed when {_STEPS.get(candidate.step or '', (candidate.step or '') + 'd')}"
    return {"pruned": "left out", "refused": "refused"}.get(candidate.status, candidate.status)


def role(candidate: CandidateSummary) -> str:
    """Its place on the ladder, or nothing."""
    return _ROLES.get(candidate.role or "", "")


def estimated_ms(candidate: CandidateSummary) -> str:
    """The predicted median as an interval, marked by ~."""
    predicted = candidate.estimate.latency_ms
    return NONE if predicted is None else f"~{rough(predicted.low)} to {rough(predicted.high)}"


def latency(candidate: CandidateSummary, quantile: str) -> str:
    """A measured quantile; an estimate of the median is marked by ~."""
    if candidate.latency_ms is not None:
        return milliseconds(getattr(candidate.latency_ms, quantile))
    return estimated_ms(candidate) if quantile == "p50" else NONE


def broken(candidate: CandidateSummary) -> tuple[LimitVerdict, ...]:
    """The limits that it breaks."""
    return tuple(limit for limit in candidate.limits if limit.verdict == "unmet")


def asked(result: ProfileSummary) -> dict[str, float]:
    """The limits of a profile; of an older summary, as far as its candidates tell them."""
    if result.limits is not None:
        return result.limits
    return {limit.name: limit.limit for c in result.candidates for limit in c.limits}
