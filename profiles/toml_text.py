"""TOML as text: read with an error that says what to do, and values written as it wants them."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from typing import Any

from agent.errors import UsageError


def read_toml(text: str, origin: str) -> dict[str, Any]:
    """The document.

    Args:
        text: of the file.
        origin: its name, for the message.

    Raises:
        UsageError: it is not TOML.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(
            f"{origin} is not TOML: {error}.",
            cause="A quote, bracket or equals sign is missing near there.",
            remedy="Correct the line.",
        ) from error


def toml_value(value: Any) -> str:
    """A string, number, truth value, list or table, as it stands behind an equals sign.

    >>> toml_value({"host": "a", "ports": (1, 2)})
    '{ host = "a", ports = [1, 2] }'
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        inner = ", ".join(f"{toml_key(key)} = {toml_value(item)}" for key, item in value.items())
        return f"{{ {inner} }}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    return toml_string(value) if isinstance(value, str) else repr(value)


def toml_key(text: str) -> str:
    """A key, quoted where it has to be."""
    return text if re.fullmatch(r"[A-Za-z0-9_-]+", text) else toml_string(text)


def toml_string(text: str) -> str:
    """A TOML basic string: JSON's escapes, and DEL, which only TOML forbids."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
