"""The figures of the comparison with rivals, from the saved results. Pure.

*Best rival*: per model, of the rivals within the accuracy limit, the one with the least median
latency. *Single rival*: one rival for every model; where it is over the limit it counts with its
own runtime's f32, and where it made no file that runs, with torch eager.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence

OURS, AGAIN = "ours", "ours again"
LAST_RESORT = "torch eager"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """One contestant on one model."""

    p50_ms: float | None
    """None: there is no file, or it does not run."""
    drop: float | None = None
    within: bool = False
    note: str = ""
    stable: bool = True
    windows_ms: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """All contestants on one model, measured in one contest, and the repeated contests of a few."""

    name: str
    told: str
    metric: str
    limit: float
    trap: bool
    alike: float
    """The mean cosine between the original's answers to different inputs."""
    entries: dict[str, Entry]
    repeats: tuple[dict[str, float], ...]
    """Contestant -> median latency, in ms, of each further contest."""
    chosen: str
    """What ours is: `<toolchain>-<precision>-...`."""
    precision: str
    verdict: str
    search: dict[str, float | int | bool]
    """{budget_s, spent_s, build_s, candidates, untried, ended, near_s}"""
    exhaustive: dict[str, float | int | str] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Held:
    """Ours held against the best rival of one model."""

    rival: str
    ratio: float
    noise: float
    """How far two processes of our one file came apart, as a factor."""


def geometric_mean(values: Iterable[float]) -> float:
    """The geometric mean.

    >>> round(geometric_mean([0.5, 2.0]), 9)
    1.0
    """
    return math.exp(statistics.fmean(math.log(value) for value in values))


def within(model: Model) -> list[str]:
    """The rivals that keep the limit, the fastest first."""
    kept = {
        name: entry.p50_ms
        for name, entry in model.entries.items()
        if name not in (OURS, AGAIN) and entry.within and entry.p50_ms is not None
    }
    return sorted(kept, key=lambda name: kept[name])


def held(model: Model) -> Held | None:
    """Ours over the best rival: the median over all contests and both processes of ours.

    None where ours was not measured, or no rival keeps the limit.
    """
    rivals = within(model)
    own = {name: [e.p50_ms] for name, e in model.entries.items() if e.p50_ms is not None}
    if OURS not in own or not rivals:
        return None
    contests = [{name: values[0] for name, values in own.items()}, *model.repeats]
    # The least of a dozen noisy medians is too low: who was best is asked anew, of the first few.
    repeated = [name for name in rivals if all(name in contest for contest in contests)]
    best = min(
        repeated or rivals[:1],
        key=lambda name: statistics.median(c[name] for c in contests if name in c),
    )
    ratios, apart = [], [0.0]
    for contest in contests:
        both = [contest[name] for name in (OURS, AGAIN) if name in contest]
        if best in contest and both:
            ratios += [value / contest[best] for value in both]
        if len(both) == 2:
            apart.append(abs(math.log(both[0] / both[1])))
    return Held(rival=best, ratio=statistics.median(ratios), noise=math.exp(max(apart)))


def single(model: Model, rival: str, fallback: str) -> tuple[float, str] | None:
    """What a rival's latency counts as on a model, in ms, and whose latency that is."""
    entry = model.entries.get(rival)
    order = [rival] if entry and entry.within else []
    if entry and entry.p50_ms is not None and not entry.within:
        order.append(fallback)
    for name in (*order, LAST_RESORT):
        found = model.entries.get(name)
        if found is not None and found.p50_ms is not None:
            return found.p50_ms, name
    return None


def own_ms(model: Model) -> float | None:
    """Our latency: of both processes, their geometric mean."""
    found = [model.entries[n].p50_ms for n in (OURS, AGAIN) if n in model.entries]
    known = [value for value in found if value is not None]
    return geometric_mean(known) if known else None


def against_each(models: Sequence[Model], fallbacks: Mapping[str, str]) -> dict[str, float]:
    """Rival -> geometric mean of ours over that rival used for every model."""
    found = {}
    for rival, fallback in fallbacks.items():
        ratios = [
            own / counted[0]
            for model in models
            if (own := own_ms(model)) and (counted := single(model, rival, fallback))
        ]
        if ratios:
            found[rival] = geometric_mean(ratios)
    return found


def over_limit(models: Iterable[Model]) -> list[str]:
    """The models whose delivered variant is over the limit on the held-out samples."""
    return [m.name for m in models if OURS in m.entries and not m.entries[OURS].within]


def solved(model: Model, f32: Iterable[str]) -> bool:
    """Not f32, within the limit, and faster than the fastest f32 of the contest."""
    plain = [model.entries[name].p50_ms for name in f32 if name in model.entries]
    known = [value for value in plain if value is not None]
    own = own_ms(model)
    kept = model.entries[OURS].within if OURS in model.entries else False
    return bool(own and known and kept and model.precision != "f32" and own < min(known))


def near(heats: Sequence[tuple[float | None, float]], *, share: float = 0.05) -> float | None:
    """Seconds until a search's leader was within a share of its last one.

    Args:
        heats: (the leader's cost after the heat, the heat's seconds).
        share: of the last leader's cost.

    >>> near([(1.0, 40.0), (0.52, 10.0), (0.5, 30.0)])
    50.0
    """
    costs = [cost for cost, _ in heats if cost is not None]
    if not costs:
        return None
    spent = 0.0
    for cost, seconds in heats:
        spent += seconds
        if cost is not None and cost <= costs[-1] * (1 + share):
            return spent
    return None
