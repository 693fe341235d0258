"""A build's answer in sentences. Pure."""

from __future__ import annotations

import collections
import math

from sdk.limits import KINDS, LimitVerdict, Verdict
from sdk.report.figures import (
    EVIDENCE,
    LIMITS,
    baseline_of,
    broken,
    chosen_of,
    demand,
    evidence,
    limit_figure,
    milliseconds,
    name_and_digest,
    number,
    own_name,
    percent,
    rough,
    weight,
)
from sdk.search.clock import counted, spoken
from sdk.summary import CandidateSummary, ProfileSummary, Summary


def headline(result: ProfileSummary) -> str:
    """One profile's answer in one line, for a terminal."""
    answer = answer_of(result).lower()
    if result.selected is None:
        return f"{result.target} on {result.profile}: {answer}"
    by = {"measured": "by measurement", "estimate": "by estimate"}[result.selected_by or "estimate"]
    return (
        f"{result.target} on {result.profile}: {answer}; {own_name(result.selected)}, chosen {by}"
    )


def answer_of(result: ProfileSummary) -> str:
    """The verdict in words."""
    if not any(candidate.status == "built" for candidate in result.candidates):
        return "Nothing could be built"
    if result.verdict == "unmet":
        return "No variant meets the limits"
    return "Meets every limit" if result.verdict == "met" else "Not proven yet"


def overview(summary: Summary) -> str:
    """All profiles in one sentence."""
    if not summary.results:
        return "Nothing was asked for."
    if len(summary.results) == 1:
        result = summary.results[0]
        return f"{result.title or result.profile}: {answer_of(result).lower()}."
    counts = collections.Counter(result.verdict for result in summary.results)
    words: dict[Verdict, str] = {
        "met": "proven to meet every limit",
        "unproven": "not proven yet",
        "unmet": "no variant meets the limits",
    }
    parts = [f"{words[verdict]} on {counts[verdict]}" for verdict in words if counts[verdict]]
    return f"Of {len(summary.results)} device types: {', '.join(parts)}."


def account(result: ProfileSummary) -> tuple[str, ...]:
    """The answer in a few sentences: what was chosen, how fast, how exact, how large."""
    chosen = chosen_of(result)
    if chosen is None:
        return _why_nothing(result)
    sentences = [_speed(chosen, result), _exactness(chosen), _weight(chosen), _search(result)]
    return tuple(sentence for sentence in sentences if sentence)


def _speed(chosen: CandidateSummary, result: ProfileSummary) -> str:
    name = name_and_digest(chosen.identifier)[0]
    measured = chosen.latency_ms
    if measured is None:
        predicted = chosen.estimate.latency_ms
        if predicted is None:
            return (
                f"{name} comes first; no such device was measured, and its speed has no estimate."
            )
        return (
            f"{name} is the best by estimate, {rough(predicted.low)} to {rough(predicted.high)} ms "
            "a run; no such device was measured."
        )
    found = (
        f"{name} takes {milliseconds(measured.p50)} ms a run (median of {measured.n} runs, 95 % "
        f"bounds {milliseconds(measured.low)} to {milliseconds(measured.high)})"
    )
    return f"{found}{_against_baseline(chosen, result)}."


def _against_baseline(chosen: CandidateSummary, result: ProfileSummary) -> str:
    baseline = baseline_of(result)
    if baseline is None:
        return ""
    if baseline.identifier == chosen.identifier:
        return ": it is the f32 baseline itself"
    ratio = chosen.ratio_to_baseline
    if ratio is None:
        return ""
    name = name_and_digest(baseline.identifier)[0]
    if ratio.high < 1:
        return f", {number(1 / ratio.value)} times as fast as the baseline {name}"
    if ratio.low > 1:
        return f", {number(ratio.value)} times the latency of the baseline {name}"
    return f", no different from the baseline {name}"


def _exactness(chosen: CandidateSummary) -> str:
    accuracy = chosen.accuracy
    if accuracy is None:
        return "Its accuracy is not known."
    where = "" if accuracy.evidence == "device" else f" ({EVIDENCE[accuracy.evidence]})"
    bound = f"{percent(accuracy.high)} % at 95 % confidence, on {accuracy.n} samples{where}"
    if accuracy.drop <= 0.00005:
        return f"By {accuracy.metric} it loses nothing that was seen, and at most {bound}."
    return f"By {accuracy.metric} it loses {percent(accuracy.drop)} %, and at most {bound}."


def _weight(chosen: CandidateSummary) -> str:
    parts = []
    if chosen.size_bytes is not None:
        parts.append(f"its files take {weight(chosen.size_bytes)}")
    if chosen.peak_memory_bytes is not None:
        parts.append(f"its process peaks at {weight(chosen.peak_memory_bytes)} of memory")
    text = ", ".join(parts)
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def _search(result: ProfileSummary) -> str:
    found = result.search
    if found is None:
        return ""
    tried = sum(len(heat.tried) for heat in found.heats)
    told = (
        f"A search of {spoken(found.spent_s)} tried {counted(tried, 'candidate')} in "
        f"{counted(len(found.heats), 'heat')}"
    )
    if found.ended:
        return f"{told}; nothing was left to try."
    left = f", {counted(found.untried, 'candidate')} never begun" if found.untried else ""
    share = f"its {spoken(found.budget_s)} of the budget"
    return f"{told}; {share} ended before all was tried{left}."


def _why_nothing(result: ProfileSummary) -> tuple[str, ...]:
    built = [candidate for candidate in result.candidates if candidate.status == "built"]
    if not built:
        return (_why_none_built(result),)
    nearest = min(built, key=_distance)
    name = name_and_digest(nearest.identifier)[0]
    breaks = "; ".join(limit_sentence(limit) for limit in broken(nearest))
    return (
        f"Every one of {len(built)} built candidates breaks a limit, so none is released.",
        f"The nearest is {name}: {breaks}.",
    )


def _why_none_built(result: ProfileSummary) -> str:
    if not result.candidates:
        return "There was no candidate to try."
    counts = collections.Counter(candidate.status for candidate in result.candidates)
    told = " and ".join(f"{count} {status}" for status, count in counts.items())
    reasons = collections.Counter(c.reason for c in result.candidates if c.reason)
    most = f" Most often: {reasons.most_common(1)[0][0]}." if reasons else ""
    return f"Of {len(result.candidates)} candidates: {told}.{most}".replace("..", ".")


def _distance(candidate: CandidateSummary) -> float:
    """By which factor its worst limit is missed."""
    return max((_factor(limit) for limit in broken(candidate)), default=0.0)


def _factor(limit: LimitVerdict) -> float:
    if limit.value is None:
        return math.inf
    over, under = (
        (limit.value, limit.limit) if KINDS[limit.name].at_most else (limit.limit, limit.value)
    )
    return over / under if under > 0 else math.inf


def limit_sentence(limit: LimitVerdict) -> str:
    """One limit's figure beside its demand."""
    asked = demand(limit.name, limit.limit)
    if limit.value is None:
        return f"{LIMITS[limit.name]} is not known, {asked} is asked"
    found = limit_figure(limit.name, limit.value)
    return f"{LIMITS[limit.name]} is {found} ({evidence(limit)}), {asked} is asked"
