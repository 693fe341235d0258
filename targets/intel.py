"""Intel CPUs, integrated GPUs and NPUs: three runtimes, because each of them wins somewhere.

Each vendor's plain default is among the recipes: OpenVINO's is bf16 where the CPU has it and f32
elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator

from profiles import Profile
from targets.interface import Program, Recipe, Request
from targets.recipes import (
    aotinductor_cpu,
    executorch_cpu,
    nncf,
    nncf_cpu,
    onnxruntime_cpu,
    openvino,
    openvino_small,
)

NAME = "intel"
TITLE = "Intel CPUs, integrated GPUs and NPUs, by OpenVINO, ONNX Runtime and ExecuTorch"
DEFAULT_PROFILE = "core-ultra-155h"
"""The one with all three engines. A build for the machine at hand says `--profile host`."""
HOST_ARCH = "x86_64"
EXTRA = "intel"

BF16 = ("avx512_bf16", "amx_bf16")
F16 = ("avx512_fp16", "amx_fp16")


def recipes(request: Request) -> Iterator[Recipe]:
    """What is worth trying; the first is the f32 lowering that the others are held against."""
    yield from _openvino_cpu(request.program, request.profile)
    if request.must_be_small:
        yield from openvino_small("f32")
    yield from onnxruntime_cpu(request.program, request.profile)
    yield from executorch_cpu(request)
    if request.searches and request.profile.is_host:  # machine code for the CPU that compiles it
        yield from aotinductor_cpu()
    for engine in ("gpu", "npu"):
        if engine in request.profile.engines:
            yield openvino(engine.upper(), "f16", "f16")
            yield openvino(engine.upper(), "int8", "f16", quantisation=nncf(request.program))


def _openvino_cpu(program: Program | None, profile: Profile) -> Iterator[Recipe]:
    isa = set(profile.isa)
    yield openvino("CPU", "f32", "f32")
    # Asked for bf16, OpenVINO emulates it on any AVX-512 CPU, which is slow: hence the flags.
    yield openvino("CPU", "bf16", "bf16", needs_isa=BF16)
    # Weights in half the space. Asked to compute in f16 without the flags, OpenVINO computes in
    # f32 and says nothing, so the recipe says it.
    yield openvino("CPU", "f16", "f16" if isa & set(F16) else "f32")
    rest = "bf16" if isa & set(BF16) else "f32"  # of the operators that stay floating point
    yield openvino("CPU", "int8", rest, quantisation=nncf_cpu(program, profile))
