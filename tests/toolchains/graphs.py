"""Small ONNX graphs from `x` to `y`, and what they answer."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from agent.sessions.onnxruntime import import_runtime


def graph(
    nodes: list[Any],
    *,
    shape: tuple[int | str, ...] = (2, 4),
    weights: dict[str, Any] | None = None,
    opset: int = 20,
) -> Any:
    """A model from `x` to `y`, both f32; y's shape is inferred."""
    made = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [
            numpy_helper.from_array(np.asarray(value), name)
            for name, value in (weights or {}).items()
        ],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    return onnx.shape_inference.infer_shapes(model)


def run(model: Any, x: Any, *, level: str = "ORT_DISABLE_ALL") -> Any:
    runtime = import_runtime()
    options = runtime.SessionOptions()
    options.graph_optimization_level = getattr(runtime.GraphOptimizationLevel, level)
    session = runtime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"x": x})[0]
