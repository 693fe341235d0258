"""One self-contained HTML page: no request leaves it, it reads in the dark and on a phone.

Its content needs no script; a few lines of one let the table of reasons be sorted.
"""

from __future__ import annotations

import contextlib
import datetime
import os
from importlib import resources
from pathlib import Path
from typing import Any

from agent.identity import Conditions
from agent.sessions import OperatorTime
from sdk.limits import KINDS
from sdk.report import figures, words
from sdk.report.proof import to_prove
from sdk.report.scatter import scatter
from sdk.report.strips import distributions, memory, size
from sdk.summary import CandidateSummary, ProfileSummary, Summary

MOST_OPERATORS = 12


def render(summary: Summary, *, compiled: Path | None = None) -> str:
    """The page as HTML; every text that comes from outside is escaped.

    Args:
        summary: what to show.
        compiled: a folder that keeps the compiled template, which takes longer than all the rest.
    """
    folder = resources.files("sdk.report")
    when = datetime.datetime.fromtimestamp(summary.started, datetime.timezone.utc)
    page: str = _template(compiled).render(
        summary=summary,
        style=(folder / "page.css").read_text(encoding="utf-8"),
        script=(folder / "page.js").read_text(encoding="utf-8"),
        overview=words.overview(summary),
        when=f"{when:%d %B %Y, %H:%M} UTC".lstrip("0"),
        took=_duration(summary.seconds),
        results=[_result(result, index) for index, result in enumerate(summary.results, 1)],
        machine=_machine(summary),
        figures=figures,
    )
    return page


def _template(compiled: Path | None) -> Any:
    import jinja2

    folder = resources.files("sdk.report")
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: (folder / name).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    with contextlib.suppress(OSError):  # a full or read-only disk: nothing is lost but the time
        if compiled is not None and _is_ours_alone(compiled):
            environment.bytecode_cache = jinja2.FileSystemBytecodeCache(str(compiled))
        return environment.get_template("page.html.j2")
    environment.bytecode_cache = None
    return environment.get_template("page.html.j2")


