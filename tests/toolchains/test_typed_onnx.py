"""Graphs that hold their own types: what the rewriting keeps, and what it has to change."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import targets
from agent.errors import ToolchainError
from agent.sessions import load
from agent.sessions.onnxruntime import import_runtime
from targets.interface import Program
from targets.lowering import onnx_symmetric
from targets.lowering.onnx_files import at_opset, opset_of
from targets.lowering.onnx_levels import tensorrt_for, tensorrt_reads
from targets.lowering.onnx_ranges import observed_maxima
from targets.lowering.typed_onnx import LONGEST, constants, interface, to_f16
from tests.toolchains.cases import CASES, VENDOR_WARNINGS, Case
from tests.toolchains.graphs import graph, run
from tests.toolchains.variants import lower
from tests.toolchains.zoo import ZOO

pytestmark = [pytest.mark.toolchain, *VENDOR_WARNINGS]

BY_NAME = {case.name: case for case in CASES if case.recipe.toolchain == "tensorrt"}
TENSORRT = targets.toolchain("tensorrt")


def types_of(model: Any) -> dict[str, int]:
    """Tensor -> element type, as inference finds it."""
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    ports = (*inferred.graph.input, *inferred.graph.output, *inferred.graph.value_info)
    return {value.name: value.type.tensor_type.elem_type for value in ports}


@pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in BY_NAME.items()])
def test_a_file_keeps_the_interface_and_the_devices_limits(
    case: Case, program_of: Callable[[str], Program], tmp_path: Path
) -> None:
    entry, program = ZOO["encoder"], program_of("encoder")  # two int64 inputs, two dims
    assert TENSORRT.supports(program, case.recipe) == []
    lowered = lower(case, entry, program, tmp_path / "variant")
    model = onnx.load(str(tmp_path / "variant" / "model.onnx"))
    onnx.checker.check_model(model, full_check=True)
    release = case.recipe.options["release"]
    assert opset_of(model) <= tensorrt_reads(release)
    assert model.ir_version <= 10
    assert lowered.runtime.at_least == tensorrt_for(opset_of(model))
    assert lowered.runtime.below == "12"
    assert [(name, shape) for name, _, shape in interface(model)] == [
        (spec.name, list(spec.shape))
        for spec in (*program.signature.inputs, *program.signature.outputs)
    ]
    assert [kind for _, kind, _ in interface(model)] == [
        TensorProto.INT64, TensorProto.INT64, TensorProto.FLOAT
    ]  # fmt: skip
    assert onnx_symmetric.violations(model) == []
    assert not [t.name for t in model.graph.initializer if t.data_type == TensorProto.UINT8]
    narrow = {
        "f32": set(),
        "f16": {TensorProto.FLOAT16},
        "int8": {TensorProto.INT8},
        "fp8": {TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT16},
    }[case.recipe.precision]
    if (case.recipe.quantisation or {}).get("rest") == "f16":
        narrow = narrow | {TensorProto.FLOAT16}
    small = (TensorProto.INT8, TensorProto.FLOAT16, TensorProto.FLOAT8E4M3FN)
    assert {kind for kind in types_of(model).values() if kind in small} == narrow


def test_a_model_in_two_types_comes_back_in_two_types(
    program_of: Callable[[str], Program], tmp_path: Path
) -> None:
    entry = ZOO["detector"]  # its third output is an index
    lower(BY_NAME["tensorrt-f16"], entry, program_of("detector"), tmp_path / "variant")
    with load(tmp_path / "variant", "onnxruntime") as session:
        found = session.run(entry.sample())
    assert [str(found[name].dtype) for name in entry.outputs] == ["float32", "float32", "int64"]


def test_f16_halves_the_weights(program_of: Callable[[str], Program], tmp_path: Path) -> None:
    sizes = {}
    for name in ("tensorrt-f32", "tensorrt-f16"):
        lower(BY_NAME[name], ZOO["vit"], program_of("vit"), tmp_path / name)
        model = onnx.load(str(tmp_path / name / "model.onnx"))
        sizes[name] = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    assert sizes["tensorrt-f16"] < 0.55 * sizes["tensorrt-f32"]


REDUCE = {"axes": np.array([1], np.int64)}


@pytest.mark.parametrize(
    ("nodes", "shape", "weights", "kept"),
    [
        pytest.param([("Relu", "x", {})], (2, 4), {}, [], id="relu"),
        pytest.param([("Exp", "x", {})], (2, 4), {}, ["Exp"], id="exp"),
        pytest.param([("Pow", "x two", {})], (2, 4), {"two": np.float32(2)}, ["Pow"], id="pow"),
        pytest.param([("Softmax", "x", {})], (2, LONGEST), {}, [], id="a short softmax"),
        pytest.param(
            [("Softmax", "x", {})], (2, LONGEST + 1), {}, ["Softmax"], id="a long softmax"
        ),
        pytest.param([("Softmax", "x", {})], (2, "free"), {}, ["Softmax"], id="nothing bounds it"),
        pytest.param([("Softmax", "x", {})], (2, "n"), {}, [], id="a dim bounds it"),
        pytest.param([("Softmax", "x", {"axis": 0})], (2, 9999), {}, [], id="another axis"),
        pytest.param([("ReduceMean", "x axes", {})], (2, 4), REDUCE, [], id="a short mean"),
        pytest.param(
            [("ReduceMean", "x axes", {})], (2, 5000), REDUCE, ["ReduceMean"], id="a long mean"
        ),
        pytest.param([("ReduceL2", "x", {})], (50, 50), {}, ["ReduceL2"], id="a norm over all"),
        pytest.param(
            [("GlobalAveragePool", "x", {})], (1, 2, 64, 64), {}, ["GlobalAveragePool"], id="a pool"
        ),
        pytest.param([("Mul", "x w", {})], (2, 4), {"w": np.float32([1e5] * 4)}, ["Mul"], id="1e5"),
        pytest.param([("Mul", "x w", {})], (2, 4), {"w": np.float32([6e4] * 4)}, [], id="6e4"),
        pytest.param([("Max", "x w", {})], (2, 4), {"w": np.float32(-3.4e38)}, [], id="a mask"),
        pytest.param(
            [("LayerNormalization", "x w w", {})], (2, 4000), {"w": np.ones(4000, np.float32)}, [],
            id="a layer norm",
        ),
    ],
)  # fmt: skip
def test_delicate_operators_stay_in_f32(
    nodes: list[tuple[str, str, dict[str, Any]]],
    shape: tuple[int | str, ...],
    weights: dict[str, Any],
    kept: list[str],
) -> None:
    [(op, inputs, attributes)] = nodes
    model = graph(
        [helper.make_node(op, inputs.split(), ["y"], name=op, **attributes)],
        shape=shape,
        weights=weights,
    )
    before = onnx.ModelProto.FromString(model.SerializeToString())
    made, found = to_f16(model, {"n": (1, 8, 64)})
    assert list(found) == kept
    types = types_of(made)
    [node] = [node for node in made.graph.node if node.op_type == op]
    inside = TensorProto.FLOAT if kept else TensorProto.FLOAT16
    assert types[node.output[0]] == inside
    assert (types["x"], types["y"]) == (TensorProto.FLOAT, TensorProto.FLOAT)
    sizes = [{"n": 64, "free": 3}.get(size, size) for size in shape]  # type: ignore[call-overload]
    x = np.random.default_rng(0).uniform(0.5, 1, sizes).astype(np.float32)
    np.testing.assert_allclose(run(made, x), run(before, x), rtol=4e-3, atol=4e-3)


def test_a_mask_that_stands_for_infinity_is_clamped_not_infinite() -> None:
    node = helper.make_node("Where", ["c", "x", "low"], ["y"])
    weights = {"c": np.array([True, False, True, False]), "low": np.float32(-3.4028235e38)}
    made, kept = to_f16(graph([node], weights=weights), {})
    assert kept == ()
    lowest = [v for v in constants(made).values() if v.dtype == np.float16]
    assert [float(value) for value in lowest] == [-65504.0]


def test_values_that_were_seen_to_be_large_keep_their_operators_in_f32() -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], name="first"),
        helper.make_node("Mul", ["a", "a"], ["b"], name="second"),
        helper.make_node("Sigmoid", ["b"], ["y"], name="third"),
    ]
    made, kept = to_f16(graph(nodes), {}, {"x": 300.0, "a": 300.0, "b": 90_000.0, "y": 1.0})
    assert kept == ("second", "third")
    x = np.full((2, 4), 300, np.float32)
    assert np.isfinite(run(made, x)).all()


def test_a_name_that_is_missing_or_twice_and_a_subgraph_are_no_obstacle() -> None:
    branch = helper.make_graph(
        [helper.make_node("Mul", ["a", "two"], ["inner"])],
        "branch",
        [],
        [helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.float32(2), "two")],
    )
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], name="same"),
        helper.make_node("If", ["yes"], ["b"], name="", then_branch=branch, else_branch=branch),
        helper.make_node("Relu", ["b"], ["y"], name="same"),
    ]
    model = graph(nodes, weights={"yes": np.array(True)})
    made, kept = to_f16(model, {})
    assert kept == ("If_1_of_graph", "same")  # the If, and what it reads from outside
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    np.testing.assert_allclose(run(made, x), 2 * x)


@pytest.mark.parametrize("name", ["cnn", "mobile", "gru", "recommender"])
def test_a_graph_for_an_old_runtime_answers_the_same(
    name: str, onnx_program_of: Callable[[str], Program]
) -> None:
    model = onnx.load(str(onnx_program_of(name).path))
    before = interface(model)
    moved = at_opset(model, most=17)
    assert opset_of(moved) == 17
    assert interface(moved) == before
    entry = ZOO[name]
    session = import_runtime().InferenceSession(
        moved.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    [found] = session.run(None, entry.sample())
    np.testing.assert_allclose(found, entry.eager(entry.sample())["output"], atol=1e-5)


@pytest.mark.parametrize(("most", "least", "found"), [(20, 1, 18), (17, 1, 17), (20, 19, 19)])
def test_a_graph_is_moved_no_further_than_it_must_be(most: int, least: int, found: int) -> None:
    node = helper.make_node("ReduceMean", ["x", "axes"], ["y"], noop_with_empty_axes=0)
    model = graph([node], weights=REDUCE, opset=18)
    moved = at_opset(model, most=most, least=least)
    assert opset_of(moved) == found
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    np.testing.assert_allclose(run(moved, x), x.mean(1, keepdims=True))


def test_an_operator_without_a_form_in_the_old_opset_is_a_typed_error() -> None:
    model = graph([helper.make_node("Gelu", ["x"], ["y"])])
    with pytest.raises(ToolchainError, match="from opset 20 to 17") as caught:
        at_opset(model, most=17)
    assert "opset_version=17" in caught.value.remedy


def test_answers_that_are_nan_are_seen_by_the_check() -> None:
    nodes = [
        helper.make_node("Mul", ["x", "w"], ["a"], name="first"),
        helper.make_node("Sub", ["a", "a"], ["y"], name="second"),
    ]
    model = graph(nodes, weights={"w": np.float32([2e38] * 4)})
    x = np.full((2, 4), 1e3, np.float32)
    assert np.isnan(run(model, x)).all()
    made, _ = to_f16(model, {}, {"x": 1e3, "a": np.inf, "y": np.nan})
    assert np.isnan(run(made, x)).all()


def test_samples_show_which_operators_would_overflow(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], name="small"),
        helper.make_node("Mul", ["a", "a"], ["b"], name="square"),
        helper.make_node("Sqrt", ["b"], ["y"], name="root"),
    ]
    model = graph(nodes)
    samples = [{"x": np.full((2, 4), size, np.float32)} for size in (1, 250, 1000)]
    assert observed_maxima(model, samples, 2) == {"x": 250, "a": 250, "b": 62_500, "y": 250}
    assert observed_maxima(model, samples, 3)["b"] == 1e6
    made, kept = to_f16(model, {}, observed_maxima(model, samples, 2))
    assert kept == ("root", "square")
    types = types_of(made)
    [square] = [node for node in made.graph.node if node.op_type == "Mul"]
    # What passes between the two is never rounded to f16, where it would be infinite.
    assert types[square.output[0]] == TensorProto.FLOAT
    [root] = [node for node in made.graph.node if node.op_type == "Sqrt"]
    assert list(root.input) == list(square.output)


def test_a_value_that_is_not_finite_counts_as_too_large() -> None:
    model = graph([helper.make_node("Log", ["x"], ["y"], name="log")])
    found = observed_maxima(model, [{"x": np.zeros((2, 4), np.float32)}], 1)
    assert found["y"] == np.inf


def test_f16_looks_at_samples_where_there_are_any(
    program_of: Callable[[str], Program], tmp_path: Path
) -> None:
    recipe = dataclasses.replace(
        BY_NAME["tensorrt-f16"].recipe, quantisation={"method": "ranges", "samples": 4}
    )
    case = Case(name="ranges", recipe=recipe)
    entry = dataclasses.replace(ZOO["cnn"])
    loud = [{"image": array["image"] * 1e5} for array in entry.calibration(2)]
    assert TENSORRT.supports(program_of("cnn"), recipe) == []
    quiet = lower(case, entry, program_of("cnn"), tmp_path / "quiet")
    assert quiet.notes == ()
    (tmp_path / "loud").mkdir()
    found = TENSORRT.lower(program_of("cnn"), recipe, loud, tmp_path / "loud")
    assert "in f32 stay" in found.notes[0]
