"""What toolchains must not do: import too much, answer differently, report home, leave things out."""

from __future__ import annotations

import dataclasses
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

import targets
from agent.errors import ToolchainError
from agent.files import sha256_of
from agent.sessions import load, session_module
from targets.interface import Program
from targets.lowering.export import export_onnx, load_exported
from tests.toolchains.cases import CASES, VENDOR_WARNINGS, Case
from tests.toolchains.variants import lower
from tests.toolchains.zoo import ZOO

pytestmark = [pytest.mark.toolchain, *VENDOR_WARNINGS]

ROOT = Path(__file__).parents[2]
BY_NAME = {case.name: case for case in CASES}
TAKES_ONNX = [
    pytest.param(BY_NAME[name], id=name)
    for name in (
        "openvino-f32",
        "openvino-int8-transformer",
        "onnxruntime-f32",
        "onnxruntime-int8",
        "onnxruntime-int8-dynamic",
        "tensorrt-f32",
    )
]

LOWER = """
import pickle, sys
from pathlib import Path
from tests.toolchains.cases import CASES
from tests.toolchains.variants import lower
from tests.toolchains.zoo import ZOO
from agent.sessions import load
case = next(case for case in CASES if case.name == sys.argv[1])
entry = ZOO[sys.argv[2]]
lower(case, entry, pickle.loads(Path(sys.argv[3]).read_bytes()), Path(sys.argv[4]))
with load(sys.argv[4], case.run_as) as session:
    for sizes in entry.sizes():
        session.run(entry.sample(sizes=sizes))
print(*sorted(name for name in sys.modules if "." not in name))
"""


def in_a_process(code: str, *arguments: str, home: Path) -> set[str]:
    """Run code in a fresh interpreter; what it prints are the modules it imported."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        env={**os.environ, "HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return set(done.stdout.splitlines()[-1].split())


def lower_in_a_process(case: Case, program: Program, folder: Path, *, home: Path) -> set[str]:
    """Lower, load and run `two-heads` in a fresh interpreter."""
    pickled = folder.with_suffix(".pickle")
    pickled.write_bytes(pickle.dumps(program))
    return in_a_process(LOWER, case.name, "two-heads", str(pickled), str(folder), home=home)


@pytest.mark.parametrize("case", TAKES_ONNX)
def test_an_onnx_program_is_lowered_and_run_without_torch_and_without_reporting_home(
    case: Case, onnx_program_of: Callable[[str], Program], tmp_path: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    program = onnx_program_of("two-heads")
    modules = lower_in_a_process(case, program, tmp_path / "variant", home=home)
    if case.recipe.toolchain != "openvino" or case.recipe.precision != "int8":
        assert "torch" not in modules  # NNCF imports it where it is installed
    assert "openvino_telemetry" not in modules
    assert list(home.iterdir()) == []


@pytest.mark.long
@pytest.mark.parametrize("name", ["openvino-int8", "onnxruntime-int8"])
def test_lowering_twice_writes_the_same_bytes(
    name: str, program_of: Callable[[str], Program], tmp_path: Path
) -> None:
    # In processes of their own, as builds do it: OpenVINO counts the operators that it names.
    digests = []
    for folder in (tmp_path / "first", tmp_path / "second"):
        lower_in_a_process(BY_NAME[name], program_of("two-heads"), folder, home=tmp_path)
        digests.append({file.name: sha256_of(file) for file in folder.iterdir()})
    assert digests[0] == digests[1]


@pytest.mark.parametrize("case", TAKES_ONNX)
def test_an_onnx_program_answers_as_torch_does(
    case: Case, onnx_program_of: Callable[[str], Program], tmp_path: Path
) -> None:
    entry, program = ZOO["encoder"], onnx_program_of("encoder")
    assert targets.toolchain(case.recipe.toolchain).supports(program, case.recipe) == []
    lower(case, entry, program, tmp_path / "variant")
    with load(tmp_path / "variant", case.run_as) as session:
        for sizes in entry.sizes():
            inputs = entry.sample(sizes=sizes)
            found, wanted = session.run(inputs)["embedding"], entry.eager(inputs)["embedding"]
            assert (found * wanted).sum(1).min() >= (case.cosine or 0.9999)  # unit vectors


def test_looking_a_toolchain_up_imports_no_vendor(tmp_path: Path) -> None:
    code = """
import sys, targets
for name in targets.toolchain_names():
    targets.toolchain(name).available()