def _is_ours_alone(folder: Path) -> bool:
    """Code is loaded from there, so nobody else may write to it, as into a shared cache."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.stat()
    return found.st_uid == os.geteuid() and not found.st_mode & 0o022


def _result(result: ProfileSummary, index: int) -> dict[str, Any]:
    chosen = figures.chosen_of(result)
    plots = (
        scatter(result, f"p{index}-scatter"),
        distributions(result, f"p{index}-latency"),
        memory(result, f"p{index}-memory"),
        size(result, f"p{index}-size"),
    )
    return {
        "id": f"p{index}",
        "summary": result,
        "chosen": chosen,
        "answer": words.answer_of(result),
        "account": words.account(result),
        "limits": _limits(result),
        "proofs": to_prove(result),
        "plots": [plot for plot in plots if plot is not None],
        "no_scatter": None if plots[0] else _why_no_scatter(result),
        "rows": [_row(candidate, row) for row, candidate in enumerate(result.candidates, 1)],
        "operators": _operators(result),
        "placements": _placements(result),
        "conditions": _conditions(result),
        "at": ", ".join(f"{k} = {v}" for k, v in chosen.evaluated_at.items()) if chosen else "",
    }


def _row(candidate: CandidateSummary, row: int) -> dict[str, Any]:
    measured, accuracy = candidate.latency_ms, candidate.accuracy
    name, digest = figures.name_and_digest(candidate.identifier)
    ratio = candidate.ratio_to_baseline
    return {
        "row": row,
        "name": name,
        "digest": digest,
        "role": figures.role(candidate),
        "verdict": figures.verdict_of(candidate) or "none",
        "outcome": figures.outcome(candidate),
        "why": candidate.reason,
        "notes": candidate.notes,
        "measured": measured,
        "estimated": figures.estimated_ms(candidate),
        "sort_ms": _sorting(candidate),
        "ratio": ratio,
        "accuracy": accuracy,
        "memory": candidate.peak_memory_bytes,
        "own_memory": candidate.memory_increment_bytes,
        "size": candidate.size_bytes,
        "load_ms": candidate.load_ms,
    }


def _sorting(candidate: CandidateSummary) -> float | None:
    if candidate.latency_ms is not None:
        return candidate.latency_ms.p50
    predicted = candidate.estimate.latency_ms
    return None if predicted is None else predicted.value


def _limits(result: ProfileSummary) -> list[dict[str, Any]]:
    """The limits of the chosen variant; of nobody, where nobody was chosen, but by how many met."""
    chosen = figures.chosen_of(result)
    found = {limit.name: limit for limit in chosen.limits} if chosen else {}
    rows = []
    for name, value in figures.asked(result).items():
        own = found.get(name)
        rows.append(
            {
                "name": figures.LIMITS[name],
                "help": KINDS[name].help,
                "demand": figures.demand(name, value),
                "found": figures.limit_figure(name, own.value if own else None),
                "bounds": _bounds(name, chosen) if chosen else "",
                "verdict": own.verdict if own else None,
                "evidence": figures.evidence(own) if own else "",
                "note": own.note if own else "",
                "tally": _tally(name, result),
            }
        )
    return rows


def _bounds(name: str, chosen: CandidateSummary) -> str:
    """What the verdict follows, where the figure has bounds of its own."""
    quantile = name.removeprefix("latency_").removesuffix("_ms")
    own = chosen.latency_ms.bounds if chosen.latency_ms else None
    if own is not None and quantile in own:
        bounds = own[quantile]
        return f"{figures.number(bounds.low)} to {figures.number(bounds.high)} ms"
    if name == "accuracy_drop" and chosen.accuracy is not None:
        found = chosen.accuracy
        return f"{figures.percent(found.low)} to {figures.percent(found.high)} %"
    predicted = chosen.estimate
    if name.startswith("latency_") and chosen.latency_ms is None and predicted.latency_ms:
        low, high = predicted.latency_ms.low, predicted.latency_ms.high
        return f"{figures.rough(low)} to {figures.rough(high)} ms"
    if name == "peak_memory_mib" and chosen.peak_memory_bytes is None:
        found_bytes = predicted.peak_memory_bytes
        scale = 1 << 20
        if found_bytes is not None:
            low, high = found_bytes.low / scale, found_bytes.high / scale
            return f"{figures.rough(low)} to {figures.rough(high)} MiB"
    return ""


def _tally(name: str, result: ProfileSummary) -> str:
    judged = [limit for c in result.candidates for limit in c.limits if limit.name == name]
    if not judged:
        return "not judged"
    breaking = sum(limit.verdict == "unmet" for limit in judged)
    told = f"{breaking} of {len(judged)} built candidates break it"
    values = [limit.value for limit in judged if limit.value is not None]
    if not breaking or not values:
        return told
    best = min(values) if KINDS[name].at_most else max(values)
    return f"{told}; the best gives {figures.limit_figure(name, best)}"


def _why_no_scatter(result: ProfileSummary) -> str:
    built = [candidate for candidate in result.candidates if candidate.status == "built"]
    if not built:
        return ""
    if not any(candidate.accuracy for candidate in built):
        return "No plot of latency against accuracy: no accuracy is known."
    return "No plot of latency against accuracy: fewer than two candidates have both figures."


def _operators(result: ProfileSummary) -> list[dict[str, Any]]:
    """The slowest operators of the chosen variant and of the baseline, where they are told."""
    wanted = (figures.chosen_of(result), figures.baseline_of(result))
    shown = {candidate.identifier: candidate for candidate in wanted if candidate}
    return [
        {
            "name": figures.name_and_digest(candidate.identifier)[0],
            "role": "chosen" if candidate.identifier == result.selected else "baseline",
            "operators": candidate.operators[:MOST_OPERATORS],
            "kinds": _kinds(candidate.operators),
            "rest": max(0, len(candidate.operators) - MOST_OPERATORS),
            "most": candidate.operators[0].share,
        }
        for candidate in shown.values()
        if candidate.operators
    ]


def _kinds(operators: tuple[OperatorTime, ...]) -> list[tuple[str, float]]:
    """Operator type -> share of the time, the greatest first."""
    shares: dict[str, float] = {}
    for operator in operators:
        shares[operator.type] = shares.get(operator.type, 0.0) + operator.share
    return sorted(shares.items(), key=lambda item: -item[1])[:5]


def _placements(result: ProfileSummary) -> list[tuple[str, str]]:
    """Shares of the engines -> the candidates that are placed so."""
    found: dict[str, list[str]] = {}
    for row, candidate in enumerate(result.candidates, 1):
        shares = sorted(candidate.placement.items(), key=lambda item: -item[1])
        told = ", ".join(f"{engine} {100 * share:.0f} %" for engine, share in shares)
        if told:
            name = figures.name_and_digest(candidate.identifier)[0]
            found.setdefault(told, []).append(f"{row} {name}")
    return [(told, ", ".join(names)) for told, names in found.items()]


def _conditions(result: ProfileSummary) -> dict[str, Any] | None:
    """What the machine was set to and doing: (what, before, after) of the chosen one's contest."""
    measured = next(
        (c for c in (figures.chosen_of(result), *result.candidates) if c and c.conditions), None
    )
    if measured is None or measured.conditions is None:
        return None
    before, after = measured.conditions.before, measured.conditions.after
    rows = (
        ("power mode", before.power_mode, after.power_mode),
        ("governor", before.governor, after.governor),
        ("clocks", _clocks(before), _clocks(after)),
        ("load over 1 minute", _load(before), _load(after)),
        ("temperature of the hottest zone", _hottest(before), _hottest(after)),
    )
    return {
        "told": [(what, a or "-", b or "-") for what, a, b in rows if a or b],
        "untold": ", ".join(what for what, a, b in rows if not a and not b),
    }


