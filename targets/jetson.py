"""NVIDIA Jetson: TensorRT on the GPU and the DLA, and ONNX Runtime on the CPU to fall back on.

The build writes typed ONNX files; the engine is built on the device, because it belongs to one
chip, one TensorRT and one driver.
"""

from __future__ import annotations

from collections.abc import Iterator

from targets.interface import Recipe, Request
from targets.recipes import onnxruntime_cpu, tensorrt_dla, tensorrt_gpu

NAME = "jetson"
TITLE = "NVIDIA Jetson, by TensorRT (GPU and DLA) and ONNX Runtime"
DEFAULT_PROFILE = "jetson-orin-nano-super"
HOST_ARCH = None
EXTRA = "jetson"
"""A Jetson can build, but so can any arm64 machine, and a name for the architecture cannot tell."""


def recipes(request: Request) -> Iterator[Recipe]:
    """What is worth trying; the first is the f32 lowering that the others are held against."""
    yield from tensorrt_gpu(request.program, request.profile, has_data=request.has_data)
    if "dla" in request.profile.engines:
        yield from tensorrt_dla(request.program, request.profile, has_data=request.has_data)
    for recipe in onnxruntime_cpu(request.program, request.profile):
        if (recipe.quantisation or {}).get("method") != "dynamic":
            yield recipe
