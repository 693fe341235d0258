"""The JSON Schemas say what the code says, and real files fit them."""

from __future__ import annotations

import json
import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from sdk.limits import KINDS
from sdk.schema import all_schemas
from tests.projects import PROJECTS, write_project

EXAMPLES = Path(__file__).parent.parent / "docs" / "examples"


def stored(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((resources.files("sdk") / "schemas" / name).read_text())
    return found


@pytest.mark.parametrize("name", sorted(all_schemas()))
def test_the_stored_schema_is_the_codes(name: str) -> None:
    assert stored(name) == all_schemas()[name], "make it again: python -m sdk.schema sdk/schemas"


@pytest.mark.parametrize("name", ["manifest", "variant", "summary", "project", "profile"])
def test_every_schema_is_a_schema(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(stored(f"{name}.schema.json"))


@pytest.mark.parametrize("name", sorted(PROJECTS))
def test_every_project_of_the_tests_fits_the_projects_schema(name: str, tmp_path: Path) -> None:
    if name == "pickle_checkpoint":  # refused by the schema as by the reader
        return
    folder = write_project(tmp_path, model=name)
    document = tomllib.loads((folder / "sdk.toml").read_text())
    jsonschema.validate(document, stored("project.schema.json"))


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*/sdk.toml")), ids=lambda p: p.parent.name)
def test_every_example_fits_the_projects_schema(file: Path) -> None:
    jsonschema.validate(tomllib.loads(file.read_text()), stored("project.schema.json"))


def test_a_limit_has_a_meaning_in_words() -> None:
    assert all(kind.help for kind in KINDS.values())
