"""Where a run's time goes: what the runtimes tell, and that a build never depends on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.files import sha256_of
from agent.identity import fingerprint
from agent.manifest import File, Runtime, Signature, TensorSpec
from agent.sessions import operator_times, profile
from agent.sessions.onnxruntime import traced_runs
from agent.tensors import TensorWriter
from agent.variant import RECORD_NAME, VariantRecord, read_record, record_bytes
from sdk.cache import Cache
from sdk.project_reader import load_project
from sdk.select import Selection, select
from sdk.steps.capture import Captured
from sdk.steps.lower import Lowering
from sdk.steps.operators import operators
from sdk.steps.runner import Runner
from sdk.workers import Workers
from targets.interface import Program
from tests.projects import write_project
from tests.test_select import result

SIGNATURE = Signature(
    inputs=(TensorSpec(name="x", dtype="float32", shape=("batch", 64)),),
    outputs=(TensorSpec(name="y", dtype="float32", shape=("batch", 32)),),
    dims={"batch": (1, 4, 8)},
)
X = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)

RUN = st.lists(
    st.tuples(
        st.sampled_from("abc"), st.just("Add"), st.just("cpu"), st.floats(1e-6, 10)
    ),
    max_size=6,
)  # fmt: skip


@given(st.lists(RUN, min_size=1, max_size=5))
def test_shares_are_of_the_whole_and_the_slowest_comes_first(
    runs: list[list[tuple[str, str, str, float]]],
) -> None:
    found = operator_times(runs)
    assert [one.ms for one in found] == sorted((one.ms for one in found), reverse=True)
    assert len({one.name for one in found}) == len(found)
    if found:
        assert sum(one.share for one in found) == pytest.approx(1)


def test_one_slow_run_does_not_make_a_slow_operator() -> None:
    runs = [[("a", "Add", "cpu", ms), ("b", "Mul", "cpu", 2.0)] for ms in (1.0, 1.0, 90.0)]
    assert [(one.name, one.ms) for one in operator_times(runs)] == [("b", 2.0), ("a", 1.0)]


def kernel(name: str, ts: int, dur: int) -> dict[str, Any]:
    told = {"op_name": name.capitalize(), "provider": "CPUExecutionProvider"}
    return {"cat": "Node", "name": f"{name}_kernel_time", "ts": ts, "dur": dur, "args": told}


def test_a_trace_is_cut_into_its_runs_by_time() -> None:
    events = [
        {"cat": "Session", "name": "model_loading_uri", "ts": 1, "dur": 5},
        kernel("conv", 210, 40),
        {"cat": "Session", "name": "model_run", "ts": 200, "dur": 90},
        kernel("conv", 110, 30),
        {"cat": "Session", "name": "model_run", "ts": 100, "dur": 90},
        {"cat": "Node", "name": "conv_fence_before", "ts": 109, "dur": 0, "args": {}},
        kernel("gemm", 260, 7),
    ]
    assert traced_runs(events) == [
        [("conv", "Conv", "CPUExecutionProvider", 0.03)],
        [
            ("conv", "Conv", "CPUExecutionProvider", 0.04),
            ("gemm", "Gemm", "CPUExecutionProvider", 0.007),
        ],
    ]


def variant(folder: Path, format: str, content: bytes | None = None) -> Path:
    """A small ONNX net as a variant: ONNX Runtime and OpenVINO both read the file as it is."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = np.random.default_rng(1).standard_normal((64, 32)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["h"], name="mat"),
         helper.make_node("Tanh", ["h"], ["y"], name="bend")],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 32])],
        [numpy_helper.from_array(weights, "w")],
    )  # fmt: skip
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    folder.mkdir(parents=True)
    if content is None:
        onnx.save(model, str(folder / "net.onnx"))
    else:
        (folder / "net.onnx").write_bytes(content)
    file = folder / "net.onnx"
    record = VariantRecord(
        version=1, id="net/any/net", model="net", target="any", profile="any",
        runtime=Runtime(format=format, at_least="0", below=None), options={}, signature=SIGNATURE,
        files=(File(path=file.name, sha256=sha256_of(file), length=file.stat().st_size),),
        provenance={},
    )  # fmt: skip
    (folder / RECORD_NAME).write_bytes(record_bytes(record))
    return folder


@pytest.mark.toolchain
@pytest.mark.parametrize("format", ["onnxruntime", "openvino"])
def test_a_runtime_that_knows_tells_what_each_operator_costs(format: str, tmp_path: Path) -> None:
    found = profile(variant(tmp_path / "net", format), [{"x": X}], runs=30)
    assert found
    kinds = {one.type for one in found}
    assert kinds & {"MatMul", "FusedMatMul", "FullyConnected"}
    assert sum(one.share for one in found) == pytest.approx(1)
    assert all(one.ms > 0 and one.engine for one in found)
    assert not list(Path.cwd().glob("*trace*.json")), "no trace is left behind"


def prepared(tmp_path: Path, content: bytes | None) -> tuple[Runner, Selection, Any, Any]:
    """A selection of one measured candidate, whose variant lies in a folder."""
    folder = variant(tmp_path / "net", "onnxruntime", content)
    captured = tmp_path / "captured"
    captured.mkdir()
    with TensorWriter(captured / "bench.safetensors") as writer:
        writer.add("00000/in/x", X)
    cache = Cache(tmp_path / "cache")
    runner = Runner(
        load_project(write_project(tmp_path / "project")), cache, Workers(tmp_path),
        fingerprint(), fresh=False, on_event=lambda _: None,
    )  # fmt: skip
    selection = select([result("net-f32", 1.0)], {})
    program = Program(
        kind="onnx", path=folder / "net.onnx", signature=SIGNATURE, digest="0" * 64, costs=(),
        weight_bytes=0,
    )  # fmt: skip
    built = {
        selection.results[0].candidate.recipe.digest: Lowering(
            name="net", folder=folder, record=read_record(folder), lowered=None, failure=None, log=None,
            digest=sha256_of(folder / "net.onnx"),
        )
    }  # fmt: skip
    told = Captured(
        program=program, folder=captured, samples={}, metric=None, original_scores=None,
        has_evaluation=False, digest="",
    )  # fmt: skip
    return runner, selection, built, told


@pytest.mark.toolchain
def test_the_step_adds_the_times_and_keeps_them_in_the_cache(tmp_path: Path) -> None:
    runner, selection, built, captured = prepared(tmp_path, None)
    found = operators(runner, selection, built, captured)
    times = found.results[0].operators
    assert times
    said: list[str] = []
    again = Runner(
        runner.project, runner.cache, runner.workers, runner.device,
        fresh=False, on_event=lambda event: said.append(event.message),
    )  # fmt: skip
    assert operators(again, selection, built, captured).results[0].operators == times
    assert said == []


@pytest.mark.toolchain
def test_a_runtime_that_cannot_be_profiled_is_a_note_and_not_a_failure(tmp_path: Path) -> None:
    runner, selection, built, captured = prepared(tmp_path, b"no model at all")
    found = operators(runner, selection, built, captured).results[0]
    assert (found.status, found.operators) == ("built", None)
    assert len(found.notes) == 1
    assert "its operators could not be timed: ONNX Runtime" in found.notes[0]


def test_a_candidate_that_was_not_measured_here_is_not_profiled(tmp_path: Path) -> None:
    selection = select([result("net-f32", estimate_ms=2.0)], {})
    found = operators(None, selection, {}, None)  # type: ignore[arg-type]  # nobody is asked
    assert found == selection
