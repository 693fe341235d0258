"""What a TensorRT engine is built with, for TensorRT 8.6, 10 and 11. Pure.

The graph decides the types: it holds its own f16 casts and int8 Q/DQ pairs. TensorRT 11 knows no
other way, TensorRT 10 follows when its network is created strongly typed, and TensorRT 8.6 needs
to be allowed each narrow type by a flag. Names of options: samples/common/sampleOptions.cpp of
NVIDIA/TensorRT at v8.6.1, v10.3.0 and v11.1.

The session's options: `builder` holds the fields of `EngineSettings`; `release` (the oldest
TensorRT that the file was made for) and `sm` (the GPU's compute capability) say what was meant;
`check` is what another runtime is told that runs the file as a check.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from agent.errors import ToolchainError, UsageError
from agent.manifest import Signature
from agent.versions import version_key

Generation = Literal[8, 10, 11]
Range = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""Shapes at the dims' min, opt and max."""

OLDEST = "8.6"
"""The first with `execute_async_v3` and layer norms as one layer."""
BELOW = "12"
"""Nobody knows what TensorRT 12 will take."""
DLA_GAP = ("10.8", "11.4.1")
"""No DLA from the first to below the second (TensorRT 11.4.1 documentation, Working with DLA)."""

_WEAK_FLAGS = {"f16": "FP16", "int8": "INT8"}
_MIB = 1 << 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """What the recipe resolved; all else stays TensorRT's default."""

    types: tuple[str, ...] = ()
    """The narrow types in the graph: f16, int8, fp8."""
    workspace_mib: int | None = None
    """The most scratch memory for one layer; None is TensorRT's own: all of the device's."""
    tf32: bool = False
    """May f32 products be computed in TF32 (Ampere and later)? TensorRT's own default is yes."""
    dla_core: int | None = None
    gpu_fallback: bool = False
    """May the GPU run what the DLA cannot?"""
    timing_cache: bool = True
    """Keep the kernels' timings on the device: the next build there is faster."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EnginePlan:
    """Everything that a builder is told, in the words of TensorRT's Python package."""

    generation: Generation
    network_flags: tuple[str, ...]
    """Of `NetworkDefinitionCreationFlag`."""
    builder_flags: tuple[str, ...]
    """Of `BuilderFlag`, to be set."""
    cleared_flags: tuple[str, ...]
    workspace_bytes: int | None
    dla_core: int | None
    ranges: dict[str, Range]
    """Input -> its shapes, for inputs with a dynamic dim."""
    timing_cache: bool


def settings_of(options: Mapping[str, Any]) -> EngineSettings:
    """The settings in a session's options.

    Raises:
        UsageError: an option is not known here.
    """
    builder = dict(options.get("builder", {}))
    known = {field.name for field in dataclasses.fields(EngineSettings)}
    unknown = sorted({*options} - {"builder", "check", "release", "sm"}) + sorted(
        {*builder} - known
    )
    if unknown:
        raise UsageError(
            f"TensorRT has no option {', '.join(unknown)} here; known are builder, check, "
            f"release, sm and in builder {', '.join(sorted(known))}.",
            cause="The variant was made by a newer Slipway, or its record was edited.",
            remedy="Update Slipway on this machine.",
        )
    builder["types"] = tuple(builder.get("types", ()))
    return EngineSettings(**builder)


def plan_engine(settings: EngineSettings, signature: Signature, release: str) -> EnginePlan:
    """What to tell the builder of this TensorRT.

    Raises:
        ToolchainError: this TensorRT cannot build such an engine.
    """
    generation = generation_of(release)
    on_dla = settings.dla_core is not None
    if on_dla and not dla_in(release):
        raise ToolchainError(
            f"TensorRT {release} has no DLA: 10.7 was the last, and 11.4.1 brought it back.",
            cause="The device's software is newer or older than the variant is for.",
            remedy="Use the variant for the GPU.",
        )
    # On a DLA, the vendor's samples up to 10.7 use flags, never a strongly typed network.
    weak = generation == 8 or (generation == 10 and on_dla)
    refused = [kind for kind in settings.types if weak and kind not in _WEAK_FLAGS]
    if refused:
        raise ToolchainError(
            f"TensorRT {release} cannot build a graph with {', '.join(refused)}.",
            cause="It came with a later release.",
            remedy="Use another variant, or update the device's software.",
        )
    network: tuple[str, ...] = ()
    if generation == 8:
        network = ("EXPLICIT_BATCH",)
    elif not weak and generation == 10:
        network = ("STRONGLY_TYPED",)
    flags = [_WEAK_FLAGS[kind] for kind in settings.types] if weak else []
    if on_dla and settings.gpu_fallback:
        flags.append("GPU_FALLBACK")
    return EnginePlan(
        generation=generation,
        network_flags=network,
        builder_flags=tuple(flags),
        cleared_flags=() if settings.tf32 else ("TF32",),
        workspace_bytes=None if settings.workspace_mib is None else settings.workspace_mib * _MIB,
        dla_core=settings.dla_core,
        ranges=shape_ranges(signature),
        timing_cache=settings.timing_cache,
    )


