"""Rows for a spreadsheet or a script."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from typing import Any

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""A cell that begins so would be carried out by a spreadsheet."""


def as_lines(rows: Iterator[Mapping[str, Any]]) -> Iterator[str]:
    """A JSON object on each line."""
    for row in rows:
        yield json.dumps(row, separators=(",", ":")) + "\n"


def as_csv(rows: Iterator[Mapping[str, Any]]) -> Iterator[str]:
    """Comma-separated values (RFC 4180), with a head; what is nested is JSON in its cell."""
    names: list[str] = []
    for row in rows:
        text = io.StringIO()
        writer = csv.writer(text)
        if not names:
            names = list(row)
            writer.writerow(names)
        writer.writerow([cell(row.get(name)) for name in names])
        yield text.getvalue()


def cell(value: Any) -> str:
    """A value as a cell that no spreadsheet takes for a formula.

    >>> cell("=cmd()"), cell(-1.5), cell(None)
    ("'=cmd()", '-1.5', '')
    """
    if value is None:
        return ""
    if isinstance(value, str):
        return f"'{value}" if value.startswith(_FORMULA) else value
    return str(value) if isinstance(value, int | float) else json.dumps(value)
