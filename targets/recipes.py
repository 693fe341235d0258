"""Recipes that several targets try, fully resolved: what a runtime would choose is written out.

A target picks among them by what its profile says; nothing here knows a target.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from agent.engine_plan import OLDEST as OLDEST_TENSORRT
from agent.engine_plan import dla_in
from agent.versions import version_key
from profiles import Profile
from targets.interface import Program, Recipe, Request
from targets.lowering.nncf_weights import GROUP_SIZE
from targets.lowering.onnx_levels import (
    TENSORRT_IR,
    onnxruntime_reads,
    tensorrt_for,
    tensorrt_reads,
)

NNCF_SAMPLES = 300  # NNCF's own default
# A compromise that nobody has tuned yet: each sample costs a run of the f32 model with every
# intermediate result kept.
ONNXRUNTIME_SAMPLES = 100
PT2E_SAMPLES = 100
RANGE_SAMPLES = 16  # each is one run of the f32 model with every intermediate result kept
OPSET = 20  # what torch.onnx writes by default
IR_VERSION = 10  # the same; with that opset, every ONNX Runtime since 1.18 reads it
VNNI = ("avx512_vnni", "avx_vnni")
_ATTENTION = ("scaled_dot_product_attention", "softmax", "attention")
_NORMS = ("layer_norm", "layernorm", "native_layer_norm", "layernormalization", "rms_norm")


def openvino(
    device: str,
    precision: str,
    hint: str,
    *,
    quantisation: Mapping[str, Any] | None = None,
    needs_isa: tuple[str, ...] = (),
    tag: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Recipe:
    """One for OpenVINO.

    Args:
        device: `CPU`, `GPU` or `NPU`.
        precision: of the weights and the bulk of the arithmetic.
        hint: what to compute in where nothing is quantised: `f32`, `f16`, `bf16`.
        quantisation: as `nncf` makes it.
        needs_isa: any one of these flags suffices.
        tag: a word in the name.
        options: what the runtime is told beside that.
    """
    on_cpu = device == "CPU"
    settings: dict[str, Any] = {
        "device": device,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": hint,
    }
    if not on_cpu:
        settings["check"] = {"device": "CPU", "INFERENCE_PRECISION_HINT": "f32"}
    return Recipe(
        toolchain="openvino",
        format="openvino",
        precision=precision,
        tag=tag,
        quantisation=quantisation,
        backend=device,
        engine=device.lower(),
        # The file is the same for every device, so the CPU can tell if its answers are garbage.
        check=None if on_cpu else "openvino",
        options=settings | dict(options or {}),
        needs_isa=needs_isa,
    )


def openvino_weights(
    mode: str,
    hint: str,
    *,
    group_size: int = GROUP_SIZE,
    ratio_percent: int = 100,
    all_layers: bool = False,
    dynamic_group: int = 0,
) -> Recipe:
    """Weights alone in 8 or 4 bits, for OpenVINO on a CPU; it needs no data.

    It makes the file smaller, seldom the run faster: for limits on size or memory.

    Args:
        mode: `int8_asym`, `int8_sym`, `int4_sym`, `int4_asym`.
        hint: what to compute in: `f32`, `f16`, `bf16`.
        group_size: of 4 bits: how many weights share a scale; -1: all of a channel.
        ratio_percent: of 4 bits: how many of the products' weights get them, 1 to 100.
        all_layers: of 4 bits: embeddings and the last product get them too.
        dynamic_group: activations before such products become int8 as they come, in groups of so
            many, which is faster on CPUs with VNNI and makes answers depend on the CPU. OpenVINO's
            own default is 32; 0 leaves them in floating point.
    """
    precision, _, _ = mode.partition("_")
    four_bits = {
        "group_size": group_size,
        "ratio_percent": ratio_percent,
        "all_layers": all_layers,
    }
    return openvino(
        "CPU",
        precision,
        hint,
        tag="weights",
        quantisation={
            "method": "weights",
            "mode": mode,
            **(four_bits if precision == "int4" else {}),
        },
        options={"DYNAMIC_QUANTIZATION_GROUP_SIZE": dynamic_group},
    )


def openvino_small(hint: str) -> Iterator[Recipe]:
    """Weights in 8 bits, in 4 where that keeps the accuracy, and in 4 throughout."""
    yield openvino_weights("int8_asym", hint)
    yield openvino_weights("int4_asym", hint, group_size=64)
    yield openvino_weights("int4_sym", hint, all_layers=True)


def nncf(program: Program | None) -> dict[str, Any]:
    """NNCF's default int8; for transformers it keeps scores and norms in floating point."""
    return {
        "method": "nncf",
        "preset": "performance",
        "samples": NNCF_SAMPLES,
        "model_type": "transformer" if program and is_transformer(program) else None,
    }


def nncf_cpu(program: Program | None, profile: Profile) -> dict[str, Any]:
    """NNCF's default int8, and half the range of all weights where sums of products saturate."""
    return nncf(program) | ({"overflow_fix": "enable"} if saturates(profile) else {})