def generation_of(release: str) -> Generation:
    """Which of the three ways of building this TensorRT has.

    Raises:
        ToolchainError: none of them.

    >>> generation_of("8.6.1"), generation_of("10.3.0"), generation_of("11.4.0.106")
    (8, 10, 11)
    """
    major = release.partition(".")[0]
    if _at_least(release, OLDEST) and major == "8":
        return 8
    if major == "10":
        return 10
    if major == "11":
        return 11
    raise ToolchainError(
        f"TensorRT {release} is here; engines are built by 8.6, 10 and 11.",
        cause="The device's software is older or newer than this Slipway knows.",
        remedy="Update the device (JetPack 6 has TensorRT 10.3), or Slipway.",
    )


def dla_in(release: str) -> bool:
    """Does this TensorRT drive a DLA?

    >>> dla_in("10.3.0"), dla_in("10.16.2.10"), dla_in("11.4.1")
    (True, False, True)
    """
    return not _at_least(release, DLA_GAP[0]) or _at_least(release, DLA_GAP[1])


def shape_ranges(signature: Signature) -> dict[str, Range]:
    """Input -> its shapes at the dims' min, opt and max; inputs of fixed shape are left out."""

    def at(shape: tuple[int | str, ...], which: int) -> tuple[int, ...]:
        return tuple(
            size if isinstance(size, int) else signature.dims[size][which] for size in shape
        )

    return {
        spec.name: (at(spec.shape, 0), at(spec.shape, 1), at(spec.shape, 2))
        for spec in signature.inputs
        if any(isinstance(size, str) for size in spec.shape)
    }


def trtexec_arguments(
    plan: EnginePlan, *, onnx: str, engine: str, timing_cache: str | None
) -> list[str]:
    """What `trtexec` is called with to build and not to run.

    Raises:
        UsageError: an input's name cannot be written on its command line.
    """
    arguments = [f"--onnx={onnx}", f"--saveEngine={engine}", "--skipInference"]
    if "STRONGLY_TYPED" in plan.network_flags:
        arguments.append("--stronglyTyped")
    arguments += [
        {"FP16": "--fp16", "INT8": "--int8", "GPU_FALLBACK": "--allowGPUFallback"}[flag]
        for flag in plan.builder_flags
    ]
    if "TF32" in plan.cleared_flags:
        arguments.append("--noTF32")
    if plan.workspace_bytes is not None:
        arguments.append(f"--memPoolSize=workspace:{plan.workspace_bytes // _MIB}")
    if plan.dla_core is not None:
        arguments.append(f"--useDLACore={plan.dla_core}")
    if plan.ranges:
        for index, word in enumerate(("min", "opt", "max")):
            shapes = [f"{_word(name)}:{_by(shape[index])}" for name, shape in plan.ranges.items()]
            arguments.append(f"--{word}Shapes={','.join(shapes)}")
    if plan.timing_cache and timing_cache is not None:
        arguments.append(f"--timingCacheFile={timing_cache}")
    return arguments


def trtexec_release(output: str) -> str | None:
    """The release that `trtexec` prints of itself when it starts.

    >>> trtexec_release("&&&& RUNNING TensorRT.trtexec [TensorRT v8601] # trtexec --help")
    '8.6.1'
    >>> trtexec_release("&&&& RUNNING TensorRT.trtexec [TensorRT v101602] [b10] # trtexec")
    '10.16.2'
    """
    _, found, rest = output.partition("[TensorRT v")
    digits = rest.partition("]")[0]
    if not found or not digits.isdigit():
        return None
    number = int(digits)
    thousand = 10_000 if number >= 100_000 else 1_000  # two digits per part since 10.0
    return f"{number // thousand}.{number % thousand // 100}.{number % 100}"


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(str(size) for size in shape)


def _word(name: str) -> str:
    if set(name) & set(":,'\""):
        raise UsageError(
            f"trtexec takes no input of the name {name!r}.",
            cause="A colon, comma or quote separates names and shapes there.",
            remedy="Rename the input, or install TensorRT's Python package.",
        )
    return name


def _at_least(release: str, bound: str) -> bool:
    return (version_key(release) or (0,)) >= (version_key(bound) or (0,))
