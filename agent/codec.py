"""JSON values to and from frozen dataclasses: strict on what is known, tolerant of what is new.

Formats outlive the program that reads them. So a missing or wrongly typed field is an error that
names the path of the value, while an unknown field is kept (in a field called `extra`, where the
dataclass has one) or ignored. Booleans are not integers, and floats are never accepted where a
format says integer.

A dataclass is described by its type hints alone: `int`, `float`, `str`, `bool`, `X | None`,
`tuple[X, ...]`, `dict[str, X]`, `Mapping[str, X]`, `Path`, `Literal`, `Any`, unions of scalars, and
other dataclasses.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import functools
import json
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

from agent.errors import VerificationError

T = TypeVar("T")
MOST_INTEGER = 2**53 - 1
"""Beyond it, readers that know only floating point would see another number."""
MOST_DEPTH = 64
"""Objects and lists within one another, in what gets signed."""


def decode(kind: type[T], value: Any, path: str = "$") -> T:
    """Turn a JSON value into `kind`.

    Raises:
        VerificationError: the value does not have the form of `kind`; the message names its path.
    """
    return typing.cast("T", _decode(kind, value, path))


def encode(value: Any) -> Any:
    """Turn dataclasses, tuples and dicts into plain JSON values; `extra` fields merge back in."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        record = {
            field.name: encode(getattr(value, field.name))
            for field in dataclasses.fields(value)
            if field.name != "extra"
        }
        return {**record, **encode(getattr(value, "extra", {}))}
    if isinstance(value, collections.abc.Mapping):
        return {str(key): encode(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [encode(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def canonical(value: Any) -> bytes:
    """One byte string per value: sorted keys, no spaces, UTF-8. What digests are taken of."""
    return json.dumps(
        encode(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def pre_authentication(kind: str, payload: bytes) -> bytes:
    """What DSSE signs of a payload of this type: https://github.com/secure-systems-lab/dsse."""
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind.encode(), len(payload), payload)


def pretty(value: Any) -> bytes:
    """The same for a file that a person may open: two spaces, a final newline."""
    text = json.dumps(encode(value), indent=2, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode()


def loads_signed(content: bytes) -> Any:
    """The value of JSON that gets signed: what every reader reads alike, in any language.

    Raises:
        ValueError: not JSON in UTF-8, nested too deeply, a name twice in one object, half a
            character, or a number that is no integer of at most `MOST_INTEGER`.
    """
    try:
        value = json.loads(
            content.decode(),
            parse_float=_refuse_number,
            parse_constant=_refuse_number,
            parse_int=_bounded,
            object_pairs_hook=_once_each,
        )
        if isinstance(value, (dict, list)):
            _check_depth(value)
        # Escapes can spell halves of a character, which no file or database takes later.
        json.dumps(value, ensure_ascii=False).encode()
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    return value


def _bounded(text: str) -> int:
    if len(text) > 17 or abs(int(text)) > MOST_INTEGER:
        raise ValueError(f"{text[:40]} is beyond {MOST_INTEGER}")
    return int(text)


def _refuse_number(text: str) -> Any:
    raise ValueError(f"{text[:40]} is not an integer, and what is signed holds integers only")


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name[:40]!r} is there twice in one object")
        found[name] = value
    return found


def _check_depth(value: Any) -> None:
    """Far from where Python's own recursion ends, which depends on who calls."""
    level = [value]
    for _ in range(MOST_DEPTH):
        level = [
            below
            for node in level
            for below in (node.values() if isinstance(node, dict) else node)
            if isinstance(below, (dict, list))
        ]
        if not level:
            return
    raise ValueError(f"it is nested more than {MOST_DEPTH} deep")


@functools.lru_cache(maxsize=256)
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _decode(kind: Any, value: Any, path: str) -> Any:
    if kind is Any:
        return value
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _decode_dataclass(kind, value, path)
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        return _decode_union(kind, value, path)
    if origin is typing.Literal:
        if value not in typing.get_args(kind):
            raise _mismatch(path, " or ".join(map(repr, typing.get_args(kind))), value)
        return value
    if origin is tuple:
        return _decode_tuple(kind, value, path)
    if origin in (dict, collections.abc.Mapping):
        if not isinstance(value, dict):
            raise _mismatch(path, "an object", value)
        item = typing.get_args(kind)[1]
        return {key: _decode(item, entry, f"{path}.{key}") for key, entry in value.items()}
    if kind is Path and isinstance(value, str):
        return Path(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not kind:
        raise _mismatch(path, _name(kind), value)
    return value


def _decode_dataclass(kind: type, value: Any, path: str) -> Any:
    if not isinstance(value, dict):
        raise _mismatch(path, "an object", value)
    arguments: dict[str, Any] = {}
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for name, hint in _hints(kind).items():
        if name == "extra" or name not in fields:
            continue
        if name in value:
            arguments[name] = _decode(hint, value[name], f"{path}.{name}")
        elif (
            fields[name].default is dataclasses.MISSING
            and fields[name].default_factory is dataclasses.MISSING
        ):
            raise VerificationError(
                f"{path}.{name} is missing.",
                cause="The file was cut short, edited by hand, or made by something else.",
                remedy="Make it again with this version's `sdk build`.",
            )
    if "extra" in fields:
        arguments["extra"] = {key: item for key, item in value.items() if key not in fields}
    return kind(**arguments)


def _decode_union(kind: Any, value: Any, path: str) -> Any:
    options = typing.get_args(kind)
    if value is None and type(None) in options:
        return None
    rest = [option for option in options if option is not type(None)]
    if len(rest) == 1:
        return _decode(rest[0], value, path)
    for option in rest:
        try:
            return _decode(option, value, path)
        except VerificationError:
            continue
    raise _mismatch(path, " or ".join(_name(option) for option in rest), value)


def _decode_tuple(kind: Any, value: Any, path: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise _mismatch(path, "a list", value)
    items = typing.get_args(kind)
    if len(items) == 2 and items[1] is Ellipsis:
        return tuple(_decode(items[0], entry, f"{path}[{i}]") for i, entry in enumerate(value))
    if len(items) != len(value):
        raise _mismatch(path, f"a list of {len(items)}", value)
    return tuple(
        _decode(item, entry, f"{path}[{i}]")
        for i, (item, entry) in enumerate(zip(items, value, strict=True))
    )


def _name(kind: Any) -> str:
    return {int: "an integer", str: "a string", bool: "true or false", float: "a number"}.get(
        kind, getattr(kind, "__name__", str(kind))
    )


def _mismatch(path: str, expected: str, value: Any) -> VerificationError:
    shown = json.dumps(value, default=str)[:80]
    return VerificationError(
        f"{path} should be {expected}, but is {shown}.",
        cause="The file was edited by hand, or made by something else.",
        remedy="Make it again with this version's `sdk build`.",
    )
