"""The verdict table in a terminal."""

from __future__ import annotations

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from sdk.report.figures import COLUMNS, headline, row
from sdk.summary import Summary

_COLOURS = {"met": "green", "unproven": "yellow", "unmet": "red"}
_NUMBERS = COLUMNS[2:7]


def print_summary(summary: Summary, console: Console) -> None:
    """Print the verdict and every candidate with the figure that decided about it."""
    for result in summary.results:
        table = Table(box=None, pad_edge=False, show_edge=False)
        for column in COLUMNS:
            table.add_column(
                column,
                justify="right" if column in _NUMBERS else "left",
                overflow="fold",
                no_wrap=column in _NUMBERS,
                style="dim" if column == "why" else None,
            )
        for candidate in result.candidates:
            table.add_row(
                *(Text(cell) for cell in row(candidate)),
                style="bold" if candidate.role == "chosen" else None,
            )
        title = Text(headline(result), style=f"bold {_COLOURS[result.verdict]}")
        console.print(Group(Text(""), title, table))
    if summary.accuracy_note:
        console.print(Text(f"\naccuracy: {summary.accuracy_note}", style="dim"))
