"""JSON Schemas of our formats, from the dataclasses that define them.

`python -m sdk.schema FOLDER` writes them; a test holds the committed ones against the code.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import sys
import types
import typing
from pathlib import Path
from typing import Any

from agent.codec import pretty
from agent.files import write_atomic

_SCALARS = {int: "integer", float: "number", str: "string", bool: "boolean"}


def schema_of(kind: type, title: str) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a dataclass. Unknown fields are allowed, as readers do."""
    definitions: dict[str, Any] = {}
    top = _schema(kind, definitions)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": title,
        **top,
        "$defs": dict(sorted(definitions.items())),
    }


def all_schemas() -> dict[str, dict[str, Any]]:
    """File name -> schema of every format that is written here."""
    from agent.manifest import Manifest
    from agent.variant import VariantRecord
    from sdk.summary import Summary

    return {
        "manifest.schema.json": schema_of(Manifest, "Slipway manifest v1"),
        "variant.schema.json": schema_of(VariantRecord, "Slipway variant.json"),
        "summary.schema.json": schema_of(Summary, "Slipway summary.json"),
    }


def _schema(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    if kind is Any:
        return {}
    if kind in _SCALARS:
        return {"type": _SCALARS[kind]}
    if kind is type(None):
        return {"type": "null"}
    if dataclasses.is_dataclass(kind):
        return _reference(kind, definitions)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return {"enum": list(arguments)}
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [_schema(argument, definitions) for argument in arguments]}
    if origin in (dict, collections.abc.Mapping):
        return {"type": "object", "additionalProperties": _schema(arguments[1], definitions)}
    if origin is tuple and arguments[-1] is Ellipsis:
        return {"type": "array", "items": _schema(arguments[0], definitions)}
    if origin is tuple:
        items = [_schema(argument, definitions) for argument in arguments]
        return {"type": "array", "prefixItems": items, "minItems": len(items), "items": False}
    raise TypeError(f"no schema for {kind!r}")


def _reference(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    name = kind.__name__
    if name not in definitions:
        definitions[name] = {}  # holds the place: a type may contain itself
        hints = typing.get_type_hints(kind)
        fields = [field for field in dataclasses.fields(kind) if field.name != "extra"]
        required = [
            field.name
            for field in fields
            if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        ]
        definitions[name] = {
            "type": "object",
            "properties": {f.name: _schema(hints[f.name], definitions) for f in fields},
            "required": required,
        }
    return {"$ref": f"#/$defs/{name}"}


if __name__ == "__main__":
    for file, schema in all_schemas().items():
        write_atomic(Path(sys.argv[1]) / file, pretty(schema))
