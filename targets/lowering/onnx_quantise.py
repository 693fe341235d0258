"""ONNX files quantised by ONNX Runtime's own tools.

A recipe's `quantisation` for these: `method` (`static`, `dynamic`), `activation` and `weight`
(`uint8`, `int8`), `per_channel`, `reduce_range` (7-bit weights, for x86 without VNNI, where int8
products saturate), `symmetric` (activations too), `calibration` (`minmax`, `entropy`,
`percentile`), `operators` (only these), `samples`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from agent.errors import ToolchainError
from agent.sessions.onnxruntime import import_runtime
from agent.tensors import Array
from targets.interface import Calibration, Problem, Program

CHOICES: Mapping[str, tuple[Any, ...]] = {
    "method": ("static", "dynamic"),
    "activation": ("uint8", "int8"),
    "weight": ("int8", "uint8"),
    "calibration": ("minmax", "entropy", "percentile"),
    "per_channel": (True, False),
    "reduce_range": (False, True),
    "symmetric": (False, True),
}
"""What a recipe may choose; the first is the default. u8 x s8 is what x86 has fast kernels for."""

DYNAMIC_OPERATORS = ("MatMul", "Gather", "LSTM", "Attention", "EmbedLayerNormalization")
"""The vendor's list without Conv, which the CPU has no kernel for once its weights are int8."""

_FREE = ("samples", "operators")


def problems(program: Program, chosen: Mapping[str, Any]) -> Iterator[Problem]:
    """What speaks against quantising the program so."""
    for name, value in chosen.items():
        if name in CHOICES and value not in CHOICES[name]:
            yield Problem(what=f"known are {CHOICES[name]}", where=f"{name} {value!r}")
        elif name not in CHOICES and name not in _FREE:
            yield Problem(what=f"known are {(*CHOICES, *_FREE)}", where=name)
    if "method" not in chosen:
        yield Problem(what=f"it must say one of {CHOICES['method']}", where="method")
    kinds = {cost.kind for cost in program.costs}
    if chosen.get("method") == "dynamic" and kinds and not kinds & {"matmul", "recurrent"}:
        yield Problem(
            what="it changes matrix products and recurrent cells, and there are none",
            where="method 'dynamic'",
        )


def sample_count(chosen: Mapping[str, Any], calibration: Calibration) -> int:
    """How many samples will be used."""
    return min(int(chosen.get("samples", len(calibration))), len(calibration))


def quantise_static(
    source: Path,
    path: Path,
    chosen: Mapping[str, Any],
    calibration: Calibration,
    *,
    external: bool,
) -> None:
    """Write `path` with Q/DQ pairs around the operators of `source`."""
    import_runtime()
    from onnxruntime import quantization

    prepared = _prepare(source, external=external)
    pick = _picker(chosen)
    quantization.quantize_static(
        prepared,
        path,
        _reader(quantization, calibration, sample_count(chosen, calibration)),
        quant_format=quantization.QuantFormat.QDQ,
        op_types_to_quantize=_operators(chosen, ()),
        per_channel=pick("per_channel"),
        reduce_range=pick("reduce_range"),
        activation_type=_type(quantization, pick("activation")),
        weight_type=_type(quantization, pick("weight")),
        use_external_data_format=external,
        calibrate_method={
            "minmax": quantization.CalibrationMethod.MinMax,
            "entropy": quantization.CalibrationMethod.Entropy,
            "percentile": quantization.CalibrationMethod.Percentile,
        }[pick("calibration")],
        extra_options={"ActivationSymmetric": pick("symmetric")},
    )
    _check_changed(path)


def quantise_dynamic(
    source: Path, path: Path, chosen: Mapping[str, Any], *, external: bool
) -> None:
    """Write `path` with int8 weights and activations that are quantised as they come."""
    import_runtime()
    from onnxruntime import quantization

    pick = _picker(chosen)
    quantization.quantize_dynamic(
        _prepare(source, external=external),
        path,
        op_types_to_quantize=_operators(chosen, DYNAMIC_OPERATORS),
        per_channel=pick("per_channel"),
        reduce_range=pick("reduce_range"),
        weight_type=_type(quantization, pick("weight")),
        use_external_data_format=external,
    )
    _check_changed(path)


def _prepare(source: Path, *, external: bool) -> Path:
    """Shapes inferred and constants folded: the quantiser leaves alone what it knows no shape of.

    Symbolic inference is left out: it adds nothing to what the exporter already wrote, needs a
    package of its own, and fails on operators that it does not know.
    """
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = source.with_name("prepared.onnx")
    quant_pre_process(
        source,
        prepared,
        skip_symbolic_shape=True,
        save_as_external_data=external,
        all_tensors_to_one_file=external,
    )
    _forget_weight_shapes(prepared)
    return prepared


def _forget_weight_shapes(path: Path) -> None:
    """Drop the shapes that the exporter noted of weights.

    The dynamic quantiser transposes a Gemm's weights without mending the note, and then fails over
    the contradiction. Weights know their shapes without it.
    """
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    weights = {tensor.name for tensor in model.graph.initializer}
    kept = [value for value in model.graph.value_info if value.name not in weights]
    del model.graph.value_info[:]
    model.graph.value_info.extend(kept)
    onnx.save(model, str(path))


def _check_changed(path: Path) -> None:
    import onnx

    graph = onnx.load(str(path), load_external_data=False).graph
    small = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)
    # Zero points are scalars or vectors; only a weight has more axes.
    if not any(w.data_type in small and len(w.dims) > 1 for w in graph.initializer):
        raise ToolchainError(
            f"The quantiser found nothing to change in {path.name}.",
            cause="The model has no operators of the kinds that it quantises.",
            remedy="Leave int8 out for this model, or use another method.",
        )


def _picker(chosen: Mapping[str, Any]) -> Any:
    return lambda name: chosen.get(name, CHOICES[name][0])


def _operators(chosen: Mapping[str, Any], default: tuple[str, ...]) -> list[str]:
    return list(chosen.get("operators", default))


def _type(quantization: Any, name: str) -> Any:
    types = {"uint8": quantization.QuantType.QUInt8, "int8": quantization.QuantType.QInt8}
    return types[name]


def _reader(quantization: Any, calibration: Calibration, count: int) -> Any:
    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        """The vendor's pull interface over our samples."""

        def __init__(self) -> None:
            self._rest = iter(calibration)
            self._left = count

        def get_next(self) -> dict[str, Array] | None:
            self._left -= 1
            inputs = next(self._rest, None) if self._left >= 0 else None
            return None if inputs is None else dict(inputs)

    return Reader()
