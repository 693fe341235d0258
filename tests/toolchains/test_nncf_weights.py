"""Weights alone in 8 or 4 bits: smaller by what was asked for, nearly the same answers, or refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import targets
from agent.errors import ToolchainError
from agent.sessions import load
from agent.tensors import Array
from targets import recipes
from targets.interface import Lowered, OpCost, Program, Recipe
from targets.lowering import nncf_weights
from tests.toolchains.cases import CASES, VENDOR_WARNINGS, Case
from tests.toolchains.test_conformance import cosine
from tests.toolchains.variants import lower
from tests.toolchains.zoo import ZOO, Entry, exported, text_classifier

pytestmark = [pytest.mark.toolchain, *VENDOR_WARNINGS]

WIDE = Entry(
    name="wide",
    make=lambda: text_classifier(256),
    inputs=(dataclasses.replace(ZOO["encoder"].inputs[0], shape=(1, 16)),),
    highest=200,
)
"""A transformer in which most weights belong to matrix products, as in real ones."""
PLAIN = next(case.recipe for case in CASES if case.name == "openvino-f32")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Built:
    """A variant's answer and the bytes of its weights."""

    answer: Array
    size: int
    lowered: Lowered


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Recipe], Built]:
    """The wide model by a recipe, built once each."""
    program = exported(WIDE, tmp_path_factory.mktemp("program"))
    made: dict[str, Built] = {}

    def variant(recipe: Recipe) -> Built:
        if recipe.digest not in made:
            assert targets.toolchain("openvino").supports(program, recipe) == []
            folder = tmp_path_factory.mktemp("variant") / "variant"
            lowered = lower(Case(name="weights", recipe=recipe), WIDE, program, folder)
            with load(folder) as session:
                answer = session.run(WIDE.sample())["output"].copy()
            size = (folder / "model.bin").stat().st_size
            made[recipe.digest] = Built(answer=answer, size=size, lowered=lowered)
        return made[recipe.digest]

    return variant


@pytest.mark.parametrize(
    ("mode", "choices", "smaller", "at_least"),
    [
        ("int8_asym", {}, 3.8, 0.999),
        ("int8_sym", {}, 3.8, 0.999),
        ("int4_sym", {}, 7.0, 0.99),
        ("int4_asym", {}, 7.0, 0.99),
        ("int4_asym", {"group_size": 32}, 6.0, 0.99),
        ("int4_sym", {"group_size": -1}, 7.0, 0.98),
        ("int4_sym", {"ratio_percent": 50}, 4.5, 0.99),
        ("int4_sym", {"all_layers": True}, 7.4, 0.97),
        # 96 does not divide 256: each weight gets a group size that does.
        ("int4_sym", {"group_size": 96}, 6.0, 0.98),
    ],
    ids=str,
)
def test_weights_shrink_by_the_factor_of_their_width(
    mode: str,
    choices: dict[str, Any],
    smaller: float,
    at_least: float,
    build: Callable[[Recipe], Built],
) -> None:
    plain, narrow = build(PLAIN), build(recipes.openvino_weights(mode, "f32", **choices))
    bits = int(mode[3])
    assert smaller < plain.size / narrow.size < 32 / bits
    original = WIDE.eager(WIDE.sample())["output"]
    assert cosine(narrow.answer, original) > at_least
    assert not np.array_equal(narrow.answer, plain.answer)
    [note] = narrow.lowered.notes
    assert f"bytes in {'u' if mode.endswith('asym') else 'i'}{bits}" in note


def test_four_bits_are_smaller_where_more_weights_have_them(
    build: Callable[[Recipe], Built],
) -> None:
    def size(mode: str, **choices: Any) -> int:
        return build(recipes.openvino_weights(mode, "f32", **choices)).size

    assert (
        size("int8_sym")
        > size("int4_sym", ratio_percent=50)
        > size("int4_sym")
        > size("int4_sym", all_layers=True)
    )
    # A scale for every 32 weights in place of every 128.
    assert size("int4_asym", group_size=32) > size("int4_asym")


def test_a_layer_that_is_ignored_keeps_its_weights(build: Callable[[Recipe], Built]) -> None:
    recipe = recipes.openvino_weights("int8_sym", "f32")
    chosen = {**(recipe.quantisation or {}), "ignored": ["linear_1/aten.linear.default/MatMul"]}
    spared = build(dataclasses.replace(recipe, quantisation=chosen))
    # 256 x 256 weights in 4 bytes each, not in 1.
    assert spared.size - build(recipe).size == pytest.approx(3 * 256 * 256, rel=0.01)
    wrong = dataclasses.replace(recipe, quantisation={**chosen, "ignored": ["linear_99"]})
    with pytest.raises(ToolchainError, match=r"'linear_99'.*operators is called so"):
        build(wrong)


def test_activations_that_are_quantised_as_they_come_change_answers_slightly(
    build: Callable[[Recipe], Built],
) -> None:
    floats = build(recipes.openvino_weights("int8_sym", "f32"))
    dynamic = build(recipes.openvino_weights("int8_sym", "f32", dynamic_group=32))
    assert dynamic.size == floats.size
    assert cosine(dynamic.answer, floats.answer) > 0.999


