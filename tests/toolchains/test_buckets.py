"""Shape buckets on the real runtimes: the same answers, from the form that was made for them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent import sessions
from agent.errors import ToolchainError, VerificationError
from agent.files import sha256_of
from agent.manifest import File, Runtime, Signature, TensorSpec
from agent.sessions import load
from agent.tensors import TensorWriter
from agent.variant import RECORD_NAME, VariantRecord, read_record, record_bytes
from sdk.capture.golden import golden_inputs
from sdk.prove import evaluate
from sdk.samples import Sample, write_sample
from targets.interface import Program
from tests.toolchains.cases import CASES, VENDOR_WARNINGS, Case
from tests.toolchains.variants import lower
from tests.toolchains.zoo import ZOO

pytestmark = [pytest.mark.toolchain, *VENDOR_WARNINGS]

ENTRY = ZOO["encoder"]
OPT = {"batch": 2, "length": 12}
BETWEEN = [{"batch": 3, "length": 20}, {"batch": 2, "length": 13}, {"batch": 1, "length": 12}]
BY_NAME = {case.name: case for case in CASES}
FITTING = ("openvino-f32", "openvino-int8", "onnxruntime-f32", "onnxruntime-int8-dynamic")


def with_options(folder: Path, **options: Any) -> Path:
    """The variant in this folder, with other options in its record."""
    record = read_record(folder)
    record = dataclasses.replace(record, options={**record.options, **options})
    (folder / RECORD_NAME).write_bytes(record_bytes(record))
    return folder


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Mapping[str, int]]]:
    """What was loaded, by format, and which form ran: the sizes fixed in it, {} for the general."""
    ran: dict[str, list[Mapping[str, int]]] = {"loaded": [], "ran": []}
    for runtime in ("openvino", "onnxruntime"):
        module: Any = sessions.session_module(runtime)
        original = module.load

        def loaded(*arguments: Any, original: Any = original, **fixed: Any) -> Any:
            session = original(*arguments, **fixed)
            sizes = fixed.get("fixed", {})
            ran["loaded"].append(sizes)
            run = session.run

            def noted(inputs: Any) -> Any:
                ran["ran"].append(sizes)
                return run(inputs)

            session.run = noted
            return session

        monkeypatch.setattr(module, "load", loaded)
    return ran


@pytest.mark.parametrize("name", FITTING)
def test_every_form_answers_as_torch_does_and_takes_its_own_sizes(
    name: str,
    program_of: Callable[[str], Program],
    tmp_path: Path,
    asked: dict[str, list[Mapping[str, int]]],
) -> None:
    case = BY_NAME[name]
    lower(case, ENTRY, program_of("encoder"), tmp_path / "variant")
    with load(tmp_path / "variant") as one:
        plain = {
            str(sizes): one.run(ENTRY.sample(sizes=sizes)) for sizes in (*ENTRY.sizes(), *BETWEEN)
        }
    with_options(tmp_path / "variant", buckets=[OPT, {"length": 20}])
    asked["loaded"].clear()
    asked["ran"].clear()
    expected = []
    with load(tmp_path / "variant") as session:
        assert asked["loaded"] == [{}, OPT, {"length": 20}]
        for sizes in (*ENTRY.sizes(), *BETWEEN):
            given = ENTRY.sample(sizes=sizes)
            answers = session.run(given)
            compare(case, plain[str(sizes)], answers)
            compare(case, ENTRY.eager(given), answers)
            expected.append(
                OPT if sizes == OPT else {"length": 20} if sizes["length"] == 20 else {}
            )
        assert asked["ran"] == expected
        assert OPT in expected
        assert {"length": 20} in expected
        session.reset()
        assert sum(session.placement().values()) == pytest.approx(1)


@pytest.mark.parametrize("name", ["openvino-f32", "onnxruntime-f32"])
@pytest.mark.parametrize(
    ("options", "form"),
    [
        ({}, OPT),
        # A batch of a size that no golden sample has.
        ({"batch": 3, "batch_dim": "batch"}, {"batch": 3, "length": 12}),
    ],
    ids=["opt", "batch"],
)
def test_golden_data_is_answered_by_every_form(
    name: str,
    options: dict[str, Any],
    form: dict[str, int],
    program_of: Callable[[str], Program],
    tmp_path: Path,
    asked: dict[str, list[Mapping[str, int]]],
) -> None:
    program = program_of("encoder")
    lower(BY_NAME[name], ENTRY, program, tmp_path / "variant")
    with_options(tmp_path / "variant", buckets=[form], **options)
    with TensorWriter(tmp_path / "golden.safetensors") as writer:
        bases = [ENTRY.sample(seed=seed) for seed in range(3)]
        for index, given in enumerate(golden_inputs(program.signature, bases)):
            outputs = ENTRY.eager(given)
            sample = Sample(id=str(index), inputs=given, label=None, outputs=outputs)
            write_sample(writer.add, index, sample)
    payload = {
        "variant": str(tmp_path / "variant"),
        "check_as": None,
        "captured": str(tmp_path),
        "metric": None,
    }
    found = evaluate(payload, tmp_path)
    assert asked["loaded"] == [{}, form]
    assert {str(sizes) for sizes in asked["ran"]} == {"{}", str(form)}
    assert min(one["value"] for one in found["golden"]) > 0.9999


def compare(case: Case, wanted: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """As near as the case's recipe has to be."""
    assert list(wanted) == list(found)
    for name, original in wanted.items():
        if case.relative is not None:
            bound = case.relative * np.abs(original).max()
            np.testing.assert_allclose(found[name], original, rtol=0, atol=bound)
        else:
            product = float((found[name] * original).sum())
            lengths = np.linalg.norm(found[name]) * np.linalg.norm(original)
            assert product / lengths >= (case.cosine or 0)


