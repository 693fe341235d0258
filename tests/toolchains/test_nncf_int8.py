"""What a recipe may choose of NNCF's int8: every choice builds, runs, and does what it says."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import targets
from agent.errors import ToolchainError
from agent.sessions import load
from agent.tensors import Array
from targets.interface import Program
from targets.lowering import nncf_int8
from tests.toolchains.cases import CASES, VENDOR_WARNINGS, Case
from tests.toolchains.test_conformance import cosine
from tests.toolchains.variants import lower
from tests.toolchains.zoo import ZOO

pytestmark = [pytest.mark.toolchain, *VENDOR_WARNINGS]

BY_NAME = {case.name: case for case in CASES}
PLAIN: dict[str, dict[str, Any]] = {
    "cnn": {"method": "nncf", "samples": 8},
    "encoder": {"method": "nncf", "samples": 8, "model_type": "transformer"},
    "vit": {"method": "nncf", "samples": 8, "model_type": "transformer"},
}
LAYER = {
    "cnn": "convolution_1/aten.convolution.default/Convolution",
    "encoder": "linear/aten.linear.default/MatMul",
}
FIRST_CONVOLUTION = "Convolution/1"
"""One that the converter has no name for: it is numbered, the same way every time."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Variant:
    """One quantised model: what it answers, and how many operators were quantised."""

    answer: Array
    weights: bytes
    pairs: int


@pytest.fixture(scope="module")
def build(
    program_of: Callable[[str], Program], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Variant]:
    """A zoo entry in OpenVINO's int8 with these choices beside the plain ones; built once each."""
    made: dict[tuple[str, str], Variant] = {}

    def variant(name: str, **choices: Any) -> Variant:
        key = (name, repr(choices))
        if key not in made:
            made[key] = _build(name, program_of(name), choices, tmp_path_factory.mktemp("variant"))
        return made[key]

    return variant


def _build(name: str, program: Program, choices: Mapping[str, Any], folder: Path) -> Variant:
    case = with_choices("openvino-int8", {**PLAIN[name], **choices})
    assert targets.toolchain("openvino").supports(program, case.recipe) == []
    lower(case, ZOO[name], program, folder / "variant")
    with load(folder / "variant") as session:
        [answer] = session.run(ZOO[name].sample()).values()
        answer = answer.copy()
    text = (folder / "variant" / "model.xml").read_text()
    return Variant(
        answer=answer,
        weights=(folder / "variant" / "model.bin").read_bytes(),
        pairs=text.count('type="FakeQuantize"'),
    )


def with_choices(name: str, chosen: Mapping[str, Any]) -> Case:
    case = BY_NAME[name]
    return dataclasses.replace(case, recipe=dataclasses.replace(case.recipe, quantisation=chosen))


SAME, OTHER = True, False


