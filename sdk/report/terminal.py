"""The verdict table in a terminal, and what it would take to prove the rest."""

from __future__ import annotations

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from sdk.report import figures
from sdk.report.proof import to_prove
from sdk.report.words import account, headline
from sdk.summary import CandidateSummary, ProfileSummary, Summary

_COLOURS = {"met": "green", "unproven": "yellow", "unmet": "red"}
_COLUMNS = ("candidate", "role", "p50 ms", "p90 ms", "memory MiB", "size MiB", "drop %", "why")
_NUMBERS = _COLUMNS[2:7]


def print_summary(summary: Summary, console: Console) -> None:
    """Print the verdict and every candidate with the figure that decided about it."""
    for result in summary.results:
        title = Text(headline(result), style=f"bold {_COLOURS[result.verdict]}")
        sentences = Text(" ".join(account(result)))
        console.print(Group(Text(""), title, sentences, table(result)))
        for note in result.notes:
            console.print(Text(note, style="dim"), soft_wrap=True)
        _print_proofs(result, console)
    if summary.accuracy_note:
        console.print(Text(f"\naccuracy: {summary.accuracy_note}", style="dim"))


def table(result: ProfileSummary) -> Table:
    """The table of reasons."""
    drawn = Table(box=None, pad_edge=False, show_edge=False)
    for column in _COLUMNS:
        drawn.add_column(
            column,
            justify="right" if column in _NUMBERS else "left",
            overflow="fold",
            no_wrap=column in _NUMBERS,
            style="dim" if column == "why" else None,
        )
    for candidate in result.candidates:
        drawn.add_row(
            *(Text(cell) for cell in row(candidate)),
            style="bold" if candidate.role == "chosen" else None,
        )
    return drawn


def row(candidate: CandidateSummary) -> tuple[str, ...]:
    """One candidate as the cells of the table."""
    accuracy = candidate.accuracy
    return (
        figures.own_name(candidate.identifier),
        figures.role(candidate) or ("" if candidate.status == "built" else candidate.status),
        figures.latency(candidate, "p50"),
        figures.latency(candidate, "p90"),
        figures.size_mib(candidate.peak_memory_bytes),
        figures.size_mib(candidate.size_bytes),
        figures.percent(accuracy.drop if accuracy else None),
        candidate.reason,
    )


def _print_proofs(result: ProfileSummary, console: Console) -> None:
    for proof in to_prove(result):
        for gap in proof.gaps:
            console.print(Text(f"unproven: {', '.join(gap.limits)}: {gap.missing}", "yellow"))
        console.print(Text(f"to prove it: {proof.remedy}"))
        if proof.command:
            console.print(Text(f"    {proof.command}"), soft_wrap=True)
