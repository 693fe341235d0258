"""ONNX weights beside the model: read where they belong, refused where they would reach further."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.errors import CaptureError
from sdk.capture import capture

pytestmark = pytest.mark.toolchain

WEIGHTS = np.random.default_rng(0).standard_normal((16, 4)).astype(np.float32)


def write_project(folder: Path, change: Callable[[Any], None] | None = None) -> Path:
    """An ONNX project whose weights lie in `net.onnx.data`; `change` edits the model's protobuf."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    folder.mkdir()
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(WEIGHTS, "w")],
    )
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    path = folder / "net.onnx"
    onnx.save(
        model, str(path), save_as_external_data=True, location="net.onnx.data", size_threshold=0
    )
    model = onnx.load(str(path), load_external_data=False)
    if change is not None:
        change(model)
    path.write_bytes(model.SerializeToString())
    (folder / "sdk.toml").write_text(
        '[model]\nname = "net"\nsource = "net.onnx"\n[dims]\nbatch = {min=1, opt=1, max=4}\n'
    )
    return folder


def captured(folder: Path, out: Path) -> dict[str, Any]:
    out.mkdir()
    return capture({"project": str(folder)}, out)


def test_weights_beside_the_model_are_taken_along(tmp_path: Path) -> None:
    import onnx

    found = captured(write_project(tmp_path / "p"), tmp_path / "out")
    assert found["program"]["weight_bytes"] == WEIGHTS.nbytes
    copied = onnx.load(str(tmp_path / "out" / found["program"]["path"]))
    assert np.array_equal(onnx.numpy_helper.to_array(copied.graph.initializer[0]), WEIGHTS)


def test_other_weights_of_the_same_shape_are_another_program(tmp_path: Path) -> None:
    first = captured(write_project(tmp_path / "a"), tmp_path / "out_a")
    other = write_project(tmp_path / "b")
    (other / "net.onnx.data").write_bytes((2 * WEIGHTS).tobytes())
    second = captured(other, tmp_path / "out_b")
    assert first["program"]["digest"] != second["program"]["digest"]


def set_external(tensor: Any, **told: object) -> None:
    import onnx

    tensor.ClearField("raw_data")
    del tensor.external_data[:]
    for key, value in told.items():
        tensor.external_data.add(key=key, value=str(value))
    tensor.data_location = onnx.TensorProto.EXTERNAL


def weight(**told: object) -> Callable[[Any], None]:
    return lambda model: set_external(model.graph.initializer[0], **told)


def in_a_constant(model: Any) -> None:
    from onnx import helper, numpy_helper

    node = helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(WEIGHTS, "c"))
    set_external(node.attribute[0].t, location="../secret")
    model.graph.node.insert(0, node)


def in_a_subgraph(model: Any) -> None:
    from onnx import TensorProto, helper, numpy_helper

    inner = numpy_helper.from_array(WEIGHTS, "inner")
    set_external(inner, location="../secret")
    output = helper.make_tensor_value_info("o", TensorProto.FLOAT, [16, 4])
    branch = helper.make_graph(
        [helper.make_node("Identity", ["inner"], ["o"])], "branch", [], [output], [inner]
    )
    condition = helper.make_tensor("yes", TensorProto.BOOL, [], [True])
    model.graph.initializer.append(condition)
    model.graph.node.append(
        helper.make_node("If", ["yes"], ["unused"], then_branch=branch, else_branch=branch)
    )


HOSTILE = {
    "a path upwards": (weight(location="../secret"), "outside its folder"),
    "an absolute path": (weight(location="/etc/passwd"), "outside its folder"),
    "a link that leads outside": (weight(location="link"), "outside its folder"),
    "no such file": (weight(location="gone.data"), "missing"),
    "no place at all": (weight(offset=0), "missing"),
    "beyond the file's end": (weight(location="net.onnx.data", offset=64), "bytes from"),
    "a length beyond the end": (weight(location="net.onnx.data", length=1 << 50), "bytes from"),
    "an offset that is no number": (weight(location="net.onnx.data", offset="x"), "bytes from"),
    "an offset below zero": (weight(location="net.onnx.data", offset=-8), "bytes from"),
    "hidden in a constant": (in_a_constant, "outside its folder"),
    "hidden in a branch": (in_a_subgraph, "outside its folder"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_place_that_reaches_further_is_refused(name: str, tmp_path: Path) -> None:
    change, expected = HOSTILE[name]
    (tmp_path / "secret").write_bytes(WEIGHTS.tobytes())
    folder = write_project(tmp_path / "p", change)
    (folder / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(CaptureError, match=expected):
        captured(folder, tmp_path / "out")


NO_MODELS = {
    "empty": b"",
    "a text": b"this is no model",
    "zeros": bytes(1000),
    "a zip of pickles": b"PK\x03\x04" + bytes(60),
    "cut short": None,
}


@pytest.mark.parametrize("name", NO_MODELS)
def test_what_is_no_onnx_file_is_refused(name: str, tmp_path: Path) -> None:
    folder = write_project(tmp_path / "p")
    path = folder / "net.onnx"
    content = NO_MODELS[name]
    path.write_bytes(path.read_bytes()[:60] if content is None else content)
    with pytest.raises(CaptureError, match=r"net\.onnx") as refusal:
        captured(folder, tmp_path / "out")
    assert refusal.value.remedy


@pytest.mark.long
def test_a_model_above_two_gib_is_captured(tmp_path: Path) -> None:
    """One protobuf message cannot hold it; on disk the weights are a hole, so it costs no space."""
    size = 23_500  # squared, times four bytes: 2.2 GB

    def grow(model: Any) -> None:
        tensor = model.graph.initializer[0]
        del tensor.dims[:]
        tensor.dims.extend([size, size])
        set_external(tensor, location="large.data")
        for value in (model.graph.input[0], model.graph.output[0]):
            value.type.tensor_type.shape.dim[1].dim_value = size

    folder = write_project(tmp_path / "p", grow)
    with (folder / "large.data").open("wb") as stream:
        stream.truncate(4 * size * size)
    found = captured(folder, tmp_path / "out")
    assert found["program"]["weight_bytes"] == 4 * size * size
    with (folder / "large.data").open("rb") as stream:
        weights = hashlib.file_digest(stream, "sha256").hexdigest()
    with (tmp_path / "out" / "program.onnx.data").open("rb") as stream:
        assert hashlib.file_digest(stream, "sha256").hexdigest() == weights