print(*sorted(name for name in sys.modules if "." not in name))
"""
    vendors = {"torch", "openvino", "nncf", "onnx", "onnxruntime", "executorch", "torchao"}
    assert not in_a_process(code, home=tmp_path) & vendors


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in CASES])
def test_what_is_installed_is_listed_with_its_version(case: Case) -> None:
    availability = targets.toolchain(case.recipe.toolchain).available()
    assert availability.ok == (not availability.missing)
    assert availability.ok or "pip install" in availability.remedy
    if availability.ok:
        # Its files are written here by these; TensorRT itself is the device's.
        runtime = session_module(case.recipe.format).PACKAGE
        named = {"tensorrt": "onnx"}.get(runtime, runtime)
        assert named in availability.versions


@pytest.mark.parametrize("case", TAKES_ONNX)
def test_two_loads_answer_alike(
    case: Case, program_of: Callable[[str], Program], tmp_path: Path
) -> None:
    entry = ZOO["vit"]
    lower(case, entry, program_of("vit"), tmp_path / "variant")
    answers = []
    for _ in range(2):
        with load(tmp_path / "variant", case.run_as) as session:
            answers.append([session.run(entry.sample(seed))["output"] for seed in range(3)])
    np.testing.assert_array_equal(answers[0], answers[1])


@pytest.mark.parametrize("case", TAKES_ONNX)
def test_an_answer_survives_the_next_run_and_reset(
    case: Case, program_of: Callable[[str], Program], tmp_path: Path
) -> None:
    entry = ZOO["two-heads"]
    lower(case, entry, program_of("two-heads"), tmp_path / "variant")
    with load(tmp_path / "variant", case.run_as) as session:
        first = session.run(entry.sample(1, {"batch": 5}))
        kept = {name: array.copy() for name, array in first.items()}
        session.run(entry.sample(2, {"batch": 1}))
        session.reset()
        again = session.run(entry.sample(1, {"batch": 5}))
    for name in entry.outputs:
        np.testing.assert_array_equal(first[name], kept[name])
        np.testing.assert_array_equal(again[name], kept[name])


@pytest.mark.parametrize("name", ["openvino-f32", "onnxruntime-f32"])
def test_read_only_inputs_are_taken_and_left_alone(
    name: str, program_of: Callable[[str], Program], tmp_path: Path
) -> None:
    case, entry = BY_NAME[name], ZOO["recommender"]
    lower(case, entry, program_of("recommender"), tmp_path / "variant")
    inputs = entry.sample()
    for array in inputs.values():
        array.flags.writeable = False
    with load(tmp_path / "variant", case.run_as) as session:
        found = session.run(inputs)["output"]
    np.testing.assert_allclose(found, entry.eager(entry.sample())["output"], atol=1e-5)


def test_recurrent_cells_stay_one_operator_in_openvino(
    program_of: Callable[[str], Program], tmp_path: Path
) -> None:
    lower(BY_NAME["openvino-f32"], ZOO["gru"], program_of("gru"), tmp_path / "variant")
    text = (tmp_path / "variant" / "model.xml").read_text()
    assert text.count('type="GRUSequence"') == 2


@pytest.mark.parametrize("opset", [18, 20, 21, 23])
def test_an_onnx_file_has_the_asked_opset_the_signatures_names_and_its_dims(
    opset: int, program_of: Callable[[str], Program], tmp_path: Path
) -> None:
    program = program_of("two-heads")
    path = tmp_path / "model.onnx"
    export_onnx(load_exported(program), program.signature, path, opset=opset)
    onnx.checker.check_model(str(path), full_check=True)
    model = onnx.load(str(path))
    assert model.opset_import[0].version == opset
    assert model.ir_version <= 11
    ports = [*model.graph.input, *model.graph.output]
    assert [
        (port.name, [d.dim_param or d.dim_value for d in port.type.tensor_type.shape.dim])
        for port in ports
    ] == [
        (spec.name, list(spec.shape))
        for spec in (*program.signature.inputs, *program.signature.outputs)
    ]


def test_weights_too_many_for_one_file_lie_beside_the_model_and_are_listed(
    program_of: Callable[[str], Program], tmp_path: Path
) -> None:
    program = program_of("cnn")
    path = tmp_path / "model.onnx"
    files = export_onnx(
        load_exported(program), program.signature, path, opset=20, single_file_bytes=1
    )
    assert files == ("model.onnx", "model.onnx.data")
    assert sorted(found.name for found in tmp_path.iterdir()) == sorted(files)


@pytest.mark.parametrize("name", ["openvino-f32", "onnxruntime-f32"])
def test_an_onnx_file_with_its_weights_beside_it_becomes_whole_again(
    name: str, onnx_program_of: Callable[[str], Program], tmp_path: Path
) -> None:
    entry, program = ZOO["cnn"], onnx_program_of("cnn")
    source = tmp_path / "source"
    source.mkdir()
    model = onnx.load(str(program.path))
    model.ir_version = 13  # newer than devices read
    path = source / "program.onnx"
    onnx.save(model, str(path), save_as_external_data=True, location="weights", size_threshold=0)
    split = dataclasses.replace(program, path=path)
    lowered = lower(BY_NAME[name], entry, split, tmp_path / "variant")
    with load(tmp_path / "variant") as session:
        found = session.run(entry.sample())["output"]
    np.testing.assert_allclose(found, entry.eager(entry.sample())["output"], atol=1e-5)
    if name == "onnxruntime-f32":
        assert lowered.files == ("model.onnx",)
        assert onnx.load(str(tmp_path / "variant" / "model.onnx")).ir_version <= 11


def test_an_onnx_file_above_the_opset_that_a_device_takes_is_refused(
    onnx_program_of: Callable[[str], Program], tmp_path: Path
) -> None:
    recipe = dataclasses.replace(BY_NAME["onnxruntime-f32"].recipe, opset=18)
    with pytest.raises(ToolchainError, match="opset 20, the device's runtime takes 18"):
        targets.toolchain("onnxruntime").lower(onnx_program_of("cnn"), recipe, None, tmp_path)
