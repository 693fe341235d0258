"""What TensorRT is said to take, and what is refused before anything is lowered."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import helper

import targets
from agent.errors import ToolchainError
from targets.interface import OpCost, Program
from targets.lowering import tensorrt_support
from tests.toolchains.cases import CASES, VENDOR_WARNINGS, Case
from tests.toolchains.graphs import graph
from tests.toolchains.test_refusals import described
from tests.toolchains.variants import lower
from tests.toolchains.zoo import ZOO

pytestmark = [pytest.mark.toolchain, *VENDOR_WARNINGS]

BY_NAME = {case.name: case for case in CASES if case.recipe.toolchain == "tensorrt"}
TENSORRT = targets.toolchain("tensorrt")


@pytest.mark.parametrize(
    ("release", "taken", "refused"),
    [
        ("8.6.1", ["Conv", "LayerNormalization", "Trilu"], ["Gelu", "Unique", "STFT", "DFT"]),
        ("10.0.1", ["Gelu", "Hardmax"], ["DeformConv", "HannWindow", "NegativeLogLikelihoodLoss"]),
        ("10.3.0", ["DeformConv"], ["HannWindow", "BitShift", "RMSNormalization"]),
        ("10.16.2.10", ["STFT", "RMSNormalization", "Attention"], ["Swish", "Compress"]),
        ("11.1.0", ["Swish"], ["QLinearConv", "MatMulInteger", "DynamicQuantizeLinear"]),
    ],
)
def test_operators_by_release(release: str, taken: list[str], refused: list[str]) -> None:
    problems = tensorrt_support.operator_problems(
        [("", name) for name in (*taken, *refused)], release
    )
    assert [problem.where for problem in problems] == sorted(refused)


def test_an_operator_of_another_domain_is_refused_by_its_whole_name() -> None:
    found = tensorrt_support.operator_problems(
        [("com.microsoft", "Gelu"), ("ai.onnx", "Relu")], "11.0"
    )
    assert [problem.where for problem in found] == ["com.microsoft::Gelu"]


def test_a_graph_with_such_an_operator_is_not_lowered(tmp_path: Path) -> None:
    model = graph([helper.make_node("Det", ["x"], ["y"])], shape=(4, 4))
    model.graph.output[0].type.tensor_type.shape.SetInParent()
    path = tmp_path / "program.onnx"
    onnx.save(model, str(path))
    spec = described().signature.inputs[0]
    signature = dataclasses.replace(
        described().signature,
        inputs=(dataclasses.replace(spec, name="x", shape=(4, 4)),),
        outputs=(dataclasses.replace(spec, name="y", shape=()),),
        dims={},
    )
    program = described(kind="onnx", path=path, signature=signature, costs=())
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(ToolchainError, match=r"TensorRT 10\.3\.0 takes no Det"):
        TENSORRT.lower(program, BY_NAME["tensorrt-f32"].recipe, None, out)
    costs = (OpCost(op="Det", kind="other", flops=1, bytes=1),)
    [problem] = TENSORRT.supports(
        dataclasses.replace(program, costs=costs), BY_NAME["tensorrt-f32"].recipe
    )
    assert problem.where == "Det"


F32 = BY_NAME["tensorrt-f32"].recipe
INT8 = BY_NAME["tensorrt-int8"].recipe
FP8 = BY_NAME["tensorrt-fp8"].recipe
QUANTISED = {"method": "nncf", "samples": 8, "rest": "f16"}


def with_options(recipe: Any, **options: Any) -> Any:
    return dataclasses.replace(recipe, options={**recipe.options, **options})


@pytest.mark.parametrize(
    ("recipe", "where", "what"),
    [
        (dataclasses.replace(F32, backend="CPU"), "CPU", "backends"),
        (dataclasses.replace(F32, opset=None), "opset None", "up to 20"),
        (dataclasses.replace(F32, opset=21), "opset 21", "up to 20"),
        (dataclasses.replace(F32, opset=16), "opset 16", "from 17"),
        (with_options(F32, release="8.5.2"), "release", "8.5.2"),
        (with_options(F32, release="12.0"), "release", "12.0"),
        (dataclasses.replace(F32, options={}), "release", "engines are built by"),
        (dataclasses.replace(F32, quantisation=QUANTISED), "quantisation", "not quantised"),
        (dataclasses.replace(INT8, quantisation=None), "method", "must say"),
        (dataclasses.replace(INT8, quantisation={**QUANTISED, "rest": "f8"}), "rest 'f8'", "f16"),
        (dataclasses.replace(INT8, quantisation={**QUANTISED, "restt": 1}), "restt", "known"),
        (dataclasses.replace(INT8, quantisation=QUANTISED, opset=17), "opset 17", "opset 19"),
        (dataclasses.replace(FP8, opset=18), "opset 18", "opset 19"),
        (dataclasses.replace(FP8, precision="fp4"), "fp4", "nothing here writes FP4"),
        (with_options(FP8, sm="8.7"), "fp8", "came with compute capability 8.9"),
        (dataclasses.replace(with_options(FP8, sm="9.0"), precision="fp4"), "fp4", "10.0"),
    ],
)
def test_a_recipe_that_cannot_work_is_a_problem_that_says_why(
    recipe: Any, where: str, what: str
) -> None:
    found = [
        problem for problem in TENSORRT.supports(described(), recipe) if problem.where == where
    ]
    assert any(what in problem.what for problem in found)


@pytest.mark.parametrize(
    ("changes", "where", "what"),
    [
        ({"custom_ops": ("mylib::swish",)}, "mylib::swish", "without a plugin"),
        ({"costs": (OpCost(op="aten.unique.default", kind="other", flops=1, bytes=1),)},
         "aten.unique.default", "Unique"),
        ({"weight_bytes": 3_000_000_000}, "f16", "1.9 GB"),
    ],
)  # fmt: skip
def test_a_program_that_cannot_work_is_a_problem_that_says_why(
    changes: dict[str, Any], where: str, what: str
) -> None:
    found = TENSORRT.supports(described(**changes), BY_NAME["tensorrt-f16"].recipe)
    assert any(problem.where == where and what in problem.what for problem in found)


@pytest.mark.parametrize("dtype", ["float64", "int8", "int16", "complex64"])
def test_types_that_tensorrt_does_not_pass_are_problems(dtype: str) -> None:
    signature = described().signature
    spec = dataclasses.replace(signature.inputs[0], dtype=dtype)
    program = described(signature=dataclasses.replace(signature, inputs=(spec,)))
    [problem] = TENSORRT.supports(program, F32)
    assert problem.where == f"image {dtype}"


DLA = dataclasses.replace(BY_NAME["tensorrt-f16"].recipe, backend="DLA", engine="dla", opset=17)
FIXED = dataclasses.replace(described().signature, dims={"batch": (2, 2, 2)})


@pytest.mark.parametrize(
    ("recipe", "changes", "where", "what"),
    [
        (DLA, {}, "batch", "fixed shapes"),
        (dataclasses.replace(DLA, precision="f32"), {"signature": FIXED}, "f32", "f16 and int8"),
        (with_options(DLA, release="10.16.2.10"), {"signature": FIXED}, "TensorRT 10.16.2.10",
         "no DLA"),
        (dataclasses.replace(DLA, precision="int8", quantisation={"method": "nncf"}),
         {"signature": FIXED}, "TensorRT 10.3.0", "calibration cache"),
        (DLA, {"signature": FIXED,
               "costs": (OpCost(op="aten.linear.default", kind="matmul", flops=1, bytes=1),)},
         "DLA", "convolutions"),
    ],
)  # fmt: skip
def test_what_a_dla_cannot_take_is_a_problem(
    recipe: Any, changes: dict[str, Any], where: str, what: str
) -> None:
    found = TENSORRT.supports(described(**changes), recipe)
    assert any(problem.where == where and what in problem.what for problem in found)


def test_a_dla_file_is_for_the_releases_that_have_one(
    program_of: Callable[[str], Program], tmp_path: Path
) -> None:
    case = Case(name="dla", recipe=DLA)
    assert TENSORRT.supports(program_of("cnn"), DLA) == []
    lowered = lower(case, ZOO["cnn"], program_of("cnn"), tmp_path / "variant")
    assert (lowered.runtime.at_least, lowered.runtime.below) == ("8.6", "10.8")
