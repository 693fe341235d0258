"""Values of a TOML file, read strictly: each error names the file, the key and what is there."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from agent.errors import UsageError
from profiles import Figure

FIGURES = ("isa", "cores", "memory_bytes", "bandwidth_gb_s")
"""Keys whose values come with their source."""


class Fields:
    """The fields of one file; keeps its name for messages."""

    def __init__(self, origin: str) -> None:
        self._origin = origin

    def _number(self, value: Any, path: str, *, least: float) -> float:
        if type(value) not in (int, float) or not least <= value < 1e18:
            raise self._wrong(path, f"a number from {least:g} on", value)
        return float(value)

    def _natural(self, value: Any, path: str) -> int:
        if type(value) is not int or value < 1:
            raise self._wrong(path, "a whole number above 0", value)
        return int(value)

    def _words(self, value: Any, path: str) -> tuple[str, ...]:
        if not isinstance(value, list) or not value:
            raise self._wrong(path, "a list of words", value)
        return tuple(self._text(word, f"{path}[{index}]") for index, word in enumerate(value))

    def _figure(self, value: Any, path: str) -> Figure:
        table = self._table(value, path)
        self._keys(table, ("value", "source"), ("value", "source"), path)
        number = table["value"]
        if (
            isinstance(number, bool)
            or not isinstance(number, (int, float))
            or not 0 < number < 1e18
        ):
            raise self._wrong(f"{path}.value", "a number above 0", number)
        return Figure(value=float(number), source=self._text(table["source"], f"{path}.source"))

    def _count(self, value: Any, path: str) -> int:
        self._figure(value, path)
        number = value["value"]
        if not isinstance(number, int):
            raise self._wrong(f"{path}.value", "an integer", number)
        return number

    def _table(self, value: Any, path: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            if path in FIGURES or ".peak." in path:
                raise self._wrong(
                    path, 'a value with its source: { value = 8, source = "…" }', value
                )
            raise self._wrong(path, "a table", value)
        return value

    def _texts(self, value: Any, path: str) -> dict[str, str]:
        table = self._table(value, path)
        return {key: self._text(entry, f"{path}.{key}") for key, entry in table.items()}

    def _text(self, value: Any, path: str) -> str:
        if not isinstance(value, str) or not value.strip():
            raise self._wrong(path, "a string that is not empty", value)
        return value

    def _keys(
        self, table: Mapping[str, Any], required: Iterable[str], known: tuple[str, ...], path: str
    ) -> None:
        prefix = f"{path}." if path else ""
        for key in table:
            self._one_of(key, known, f"{prefix}{key}", noun="key")
        for key in required:
            if key not in table:
                raise self._error(f"{prefix}{key}", "is missing", "It has no default.", "Add it.")

    def _one_of(self, value: Any, known: tuple[str, ...], path: str, *, noun: str = "value") -> str:
        if isinstance(value, str) and value in known:
            return value
        close = difflib.get_close_matches(str(value), known, n=1, cutoff=0.5)
        raise self._error(
            path,
            f"{noun} {value!r} is not known; known are {', '.join(known) or '(none)'}",
            f"Did you mean {close[0]!r}?" if close else "It is misspelt, or from another version.",
            "Correct it.",
        )

    def _wrong(self, path: str, expected: str, value: Any) -> UsageError:
        return self._error(
            path,
            f"should be {expected}, but is {value!r}",
            "The value has another type or form.",
            "Correct it.",
        )

    def _error(self, path: str, what: str, cause: str, remedy: str) -> UsageError:
        return UsageError(f"{self._origin}: {path} {what}.", cause=cause, remedy=remedy)
