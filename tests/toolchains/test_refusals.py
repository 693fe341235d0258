"""What a toolchain or a session refuses, it refuses by name: never with a vendor's own exception."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import targets
from agent.errors import ToolchainError, UsageError
from agent.manifest import Signature, TensorSpec
from agent.sessions import load
from agent.sessions.onnxruntime import import_runtime
from agent.variant import RECORD_NAME
from targets.interface import OpCost, Program, Recipe
from targets.lowering import export
from tests.toolchains.cases import CASES, VENDOR_WARNINGS, Case
from tests.toolchains.variants import lower
from tests.toolchains.zoo import ZOO

pytestmark = [pytest.mark.toolchain, *VENDOR_WARNINGS]

PLAIN = [
    pytest.param(case, id=case.name)
    for case in CASES
    if case.recipe.precision == "f32" and targets.toolchain(case.recipe.toolchain).available().ok
]
WITH_DATA = [
    pytest.param(case, id=case.name)
    for case in CASES
    if case.needs_data and targets.toolchain(case.recipe.toolchain).available().ok
]


@pytest.mark.parametrize("case", PLAIN)
@pytest.mark.parametrize(
    ("change", "telling"),
    [
        (lambda x: {"image": x["image"].astype(np.float64)}, "float64"),
        (lambda x: {"image": x["image"][:, :2]}, r"\(2, 2, 16, 16\)"),
        (lambda x: {"image": np.repeat(x["image"], 9, 0)}, "batch goes from 1 to 5"),
        (lambda x: {"picture": x["image"]}, r"\['picture'\]"),
        (lambda _: {}, r"\[\]"),
    ],
    ids=["dtype", "fixed axis", "above the dim's max", "name", "nothing"],
)
def test_inputs_that_do_not_fit_are_refused_with_both_values(
    case: Case,
    change: Callable[[Any], Mapping[str, Any]],
    telling: str,
    program_of: Callable[[str], Program],
    tmp_path: Path,
) -> None:
    entry = ZOO["batched-cnn"]
    lower(case, entry, program_of(entry.name), tmp_path / "variant")
    with load(tmp_path / "variant", case.run_as) as session:
        with pytest.raises(UsageError, match=telling):
            session.run(change(entry.sample()))
        # and the session lives on
        assert session.run(entry.sample())["output"].shape == (2, 10)


@pytest.mark.parametrize("case", PLAIN)
@pytest.mark.parametrize(
    "spoil",
    [
        lambda file: file.unlink(),
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(file.read_bytes()[:500]),
        lambda file: file.write_bytes(b"\x00\xff" * 500),
    ],
    ids=["missing", "empty", "cut short", "garbage"],
)
def test_a_spoilt_file_is_a_typed_error(
    case: Case,
    spoil: Callable[[Path], Any],
    program_of: Callable[[str], Program],
    tmp_path: Path,
) -> None:
    folder = tmp_path / "variant"
    lowered = lower(case, ZOO["cnn"], program_of("cnn"), folder)
    spoil(folder / lowered.files[0])
    with pytest.raises(ToolchainError) as caught:
        load(folder, case.run_as)
    assert lowered.files[0] in caught.value.what
    assert caught.value.cause
    assert caught.value.remedy


def test_openvino_weights_cut_short_are_a_typed_error(
    program_of: Callable[[str], Program], tmp_path: Path
) -> None:
    case = next(case for case in CASES if case.name == "openvino-f32")
    folder = tmp_path / "variant"
    lower(case, ZOO["cnn"], program_of("cnn"), folder)
    weights = folder / "model.bin"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ToolchainError, match=r"model\.xml"):
        load(folder, case.run_as)


@pytest.mark.parametrize("case", PLAIN)
def test_a_record_of_another_build_is_a_typed_error(
    case: Case, program_of: Callable[[str], Program], tmp_path: Path
) -> None:
    if case.recipe.format in ("executorch", "aotinductor"):
        pytest.skip(f"a file of {case.recipe.format} holds no names to compare")
    folder = tmp_path / "variant"
    lower(case, ZOO["cnn"], program_of("cnn"), folder)
    record = folder / RECORD_NAME
    record.write_text(record.read_text().replace('"image"', '"picture"'))
    with pytest.raises(ToolchainError, match="picture"):
        load(folder, case.run_as)


@pytest.mark.parametrize("case", WITH_DATA)
def test_static_int8_without_data_is_refused(
    case: Case, program_of: Callable[[str], Program], tmp_path: Path
) -> None:
    toolchain = targets.toolchain(case.recipe.toolchain)
    for calibration in (None, []):
        with pytest.raises(ToolchainError):
            toolchain.lower(program_of("cnn"), case.recipe, calibration, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in CASES])
def test_a_custom_operator_is_a_problem_that_names_it(case: Case) -> None:
    program = described(custom_ops=("mylib::swish", "mylib::norm"))
    found = {
        p.where for p in targets.toolchain(case.recipe.toolchain).supports(program, case.recipe)
    }
    assert found >= {"mylib::swish", "mylib::norm"}


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in CASES])
def test_a_precision_that_is_not_known_is_a_problem(case: Case) -> None:
    recipe = dataclasses.replace(case.recipe, precision="int3")
    problems = targets.toolchain(case.recipe.toolchain).supports(described(), recipe)
    assert "int3" in " ".join(f"{p.where} {p.what}" for p in problems)


@pytest.mark.parametrize("name", ["onnxruntime-f32", "tensorrt-f32"])
def test_a_program_from_torch_names_the_packages_that_write_onnx(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Both are installed where tests run, so their absence is acted.
    monkeypatch.setattr(export, "version_of", lambda _: None)
    recipe = next(case.recipe for case in CASES if case.name == name)
    supports = targets.toolchain(recipe.toolchain).supports
    problems = supports(described(kind="exported"), recipe)
    assert [problem.where for problem in problems] == ["torch", "onnxscript"]
    assert supports(described(kind="onnx", costs=()), recipe) == []


OPENVINO = next(case.recipe for case in CASES if case.name == "openvino-f32")
ONNXRUNTIME = next(case.recipe for case in CASES if case.name == "onnxruntime-f32")


@pytest.mark.parametrize(
    ("recipe", "changes", "where"),
    [
        (OPENVINO, {"backend": "TPU"}, "TPU"),
        (OPENVINO, {"backend": "GPU"}, "GPU"),  # the session would silently run on the CPU
        (OPENVINO, {"backend": "NPU", "options": {"device": "NPU"}}, "batch"),
        (OPENVINO, {"opset": 20}, "opset 20"),
        (OPENVINO, {"quantisation": {"method": "nncf"}}, "quantisation"),
        (OPENVINO, {"precision": "int8"}, "method"),
        (OPENVINO, {"precision": "int8", "quantisation": {"method": "static"}}, "method 'static'"),
        (
            OPENVINO,
            {"precision": "int8", "quantisation": {"method": "nncf", "presett": "mixed"}},
            "presett",
        ),
        (ONNXRUNTIME, {"backend": "TPU"}, "TPU"),
        (ONNXRUNTIME, {"opset": 99}, "opset 99"),
        (ONNXRUNTIME, {"quantisation": {"method": "static"}}, "quantisation"),
        (ONNXRUNTIME, {"precision": "int8"}, "method"),
        (
            ONNXRUNTIME,
            {"precision": "int8", "quantisation": {"method": "static", "weight": "int4"}},
            "weight 'int4'",
        ),
        (
            ONNXRUNTIME,
            {"precision": "int8", "quantisation": {"method": "dynamic"}},
            "method 'dynamic'",  # the described program has convolutions only
        ),
    ],
)
def test_a_choice_that_cannot_work_is_a_problem_that_names_it(
    recipe: Recipe, changes: dict[str, Any], where: str
) -> None:
    changed = dataclasses.replace(recipe, **changes)
    problems = targets.toolchain(recipe.toolchain).supports(described(), changed)
    assert where in [problem.where for problem in problems]


def test_onnx_runtime_refuses_one_name_for_an_input_and_an_output() -> None:
    signature = described().signature
    output = dataclasses.replace(signature.outputs[0], name="image")
    program = described(signature=dataclasses.replace(signature, outputs=(output,)))
    problems = targets.toolchain("onnxruntime").supports(program, ONNXRUNTIME)
    assert [problem.where for problem in problems] == ["image"]


@pytest.mark.parametrize("case", PLAIN)
def test_a_program_that_cannot_be_read_is_a_typed_error(case: Case, tmp_path: Path) -> None:
    path = tmp_path / "program.pt2"
    path.write_bytes(b"\x00\xff" * 500)
    (tmp_path / "out").mkdir()
    toolchain = targets.toolchain(case.recipe.toolchain)
    with pytest.raises(ToolchainError, match=r"program\.pt2"):
        toolchain.lower(described(path=path), case.recipe, None, tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "error", "telling"),
    [
        ({"providers": ["TensorrtExecutionProvider"]}, ToolchainError, "TensorrtExecutionProvider"),
        ({"graph_optimization": "most"}, UsageError, "most"),
        ({"threads": 2}, UsageError, "threads"),
    ],
)
def test_onnx_runtime_options_that_are_not_known_are_refused(
    options: dict[str, Any],
    error: type[Exception],
    telling: str,
    program_of: Callable[[str], Program],
    tmp_path: Path,
) -> None:
    case = Case(name="odd", recipe=dataclasses.replace(ONNXRUNTIME, options=options))
    lower(case, ZOO["cnn"], program_of("cnn"), tmp_path / "variant")
    with pytest.raises(error, match=telling):
        load(tmp_path / "variant", case.run_as)


def test_onnx_runtime_takes_a_providers_own_options_as_json_has_them(
    program_of: Callable[[str], Program], tmp_path: Path
) -> None:
    options = {
        "providers": [["CPUExecutionProvider", {"arena_extend_strategy": "kSameAsRequested"}]]
    }
    case = Case(name="options", recipe=dataclasses.replace(ONNXRUNTIME, options=options))
    lower(case, ZOO["cnn"], program_of("cnn"), tmp_path / "variant")
    with load(tmp_path / "variant") as session:
        assert session.run(ZOO["cnn"].sample())["output"].shape == (1, 10)


def test_a_file_for_another_provider_is_checked_on_the_cpu(
    program_of: Callable[[str], Program], tmp_path: Path
) -> None:
    options = {"providers": [["CUDAExecutionProvider", {"use_tf32": "0"}], "CPUExecutionProvider"]}
    recipe = dataclasses.replace(ONNXRUNTIME, options=options, backend="CUDA", engine="gpu")
    lower(Case(name="cuda", recipe=recipe), ZOO["cnn"], program_of("cnn"), tmp_path / "variant")
    with load(tmp_path / "variant", "onnxruntime") as session:
        assert session.run(ZOO["cnn"].sample())["output"].shape == (1, 10)
        assert session.placement() == {"CPUExecutionProvider": 1.0}
    if "CUDAExecutionProvider" not in import_runtime().get_available_providers():
        with pytest.raises(ToolchainError, match="has no CUDAExecutionProvider here"):
            load(tmp_path / "variant")


@pytest.mark.parametrize("options", [{"device": "TPU"}, {"device": "CPU", "SPEED": "MAX"}])
def test_openvino_options_that_are_not_known_are_refused(
    options: dict[str, Any], program_of: Callable[[str], Program], tmp_path: Path
) -> None:
    case = Case(name="odd", recipe=dataclasses.replace(OPENVINO, options=options))
    lower(case, ZOO["cnn"], program_of("cnn"), tmp_path / "variant")
    with pytest.raises(ToolchainError, match=r"SPEED|TPU"):
        load(tmp_path / "variant", case.run_as)


def described(**changes: Any) -> Program:
    """A program's facts without a file: what `supports` goes by."""
    image = TensorSpec(name="image", dtype="float32", shape=("batch", 3, 8, 8))
    output = TensorSpec(name="output", dtype="float32", shape=("batch", 4))
    plain = Program(
        kind="exported",
        path=Path("absent.pt2"),
        signature=Signature(inputs=(image,), outputs=(output,), dims={"batch": (1, 2, 4)}),
        digest="0" * 64,
        costs=(OpCost(op="aten.conv2d.default", kind="conv", flops=10, bytes=10),),
        weight_bytes=10,
    )
    return dataclasses.replace(plain, **changes)
