"""Static int8 for XNNPACK: an exported program in, a quantised exported program out.

Both methods annotate with XNNPACK's own quantiser, so both lower to the same kernels: `pt2e` is
torchao's plain observer and rounding; `nncf-pt2e` adds bias correction (and SmoothQuant where
`smooth_quant` says so), which helps transformers and nets with uneven channels, and takes longer.
The result is exported again with the program's own dims, so it stays as dynamic as it was.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

from agent.errors import ToolchainError
from agent.manifest import Signature
from agent.tensors import Array
from targets.interface import Calibration
from targets.lowering.export import dynamic_shapes
from targets.lowering.vendor import vendor_errors

METHODS = ("pt2e", "nncf-pt2e")
SETTINGS = ("method", "samples", "per_channel", "smooth_quant")


def quantise_pt2e(
    exported: Any,
    signature: Signature,
    settings: Mapping[str, Any],
    calibration: Calibration | None,
) -> Any:
    """Quantise activations and weights to int8 with real inputs.

    Args:
        exported: a `torch.export.ExportedProgram`; it is not changed.
        signature: names and dims of its inputs, in their order.
        settings: {method, samples, per_channel (default true), smooth_quant (default false)}.
        calibration: the inputs; the first `samples` of them are used.

    Raises:
        ToolchainError: there is no data, or the quantiser refuses the program.
    """
    import torch

    samples = int(settings["samples"])
    if calibration is None or not len(calibration) or samples < 1:
        given = "none" if calibration is None else min(len(calibration), samples)
        raise ToolchainError(
            f"Static int8 needs real inputs, at least 1; {given} were given.",
            cause="The project has no [data], so activations have no known range.",
            remedy="Add [data] samples to sdk.toml, or build without int8.",
        )
    with vendor_errors(
        f"The model cannot be quantised with {settings['method']}",
        cause="An operator of it is not known to XNNPACK's quantiser, or a sample does not fit.",
        remedy="Build with the other method (pt2e, nncf-pt2e), or without int8.",
    ):
        # The guards would refuse the observers' calls at sizes that they themselves allow.
        module = exported.module(check_guards=False)
        with torch.no_grad():
            if settings["method"] == "nncf-pt2e":
                module = _with_nncf(module, signature, settings, calibration, samples)
            else:
                module = _with_torchao(module, signature, settings, calibration, samples)
            return torch.export.export(
                module, exported.example_inputs[0], dynamic_shapes=dynamic_shapes(signature)
            )


def _with_torchao(
    module: Any,
    signature: Signature,
    settings: Mapping[str, Any],
    calibration: Calibration,
    samples: int,
) -> Any:
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    observed = prepare_pt2e(module, _quantizer(settings))
    for inputs in itertools.islice(calibration, samples):
        observed(*_tensors(inputs, signature))
    return convert_pt2e(observed)


def _with_nncf(
    module: Any,
    signature: Signature,
    settings: Mapping[str, Any],
    calibration: Calibration,
    samples: int,
) -> Any:
    from agent.sessions.openvino import without_telemetry

    with without_telemetry():
        import nncf
        from nncf.experimental.torch.fx import quantize_pt2e

    return quantize_pt2e(
        module,
        _quantizer(settings),
        nncf.Dataset(calibration, lambda inputs: _tensors(inputs, signature)),
        subset_size=min(samples, len(calibration)),
        smooth_quant=bool(settings.get("smooth_quant", False)),
    )


def _quantizer(settings: Mapping[str, Any]) -> Any:
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )

    per_channel = bool(settings.get("per_channel", True))
    return XNNPACKQuantizer().set_global(
        get_symmetric_quantization_config(is_per_channel=per_channel)
    )


def _tensors(inputs: Mapping[str, Array], signature: Signature) -> tuple[Any, ...]:
    import torch

    # Copies: the arrays may be read-only maps of a file, which torch warns about.
    return tuple(torch.from_numpy(np.array(inputs[spec.name])) for spec in signature.inputs)
