"""int8 by NNCF's post-training quantisation, for OpenVINO's models and for ONNX graphs alike.

A recipe's `quantisation` for it: `method` (`nncf`) and what else `CHOICES` names, `samples` (how
many are looked at), `ignored` (names of operators that keep their precision), and for transformers
`smooth_quant_percent` and `smooth_quant_conv_percent`: SmoothQuant's alpha in hundredths, of matrix
products and of convolutions, or `off`. Integers, because the recipe becomes part of the signed
manifest, which holds no others.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from agent.errors import ToolchainError
from agent.sessions.openvino import without_telemetry
from agent.tensors import Array
from targets.interface import Calibration, Problem
from targets.lowering.ignored import ignored_names, ignored_problems
from targets.lowering.vendor import summary, vendor_errors

CHOICES: Mapping[str, tuple[Any, ...]] = {
    "method": ("nncf",),
    "preset": ("performance", "mixed"),
    "model_type": (None, "transformer"),
    "bias_correction": ("fast", "accurate", "off"),
    "overflow_fix": ("first_layer_only", "enable", "disable"),
    "ranges": (
        "mean_minmax",
        "minmax",
        "median_minmax",
        "mean_no_outliers_minmax",
        "mean_quantile",
        "histogram",
    ),
}
"""What a recipe may choose; the first is the default, which is NNCF's own.

`overflow_fix` halves the range of weights: of the first convolutions, of all, of none. `ranges`
says what becomes an activation's range; with `mean_minmax`, scales by channel take the extremes of
all samples (nncf.quantization.range_estimator)."""

SMOOTHING: Mapping[str, int | str] = {
    "smooth_quant_percent": 95,
    "smooth_quant_conv_percent": "off",
}
"""SmoothQuant's alphas and their defaults (nncf.AdvancedSmoothQuantParameters)."""

SAMPLES = 300
"""NNCF's own default."""

_FREE = (*SMOOTHING, "ignored", "samples")


def problems(
    chosen: Mapping[str, Any], extra: Mapping[str, tuple[Any, ...]] | None = None
) -> Iterator[Problem]:
    """What speaks against a recipe's choices.

    Args:
        chosen: the recipe's `quantisation`.
        extra: choices that the caller knows beside `CHOICES`.
    """
    known = {**CHOICES, **(extra or {})}
    if "method" not in chosen:
        yield Problem(what=f"it must say one of {CHOICES['method']}", where="method")
    for name, value in chosen.items():
        if name in known and value not in known[name]:
            yield Problem(what=f"known are {known[name]}", where=f"{name} {value!r}")
        elif name not in known and name not in _FREE:
            yield Problem(what=f"known are {(*known, *_FREE)}", where=name)
    for name in SMOOTHING:
        yield from _smoothing_problems(name, chosen)
    yield from ignored_problems(chosen)
    samples = chosen.get("samples", SAMPLES)
    if not is_whole(samples) or samples < 1:
        yield Problem(what="it takes a whole number from 1 on", where=f"samples {samples!r}")


def sample_count(chosen: Mapping[str, Any], calibration: Calibration) -> int:
    """How many samples will be used."""
    return min(int(chosen.get("samples", SAMPLES)), len(calibration))


def quantise(
    model: Any,
    chosen: Mapping[str, Any],
    calibration: Calibration,
    *,
    device: str = "ANY",
    names: Collection[str],
    is_quantised: Callable[[Any], bool],
    folded: bool = True,
) -> tuple[Any, tuple[str, ...]]:
    """The model with what NNCF puts around its operators, and notes on how that went.

    Where NNCF's own way of correcting biases fails, and the recipe does not insist on it, biases
    stay as they are: NNCF 3.4 takes the channels of a product whose activations are transposed for
    the batch.

    Args:
        model: one of OpenVINO's, or an ONNX graph.
        chosen: the recipe's `quantisation`.
        calibration: real inputs.
        device: NNCF's word for what will run it.
        names: of all of the model's operators.
        is_quantised: was anything quantised in this model?
        folded: store weights as integers; else as floats behind a quantiser, which can be removed.

    Raises:
        ToolchainError: NNCF refuses, finds nothing to quantise, or knows no operator of a name in
            `ignored`.
    """

    def quantised(chosen: Mapping[str, Any]) -> Any:
        return _quantised(model, chosen, calibration, device=device, names=names, folded=folded)

    notes: tuple[str, ...] = (f"quantised with {sample_count(chosen, calibration)} samples",)
    try:
        found = quantised(chosen)
    except ToolchainError as first:
        if "bias_correction" in chosen:
            raise
        try:
            found = quantised({**chosen, "bias_correction": "off"})
        except ToolchainError:
            raise first from first.__cause__
        told = summary(first.__cause__ or first)
        notes += (f"without a correction of biases, which fails: {told}",)
    if not is_quantised(found):
        raise ToolchainError(
            "NNCF found no operator to quantise.",
            cause="The model has no convolutions or matrix products that int8 would speed up.",
            remedy="Leave int8 out for this model.",
        )
    return found, notes