def saturates(profile: Profile) -> bool:
    """Whether sums of u8 x s8 products may saturate at 16 bit, as on x86 without VNNI.

    Answers change from CPU to CPU then, and 7-bit weights avoid it. A profile that does not tell
    counts as one without.
    """
    return profile.arch == "x86_64" and not set(profile.isa) & set(VNNI)


def onnxruntime_cpu(program: Program | None, profile: Profile) -> Iterator[Recipe]:
    """f32, static int8, and dynamic int8 where most of the arithmetic is matrix products."""
    yield onnxruntime(program, profile, "f32")
    static = {
        "method": "static",
        "samples": ONNXRUNTIME_SAMPLES,
        "per_channel": True,
        "reduce_range": saturates(profile),
    }
    yield onnxruntime(program, profile, "int8", quantisation=static)
    if program is None or share(program, ("matmul", "recurrent")) > 0.5:
        dynamic = {k: v for k, v in static.items() if k != "samples"} | {"method": "dynamic"}
        yield onnxruntime(program, profile, "int8", quantisation=dynamic, tag="dynamic")


def onnxruntime(
    program: Program | None,
    profile: Profile,
    precision: str,
    *,
    quantisation: Mapping[str, Any] | None = None,
    tag: str | None = None,
    backend: str = "CPU",
    engine: str = "cpu",
    options: Mapping[str, Any] | None = None,
) -> Recipe:
    """One for ONNX Runtime, in an opset and IR version that the profile's oldest release reads."""
    release = profile.oldest("onnxruntime")
    opset, ir_version = onnxruntime_reads(release) if release else (OPSET, IR_VERSION)
    return Recipe(
        toolchain="onnxruntime",
        format="onnxruntime",
        precision=precision,
        tag=tag,
        quantisation=quantisation,
        backend=backend,
        engine=engine,
        # Another engine's file holds the same operators, so the CPU can check its answers.
        check="onnxruntime" if engine != "cpu" else None,
        options=options or {},
        # An ONNX file that the user brought keeps its own opset.
        opset=None if program and program.kind == "onnx" else min(opset, OPSET),
        ir_version=min(ir_version, IR_VERSION),
    )


def tensorrt(
    profile: Profile,
    precision: str,
    *,
    engine: str = "gpu",
    quantisation: Mapping[str, Any] | None = None,
    tag: str | None = None,
    tf32: bool = True,
) -> Recipe:
    """One for TensorRT, in an opset that the profile's oldest TensorRT reads.

    What its releases before 8.6 read is of no use: they cannot run what is built here.

    Args:
        profile: gives the release, the memory and the compute capability.
        precision: of the bulk of the arithmetic.
        engine: `gpu` or `dla`.
        quantisation: as `nncf` makes it, with the precision of the `rest`.
        tag: where two recipes differ in nothing else.
        tf32: may f32 products that are left be computed in TF32?
    """
    on_dla = engine == "dla"
    rest = (quantisation or {}).get("rest")
    release = tensorrt_release(profile, on_dla=on_dla)
    check = {"graph_optimization": "none"} if precision in ("int8", "fp8") else {}
    types = [kind for kind in ("f16", "int8", "fp8") if kind in (precision, rest)]
    return Recipe(
        toolchain="tensorrt",
        format="tensorrt",
        precision=precision,
        tag=tag,
        quantisation=quantisation,
        backend=engine.upper(),
        engine=engine,
        check="onnxruntime",
        options={
            # Optimised, ONNX Runtime fuses Q/DQ pairs into kernels of its own: on CPUs without VNNI
            # those saturate, and around FP8 they answer wrongly (1.31).
            "check": check,
            "release": release,
            "sm": profile.sm,
            "builder": {
                "types": types,
                "workspace_mib": _workspace_mib(profile),
                "tf32": tf32,
                "dla_core": 0 if on_dla else None,
                "gpu_fallback": on_dla,
                "timing_cache": True,
            },
        },
        opset=min(tensorrt_reads(release), OPSET),
        ir_version=TENSORRT_IR,
    )


def tensorrt_gpu(program: Program | None, profile: Profile, *, has_data: bool) -> Iterator[Recipe]:
    """All precisions on the GPU; what the profile's GPU lacks is refused, with the reason.

    TensorRT computes f32 in TF32 where the GPU has it (Ampere and later) unless told not to: the
    plain f32 is the one that the others are held against, the tagged one is the vendor's default.
    """
    yield tensorrt(profile, "f32", tf32=False)
    if has_tf32(profile):
        yield tensorrt(profile, "f32", tag="tf32")
    yield tensorrt(profile, "f16", quantisation=f16_ranges(has_data=has_data))
    yield tensorrt(profile, "int8", quantisation=nncf(program) | {"rest": "f32"})
    yield tensorrt(profile, "int8", quantisation=nncf(program) | {"rest": "f16"}, tag="f16")
    yield tensorrt(profile, "fp8", quantisation=nncf(program) | {"rest": "f16"})
    yield tensorrt(profile, "fp4", quantisation=nncf(program) | {"rest": "f16"})


