"""What each limit says of one candidate, by the strongest evidence there is. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from agent.bench import compare
from agent.quantiles import median_interval
from sdk.limits import KINDS, Bounded, LimitVerdict, judge
from sdk.result import Result

_NOT_RUN = "this machine has nothing to run it on"


def verdicts(
    result: Result, limits: Mapping[str, float], baseline: Result | None
) -> tuple[LimitVerdict, ...]:
    """Every limit of one candidate, judged by what is known of it so far."""
    return tuple(_judge_one(name, limit, result, baseline) for name, limit in limits.items())


def _judge_one(name: str, limit: float, result: Result, baseline: Result | None) -> LimitVerdict:
    if name == "accuracy_drop":
        return _judge_accuracy(limit, result)
    if name == "sqnr_min_db":
        return _judge_sqnr(limit, result)
    if name in ("size_mib", "size_reduction"):
        figure = _size(name, result, baseline)
        return judge(name, limit, figure, proving=("device", "emulated", "host", "estimate"))
    if name in ("speedup", "memory_reduction"):
        return judge(name, limit, _relative(name, result, baseline))
    return judge(name, limit, _measured(name, result) or _predicted(name, result))


def _judge_accuracy(limit: float, result: Result) -> LimitVerdict:
    accuracy = result.accuracy
    if result.report is None:
        return judge("accuracy_drop", limit, None, note=_NOT_RUN)
    if accuracy is None or accuracy.final is None:
        return judge("accuracy_drop", limit, None, note="no final samples to measure it on")
    drop = accuracy.final
    figure = Bounded(value=drop.value, low=drop.low, high=drop.high, evidence=accuracy.evidence)
    note = ""
    if accuracy.samples_needed is not None and accuracy.samples_needed > drop.n:
        note = f"{drop.n} final samples; proof would take about {accuracy.samples_needed}"
    proving = (accuracy.evidence,) if accuracy.proves else ()
    return judge("accuracy_drop", limit, figure, proving=proving, note=note)


def _judge_sqnr(limit: float, result: Result) -> LimitVerdict:
    if result.report is None:
        return judge("sqnr_min_db", limit, None, note=_NOT_RUN)
    evaluation = result.report.evaluation
    if evaluation is None or evaluation.sqnr_db is None or result.accuracy is None:
        return judge("sqnr_min_db", limit, None, note="no samples to measure it on")
    value = evaluation.sqnr_db
    evidence = result.accuracy.evidence
    figure = Bounded(value=value, low=value, high=value, evidence=evidence)
    return judge(
        "sqnr_min_db", limit, figure, proving=(evidence,) if result.accuracy.proves else ()
    )


def _size(name: str, result: Result, baseline: Result | None) -> Bounded | None:
    if result.size_bytes is None:
        return None
    value = result.size_bytes / (1 << 20)
    if name == "size_reduction":
        if baseline is None or not baseline.size_bytes:
            return None
        value = 1 - result.size_bytes / baseline.size_bytes
    # The files are the same on every machine: their size is known, not measured.
    return Bounded(value=value, low=value, high=value, evidence="device")


def _relative(name: str, result: Result, baseline: Result | None) -> Bounded | None:
    own, other = result.speed, baseline.speed if baseline else None
    if own is None or other is None:
        return None
    if name == "speedup":
        ratio = compare(own, other)
        return Bounded(
            value=1 / ratio.value, low=1 / ratio.high, high=1 / ratio.low, evidence="device"
        )
    if not other.memory_increment_bytes or own.memory_increment_bytes is None:
        return None
    saved = 1 - own.memory_increment_bytes / other.memory_increment_bytes
    return Bounded(value=saved, low=saved, high=saved, evidence="device")


def _measured(name: str, result: Result) -> Bounded | None:
    speed = result.speed
    if speed is None:
        return None
    if name == "peak_memory_mib":
        peak = speed.memory_peak_bytes
        mib = None if peak is None else peak / (1 << 20)
        return None if mib is None else Bounded(value=mib, low=mib, high=mib, evidence="device")
    if name == "throughput_per_s":
        turns = median_interval([1e3 / turn for turn in speed.turns_ms])
        value = speed.throughput_per_s
        return Bounded(
            value=value,
            low=min(value, turns.low),
            high=max(value, turns.high),
            evidence="device",
        )
    bounds = speed.latency_ms.bounds.get(name.removeprefix("latency_").removesuffix("_ms"))
    if bounds is None:
        return None
    return Bounded(value=bounds.value, low=bounds.low, high=bounds.high, evidence="device")


def _predicted(name: str, result: Result) -> Bounded | None:
    estimate = result.estimate
    if estimate is None:
        return None
    if name == "peak_memory_mib" and estimate.peak_memory_bytes:
        found, scale = estimate.peak_memory_bytes, 1 / (1 << 20)
    elif name.startswith("latency_") and estimate.latency_ms:
        found, scale = estimate.latency_ms, 1.0
    else:
        return None
    return Bounded(
        value=found.value * scale,
        low=found.low * scale,
        high=found.high * scale,
        evidence="estimate",
    )


def deciding(result: Result) -> str:
    """The figure that decided about a candidate, in a few words, for the table of reasons."""
    if result.reason or result.left:
        return result.reason or result.left
    for wanted in ("unmet", "unproven"):
        for verdict in result.verdicts:
            if verdict.verdict == wanted:
                return describe(verdict)
    return ""


def describe(verdict: LimitVerdict) -> str:
    """One limit's verdict in words: `latency_p90_ms 12.3 > 10 (device)`."""
    kind = KINDS[verdict.name]
    if verdict.value is None:
        return f"{verdict.name}: {verdict.note or 'not measured on the device'}"
    beyond = verdict.value > verdict.limit if kind.at_most else verdict.value < verdict.limit
    sign = (">" if kind.at_most else "<") if beyond else ("<=" if kind.at_most else ">=")
    value, limit = f"{verdict.value:.4g}", f"{verdict.limit:.4g}"
    found = f"{verdict.name} {value} {sign} {limit} ({verdict.evidence})"
    if verdict.verdict == "unproven":
        found += f", unproven{': ' + verdict.note if verdict.note else ''}"
    return found