def ignored_scope(chosen: Mapping[str, Any], names: Collection[str]) -> Any:
    """NNCF's form of `ignored`.

    Args:
        chosen: the recipe's `quantisation`.
        names: of all of the model's operators.

    Raises:
        ToolchainError: the model has no operator of such a name.
    """
    import nncf

    return nncf.IgnoredScope(names=ignored_names(chosen, names))


def is_whole(value: Any) -> bool:
    """An integer, which a boolean is not."""
    return isinstance(value, int) and not isinstance(value, bool)


def _quantised(
    model: Any,
    chosen: Mapping[str, Any],
    calibration: Calibration,
    *,
    device: str,
    names: Collection[str],
    folded: bool,
) -> Any:
    with vendor_errors(
        "NNCF cannot quantise the model",
        cause="The calibration data does not fit the model, or an operator confuses NNCF.",
        remedy="Check the samples, or leave int8 out for this model.",
    ):
        with without_telemetry():
            import nncf
        presets = {
            "performance": nncf.QuantizationPreset.PERFORMANCE,
            "mixed": nncf.QuantizationPreset.MIXED,
        }
        transformer = chosen.get("model_type") == "transformer"
        return nncf.quantize(
            model,
            nncf.Dataset(_Samples(calibration)),
            preset=presets[_picked(chosen, "preset")],
            target_device=nncf.TargetDevice[device],
            subset_size=sample_count(chosen, calibration),
            fast_bias_correction=_picked(chosen, "bias_correction") != "accurate",
            model_type=nncf.ModelType.TRANSFORMER if transformer else None,
            ignored_scope=ignored_scope(chosen, names),
            advanced_parameters=_advanced(chosen, folded=folded),
        )


def _smoothing_problems(name: str, chosen: Mapping[str, Any]) -> Iterator[Problem]:
    if name not in chosen:
        return
    value = chosen[name]
    if value != "off" and not (is_whole(value) and 0 <= value <= 100):
        yield Problem(
            what="it takes a whole number from 0 to 100, or off", where=f"{name} {value!r}"
        )
    elif value != "off" and chosen.get("model_type") != "transformer":
        what = "NNCF smooths models of the type transformer only"
        yield Problem(what=what, where=f"{name} {value!r}")


def _picked(chosen: Mapping[str, Any], name: str) -> Any:
    return chosen.get(name, CHOICES[name][0])


def _advanced(chosen: Mapping[str, Any], *, folded: bool) -> Any:
    import nncf
    from nncf.quantization.range_estimator import (
        RangeEstimatorParameters,
        RangeEstimatorParametersSet,
    )

    def alpha(name: str) -> float:
        value = chosen.get(name, SMOOTHING[name])
        return -1.0 if value == "off" else int(value) / 100  # NNCF: negative is off

    ranges = _picked(chosen, "ranges")
    # Told nothing, NNCF takes the mean, and the extremes where a scale is by channel.
    estimated = (
        RangeEstimatorParameters()
        if ranges == CHOICES["ranges"][0]
        else getattr(RangeEstimatorParametersSet, ranges.upper())
    )
    return nncf.AdvancedQuantizationParameters(
        overflow_fix=nncf.OverflowFix(_picked(chosen, "overflow_fix")),
        disable_bias_correction=_picked(chosen, "bias_correction") == "off",
        activations_range_estimator_params=estimated,
        smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(
            convolution=alpha("smooth_quant_conv_percent"), matmul=alpha("smooth_quant_percent")
        ),
        backend_params={} if folded else {"compress_weights": False},
    )


class _Samples:
    """What NNCF takes for a dataset: iterable again and again, and of known length."""

    def __init__(self, calibration: Calibration) -> None:
        self._calibration = calibration

    def __iter__(self) -> Iterator[dict[str, Array]]:
        for inputs in self._calibration:
            yield dict(inputs)

    def __len__(self) -> int:
        return len(self._calibration)