def _clocks(conditions: Conditions) -> str | None:
    clocks = conditions.clocks_mhz
    if not clocks:
        return None
    low, high = round(min(clocks)), round(max(clocks))
    return f"{low} MHz" if low == high else f"{low} to {high} MHz"


def _load(conditions: Conditions) -> str | None:
    return None if conditions.load_1m is None else figures.number(conditions.load_1m)


def _hottest(conditions: Conditions) -> str | None:
    zones = conditions.temperatures_c
    return f"{max(zones.values()):.0f} \N{DEGREE SIGN}C" if zones else None


def _machine(summary: Summary) -> list[tuple[str, str]]:
    """The machine that built, as a list of (what, value); what it does not tell is left out."""
    identity, software = summary.host.identity, summary.host.software
    memory_bytes = identity.get("memory_bytes")
    runtimes = software.get("runtimes") or {}
    rows = [
        ("processor", identity.get("soc")),
        ("architecture", identity.get("arch")),
        ("instruction sets", ", ".join(identity.get("isa") or ())),
        ("cores", identity.get("cores")),
        ("memory", f"{memory_bytes / (1 << 30):.1f} GiB" if memory_bytes else None),
        ("GPU", identity.get("gpu")),
        ("emulated", "yes" if identity.get("emulated") else None),
        ("system", software.get("os")),
        ("driver", software.get("driver")),
        ("JetPack", software.get("jetpack")),
        ("runtimes", ", ".join(f"{name} {version}" for name, version in runtimes.items())),
    ]
    return [(name, str(value)) for name, value in rows if value]


def _duration(seconds: float) -> str:
    """In words.

    >>> _duration(1.28), _duration(157.7)
    ('1.3 s', '2 min 38 s')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{round(seconds) // 60} min {round(seconds) % 60} s"
