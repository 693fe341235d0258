"""Every rival's files for one model, made in a fresh process by the vendor's own calls.

`python -m benchmarks.rivals.makers RIVAL MODEL FOLDER`, where FOLDER is the model's. Options are
the vendors' defaults. What their documentation asks for beyond them is done: ONNX Runtime's
pre-processing before it quantises, and NNCF's model type of transformers. Nothing of `sdk` or
`targets` takes part.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agent.files import sha256_of
from agent.manifest import File, Runtime
from agent.metrics import metric
from agent.sessions.openvino import without_telemetry
from agent.variant import VariantRecord, record_bytes
from benchmarks.rivals.models import (
    CASES,
    LIMITS,
    answers,
    export,
    given_samples,
    network,
    signature,
)

CALIBRATION, VALIDATION = 128, 200
"""Samples of the project: the first ones calibrate, the next ones control NNCF's accuracy."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rival:
    """A contestant that is used with its defaults."""

    format: str
    make: Callable[[str, Path, Path], str]
    """`make(model, the model's folder, own folder)` writes the files and names the first."""
    fallback: str
    """The same runtime's f32, which counts in its place where it is over the limit."""
    told: str
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    second: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Options to load its file with where the runtime refuses it with the defaults."""
    also: bool = False
    """Only a fallback: not a contestant of its own."""


def _exported(name: str, folder: Path) -> Any:
    return export(network(name, folder), given_samples(folder))


def _calibration(folder: Path) -> Iterator[dict[str, np.ndarray]]:
    for index, inputs in enumerate(given_samples(folder)):
        if index == CALIBRATION:
            return
        yield inputs


def _torch(name: str, folder: Path, out: Path) -> str:
    shutil.copyfile(folder / "weights.safetensors", out / "weights.safetensors")
    (out / "model.json").write_text(json.dumps({"model": name}))
    return "model.json"


def _converted(name: str, folder: Path) -> Any:
    import openvino

    return openvino.convert_model(_exported(name, folder))


def _save_openvino(model: Any, folder: Path, out: Path) -> str:
    import openvino

    told = signature(folder)
    for given, specs in ((model.inputs, told.inputs), (model.outputs, told.outputs)):
        for port, spec in zip(given, specs, strict=True):
            port.get_tensor().set_names({spec.name})
    openvino.save_model(model, out / "model.xml")
    return "model.xml"


def _openvino(name: str, folder: Path, out: Path) -> str:
    return _save_openvino(_converted(name, folder), folder, out)


def _nncf_options(name: str) -> dict[str, Any]:
    import nncf

    return {"model_type": nncf.ModelType.TRANSFORMER} if CASES[name].transformer else {}


def _nncf(name: str, folder: Path, out: Path) -> str:
    with without_telemetry():
        import nncf

    dataset = nncf.Dataset([list(inputs.values()) for inputs in _calibration(folder)])
    made = nncf.quantize(_converted(name, folder), dataset, **_nncf_options(name))
    return _save_openvino(made, folder, out)


def _nncf_accuracy(name: str, folder: Path, out: Path) -> str:
    """`quantize_with_accuracy_control`, told the same metric and limit as everybody."""
    with without_telemetry():
        import nncf

    case, given = CASES[name], given_samples(folder)
    net = network(name, folder)
    score = metric(case.metric).score
    references = [answers(net, inputs) for _, inputs in _validation(folder)]
    labels = given.labels

    def validate(model: Any, items: Iterable[Any]) -> tuple[float, list[float]]:
        scores = []
        for index in items:
            inputs = given_inputs[index]
            found = list(model(list(inputs.values())).values())
            outputs = dict(zip(references[index], found, strict=True))
            label = None if labels is None else labels[CALIBRATION + index]
            scores.append(score(outputs, references[index], label))
        return float(np.mean(scores)), scores

    given_inputs = [inputs for _, inputs in _validation(folder)]
    made = nncf.quantize_with_accuracy_control(
        _converted(name, folder),
        nncf.Dataset([list(inputs.values()) for inputs in _calibration(folder)]),
        nncf.Dataset(list(range(len(given_inputs)))),
        validate,
        max_drop=LIMITS[case.metric],
        drop_type=nncf.DropType.RELATIVE,
        **_nncf_options(name),
    )
    return _save_openvino(made, folder, out)


def _validation(folder: Path) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    for index, inputs in enumerate(given_samples(folder)):
        if index >= CALIBRATION + VALIDATION:
            return
        if index >= CALIBRATION:
            yield index, inputs


def _onnx(name: str, folder: Path, out: Path) -> str:
    told = signature(folder)
    program = torch.onnx.export(
        _exported(name, folder),
        input_names=[spec.name for spec in told.inputs],
        output_names=[spec.name for spec in told.outputs],
        dynamo=True,
    )
    program.save(out / "model.onnx")
    return "model.onnx"


def _prepared(name: str, folder: Path, out: Path) -> Path:
    from onnxruntime.quantization import quant_pre_process

    _onnx(name, folder, out)
    try:
        quant_pre_process(out / "model.onnx", out / "prepared.onnx")
    except Exception as error:  # noqa: BLE001  its shape inference fails on some of torch's graphs
        print(f"without symbolic shape inference: {type(error).__name__}: {error}")
        quant_pre_process(out / "model.onnx", out / "prepared.onnx", skip_symbolic_shape=True)
    return out / "prepared.onnx"


def _onnx_dynamic(name: str, folder: Path, out: Path) -> str:
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(_prepared(name, folder, out), out / "dynamic.onnx")
    return "dynamic.onnx"


def _onnx_static(name: str, folder: Path, out: Path) -> str:
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # untyped base
        def __init__(self) -> None:
            self.items = _calibration(folder)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.items, None)

    quantize_static(_prepared(name, folder, out), out / "int8.onnx", Reader())
    return "int8.onnx"


def _save_pte(program: Any, out: Path) -> str:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    (out / "model.pte").write_bytes(lowered.to_executorch().buffer)
    return "model.pte"


def _executorch(name: str, folder: Path, out: Path) -> str:
    return _save_pte(_exported(name, folder), out)


def _executorch_int8(name: str, folder: Path, out: Path) -> str:
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    quantiser = XNNPACKQuantizer()
    quantiser.set_global(get_symmetric_quantization_config(is_per_channel=True))
    prepared = prepare_pt2e(_exported(name, folder).module(), quantiser)
    for inputs in _calibration(folder):
        prepared(*map(torch.from_numpy, inputs.values()))
    example = tuple(map(torch.from_numpy, next(_calibration(folder)).values()))
    return _save_pte(torch.export.export(convert_pt2e(prepared), example), out)


def _olive(name: str, folder: Path, out: Path) -> str:
    python = os.environ.get("OLIVE_PYTHON")
    if not python:
        raise SystemExit("no environment of Olive was named (--olive)")
    _onnx(name, folder, out)
    script = Path(__file__).with_name("olive_passes.py")
    given = [str(out / "model.onnx"), str(folder / "project"), str(CALIBRATION), str(out)]
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run([python, str(script), *given], check=True, env=clean, cwd=out)
    shutil.rmtree(out / "cache", ignore_errors=True)
    return "olive.onnx"


_IN_F32 = {"INFERENCE_PRECISION_HINT": "f32"}
"""OpenVINO refuses some int8 files where bf16 is its default for the rest of the operators."""

RIVALS: dict[str, Rival] = {
    "torch eager": Rival(
        format="pytorch", make=_torch, fallback="torch eager", told="the module as it is"
    ),
    "torch.compile": Rival(
        format="pytorch", make=_torch, fallback="torch eager", told="`torch.compile(module)`",
        options={"compile": True},
    ),
    "OpenVINO": Rival(
        format="openvino", make=_openvino, fallback="OpenVINO f32",
        told="`convert_model`, `save_model`, `compile_model`; bf16 where the CPU has it",
    ),
    "NNCF int8": Rival(
        format="openvino", make=_nncf, fallback="OpenVINO f32", told="`nncf.quantize`",
        second=_IN_F32,
    ),
    "NNCF accuracy control": Rival(
        format="openvino", make=_nncf_accuracy, fallback="OpenVINO f32",
        told="`nncf.quantize_with_accuracy_control`, told the metric and the limit",
        second=_IN_F32,
    ),
    "ONNX Runtime": Rival(
        format="onnxruntime", make=_onnx, fallback="ONNX Runtime", told="`torch.onnx.export`"
    ),
    "ONNX Runtime dynamic int8": Rival(
        format="onnxruntime", make=_onnx_dynamic, fallback="ONNX Runtime",
        told="`quant_pre_process`, `quantize_dynamic`",
    ),
    "ONNX Runtime static int8": Rival(
        format="onnxruntime", make=_onnx_static, fallback="ONNX Runtime",
        told="`quant_pre_process`, `quantize_static`",
    ),
    "ExecuTorch": Rival(
        format="executorch", make=_executorch, fallback="ExecuTorch", told="XNNPACK, f32"
    ),
    "ExecuTorch int8": Rival(
        format="executorch", make=_executorch_int8, fallback="ExecuTorch",
        told="XNNPACK, PT2E with the symmetric configuration, per channel",
    ),
    "Olive": Rival(
        format="onnxruntime", make=_olive, fallback="ONNX Runtime",
        told="`OnnxPeepholeOptimizer`, `OnnxStaticQuantization`, in its own environment",
    ),
    "OpenVINO f32": Rival(
        format="openvino", make=_openvino, fallback="OpenVINO f32", also=True,
        told="its default, asked to compute in f32", options=_IN_F32,
    ),
}  # fmt: skip
"""Name -> rival."""


def place(rival: str, folder: Path) -> Path:
    """Where a rival's files for a model lie."""
    return folder / "rivals" / rival.replace(" ", "-").replace(".", "-").lower()


