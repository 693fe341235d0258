"""Programs of the zoo, exported once per run."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from targets.interface import Program
from tests.toolchains.zoo import ZOO, exported, onnx_file


@pytest.fixture(scope="session")
def program_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Program]:
    """A zoo entry's program by the entry's name."""
    made: dict[str, Program] = {}

    def program(name: str) -> Program:
        if name not in made:
            made[name] = exported(ZOO[name], tmp_path_factory.mktemp(name))
        return made[name]

    return program


@pytest.fixture(scope="session")
def onnx_program_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Program]:
    """The same of kind onnx."""
    made: dict[str, Program] = {}

    def program(name: str) -> Program:
        if name not in made:
            made[name] = onnx_file(ZOO[name], tmp_path_factory.mktemp(name))
        return made[name]

    return program