@pytest.mark.parametrize(
    ("entry", "choices", "same"),
    [
        # The defaults, written out.
        *(
            (entry, {name: values[0]}, SAME)
            for entry in ("cnn", "encoder")
            for name, values in nncf_int8.CHOICES.items()
            if name not in ("method", "model_type")
        ),
        ("encoder", dict(nncf_int8.SMOOTHING), SAME),
        ("encoder", {"ignored": []}, SAME),
        ("cnn", {"smooth_quant_percent": "off"}, SAME),  # NNCF smooths transformers only
        # Without a convolution there is no first layer to spare.
        ("encoder", {"overflow_fix": "disable"}, SAME),
        ("encoder", {"smooth_quant_conv_percent": 50}, SAME),
        # What changes the file.
        *(
            (entry, {name: value}, OTHER)
            for entry in ("cnn", "encoder")
            for name in ("preset", "bias_correction", "ranges")
            for value in nncf_int8.CHOICES[name][1:]
        ),
        ("cnn", {"overflow_fix": "enable"}, OTHER),
        ("cnn", {"overflow_fix": "disable"}, OTHER),
        ("encoder", {"overflow_fix": "enable"}, OTHER),
        ("encoder", {"smooth_quant_percent": "off"}, OTHER),
        ("encoder", {"smooth_quant_percent": 0}, OTHER),
        ("encoder", {"smooth_quant_percent": 50}, OTHER),
        ("encoder", {"smooth_quant_percent": 100}, OTHER),
        ("vit", {"smooth_quant_conv_percent": 50}, OTHER),
        ("cnn", {"ignored": [LAYER["cnn"]]}, OTHER),
        ("encoder", {"ignored": [LAYER["encoder"]]}, OTHER),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_choice_changes_the_file_or_is_the_default(
    entry: str, choices: dict[str, Any], same: bool, build: Callable[..., Variant]
) -> None:
    plain, chosen = build(entry), build(entry, **choices)
    assert (chosen.weights == plain.weights) is same
    assert np.array_equal(chosen.answer, plain.answer) is same
    [original] = ZOO[entry].eager(ZOO[entry].sample()).values()
    assert cosine(chosen.answer, original) > 0.99


@pytest.mark.parametrize("layer", [LAYER["cnn"], FIRST_CONVOLUTION])
def test_a_layer_that_is_ignored_keeps_its_precision(
    layer: str, build: Callable[..., Variant]
) -> None:
    plain, spared = build("cnn"), build("cnn", ignored=[layer])
    # Its weights are stored in 16 bits in place of 8.
    assert len(spared.weights) > len(plain.weights)
    assert spared.pairs < plain.pairs


@pytest.mark.parametrize("name", ["openvino-int8", "tensorrt-int8"])
def test_a_layer_that_is_not_there_is_refused_with_those_that_are(
    name: str, program_of: Callable[[str], Program], tmp_path: Path
) -> None:
    wrong = "convolution_1/aten.convolution.default/Convolutoin"
    case = with_choices(name, {**PLAIN["cnn"], "ignored": [wrong]})
    with pytest.raises(ToolchainError, match=r"Convolutoin.*none of the model's \d+") as caught:
        lower(case, ZOO["cnn"], program_of("cnn"), tmp_path / "variant")
    assert caught.value.cause
    assert caught.value.remedy
    if name == "openvino-int8":
        assert LAYER["cnn"] in caught.value.remedy


def test_biases_stay_where_their_correction_fails_unless_the_recipe_insists(
    program_of: Callable[[str], Program], tmp_path: Path
) -> None:
    entry, program = ZOO["buffers"], program_of("buffers")
    case = with_choices("openvino-int8", {"method": "nncf", "samples": 8})
    lowered = lower(case, entry, program, tmp_path / "variant")
    assert any("without a correction of biases" in note for note in lowered.notes)

    insists = with_choices(
        "openvino-int8", {"method": "nncf", "samples": 8, "bias_correction": "fast"}
    )
    with pytest.raises(ToolchainError, match="list index out of range"):
        lower(insists, entry, program, tmp_path / "refused")


def test_tensorrt_takes_the_same_choices(
    program_of: Callable[[str], Program], tmp_path: Path
) -> None:
    answers = []
    choices = {
        "preset": "mixed",
        "bias_correction": "off",
        "overflow_fix": "disable",
        "ranges": "minmax",
        "smooth_quant_percent": 50,
    }
    for index, more in enumerate(({}, choices)):
        case = with_choices("tensorrt-int8", {**PLAIN["encoder"], **more})
        assert targets.toolchain("tensorrt").supports(program_of("encoder"), case.recipe) == []
        lower(case, ZOO["encoder"], program_of("encoder"), tmp_path / str(index))
        with load(tmp_path / str(index), case.run_as) as session:
            answers.append(session.run(ZOO["encoder"].sample())["embedding"].copy())
    original = ZOO["encoder"].eager(ZOO["encoder"].sample())["embedding"]
    assert all(cosine(answer, original) > 0.98 for answer in answers)
    assert not np.array_equal(*answers)


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"preset": "fast"}, "preset 'fast'"),
        ({"overflow_fix": True}, "overflow_fix True"),
        ({"ranges": "percentile"}, "ranges 'percentile'"),
        ({"smooth_quant": 50}, "smooth_quant"),
        ({"smooth_quant_percent": 101}, "smooth_quant_percent 101"),
        ({"smooth_quant_percent": -1}, "smooth_quant_percent -1"),
        ({"smooth_quant_percent": 0.5}, "smooth_quant_percent 0.5"),
        ({"smooth_quant_percent": True}, "smooth_quant_percent True"),
        ({"smooth_quant_conv_percent": "on"}, "smooth_quant_conv_percent 'on'"),
        ({"smooth_quant_percent": 50, "model_type": None}, "smooth_quant_percent 50"),
        ({"ignored": "linear"}, "ignored 'linear'"),
        ({"ignored": [1]}, "ignored [1]"),
        ({"ignored": [""]}, "ignored ['']"),
        ({"samples": 0}, "samples 0"),
        ({"samples": "many"}, "samples 'many'"),
        ({"rest": "f16"}, "rest"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_choice_that_is_not_known_is_a_problem_that_names_it(
    changes: dict[str, Any], where: str
) -> None:
    chosen = {**PLAIN["encoder"], **changes}
    assert [problem.where for problem in nncf_int8.problems(chosen)] == [where]


def test_a_method_must_be_said() -> None:
    assert [problem.where for problem in nncf_int8.problems({})] == ["method"]


@given(st.integers() | st.floats(allow_nan=False) | st.text(max_size=3) | st.none())
def test_only_whole_hundredths_are_an_alpha(value: Any) -> None:
    chosen = {**PLAIN["encoder"], "smooth_quant_percent": value}
    allowed = value == "off" or (isinstance(value, int) and 0 <= value <= 100)
    assert (not list(nncf_int8.problems(chosen))) is allowed