def make(rival: str, name: str, folder: Path) -> None:
    """Write a rival's files and record."""
    own, out = RIVALS[rival], place(rival, folder)
    out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    entry = own.make(name, folder, out)
    seconds = time.monotonic() - began
    (out / "made.json").write_text(json.dumps({"entry": entry, "seconds": round(seconds, 1)}))
    describe(rival, name, folder, own.options)


def describe(rival: str, name: str, folder: Path, options: dict[str, Any]) -> None:
    """Write the record of files that are there."""
    own, out = RIVALS[rival], place(rival, folder)
    entry = json.loads((out / "made.json").read_text())["entry"]
    listed = [entry] + [
        path.name
        for path in sorted(out.iterdir())
        if path.name in ("model.bin", "weights.safetensors", f"{entry}.data")
    ]
    record = VariantRecord(
        version=1,
        id=f"{name}/any/{out.name}",
        model=name,
        target="any",
        profile="any",
        runtime=Runtime(format=own.format, at_least=None, below=None),
        options=options,
        signature=signature(folder),
        files=tuple(
            File(path=n, sha256=sha256_of(out / n), length=(out / n).stat().st_size) for n in listed
        ),
        provenance={},
    )
    (out / "variant.json").write_bytes(record_bytes(record))


if __name__ == "__main__":
    make(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
