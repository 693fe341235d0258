"""A conversion that is made ahead for many recipes: it changes no answer, and spares time."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import targets
from agent.sessions import load
from agent.tensors import Array
from targets.interface import Converting, Program
from tests.toolchains.cases import CASES, VENDOR_WARNINGS, Case
from tests.toolchains.variants import converted, lower, recorded
from tests.toolchains.zoo import ZOO, Entry

pytestmark = [pytest.mark.toolchain, *VENDOR_WARNINGS]

BY_NAME = {case.name: case for case in CASES}
ROOT = Path(__file__).parents[2]

LOWER = """
import pickle, sys
from pathlib import Path
import targets
from tests.toolchains.cases import CASES
from tests.toolchains.zoo import ZOO
name, entry, program, out = sys.argv[1:]
case = next(case for case in CASES if case.name == name)
Path(out).mkdir()
samples = ZOO[entry].calibration() if case.needs_data else None
program = pickle.loads(Path(program).read_bytes())
targets.toolchain(case.recipe.toolchain).lower(program, case.recipe, samples, Path(out))
print("torch" in sys.modules)
"""


def answers(folder: Path, entry: Entry, sizes: dict[str, int]) -> dict[str, Array]:
    with load(folder) as session:
        return session.run(entry.sample(sizes=sizes))


@pytest.mark.parametrize("name", ["openvino-f32", "openvino-int8", "onnxruntime-int8"])
@pytest.mark.parametrize("entry_name", ["batched-cnn", "gru", "two-heads"])
def test_the_answers_are_those_of_a_direct_lowering(
    name: str, entry_name: str, program_of: Callable[[str], Program], tmp_path: Path
) -> None:
    case, entry, program = BY_NAME[name], ZOO[entry_name], program_of(entry_name)
    assert converted(case, program).kind != program.kind
    lower(case, entry, program, tmp_path / "shared")
    direct = tmp_path / "direct"
    direct.mkdir()
    calibration = entry.calibration() if case.needs_data else None
    lowered = targets.toolchain(case.recipe.toolchain).lower(
        program, case.recipe, calibration, direct
    )
    recorded(case, entry, program, lowered, direct)
    for sizes in entry.sizes():
        wanted, found = (answers(tmp_path / who, entry, sizes) for who in ("direct", "shared"))
        for output in wanted:
            np.testing.assert_array_equal(found[output], wanted[output])


@pytest.mark.parametrize("name", ["openvino-f32", "openvino-bf16", "onnxruntime-f32"])
def test_once_converted_a_program_is_lowered_without_torch(
    name: str, program_of: Callable[[str], Program], tmp_path: Path
) -> None:
    program = converted(BY_NAME[name], program_of("cnn"))
    (tmp_path / "program").write_bytes(pickle.dumps(program))
    found = subprocess.run(
        [sys.executable, "-c", LOWER, name, "cnn", tmp_path / "program", tmp_path / "out"],
        check=True,
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert found.stdout.splitlines()[-1] == "False"


def test_a_program_that_is_onnx_already_is_not_converted(
    onnx_program_of: Callable[[str], Program],
) -> None:
    program = onnx_program_of("cnn")
    for case in CASES:
        toolchain = targets.toolchain(case.recipe.toolchain)
        if isinstance(toolchain, Converting):
            assert toolchain.conversion(program, case.recipe) is None


def test_recipes_of_one_toolchain_share_their_conversion(
    program_of: Callable[[str], Program],
) -> None:
    def form(case: Case) -> object:
        toolchain = targets.toolchain(case.recipe.toolchain)
        assert isinstance(toolchain, Converting)
        return toolchain.conversion(program_of("cnn"), case.recipe)

    for toolchain in ("openvino", "onnxruntime"):
        cases = [case for case in CASES if case.recipe.toolchain == toolchain]
        assert len({form(case) for case in cases}) == 1
