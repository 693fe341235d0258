"""One suite for all toolchains: every recipe, every kind of model, at the bounds of every dim."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

import targets
from agent.errors import ToolchainError
from agent.sessions import load
from agent.tensors import Array
from agent.variant import verify_files
from targets.interface import Program
from tests.toolchains.cases import CASES, GAPS, VENDOR_WARNINGS, Case, parameters
from tests.toolchains.variants import lower
from tests.toolchains.zoo import ZOO, Entry

pytestmark = [
    pytest.mark.toolchain,
    *VENDOR_WARNINGS,
]


@pytest.mark.parametrize(("case", "entry_name"), parameters(tuple(ZOO)))
def test_a_variant_answers_as_torch_does_at_the_bounds_of_every_dim(
    case: Case, entry_name: str, program_of: Callable[[str], Program], tmp_path: Path
) -> None:
    entry, program = ZOO[entry_name], program_of(entry_name)
    gap = GAPS.get((case.name, entry_name))
    if gap is not None:
        assert_refused(case, entry, program, tmp_path / "variant", gap)
        return
    assert targets.toolchain(case.recipe.toolchain).supports(program, case.recipe) == []
    lowered = lower(case, entry, program, tmp_path / "variant")
    assert lowered.runtime.format == case.recipe.format
    assert {path.name for path in (tmp_path / "variant").iterdir()} == {
        *lowered.files,
        "variant.json",
    }
    with load(tmp_path / "variant", case.run_as) as session:
        verify_files(tmp_path / "variant", session.record)
        for sizes in entry.sizes():
            inputs = entry.sample(sizes=sizes)
            compare(case, entry.eager(inputs), session.run(inputs), where=str(sizes))
        placement = session.placement()
    assert not placement or sum(placement.values()) == pytest.approx(1)


def test_the_table_of_gaps_names_known_cases_and_models() -> None:
    assert {case for case, _ in GAPS} <= {case.name for case in CASES}
    assert {entry for _, entry in GAPS} <= set(ZOO)


def assert_refused(case: Case, entry: Entry, program: Program, folder: Path, gap: str) -> None:
    problems = targets.toolchain(case.recipe.toolchain).supports(program, case.recipe)
    if problems:
        assert gap in " ".join(f"{problem.where}: {problem.what}" for problem in problems)
        return
    # "DID NOT RAISE" means that the gap has closed: remove it from GAPS.
    with pytest.raises(ToolchainError, match=re.escape(gap)):
        lower(case, entry, program, folder)


def compare(
    case: Case, wanted: Mapping[str, Array], found: Mapping[str, Array], *, where: str
) -> None:
    assert list(found) == list(wanted)
    for name, original in wanted.items():
        answer = found[name]
        assert (answer.dtype, answer.shape) == (original.dtype, original.shape), f"{name} {where}"
        if case.relative is not None:
            bound = case.relative * np.abs(original).max()
            np.testing.assert_allclose(answer, original, rtol=0, atol=bound, err_msg=where)
        elif original.dtype.kind == "f":
            assert cosine(answer, original) >= (case.cosine or 0), f"{name} {where}"
        else:
            # An index: rounding may turn a near tie.
            assert (answer == original).mean() >= 0.8, f"{name} {where}"


def cosine(first: Array, second: Array) -> float:
    a, b = first.ravel().astype(np.float64), second.ravel().astype(np.float64)
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