@pytest.mark.parametrize(
    ("entry", "mode", "telling"),
    [
        ("gru", "int8_sym", r"as int8_sym, and \d+ as f16"),  # a cell's weights stay floats
        ("gru", "int4_sym", r"as int4_sym, and \d+ as int8"),
        ("cnn", "int4_sym", r"as int4_sym, and \d+ as int8"),  # convolutions get 8 bits
        ("recommender", "int4_asym", r"as int4_asym, and \d+ as int8"),  # so do embeddings
    ],
)
def test_a_model_that_would_hardly_shrink_is_refused(
    entry: str,
    mode: str,
    telling: str,
    program_of: Callable[[str], Program],
    tmp_path: Path,
) -> None:
    recipe = recipes.openvino_weights(mode, "f32")
    with pytest.raises(ToolchainError, match=telling) as caught:
        lower(Case(name="weights", recipe=recipe), ZOO[entry], program_of(entry), tmp_path / "out")
    assert caught.value.cause
    assert caught.value.remedy
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("op", "kind", "mode", "refused"),
    [
        ("aten.linear.default", "matmul", "int4_sym", False),
        ("aten.embedding.default", "other", "int8_sym", False),
        ("Gather", "other", "int4_sym", False),
        ("aten.conv2d.default", "conv", "int8_sym", False),
        ("aten.conv2d.default", "conv", "int4_sym", True),
        ("aten.gru.input", "recurrent", "int8_sym", True),
        ("aten.relu.default", "other", "int8_sym", True),
    ],
)
def test_a_program_without_such_weights_is_a_problem_before_any_work(
    op: str, kind: Any, mode: str, refused: bool, program_of: Callable[[str], Program]
) -> None:
    cost = OpCost(op=op, kind=kind, flops=10, bytes=10)
    program = dataclasses.replace(program_of("cnn"), costs=(cost,))
    problems = targets.toolchain("openvino").supports(
        program, recipes.openvino_weights(mode, "f32")
    )
    assert [problem.where for problem in problems] == ["method 'weights'"] * refused


@pytest.mark.parametrize(
    ("precision", "chosen", "where"),
    [
        ("int8", {"mode": "int3_sym"}, ["mode 'int3_sym'"]),
        ("int4", {"mode": "int8_sym"}, ["mode 'int8_sym'"]),
        ("int4", {}, ["mode 'int8_asym'"]),
        ("int8", {"group_size": 64}, ["group_size"]),
        ("int8", {"ratio_percent": 50, "all_layers": True}, ["ratio_percent", "all_layers"]),
        ("int4", {"mode": "int4_sym", "group_size": 0}, ["group_size 0"]),
        ("int4", {"mode": "int4_sym", "group_size": 64.0}, ["group_size 64.0"]),
        ("int4", {"mode": "int4_sym", "ratio_percent": 0}, ["ratio_percent 0"]),
        ("int4", {"mode": "int4_sym", "ratio_percent": 101}, ["ratio_percent 101"]),
        ("int4", {"mode": "int4_sym", "all_layers": "yes"}, ["all_layers 'yes'"]),
        ("int8", {"samples": 8}, ["samples"]),
        ("int8", {"ignored": [7]}, ["ignored [7]"]),
    ],
    ids=str,
)
def test_a_choice_that_is_not_known_is_a_problem_that_names_it(
    precision: str,
    chosen: dict[str, Any],
    where: list[str],
    program_of: Callable[[str], Program],
) -> None:
    found = nncf_weights.problems(program_of("cnn"), precision, {"method": "weights", **chosen})
    assert {problem.where for problem in found} >= set(where)


def test_four_bits_are_for_weights_alone(program_of: Callable[[str], Program]) -> None:
    recipe = dataclasses.replace(PLAIN, precision="int4", quantisation={"method": "nncf"})
    problems = targets.toolchain("openvino").supports(program_of("cnn"), recipe)
    assert [problem.where for problem in problems] == ["int4"]
    recipe = dataclasses.replace(PLAIN, quantisation={"method": "weights"})
    problems = targets.toolchain("openvino").supports(program_of("cnn"), recipe)
    assert [problem.where for problem in problems] == ["quantisation"]


def test_the_recipe_says_all_and_its_name_tells_the_width() -> None:
    recipe = recipes.openvino_weights("int4_sym", "bf16", ratio_percent=80)
    assert recipe.name.startswith("openvino-int4-weights-")
    assert recipe.quantisation == {
        "method": "weights",
        "mode": "int4_sym",
        "group_size": 128,
        "ratio_percent": 80,
        "all_layers": False,
    }
    assert recipe.options["INFERENCE_PRECISION_HINT"] == "bf16"
    assert recipe.options["DYNAMIC_QUANTIZATION_GROUP_SIZE"] == 0
    narrow = recipes.openvino_weights("int8_sym", "f32")
    assert narrow.precision == "int8"
    assert narrow.quantisation == {"method": "weights", "mode": "int8_sym"}
