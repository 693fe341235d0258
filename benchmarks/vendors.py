"""Every vendor's plain default on one of the benchmark models, made in a fresh process.

`python -m benchmarks.vendors RECIPE MODEL FOLDER` does what the vendor's own documentation shows:
load torch, export, convert, quantise with default settings, save. No Slipway code takes part.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.models import MODELS, samples_of

CALIBRATION = 100  # samples; NNCF takes its own default of 300


def inputs(name: str, count: int) -> Iterator[dict[str, np.ndarray]]:
    """The first samples of a model."""
    return (arrays for _, arrays in itertools.islice(samples_of(name), count))


def exported(name: str) -> Any:
    """The model as an ExportedProgram with a dynamic batch."""
    factory, shape = MODELS[name]
    example = torch.zeros(4, *shape.size)
    batch = torch.export.Dim("batch", min=1, max=4)
    return torch.export.export(factory().eval(), (example,), dynamic_shapes=({0: batch},))


def ports(name: str) -> tuple[list[str], list[str]]:
    """Names of inputs and outputs: files must answer to the same ones to be compared."""
    factory, shape = MODELS[name]
    with torch.no_grad():
        answer = factory()(torch.zeros(1, *shape.size))
    return [shape.input], list(answer) if isinstance(answer, dict) else ["output"]


def _save_openvino(model: Any, name: str, folder: Path) -> str:
    import openvino

    for given, named in zip((model.inputs, model.outputs), ports(name), strict=True):
        for port, text in zip(given, named, strict=True):
            port.get_tensor().set_names({text})
    openvino.save_model(model, folder / "model.xml")
    return "model.xml"


def openvino_f32(name: str, folder: Path) -> str:
    """`convert_model` and `save_model`, whose default stores weights as f16."""
    import openvino

    return _save_openvino(openvino.convert_model(exported(name)), name, folder)


def openvino_int8(name: str, folder: Path) -> str:
    """`nncf.quantize` with its defaults."""
    import nncf
    import openvino

    model = openvino.convert_model(exported(name))
    dataset = nncf.Dataset([next(iter(arrays.values())) for arrays in inputs(name, 300)])
    return _save_openvino(nncf.quantize(model, dataset), name, folder)


def onnxruntime_f32(name: str, folder: Path) -> str:
    """`torch.onnx.export`."""
    taken, given = ports(name)
    program = torch.onnx.export(exported(name), input_names=taken, output_names=given, dynamo=True)
    program.save(folder / "model.onnx")
    return "model.onnx"


def onnxruntime_int8(name: str, folder: Path) -> str:
    """`quantize_static` with its defaults, after the recommended pre-processing."""
    from onnxruntime.quantization import CalibrationDataReader, quant_pre_process, quantize_static

    onnxruntime_f32(name, folder)
    quant_pre_process(folder / "model.onnx", folder / "prepared.onnx")

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # untyped base
        def __init__(self) -> None:
            self.items = inputs(name, CALIBRATION)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.items, None)

    quantize_static(folder / "prepared.onnx", folder / "int8.onnx", Reader())
    return "int8.onnx"


def onnxruntime_dynamic(name: str, folder: Path) -> str:
    """`quantize_dynamic` with its defaults."""
    from onnxruntime.quantization import quant_pre_process, quantize_dynamic

    onnxruntime_f32(name, folder)
    quant_pre_process(folder / "model.onnx", folder / "prepared.onnx")
    quantize_dynamic(folder / "prepared.onnx", folder / "dynamic.onnx")
    return "dynamic.onnx"


def _save_pte(program: Any, folder: Path) -> str:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    (folder / "model.pte").write_bytes(lowered.to_executorch().buffer)
    return "model.pte"


def executorch_f32(name: str, folder: Path) -> str:
    """Lowered to XNNPACK."""
    return _save_pte(exported(name), folder)


def executorch_int8(name: str, folder: Path) -> str:
    """PT2E with the XNNPACKQuantizer's symmetric configuration, per channel."""
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    program = exported(name)
    quantiser = XNNPACKQuantizer()
    quantiser.set_global(get_symmetric_quantization_config(is_per_channel=True))
    prepared = prepare_pt2e(program.module(), quantiser)
    for arrays in inputs(name, CALIBRATION):
        prepared(*map(torch.from_numpy, arrays.values()))
    batch = torch.export.Dim("batch", min=1, max=4)
    example = torch.zeros(4, *MODELS[name][1].size)
    quantised = convert_pt2e(prepared)
    return _save_pte(
        torch.export.export(quantised, (example,), dynamic_shapes=({0: batch},)), folder
    )


RECIPES: dict[str, Callable[[str, Path], str]] = {
    "openvino-f32": openvino_f32,
    "openvino-int8": openvino_int8,
    "onnxruntime-f32": onnxruntime_f32,
    "onnxruntime-int8": onnxruntime_int8,
    "onnxruntime-dynamic": onnxruntime_dynamic,
    "executorch-f32": executorch_f32,
    "executorch-int8": executorch_int8,
}

if __name__ == "__main__":
    recipe, model, out = sys.argv[1:]
    Path(out).mkdir(parents=True, exist_ok=True)
    print(RECIPES[recipe](model, Path(out)))
