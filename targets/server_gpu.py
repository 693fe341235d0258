"""NVIDIA GPUs in servers and workstations: TensorRT, ONNX Runtime's CUDA provider, torch."""

from __future__ import annotations

from collections.abc import Iterator

from targets.interface import Recipe, Request
from targets.recipes import aotinductor_cuda, has_tf32, onnxruntime, tensorrt_gpu

NAME = "server-gpu"
TITLE = "NVIDIA GPUs in servers and workstations, by TensorRT, ONNX Runtime and AOTInductor"
DEFAULT_PROFILE = "l4"
HOST_ARCH = None
EXTRA = "server-gpu"
"""No machine is such a device by its architecture alone: it takes the GPU."""


def recipes(request: Request) -> Iterator[Recipe]:
    """What is worth trying; the first is the f32 lowering that the others are held against."""
    yield from tensorrt_gpu(request.program, request.profile, has_data=request.has_data)
    for tf32 in (False, True) if has_tf32(request.profile) else (False,):
        cuda = ["CUDAExecutionProvider", {"use_tf32": str(int(tf32))}]
        yield onnxruntime(
            request.program,
            request.profile,
            "f32",
            tag="tf32" if tf32 else None,
            backend="CUDA",
            engine="gpu",
            options={"providers": [cuda, "CPUExecutionProvider"]},
        )
    yield from aotinductor_cuda()
