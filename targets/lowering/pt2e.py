"""int8 for XNNPACK: an exported program in, a quantised exported program out.

All methods annotate with XNNPACK's own quantiser, so all lower to its own kernels. Two are static:
`pt2e`, torchao's plain observer and rounding, and `nncf-pt2e`, which adds bias correction (and
SmoothQuant where `smooth_quant` says so): it helps nets with uneven channels, and takes longer.
`dynamic` takes the scales of linear layers' activations from each input as it comes, and quantises
nothing else: it needs no data, and transformers keep their accuracy where static int8 loses it. Its
weights may have 4 `bits`: half the size, and coarser.
The result is exported again with the program's own dims, so it stays as dynamic as it was.

`ignored` names nodes of the program's graph that stay in floating point. An activation is rounded
as long as its producer or one of its readers is quantised: neighbours gain most together.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from agent.errors import ToolchainError
from agent.manifest import Signature
from agent.tensors import Array
from targets.interface import Calibration
from targets.lowering.export import dynamic_shapes
from targets.lowering.ignored import ignored_names
from targets.lowering.vendor import vendor_errors

STATIC = ("pt2e", "nncf-pt2e")
METHODS = (*STATIC, "dynamic")
SETTINGS = ("method", "samples", "per_channel", "smooth_quant", "ignored")
BITS: Mapping[int, tuple[int, int]] = {8: (-127, 127), 4: (-8, 7)}
"""Of weights: the least and the greatest value, as XNNPACK's quantiser takes them."""


def quantise_pt2e(
    exported: Any,
    signature: Signature,
    settings: Mapping[str, Any],
    calibration: Calibration | None,
    *,
    bits: int = 8,
) -> Any:
    """Quantise activations and weights to int8, with real inputs where the method is static.

    Args:
        exported: a `torch.export.ExportedProgram`; it is not changed.
        signature: names and dims of its inputs, in their order.
        settings: {method, samples, per_channel (default true), smooth_quant (default false),
            ignored (default none)}; `dynamic` has no samples.
        calibration: the inputs; the first `samples` of them are used.
        bits: of the weights; 4 only where the method is `dynamic`.

    Raises:
        ToolchainError: there is no data, the quantiser refuses the program, or the program has no
            operator of a name in `ignored`.
    """
    import torch

    if settings["method"] in STATIC and not (calibration and settings["samples"] > 0):
        raise ToolchainError(
            f"Static int8 needs real inputs, at least 1; {len(calibration or ())} were given.",
            cause="The project has no [data], so activations have no known range.",
            remedy="Add [data] samples to sdk.toml, or build without int8.",
        )
    with _refusals(settings):
        # The guards would refuse the observers' calls at sizes that they themselves allow.
        module = exported.module(check_guards=False)
        ignored_names(settings, _operator_names(module))
        with torch.no_grad():
            if settings["method"] == "dynamic":
                # The weights' own ranges are read when the observers run, whatever the input.
                example = exported.example_inputs[0]
                module = _with_torchao(module, settings, [example], bits=bits)
            else:
                assert calibration is not None
                used = _used(signature, settings, calibration)
                quantised = _with_nncf if settings["method"] == "nncf-pt2e" else _with_torchao
                module = quantised(module, settings, used)
            return torch.export.export(
                module, exported.example_inputs[0], dynamic_shapes=dynamic_shapes(signature)
            )


def reference_pt2e(
    exported: Any, signature: Signature, settings: Mapping[str, Any], calibration: Calibration
) -> Any:
    """What torchao's static method makes, as a graph module that rounds and computes in floats.

    Weights, too, are floats behind a pair of quantise and dequantise.

    Args:
        exported: a `torch.export.ExportedProgram`; it is not changed.
        signature: names and dims of its inputs, in their order.
        settings: as for `quantise_pt2e`.
        calibration: the inputs; the first `samples` of them are used.

    Raises:
        ToolchainError: the quantiser refuses the program.
    """
    import torch

    with _refusals(settings), torch.no_grad():
        module = exported.module(check_guards=False)
        used = _used(signature, settings, calibration)
        return _with_torchao(module, settings, used, folded=False)


def tensors(inputs: Mapping[str, Array], signature: Signature) -> tuple[Any, ...]:
    """A sample as torch takes it, in the signature's order."""
    import torch

    # Copies: the arrays may be read-only maps of a file, which torch warns about.
    return tuple(torch.from_numpy(np.array(inputs[spec.name])) for spec in signature.inputs)


def _refusals(settings: Mapping[str, Any]) -> AbstractContextManager[None]:
    return vendor_errors(
        f"The model cannot be quantised with {settings['method']}",
        cause="An operator of it is not known to XNNPACK's quantiser, or a sample does not fit.",
        remedy=f"Build with another method ({', '.join(METHODS)}), or without int8.",
    )


def _used(
    signature: Signature, settings: Mapping[str, Any], calibration: Calibration
) -> list[tuple[Any, ...]]:
    return [
        tensors(inputs, signature)
        for inputs in itertools.islice(calibration, int(settings["samples"]))
    ]


def _operator_names(module: Any) -> list[str]:
    return [node.name for node in module.graph.nodes if node.op == "call_function"]


def _with_torchao(
    module: Any,
    settings: Mapping[str, Any],
    inputs: Sequence[tuple[Any, ...]],
    *,
    bits: int = 8,
    folded: bool = True,
) -> Any:
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    observed = prepare_pt2e(module, _quantizer(settings, bits))
    for arguments in inputs:
        observed(*arguments)
    return convert_pt2e(observed, fold_quantize=folded)


def _with_nncf(module: Any, settings: Mapping[str, Any], inputs: Sequence[tuple[Any, ...]]) -> Any:
    from agent.sessions.openvino import without_telemetry

    with without_telemetry():
        import nncf
        from nncf.experimental.torch.fx import quantize_pt2e

    return quantize_pt2e(
        module,
        _quantizer(settings, bits=8),
        nncf.Dataset(inputs),
        subset_size=len(inputs),
        smooth_quant=bool(settings.get("smooth_quant", False)),
    )


def _quantizer(settings: Mapping[str, Any], bits: int) -> Any:
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantizer import QuantizationAnnotation
    from torchao.quantization.pt2e.quantizer.quantizer import Q_ANNOTATION_KEY

    least, greatest = BITS[bits]
    config = get_symmetric_quantization_config(
        is_per_channel=bool(settings.get("per_channel", True)),
        is_dynamic=settings["method"] == "dynamic",
        weight_qmin=least,
        weight_qmax=greatest,
    )
    ignored = frozenset(settings.get("ignored", ()))

    class Quantizer(XNNPACKQuantizer):  # type: ignore[misc]
        """One that does not look at what is ignored; a filter function misses `cat`."""

        def annotate(self, model: Any) -> Any:
            for node in model.graph.nodes:
                if node.name in ignored:
                    node.meta[Q_ANNOTATION_KEY] = QuantizationAnnotation(_annotated=True)
            return super().annotate(model)

    return Quantizer().set_global(config)