def has_tf32(profile: Profile) -> bool:
    """Ampere and later compute f32 in TF32 unless told not to; an unknown GPU may."""
    return profile.sm is None or _version(profile.sm) >= _version("8.0")


def f16_ranges(*, has_data: bool) -> dict[str, Any] | None:
    """Where samples are at hand, operators whose values come near f16's end stay in f32."""
    return {"method": "ranges", "samples": RANGE_SAMPLES} if has_data else None


def tensorrt_dla(program: Program | None, profile: Profile, *, has_data: bool) -> Iterator[Recipe]:
    """What a DLA computes in, with the GPU for what it cannot take."""
    yield tensorrt(profile, "f16", engine="dla", quantisation=f16_ranges(has_data=has_data))
    quantisation = nncf(program) | {"rest": "f16"}
    yield tensorrt(profile, "int8", engine="dla", quantisation=quantisation)


def tensorrt_release(profile: Profile, *, on_dla: bool = False) -> str:
    """The oldest TensorRT of the profile that can build here; 10.0 where the profile names none.

    A server has what its owner installs. TensorRT 8.6 would read neither Q/DQ pairs with FP8 or f16
    scales, which take opset 19, nor what torch exports today; and 11 reads what 10 reads.

    Args:
        profile: what it names before 8.6 does not count.
        on_dla: the oldest with a DLA, where any has one.
    """
    stacks = profile.software.values()
    found = sorted(
        (s.runtimes["tensorrt"] for s in stacks if "tensorrt" in s.runtimes), key=_version
    )
    if not found:
        return tensorrt_for(19)
    served = [release for release in found if _version(release) >= _version(OLDEST_TENSORRT)]
    with_dla = [release for release in served if dla_in(release)]
    # Where all releases lack a DLA, the toolchain refuses the oldest and gives the reason.
    return next(iter((with_dla if on_dla else None) or served), OLDEST_TENSORRT)


def _version(text: str) -> Any:
    return version_key(text) or ()


def _workspace_mib(profile: Profile) -> int | None:
    """A quarter of the memory: on a Jetson the application and the system share it."""
    return None if profile.memory_bytes is None else profile.memory_bytes // 4 // 2**20


def executorch(
    backend: str,
    precision: str,
    *,
    engine: str = "cpu",
    quantisation: Mapping[str, Any] | None = None,
    tag: str | None = None,
) -> Recipe:
    """One for ExecuTorch; `backend` is `xnnpack`, `vulkan` or `coreml`."""
    return Recipe(
        toolchain="executorch",
        format="executorch",
        precision=precision,
        tag=tag,
        quantisation=quantisation,
        backend=backend,
        engine=engine,
    )


def executorch_cpu(request: Request) -> Iterator[Recipe]:
    """XNNPACK in f32 and in int8 by PT2E; where linear layers do most of the work, also dynamic.

    With 4 bits linear layers take half of that, which costs accuracy: for what must be small.
    """
    program = request.program
    yield executorch("xnnpack", "f32")
    yield executorch("xnnpack", "int8", quantisation={"method": "pt2e", "samples": PT2E_SAMPLES})
    if program is not None and share(program, ("matmul",)) > 0.5:
        dynamic = {"method": "dynamic"}
        yield executorch("xnnpack", "int8", quantisation=dynamic, tag="dynamic")
        if request.must_be_small:
            yield executorch("xnnpack", "int4", quantisation=dynamic)


def aotinductor_cuda() -> Iterator[Recipe]:
    """Torch's own compiler, for the GPU of the build machine; refused where it has none."""
    for precision in ("f32", "f16"):
        yield Recipe(
            toolchain="aotinductor",
            format="aotinductor",
            precision=precision,
            backend="CUDA",
            engine="gpu",
        )


def aotinductor_cpu() -> Iterator[Recipe]:
    """Torch's own compiler, for a build machine that is the device; it takes half a minute."""
    yield Recipe(
        toolchain="aotinductor",
        format="aotinductor",
        precision="f32",
        backend="CPU",
    )


def is_transformer(program: Program) -> bool:
    """Attention and layer norms, and most of the arithmetic in matrix products."""
    found = {cost.op.removeprefix("aten.").split(".")[0].lower() for cost in program.costs}
    attends = any(name.startswith(_ATTENTION) or name == "_softmax" for name in found)
    norms = any(name.startswith(_NORMS) for name in found)
    return attends and norms and share(program, ("matmul",)) > 0.5


def share(program: Program, kinds: tuple[str, ...]) -> float:
    """The share of the program's operations that lies in operators of these kinds, 0 to 1."""
    total = sum(cost.flops for cost in program.costs)
    return sum(cost.flops for cost in program.costs if cost.kind in kinds) / total if total else 0.0
