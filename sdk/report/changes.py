"""The comparison of two builds, for a terminal."""

from __future__ import annotations

import datetime

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sdk.report import figures
from sdk.report.comparison import CandidateChange, Comparison, Delta, ProfileChange

_QUANTITIES = {
    "latency_p50_ms": "p50 ms",
    "accuracy_drop": "drop %",
    "peak_memory_bytes": "memory MiB",
    "size_bytes": "size MiB",
}
_COLOURS = {
    **dict.fromkeys(("faster", "better", "smaller"), "green"),
    **dict.fromkeys(("slower", "worse", "larger"), "red"),
}


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Print what changed; what did not is only counted."""
    console.print(
        Text(
            f"{comparison.model}: {_when(comparison.old_started)} -> "
            f"{_when(comparison.new_started)}",
            style="bold",
        )
    )
    for line in _provenance(comparison):
        console.print(Text(line), soft_wrap=True)
    for change in comparison.profiles:
        _print_profile(change, console)


def _provenance(comparison: Comparison) -> list[str]:
    lines = []
    if comparison.is_same_model:
        lines.append(f"the model is the same: {comparison.new_program[:12]}")
    else:
        old, new = comparison.old_program[:12], comparison.new_program[:12]
        lines.append(f"the model itself changed: {old} -> {new}; a drop is from its own original")
    lines += [
        f"{name}: {old or 'absent'} -> {new or 'absent'}"
        for name, (old, new) in comparison.tools.items()
    ]
    if comparison.machine:
        told = ", ".join(f"{name} {a} -> {b}" for name, (a, b) in comparison.machine.items())
        lines.append(f"another machine or setting, so speed and memory do not compare: {told}")
    else:
        lines.append(
            "one machine at two times: small differences are noise; `sdk compare` measures two "
            "variants in turn"
        )
    return lines


def _print_profile(change: ProfileChange, console: Console) -> None:
    console.print(Text(f"\n{change.target} on {change.profile}: {_verdicts(change)}", "bold"))
    if change.old_verdict is None or change.new_verdict is None:
        return
    for name, (old, new) in change.limits.items():
        shown = ["none" if v is None else figures.demand(name, v) for v in (old, new)]
        console.print(Text(f"limit on {figures.LIMITS[name]}: {shown[0]} -> {shown[1]}"))
    old_name, new_name = change.old_selected or "none", change.new_selected or "none"
    moved = new_name if old_name == new_name else f"{old_name} -> {new_name}"
    console.print(Text(f"selected: {moved}"))
    for label, names in (("new", change.appeared), ("gone", change.vanished)):
        if names:
            console.print(Text(f"{label}: {', '.join(names)}"))
    rows = [("selected", delta) for delta in change.selected if old_name != new_name]
    quiet = 0
    for candidate in change.candidates:
        told = _standing(candidate)
        if told:
            console.print(Text(f"{candidate.name}: {told}"), soft_wrap=True)
        telling = [delta for delta in candidate.deltas if _tells(delta)]
        rows += [(candidate.name, delta) for delta in telling]
        quiet += not telling and not told
    if rows:
        console.print(_table(rows))
    if quiet:
        console.print(
            Text(f"{quiet} candidate{'s' if quiet > 1 else ''}: nothing beyond noise", style="dim")
        )


def _standing(change: CandidateChange) -> str:
    """What became of it then and now, where that differs; and the limits that it breaks anew."""
    old, new = (
        status if verdict is None else verdict
        for status, verdict in (
            (change.old_status, change.old_verdict),
            (change.new_status, change.new_verdict),
        )
    )
    anew = ", ".join(figures.LIMITS[name] for name in change.broken)
    if old == new:
        return f"breaks another limit: {anew}" if anew else ""
    return f"{old} -> {new}{f' by {anew}' if anew else ''}"


def _verdicts(change: ProfileChange) -> str:
    if change.old_verdict is None:
        return f"new, {change.new_verdict}"
    if change.new_verdict is None:
        return f"gone, was {change.old_verdict}"
    if change.old_verdict == change.new_verdict:
        return f"{change.new_verdict} as before"
    return f"{change.old_verdict} -> {change.new_verdict}"


def _tells(delta: Delta) -> bool:
    """A figure that was known and is not, or the reverse, is a change too."""
    if delta.answer == "unknown":
        return (delta.old is None) != (delta.new is None)
    return delta.answer not in ("within noise", "same") or bool(delta.note)


def _table(rows: list[tuple[str, Delta]]) -> Table:
    drawn = Table(box=None, pad_edge=False, show_edge=False)
    for column in ("candidate", "figure", "old", "new", "change", "answer", "note"):
        drawn.add_column(
            column,
            justify="right" if column in ("old", "new", "change") else "left",
            overflow="fold",
            style="dim" if column == "note" else None,
        )
    for name, delta in rows:
        answer = Text(delta.answer, style=_COLOURS.get(delta.answer, ""))
        drawn.add_row(
            name,
            _QUANTITIES[delta.quantity],
            _figure(delta.quantity, delta.old),
            _figure(delta.quantity, delta.new),
            _relative(delta),
            answer,
            delta.note,
        )
    return drawn


def _figure(quantity: str, value: float | None) -> str:
    if quantity == "accuracy_drop":
        return figures.percent(value)
    return figures.milliseconds(value) if quantity == "latency_p50_ms" else figures.size_mib(value)


def _relative(delta: Delta) -> str:
    """Of a drop, which is a fraction itself, the difference in percentage points."""
    if delta.old is None or delta.new is None:
        return ""
    if delta.quantity == "accuracy_drop":
        return f"{100 * (delta.new - delta.old):+.2f}"
    return f"{100 * (delta.new / delta.old - 1):+.1f} %" if delta.old else ""


def _when(started: int) -> str:
    when = datetime.datetime.fromtimestamp(started, datetime.timezone.utc)
    return f"{when:%Y-%m-%d %H:%M} UTC"
