"""XNNPACK's static int8 with some operators in floats, and which of them are worth it."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import ToolchainError
from agent.sessions import load
from targets import variations
from targets.interface import Program, Ranking, Recipe
from targets.lowering.export import load_exported
from targets.lowering.groups import MOST_GROUPS, chunks, squares, worst_error
from targets.lowering.pt2e import reference_pt2e, tensors
from targets.lowering.pt2e_sensitivity import LEAST_SHARE, joined, streams
from targets.recipes import executorch
from targets.toolchains import executorch as toolchain
from tests.toolchains.cases import VENDOR_WARNINGS, Case
from tests.toolchains.test_conformance import cosine
from tests.toolchains.variants import lower
from tests.toolchains.zoo import ZOO, Entry, exported

vendor = [
    pytest.mark.toolchain,
    *VENDOR_WARNINGS,
    # torch, torchao and coremltools deprecate parts of each other that ExecuTorch still calls.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:torch"),
    pytest.mark.filterwarnings("ignore::UserWarning:executorch"),
]


def vendors(test: Any) -> Any:
    """It runs the vendor's quantiser."""
    return functools.reduce(lambda found, mark: mark(found), vendor, test)


def _int8(method: str = "pt2e", **changes: Any) -> Recipe:
    return executorch("xnnpack", "int8", quantisation={"method": method, "samples": 8, **changes})


INT8 = _int8()


def _trap(*, sums: bool) -> Any:
    """A stack in the middle of which one channel is a thousand times as large as the others.

    Every part of it that reads or makes those channels has to stay in floats, or nothing is gained.
    """
    import torch
    from torch import nn

    class Trap(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 16, 3, padding=1)
            self.large = nn.Conv2d(16, 8, 1)
            self.fragile = nn.Conv2d(8, 16, 1)
            self.third = nn.Conv2d(16, 32, 3, padding=1)
            self.fourth = nn.Conv2d(32, 32, 3, padding=1)
            self.last = nn.Linear(32, 8)
            with torch.no_grad():
                self.large.weight[0] *= 1000
                self.fragile.weight[:, 0] /= 1000

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            x = self.large(torch.relu(self.first(image)))
            if sums:
                x += x * 0.5
            x = torch.relu(self.third(torch.relu(self.fragile(x))))
            return self.last(torch.relu(self.fourth(x)).mean(dim=(2, 3)))

    return Trap()


TRAPS = {
    name: Entry(name=name, make=functools.partial(_trap, sums=sums), inputs=ZOO["cnn"].inputs)
    for name, sums in {"trap": False, "trap-with-sums": True}.items()
}


@vendors
@pytest.mark.parametrize("name", TRAPS)
def test_the_operators_around_a_fragile_activation_are_the_ones_to_keep(
    name: str, tmp_path: Path
) -> None:
    entry = TRAPS[name]
    (tmp_path / "program").mkdir()
    program = exported(entry, tmp_path / "program")
    groups = toolchain.sensitivities(program, INT8, entry.calibration())
    worst = max(groups, key=lambda group: group.error)
    assert {"conv2d_1", "conv2d_2"} <= set(worst.operators)
    assert not {"conv2d", "conv2d_3", "conv2d_4", "linear"} & set(worst.operators)
    assert worst.work < 0.1
    assert sum(group.work for group in groups) == pytest.approx(1)

    sample = entry.sample(99)
    expected = entry.eager(sample)["output"]
    found = {}
    for kind, recipe in {
        "f32": executorch("xnnpack", "f32"),
        "int8": INT8,
        "mixed": variations.keeping(INT8, worst.operators),
    }.items():
        lowered = lower(Case(name=kind, recipe=recipe), entry, program, tmp_path / kind)
        assert lowered.placement["xnnpack"] > 0.8
        with load(tmp_path / kind) as session:
            answer = session.run(sample)["output"]
        size = (tmp_path / kind / lowered.files[0]).stat().st_size
        found[kind] = (cosine(answer, expected), size)
    assert found["int8"][0] < found["mixed"][0]
    assert found["mixed"][0] > 0.999
    assert found["mixed"][1] < 0.6 * found["f32"][1]


@vendors
@pytest.mark.parametrize("name", ["mobile", "encoder", "two-heads"])
def test_the_error_of_a_group_is_that_of_the_recipe_which_keeps_it(
    name: str, program_of: Callable[[str], Program]
) -> None:
    """What the runs leave out is what the quantiser leaves out, where no scale is shared."""
    import torch

    entry, program = ZOO[name], program_of(name)
    groups = toolchain.sensitivities(program, INT8, entry.calibration())
    assert groups
    assert len(groups) <= MOST_GROUPS
    names = [operator for group in groups for operator in group.operators]
    assert len(names) == len(set(names))

    exact, calibration = load_exported(program), entry.calibration()
    samples = [
        tensors(inputs, program.signature) for inputs in itertools.islice(iter(calibration), 8)
    ]

    def error(recipe: Recipe) -> float:
        settings = dict(recipe.quantisation or {})
        module = reference_pt2e(exact, program.signature, settings, calibration)
        original = exact.module(check_guards=False)
        with torch.no_grad():
            sums = [squares(_flat(module(*s)), _flat(original(*s))) for s in samples]
        return worst_error(np.sum(sums, axis=0))

    whole = error(INT8)
    for group in sorted(groups, key=lambda group: -abs(group.error))[:3]:
        kept = error(variations.keeping(INT8, group.operators))
        assert whole - kept == pytest.approx(group.error, rel=0.02, abs=0.02 * whole)


