"""A variant that is small enough to be pushed in a moment: `y = relu(x @ w)`, 8 to 8."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from agent.files import sha256_of
from agent.manifest import File, Runtime, Signature, TensorSpec
from agent.variant import RECORD_NAME, VariantRecord, record_bytes


def tiny_onnx(folder: Path, *, nan: bool = False) -> Path:
    """Its folder, which is made; with `nan` it answers NaN, and its runtime has something to say."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    folder.mkdir(parents=True, exist_ok=True)
    weights = np.random.default_rng(7).standard_normal((8, 8)).astype(np.float32)
    more = [numpy_helper.from_array(weights, "unused")] if nan else []
    weights *= np.nan if nan else 1
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"]),
            helper.make_node("Relu", ["h"], ["y"]),
        ],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8])],
        [numpy_helper.from_array(weights, "w"), *more],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = folder / "model.onnx"
    onnx.save(model, path)
    record = VariantRecord(
        version=1,
        id="tiny/host/onnxruntime-f32-00000000",
        model="tiny",
        target="intel",
        profile="host",
        runtime=Runtime(format="onnxruntime", at_least=None, below=None),
        options={"intra_op_threads": 1},
        signature=Signature(
            inputs=(TensorSpec(name="x", dtype="float32", shape=(1, 8)),),
            outputs=(TensorSpec(name="y", dtype="float32", shape=(1, 8)),),
            dims={},
        ),
        files=(File(path=path.name, sha256=sha256_of(path), length=path.stat().st_size),),
        provenance={},
    )
    (folder / RECORD_NAME).write_bytes(record_bytes(record))
    return folder
