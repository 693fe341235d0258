"""Intel CPUs, integrated GPUs and NPUs: three runtimes, because each of them wins somewhere.

The recipes are fully resolved, so what a runtime would choose by itself is written out. Each
vendor's plain default is among them: OpenVINO's is bf16 where the CPU has it and f32 elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from targets.interface import Program, Recipe, Request

NAME = "intel"
TITLE = "Intel CPUs, integrated GPUs and NPUs, by OpenVINO, ONNX Runtime and ExecuTorch"
DEFAULT_PROFILE = "core-ultra-155h"
"""The one with all three engines. A build for the machine at hand says `--profile host`."""

VNNI = ("avx512_vnni", "avx_vnni")
BF16 = ("avx512_bf16", "amx_bf16")
F16 = ("avx512_fp16", "amx_fp16")

NNCF_SAMPLES = 300  # NNCF's own default
# A compromise that nobody has tuned yet: each sample costs a run of the f32 model with every
# intermediate result kept.
ONNXRUNTIME_SAMPLES = 100
PT2E_SAMPLES = 100
OPSET = 20  # what torch.onnx writes by default; every ONNX Runtime since 1.17 reads it
_ATTENTION = ("scaled_dot_product_attention", "softmax", "attention")
_NORMS = ("layer_norm", "layernorm", "native_layer_norm", "layernormalization", "rms_norm")


def recipes(request: Request) -> Iterator[Recipe]:
    """What is worth trying; the first is the f32 lowering that the others are held against."""
    isa = set(request.profile.isa)
    yield from _openvino_cpu(request.program, isa)
    yield from _onnxruntime(request.program, isa)
    yield _executorch("f32", None)
    yield _executorch("int8", {"method": "pt2e", "samples": PT2E_SAMPLES})
    for engine in ("gpu", "npu"):
        if engine in request.profile.engines:
            yield from _openvino_accelerator(request.program, engine.upper())


def _openvino_cpu(program: Program | None, isa: set[str]) -> Iterator[Recipe]:
    yield _openvino("CPU", "f32", "f32")
    # Asked for bf16, OpenVINO emulates it on any AVX-512 CPU, which is slow: hence the flags.
    yield _openvino("CPU", "bf16", "bf16", needs_isa=BF16)
    # Weights in half the space. Asked to compute in f16 without the flags, OpenVINO computes in
    # f32 and says nothing, so the recipe says it.
    yield _openvino("CPU", "f16", "f16" if isa & set(F16) else "f32")
    rest = "bf16" if isa & set(BF16) else "f32"  # of the operators that stay floating point
    yield _openvino("CPU", "int8", rest, quantisation=_nncf(program))


def _openvino_accelerator(program: Program | None, device: str) -> Iterator[Recipe]:
    yield _openvino(device, "f16", "f16")
    yield _openvino(device, "int8", "f16", quantisation=_nncf(program))


def _openvino(
    device: str,
    precision: str,
    hint: str,
    *,
    quantisation: Mapping[str, Any] | None = None,
    needs_isa: tuple[str, ...] = (),
) -> Recipe:
    return Recipe(
        toolchain="openvino",
        format="openvino",
        precision=precision,
        quantisation=quantisation,
        backend=device,
        options={
            "device": device,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": hint,
        },
        needs_isa=needs_isa,
    )


def _nncf(program: Program | None) -> dict[str, Any]:
    return {
        "method": "nncf",
        "preset": "performance",
        "samples": NNCF_SAMPLES,
        "model_type": "transformer" if program and is_transformer(program) else None,
    }


def _onnxruntime(program: Program | None, isa: set[str]) -> Iterator[Recipe]:
    # An ONNX file that the user brought keeps its own opset.
    opset = None if program and program.kind == "onnx" else OPSET
    yield _onnxruntime_recipe("f32", None, opset)
    static = {
        "method": "static",
        "samples": ONNXRUNTIME_SAMPLES,
        "per_channel": True,
        # Without VNNI, sums of u8 x s8 products saturate at 16 bit and answers change from CPU to
        # CPU: 7-bit weights avoid it. A profile that does not tell counts as one without.
        "reduce_range": not isa & set(VNNI),
    }
    yield _onnxruntime_recipe("int8", static, opset)
    if program is None or _share(program, ("matmul", "recurrent")) > 0.5:
        dynamic = {k: v for k, v in static.items() if k != "samples"} | {"method": "dynamic"}
        yield _onnxruntime_recipe("int8", dynamic, opset, tag="dynamic")


def _onnxruntime_recipe(
    precision: str,
    quantisation: Mapping[str, Any] | None,
    opset: int | None,
    tag: str | None = None,
) -> Recipe:
    return Recipe(
        toolchain="onnxruntime",
        format="onnxruntime",
        precision=precision,
        tag=tag,
        quantisation=quantisation,
        backend="CPU",
        opset=opset,
    )


def _executorch(precision: str, quantisation: Mapping[str, Any] | None) -> Recipe:
    return Recipe(
        toolchain="executorch",
        format="executorch",
        precision=precision,
        quantisation=quantisation,
        backend="xnnpack",
    )


def is_transformer(program: Program) -> bool:
    """Attention and layer norms, and most of the arithmetic in matrix products.

    NNCF keeps such a model's scores and norms out of int8 and smooths its activations if told.
    """
    found = {cost.op.removeprefix("aten.").split(".")[0].lower() for cost in program.costs}
    attends = any(name.startswith(_ATTENTION) or name == "_softmax" for name in found)
    norms = any(name.startswith(_NORMS) for name in found)
    return attends and norms and _share(program, ("matmul",)) > 0.5


def _share(program: Program, kinds: tuple[str, ...]) -> float:
    total = sum(cost.flops for cost in program.costs)
    return sum(cost.flops for cost in program.costs if cost.kind in kinds) / total if total else 0.0
