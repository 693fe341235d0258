"""A package that is not installed is named, with the extra that brings it; it is no bug."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sdk.cli.missing import as_missing, extra_of

REQUIREMENTS = [
    "tuf<8,>=7.0.1",
    'SQLAlchemy<3,>=2.1; extra == "fleet"',
    'psycopg[binary]>=3.3; extra == "fleet"',
    'torch<2.14,>=2.13; python_version >= "3.11" and extra == "intel"',
    'torch<2.14,>=2.13; extra == "mobile"',
    'numpy>=1.26; extra == "rt-openvino"',
]
EXTRAS = {
    "sqlalchemy": "fleet",
    "psycopg": "fleet",
    "torch": "intel",
    "numpy": "rt-openvino",
    "tuf": "all",
    "nobody_knows_it": "all",
}


@pytest.mark.parametrize("package", EXTRAS)
def test_the_extra_that_brings_a_package_is_found(package: str) -> None:
    assert extra_of(package, REQUIREMENTS) == EXTRAS[package]


def test_a_module_of_ours_that_is_not_there_is_a_bug() -> None:
    assert as_missing(ModuleNotFoundError("", name="sdk.fleet.nothing")) is None
    assert as_missing(ModuleNotFoundError("")) is None
    found = as_missing(ModuleNotFoundError("", name="sqlalchemy.orm"))
    assert found is not None
    assert "'slipway-sdk[fleet]'" in found.remedy


@pytest.mark.parametrize("package", ["sqlalchemy", "fastapi", "uvicorn"])
def test_a_server_that_was_not_installed_says_what_to_install(tmp_path: Path, package: str) -> None:
    code = f"import sys; sys.modules[{package!r}] = None; from sdk.cli import main; main()"
    found = subprocess.run(
        [sys.executable, "-c", code, "fleet", "serve"],
        check=False, capture_output=True, text=True, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )  # fmt: skip
    assert found.returncode == 2
    assert package in found.stderr
    assert "pip install 'slipway-sdk[fleet]'" in found.stderr
    assert "bug" not in found.stderr
    assert not list(tmp_path.iterdir()), "nothing was begun"