def test_loading_refuses_buckets_that_the_model_does_not_take(tmp_path: Path) -> None:
    stateful(tmp_path)
    for wrong, telling in {
        "batch is 5, and goes from 1 to 4": [{"batch": 5}],
        "the model's inputs have no dim 'length'": [{"length": 2}],
        "should be a list of one bucket or more": [],
    }.items():
        with_options(tmp_path, buckets=telling)
        for use in (load, lambda path: sessions.profile(path, [], runs=1)):
            with pytest.raises(VerificationError, match=wrong):
                use(tmp_path)


@pytest.mark.parametrize("kind", ["exported", "onnx"])
def test_onnx_files_have_the_signatures_names_of_dims(
    kind: str,
    program_of: Callable[[str], Program],
    onnx_program_of: Callable[[str], Program],
    tmp_path: Path,
) -> None:
    program = (program_of if kind == "exported" else onnx_program_of)("encoder")
    lower(BY_NAME["onnxruntime-f32"], ENTRY, program, tmp_path / "variant")
    runtime = sessions.session_module("onnxruntime").load(
        tmp_path / "variant" / "model.onnx", {}, program.signature
    )
    shapes = [port.shape for port in runtime._runtime.get_inputs()]  # type: ignore[attr-defined]
    assert shapes == [["batch", "length"]] * 2


def test_an_onnx_file_with_other_names_of_dims_is_refused(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    shape = ["n", 4]
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    )
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    onnx.save(model, str(tmp_path / "model.onnx"))
    specs = [TensorSpec(name=name, dtype="float32", shape=("batch", 4)) for name in ("x", "y")]
    write_record(tmp_path, "onnxruntime", "model.onnx", specs, {"batch": (1, 2, 4)})
    with load(tmp_path) as session:
        assert session.run({"x": np.ones((3, 4), np.float32)})["y"].shape == (3, 4)
    with_options(tmp_path, buckets=[{"batch": 2}])
    with pytest.raises(ToolchainError, match="the file calls that axis of x 'n'"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["openvino-f32", "onnxruntime-f32"])
