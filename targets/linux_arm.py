"""Arm boards with Linux and no accelerator, such as the Raspberry Pi: three runtimes on the CPU."""

from __future__ import annotations

from collections.abc import Iterator

from targets.interface import Recipe, Request
from targets.recipes import executorch_cpu, nncf_cpu, onnxruntime_cpu, openvino, openvino_small

NAME = "linux-arm"
TITLE = "Arm boards with Linux, by ONNX Runtime, OpenVINO and ExecuTorch"
DEFAULT_PROFILE = "raspberry-pi-5"
HOST_ARCH = "aarch64"
EXTRA = "linux-arm"

F16 = ("fp16",)


def recipes(request: Request) -> Iterator[Recipe]:
    """What is worth trying; the first is the f32 lowering that the others are held against."""
    yield from onnxruntime_cpu(request.program, request.profile)
    yield openvino("CPU", "f32", "f32")
    # OpenVINO computes in f16 on Arm CPUs that have it, and in f32 on the others.
    yield openvino("CPU", "f16", "f16", needs_isa=F16)
    yield openvino("CPU", "int8", "f32", quantisation=nncf_cpu(request.program, request.profile))
    if request.must_be_small:
        yield from openvino_small("f32")
    yield from executorch_cpu(request)
