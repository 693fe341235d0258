"""A step: do the calibration samples span what the model meets? In a process of its own.

A static quantiser fixes each tensor's range by what the calibration samples made of it. What lies
beyond is clipped. So the f32 model runs on calibration and on selection samples with every tensor
as an output, and whatever the selection reaches beyond the calibration is told.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sdk.samples import CalibrationInputs, StoredSamples

SAMPLES = 64
"""Of each split, at most: each is a run with every intermediate result kept."""
BEYOND = 1.25
"""A tensor is out of range in a sample if it reaches beyond this many times its calibrated range;
quantisers clip a little themselves."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Coverage:
    """How much of what the model meets lies beyond what it was calibrated with."""

    calibrated: int
    """Samples that the ranges are from."""
    seen: int
    """Samples that they were held against."""
    outside: int
    """Of these, how many drive some tensor out of its range."""
    worst: str
    """The tensor that is driven out most often; empty if none is."""
    worst_ratio: float
    """How far at most, over its calibrated range."""


def find_coverage(payload: dict[str, Any], out: Path) -> dict[str, Any]:
    """Run the f32 ONNX file in `payload["model"]` on the splits in `payload["captured"]`."""
    del out
    import onnx

    from targets.lowering.onnx_ranges import maxima_of_each, observed_maxima

    model = onnx.load(payload["model"])
    captured = Path(payload["captured"])
    calibration = CalibrationInputs(StoredSamples(captured / "calibration.safetensors", SAMPLES))
    ranges = observed_maxima(model, calibration, SAMPLES)
    selection = StoredSamples(captured / "selection.safetensors", SAMPLES)
    each = list(maxima_of_each(model, (dict(sample.inputs) for sample in selection)))
    return dataclasses.asdict(coverage(ranges, each, calibrated=len(calibration)))


def coverage(
    ranges: Mapping[str, float], each: Sequence[Mapping[str, float]], *, calibrated: int
) -> Coverage:
    """Hold samples against calibrated ranges. Pure.

    Args:
        ranges: tensor -> the largest absolute value over the calibration samples.
        each: the same of every single sample.
        calibrated: how many samples the ranges are from.
    """
    counts: dict[str, int] = {}
    ratios: dict[str, float] = {}
    outside = 0
    for sample in each:
        beyond = {
            name: value / ranges[name]
            for name, value in sample.items()
            if ranges.get(name, 0.0) > 0 and value > BEYOND * ranges[name]
        }
        outside += bool(beyond)
        for name, ratio in beyond.items():
            counts[name] = counts.get(name, 0) + 1
            ratios[name] = max(ratios.get(name, 0.0), ratio)
    worst = max(counts, key=lambda name: (counts[name], ratios[name]), default="")
    return Coverage(
        calibrated=calibrated,
        seen=len(each),
        outside=outside,
        worst=worst,
        worst_ratio=ratios.get(worst, 1.0),
    )


FEW = 32
"""Fewer samples than this leave ranges to chance; vendors' defaults are 100 to 300."""
OFTEN = 0.05
"""The share of samples out of range from which it is told."""


def told(found: Coverage) -> str | None:
    """What a person should know of the calibration; None where nothing speaks against it."""
    if found.seen and found.outside >= max(1, OFTEN * found.seen):
        return (
            f"calibration: {found.outside} of {found.seen} selection samples reach beyond what "
            f"{found.calibrated} calibration samples span, most often at {found.worst} (up to "
            f"{found.worst_ratio:.2g} times its range), and int8 clips there; let [data] yield "
            "more, and more varied, samples"
        )
    if found.calibrated < FEW:
        return (
            f"calibration: {found.calibrated} sample{'s' * (found.calibrated != 1)} fixed int8's "
            f"ranges, fewer than {FEW} leave them to chance; let [data] yield more samples"
        )
    return None
