"""int8 for XNNPACK: an exported program in, a quantised exported program out.

All methods annotate with XNNPACK's own quantiser, so all lower to its own kernels. Two are static:
`pt2e`, torchao's plain observer and rounding, and `nncf-pt2e`, which adds bias correction (and
SmoothQuant where `smooth_quant` says so): it helps nets with uneven channels, and takes longer.
`dynamic` takes the scales of linear layers' activations from each input as it comes, and quantises
nothing else: it needs no data, and transformers keep their accuracy where static int8 loses it.
The result is exported again with the program's own dims, so it stays as dynamic as it was.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from agent.errors import ToolchainError
from agent.manifest import Signature
from agent.tensors import Array
from targets.interface import Calibration
from targets.lowering.export import dynamic_shapes
from targets.lowering.vendor import vendor_errors

STATIC = ("pt2e", "nncf-pt2e")
METHODS = (*STATIC, "dynamic")
SETTINGS = ("method", "samples", "per_channel", "smooth_quant")


def quantise_pt2e(
    exported: Any,
    signature: Signature,
    settings: Mapping[str, Any],
    calibration: Calibration | None,
) -> Any:
    """Quantise activations and weights to int8, with real inputs where the method is static.

    Args:
        exported: a `torch.export.ExportedProgram`; it is not changed.
        signature: names and dims of its inputs, in their order.
        settings: {method, samples, per_channel (default true), smooth_quant (default false)};
            `dynamic` has no samples.
        calibration: the inputs; the first `samples` of them are used.

    Raises:
        ToolchainError: there is no data, or the quantiser refuses the program.
    """
    import torch

    if settings["method"] in STATIC and not (calibration and settings["samples"] > 0):
        raise ToolchainError(
            f"Static int8 needs real inputs, at least 1; {len(calibration or ())} were given.",
            cause="The project has no [data], so activations have no known range.",
            remedy="Add [data] samples to sdk.toml, or build without int8.",
        )
    with vendor_errors(
        f"The model cannot be quantised with {settings['method']}",
        cause="An operator of it is not known to XNNPACK's quantiser, or a sample does not fit.",
        remedy=f"Build with another method ({', '.join(METHODS)}), or without int8.",
    ):
        # The guards would refuse the observers' calls at sizes that they themselves allow.
        module = exported.module(check_guards=False)
        with torch.no_grad():
            if settings["method"] == "dynamic":
                # The weights' own ranges are read when the observers run, whatever the input.
                module = _with_torchao(module, settings, [exported.example_inputs[0]])
            else:
                assert calibration is not None
                used = [
                    _tensors(inputs, signature)
                    for inputs in itertools.islice(calibration, int(settings["samples"]))
                ]
                quantised = _with_nncf if settings["method"] == "nncf-pt2e" else _with_torchao
                module = quantised(module, settings, used)
            return torch.export.export(
                module, exported.example_inputs[0], dynamic_shapes=dynamic_shapes(signature)
            )


def _with_torchao(
    module: Any, settings: Mapping[str, Any], inputs: Sequence[tuple[Any, ...]]
) -> Any:
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    observed = prepare_pt2e(module, _quantizer(settings))
    for arguments in inputs:
        observed(*arguments)
    return convert_pt2e(observed)


def _with_nncf(module: Any, settings: Mapping[str, Any], inputs: Sequence[tuple[Any, ...]]) -> Any:
    from agent.sessions.openvino import without_telemetry

    with without_telemetry():
        import nncf
        from nncf.experimental.torch.fx import quantize_pt2e

    return quantize_pt2e(
        module,
        _quantizer(settings),
        nncf.Dataset(inputs),
        subset_size=len(inputs),
        smooth_quant=bool(settings.get("smooth_quant", False)),
    )


def _quantizer(settings: Mapping[str, Any]) -> Any:
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )

    config = get_symmetric_quantization_config(
        is_per_channel=bool(settings.get("per_channel", True)),
        is_dynamic=settings["method"] == "dynamic",
    )
    return XNNPACKQuantizer().set_global(config)


def _tensors(inputs: Mapping[str, Array], signature: Signature) -> tuple[Any, ...]:
    import torch

    # Copies: the arrays may be read-only maps of a file, which torch warns about.
    return tuple(torch.from_numpy(np.array(inputs[spec.name])) for spec in signature.inputs)
