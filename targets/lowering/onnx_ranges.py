"""How large the values inside an ONNX graph get on real inputs."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from agent.sessions.onnxruntime import import_runtime
from agent.tensors import Array
from targets.interface import Calibration
from targets.lowering.vendor import vendor_errors


def observed_maxima(model: Any, calibration: Calibration, count: int) -> dict[str, float]:
    """Tensor -> the largest absolute value over the samples; infinite where one was not finite.

    Args:
        model: in f32, below 2 GB.
        calibration: real inputs.
        count: how many of them to run.

    Raises:
        ToolchainError: the model or a sample cannot be run.
    """
    found: dict[str, float] = {}
    for sample in maxima_of_each(model, itertools.islice(calibration, count)):
        for name, bound in sample.items():
            found[name] = max(found.get(name, 0.0), bound)
    return found


def maxima_of_each(
    model: Any, samples: Iterable[Mapping[str, Array]]
) -> Iterator[dict[str, float]]:
    """The same of one sample after the other.

    Runs the f32 graph in ONNX Runtime with every float tensor as an output. What subgraphs hold
    inside is not seen.
    """
    import numpy as np
    import onnx

    with vendor_errors(
        "the graph cannot be run on the calibration data",
        cause="A sample does not fit the model, or memory ran out.",
        remedy="Check the samples, or leave f16 out for this model.",
    ):
        copy = onnx.ModelProto.FromString(model.SerializeToString())
        inferred = onnx.shape_inference.infer_shapes(copy, data_prop=True)
        ports = {port.name for port in (*inferred.graph.input, *inferred.graph.output)}
        inner = [
            value
            for value in inferred.graph.value_info
            if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
            and value.name not in ports
        ]
        copy.graph.output.extend(inner)
        runtime = import_runtime()
        options = runtime.SessionOptions()
        # Fused operators have no values in between.
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = runtime.InferenceSession(
            copy.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        names = [port.name for port in session.get_outputs()]
        for sample in samples:
            answers = session.run(names, dict(sample))
            found: dict[str, float] = {}
            for name, array in (*zip(names, answers, strict=True), *sample.items()):
                if array.dtype == np.float32 and array.size:
                    largest = float(np.abs(array).max())
                    found[name] = largest if np.isfinite(largest) else np.inf
            yield found
