"""Why a candidate is where it is, for the table of reasons. Pure.

`sdk.verdicts.deciding` names the limit that decided. Here is the rest: what decided between
candidates whose limits are all met.
"""

from __future__ import annotations

from agent.bench import Quantity, Ratio, compare
from sdk.objective import Objective, cost, in_words, is_speed, quantity
from sdk.result import Result
from sdk.select import Selection, figures_of, find_baseline
from sdk.verdicts import deciding


def reason(result: Result, selection: Selection) -> str:
    """The figure that decided about a candidate, in a few words."""
    found = deciding(result)
    chosen = selection.chosen
    if found or chosen is None or result.status != "built":
        return found
    if not is_speed(selection.objective):
        return _by_objective(result, chosen, selection)
    if result.candidate == chosen.candidate:
        return _why_chosen(result, selection)
    if result.speed is None or chosen.speed is None:
        return _by_estimate(result)
    by = quantity(selection.objective)
    return _against(compare(result.speed, chosen.speed, by), by)


def _by_objective(result: Result, chosen: Result, selection: Selection) -> str:
    baseline = find_baseline(selection.results)
    against = figures_of(baseline) if baseline else None
    own, best = (
        in_words(selection.objective, figures_of(one), against) for one in (result, chosen)
    )
    if result.candidate != chosen.candidate:
        return f"{own}; the chosen one has {best}"
    costs = [
        cost(selection.objective, figures_of(one), against)
        for one in selection.results
        if one.status == "built" and not one.left
    ]
    is_least = cost(selection.objective, figures_of(chosen), against) <= min(costs)
    return f"the least{'' if is_least else ' that is proven to meet every limit'}: {own}"


def _why_chosen(result: Result, selection: Selection) -> str:
    if result.speed is None:
        return _by_estimate(result)
    objective, latency = selection.objective, result.speed.latency_ms.p50
    own = f"p50 {latency:.3g} ms"
    if objective == "throughput":
        own = f"{result.speed.throughput_per_s:.4g} runs/s, {own}"
    rivals = [
        _pace(other, objective)
        for other in selection.results
        if other.speed is not None and other.candidate != result.candidate
    ]
    if all(_pace(result, objective) <= pace for pace in rivals):
        return f"the fastest: {own}"
    return f"the fastest that is proven to meet every limit: {own}"


def _pace(result: Result, objective: Objective) -> float:
    return cost(objective, figures_of(result), None)


def _by_estimate(result: Result) -> str:
    latency = result.estimate.latency_ms if result.estimate else None
    if latency is None:
        return "no estimate of its speed"
    return f"estimated p50 {latency.low:.2g} to {latency.high:.2g} ms"


def _against(ratio: Ratio, by: Quantity) -> str:
    what = "latency" if by == "latency" else "time per run"
    shown = f"{ratio.value:.3g} times the chosen one's {what} ({ratio.low:.3g} to {ratio.high:.3g})"
    return shown if ratio.low > 1 else f"not measured faster: {shown}"
