"""Every constant of the estimate in one table, each with where it comes from.

`fit` may replace the whole table for one profile; the formulas know no number of their own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

from profiles import Figure

OpClass = Literal["conv", "depthwise", "matmul", "recurrent", "other"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineConstants:
    """How one kind of engine compares with its own data sheet."""

    efficiency: Mapping[OpClass, Mapping[str, Figure]]
    """Operator class -> precision, or `*` for all others -> share of the dense peak, at batch 1."""
    bandwidth: Figure
    """Share of the memory bandwidth that a kernel reaches."""
    launch_ms: Figure
    """What a kernel costs beside its work."""
    launch_ms_per_core: Figure
    """And as much again for every core of the profile: where all of them share each kernel, they
    meet at its end."""
    request_ms: Figure
    """What a request costs beside its kernels."""
    spread: Figure
    """The truth is expected within value / spread and value x spread if all rates are known."""

    def efficiency_of(self, op_class: OpClass, precision: str) -> float:
        """The share of the peak that operators of this class reach in this precision."""
        own = self.efficiency[op_class]
        return own.get(precision, own["*"]).value


@dataclasses.dataclass(frozen=True, kw_only=True)
class Constants:
    """All that the estimate knows beside the program, the profile and the recipe."""

    engines: Mapping[str, EngineConstants]
    """By the profile's word for the engine: cpu, gpu, npu, dla."""
    most_of_peak: Figure
    """The lower bound counts on this many times the peak."""
    most_of_highest: Figure
    """And where another precision's peak stands in, on this many times the engine's highest."""
    least_fixed: Figure
    """And on this share of launches and requests."""
    stand_in: Figure
    """The interval is this much wider where another precision's peak stands in."""
    no_bandwidth: Figure
    """And this much where memory traffic cannot be counted."""
    dynamic_dims: Figure
    """And this much where dims vary: some compilers keep general kernels then."""
    recurrent: Figure
    """And this much with recurrent layers, whose steps wait for each other."""
    runtime_bytes: Mapping[str, Figure]
    """Toolchain -> resident memory of a Python process with the runtime; `*` for all others."""
    native_runtime_bytes: Mapping[str, Figure]
    """The same within a phone's app."""
    weight_copies: Figure
    """How many times a process holds the weights at its peak: as read and as repacked."""
    memory_spread: Figure
    """Peak memory is expected below this many times the value."""
    file_bytes_per_operator: Figure
    """Of a variant's files, what describes one operator."""


_MIB = 1 << 20
_FITTED = "least squares on the fit rows of benchmarks/published.py (choose_constants.py), rounded"
_BY_HAND = (
    "by hand near the fit rows of benchmarks/published.py: three rows cannot tell four constants "
    "apart"
)
_ASSUMED = "assumption: no published latency tells it apart"
_SPREAD = (
    "assumption: rows of benchmarks/published.py on devices that nothing was chosen on are off by "
    "up to 2.9; other networks may do worse"
)
_ONE_HOST = "measured: a Python process with the runtime and a one-layer model, one Linux host"
_ON_PHONES = "Qualcomm AI Hub perf.yaml @52c080d2: 28 to 55 MB with MobileNetV2 in it"


def _fitted(value: float) -> Figure:
    return Figure(value=value, source=_FITTED)


def _assumed(value: float) -> Figure:
    return Figure(value=value, source=_ASSUMED)


def _by_hand(value: float) -> Figure:
    return Figure(value=value, source=_BY_HAND)


def _kind(
    *,
    conv: Mapping[str, Figure],
    depthwise: Figure,
    matmul: Figure,
    launch_ms: Figure,
    launch_ms_per_core: Figure | None = None,
    request_ms: Figure,
    spread: float = 4.0,
) -> EngineConstants:
    return EngineConstants(
        efficiency={
            "conv": conv,
            "depthwise": {"*": depthwise},
            "matmul": {"*": matmul},
            "recurrent": {"*": _assumed(0.1)},
            "other": {"*": _assumed(0.05)},
        },
        bandwidth=_assumed(0.7),
        launch_ms=launch_ms,
        launch_ms_per_core=launch_ms_per_core or _assumed(0.0),
        request_ms=request_ms,
        spread=Figure(value=spread, source=_SPREAD),
    )


DEFAULT = Constants(
    engines={
        # CPU peaks in profiles are what many requests at once reached: one alone reaches half.
        "cpu": _kind(
            conv={"*": _fitted(0.47)},
            depthwise=_fitted(0.045),
            matmul=_fitted(0.25),
            launch_ms=_assumed(0.002),
            launch_ms_per_core=_fitted(0.0003),
            request_ms=_assumed(0.02),
        ),
        "gpu": _kind(
            conv={"*": _fitted(0.44), "int8": _fitted(0.31)},
            depthwise=_assumed(0.05),
            matmul=_fitted(0.2),
            launch_ms=_fitted(0.008),
            request_ms=_assumed(0.05),
        ),
        "npu": _kind(
            conv={"*": _by_hand(0.5)},
            depthwise=_by_hand(0.05),
            matmul=_by_hand(0.15),
            launch_ms=_by_hand(0.008),
            request_ms=_assumed(0.1),
        ),
        "dla": _kind(
            conv={"*": _assumed(0.4)},
            depthwise=_assumed(0.05),
            matmul=_assumed(0.15),
            launch_ms=_assumed(0.01),
            request_ms=_assumed(0.2),
            spread=8.0,
        ),
    },
    most_of_peak=Figure(
        value=4.0,
        source="assumption: Winograd saves 2.25 times the products of a 3x3 convolution, and the "
        "peaks of CPUs in profiles are rates that were reached, below the true ones",
    ),
    most_of_highest=Figure(
        value=16.0,
        source="assumption: 4 as above, and 4 for a narrower precision that has no figure; int8 on "
        "AMX is 12 times f32 (OpenVINO 2024.1 benchmark file, ResNet-50)",
    ),
    least_fixed=Figure(
        value=0.1, source="assumption: a tiny kernel takes well under a microsecond on a CPU"
    ),
    stand_in=Figure(
        value=2.0, source="assumption: one precision is 2 to 4 times as fast as another"
    ),
    no_bandwidth=Figure(
        value=2.0, source="assumption: kernels that only move data count for a launch"
    ),
    dynamic_dims=Figure(value=1.25, source="assumption: kernels for any size are a little slower"),
    recurrent=Figure(value=2.0, source="assumption: no recurrent net has a published latency here"),
    runtime_bytes={
        "openvino": Figure(value=90 * _MIB, source=_ONE_HOST),
        "onnxruntime": Figure(value=60 * _MIB, source=_ONE_HOST),
        "executorch": Figure(value=350 * _MIB, source=_ONE_HOST),
        "*": Figure(value=200 * _MIB, source="assumption: between those that were measured"),
    },
    native_runtime_bytes={"*": Figure(value=30 * _MIB, source=_ON_PHONES)},
    weight_copies=Figure(value=2.0, source="assumption: as read, and as repacked"),
    memory_spread=Figure(
        value=4.0, source="assumption: runtimes repack weights and keep arenas each in its own way"
    ),
    file_bytes_per_operator=Figure(
        value=600, source="assumption: one operator's text in an OpenVINO or ONNX file"
    ),
)
"""The constants of every profile that nothing has been fitted for."""