@vendors
@pytest.mark.long
@pytest.mark.parametrize("method", ["pt2e", "nncf-pt2e", "dynamic"])
def test_what_is_ignored_keeps_its_weights(
    method: str, program_of: Callable[[str], Program], tmp_path: Path
) -> None:
    entry, program = ZOO["encoder"], program_of("encoder")
    linear = [name for name in _operators(program) if name.startswith("linear")]
    recipe = _int8(method)
    sizes = []
    for kept in ((), linear[:2]):
        mixed = variations.keeping(recipe, tuple(kept)) if kept else recipe
        assert toolchain.supports(program, mixed) == []
        folder = tmp_path / str(len(kept))
        lowered = lower(Case(name="mixed", recipe=mixed), entry, program, folder)
        sizes.append((folder / lowered.files[0]).stat().st_size)
    assert sizes[0] < sizes[1]


@vendors
def test_a_name_that_no_operator_has_is_refused_with_those_close_to_it(
    program_of: Callable[[str], Program], tmp_path: Path
) -> None:
    recipe = variations.keeping(INT8, ("conv2d_99",))
    with pytest.raises(ToolchainError, match="`ignored` names 'conv2d_99'") as raised:
        toolchain.lower(program_of("cnn"), recipe, ZOO["cnn"].calibration(), tmp_path)
    assert "conv2d" in str(raised.value.remedy)


@vendors
@pytest.mark.parametrize("ignored", ["conv2d", [""], [1]])
def test_what_is_no_list_of_names_is_a_problem(
    ignored: object, program_of: Callable[[str], Program]
) -> None:
    (problem,) = toolchain.supports(program_of("cnn"), _int8(ignored=ignored))
    assert "list of operators' names" in problem.what


def test_executorch_says_that_it_ranks() -> None:
    assert isinstance(toolchain, Ranking)


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=12).flatmap(
        lambda work: st.tuples(
            st.just([own / (sum(work) or 1) for own in work]),
            st.lists(
                st.tuples(
                    st.frozensets(st.integers(0, len(work) - 1), min_size=1, max_size=4),
                    st.floats(-1, 1),
                ),
                max_size=12,
            ),
        )
    )
)
def test_every_unit_is_in_one_group_and_no_group_is_worth_less_than_its_activation(
    case: tuple[list[float], list[tuple[frozenset[int], float]]],
) -> None:
    work, links = case
    groups = joined(work, links)
    assert sorted(unit for group in groups for unit in group) == list(range(len(work)))
    assert groups == sorted(groups)
    for group in groups:
        within = [share for members, share in links if members <= set(group)]
        if len(group) > 1:
            assert max(within) >= max(LEAST_SHARE, sum(work[unit] for unit in group) / len(work))
    assert joined(work, [(members, 0.0) for members, _ in links]) == [
        (unit,) for unit in range(len(work))
    ]


@given(
    st.lists(st.sampled_from([0.0, 0.1]), min_size=1, max_size=8).flatmap(
        lambda work: st.tuples(
            st.just(work),
            st.lists(
                st.frozensets(st.integers(0, len(work) - 1), min_size=1, max_size=3), max_size=8
            ),
        )
    )
)
def test_links_that_meet_without_work_are_in_one_stream(
    case: tuple[list[float], list[frozenset[int]]],
) -> None:
    work, links = case
    found = streams(work, links)
    everywhere = [link for part in found for link in part]
    assert len(everywhere) == len(set(everywhere))
    assert all(len(part) > 1 for part in found)
    part_of = {link: number for number, part in enumerate(found) for link in part}
    for one, other in itertools.combinations(range(len(links)), 2):
        if any(not work[unit] for unit in links[one] & links[other]):
            assert part_of[one] == part_of[other]


@given(st.integers(0, 500), st.integers(1, 60))
def test_chunks_hold_everything_in_order_and_are_not_too_many(count: int, most: int) -> None:
    found = chunks(range(count), most)
    assert [item for chunk in found for item in chunk] == list(range(count))
    assert len(found) <= most
    assert all(found)


def test_the_error_is_that_of_the_worst_output_over_all_samples() -> None:
    reference = [np.array([3.0, 4.0]), np.array([2.0]), np.zeros(2)]
    answers = [np.array([3.0, 4.5]), np.array([1.0]), np.ones(2)]
    once = squares(answers, reference)
    assert once.tolist() == [[0.25, 25.0], [1.0, 4.0], [2.0, 0.0]]
    assert worst_error(once) == 0.25
    assert worst_error(once + squares(reference, reference)) == 0.125


def _flat(outputs: Any) -> list[Any]:
    import torch

    found = outputs if isinstance(outputs, (tuple, list)) else [outputs]
    return [value.numpy() for value in found if isinstance(value, torch.Tensor)]


def _operators(program: Program) -> list[str]:
    graph = load_exported(program).graph
    return [node.name for node in graph.nodes if node.op == "call_function"]