def test_a_profile_is_of_the_form_that_takes_the_first_input(
    name: str,
    program_of: Callable[[str], Program],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lower(BY_NAME[name], ENTRY, program_of("encoder"), tmp_path / "variant")
    with_options(tmp_path / "variant", buckets=[OPT])
    module: Any = sessions.session_module(BY_NAME[name].recipe.format)
    original, told = module.profile, []

    def profiled(*arguments: Any, **fixed: Any) -> Any:
        told.append((len(arguments[3]), fixed))
        return original(*arguments, **fixed)

    monkeypatch.setattr(module, "profile", profiled)
    small, opt = ENTRY.sample(sizes={"batch": 1, "length": 3}), ENTRY.sample(sizes=OPT)
    for given in ([opt, small, opt], [small, opt]):
        found = sessions.profile(tmp_path / "variant", given, runs=3)
        assert found
        assert sum(one.share for one in found) == pytest.approx(1)
    assert told == [(2, {"fixed": OPT}), (1, {})]


def test_openvino_carries_a_models_state_from_form_to_form(tmp_path: Path) -> None:
    stateful(tmp_path)
    ones = {size: {"x": np.ones((size, 3), np.float32)} for size in (1, 2, 4)}
    order = (1, 2, 2, 4, 2)

    def answers() -> list[float]:
        with load(tmp_path) as session:
            found = [float(session.run(ones[size])["y"][0, 0]) for size in order]
            session.reset()
            return [*found, float(session.run(ones[2])["y"][0, 0])]

    plain = answers()
    assert plain == [12.0, 14.0, 16.0, 20.0, 22.0, 13.0]  # 10, all ones so far, and the input's
    with_options(tmp_path, buckets=[{"batch": 2}, {"batch": 4}])
    assert answers() == plain


def stateful(folder: Path) -> None:
    """An IR that adds up its inputs, beginning with 10, and answers with the sum plus the input."""
    import openvino
    from openvino import opset15 as ops
    from openvino.op.util import Variable, VariableInfo

    shape = openvino.PartialShape([openvino.Dimension(1, 4), 3])
    x = ops.parameter(shape, np.float32, name="x")
    info = VariableInfo()
    info.data_shape, info.data_type = openvino.PartialShape([3]), openvino.Type.f32
    info.variable_id = "sum"
    variable = Variable(info)
    known = ops.read_value(ops.constant(np.full(3, 10, np.float32)), variable)
    sum_now = ops.add(known, ops.reduce_sum(x, np.array([0], np.int64), keep_dims=False))
    result = ops.result(ops.add(x, sum_now))
    model = openvino.Model([result], [ops.assign(sum_now, variable)], [x], "sum")
    model.input(0).set_names({"x"})
    model.output(0).set_names({"y"})
    openvino.save_model(model, folder / "model.xml", compress_to_fp16=False)
    specs = [TensorSpec(name=name, dtype="float32", shape=("batch", 3)) for name in ("x", "y")]
    write_record(folder, "openvino", "model.xml", specs, {"batch": (1, 2, 4)})


def write_record(
    folder: Path,
    format: str,
    entry: str,
    specs: list[TensorSpec],
    dims: dict[str, tuple[int, int, int]],
) -> None:
    """A record of one input and one output."""
    path = folder / entry
    file = File(path=entry, sha256=sha256_of(path), length=path.stat().st_size)
    record = VariantRecord(
        version=1,
        id=f"net/test/{format}",
        model="net",
        target="test",
        profile="test",
        runtime=Runtime(format=format, at_least=None, below=None),
        options={},
        signature=Signature(inputs=(specs[0],), outputs=(specs[1],), dims=dims),
        files=(file,),
        provenance={},
    )
    (folder / RECORD_NAME).write_bytes(record_bytes(record))
