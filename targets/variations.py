"""What else is worth trying once a recipe has shown what it can do. Pure.

`tunings` run the same files with other options of the runtime; `callings` run them by several
callers or in batches; `settings` quantise anew with other choices. All give a few fully resolved
recipes; a search measures them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from agent import buckets
from agent.calls import ONE_AT_A_TIME, Calls, batch_dim, calls_of
from agent.sessions import session_module
from profiles import Profile
from targets.interface import Program, Recipe
from targets.lowering import nncf_int8
from targets.recipes import is_transformer, share

MOST_BATCHED = 64
"""Times a dim's opt value: beyond that, latency is another order of magnitude."""
_RANKED: Mapping[str, str] = {"openvino": "nncf", "executorch": "pt2e"}
"""Toolchain that has `sensitivities` -> the method whose operators it ranks."""
SMOOTHED = (95, 80, 65, 50, 35, "off")
"""SmoothQuant's alphas that a sampler draws from, in hundredths; NNCF's default first."""
BF16 = ("avx512_bf16", "amx_bf16")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tuning:
    """A recipe that runs another one's files."""

    recipe: Recipe
    exact: bool
    """It computes the same products in the same precision, only scheduled otherwise."""


def tunings(recipe: Recipe, program: Program, profile: Profile) -> Iterator[Tuning]:
    """The same files with other options of the runtime, on a CPU; none for other engines."""
    if recipe.engine != "cpu":
        return
    make = {
        "openvino": _openvino_tunings,
        "onnxruntime": _onnxruntime_tunings,
        "executorch": _executorch_tunings,
        "aotinductor": _aotinductor_tunings,
    }.get(recipe.toolchain)
    if make is not None:
        for tag, options, exact in make(recipe, profile):
            yield Tuning(recipe=_with_options(recipe, tag, options), exact=exact)
    if getattr(session_module(recipe.format), "FIXES_SIZES", False):
        yield from _static(recipe, program)


def is_slow(recipe: Recipe) -> bool:
    """Its compiler takes as long as all others together: machine code, or PT2E's quantiser."""
    return recipe.toolchain == "aotinductor" or (
        recipe.toolchain == "executorch" and recipe.quantisation is not None
    )


def callings(
    recipe: Recipe, program: Program, profile: Profile
) -> Mapping[tuple[int, int], Recipe]:
    """The same files called otherwise, on a CPU.

    Returns:
        (callers at a time, size of the batch dim) -> the recipe; the given one is among them, with
        one caller and the dim's opt value (1 where the program has no such dim).
    """
    dim = batch_dim(program.signature)
    _, opt, high = program.signature.dims[dim] if dim else (1, 1, 1)
    if (recipe.quantisation or {}).get("method") == "dynamic":
        high = opt  # its scales are of a whole tensor: answers would depend on their neighbours
    cores = (profile.cores or 1) if recipe.engine == "cpu" else 1
    sizes = _doubled(opt, min(high, opt * MOST_BATCHED)) if recipe.engine == "cpu" else [opt]
    return {
        (callers, size): _called(recipe, callers, cores, dim, size, opt)
        for callers in _doubled(1, cores)
        for size in sizes
    }


def settings(recipe: Recipe, program: Program) -> Iterator[Recipe]:
    """The same precision from other choices of the quantiser; nothing for what is not quantised."""
    method = (recipe.quantisation or {}).get("method")
    if recipe.toolchain == "openvino" and method == "nncf":
        yield from _nncf_settings(recipe, program)
    elif recipe.toolchain == "onnxruntime" and method == "static":
        yield from _static_settings(recipe)


def is_walkable(recipe: Recipe) -> bool:
    """Can its toolchain rank its operators, and leave some of them in floating point?"""
    method = (recipe.quantisation or {}).get("method")
    return method is not None and _RANKED.get(recipe.toolchain) == method


def keeping(recipe: Recipe, names: tuple[str, ...]) -> Recipe:
    """The same recipe with these operators left in floating point.

    Args:
        recipe: one that `is_walkable`.
        names: of operators, as the toolchain's `sensitivities` gave them.
    """
    quantisation = {**(recipe.quantisation or {}), "ignored": sorted(names)}
    return dataclasses.replace(recipe, quantisation=quantisation, tag=f"mixed{len(names)}")


def space(recipe: Recipe) -> dict[str, tuple[Any, ...]]:
    """What a sampler may choose: a setting -> its values, the default first.

    Only NNCF for OpenVINO has settings that are worth it; for all else the space is empty.
    """
    if not is_walkable(recipe) or recipe.toolchain != "openvino":
        return {}
    names = ["preset", "ranges", "bias_correction"]
    found = {name: nncf_int8.CHOICES[name] for name in names}
    if (recipe.quantisation or {}).get("model_type") == "transformer":
        found["smooth_quant_percent"] = SMOOTHED
    return found


def place_in(
    values: Mapping[str, tuple[Any, ...]], recipe: Recipe, like: Recipe
) -> dict[str, Any] | None:
    """Where in a space a recipe lies; None where it differs from another one in more than that."""
    own, other = dict(recipe.quantisation or {}), dict(like.quantisation or {})
    place = {name: own.pop(name, choices[0]) for name, choices in values.items()}
    for name in (*values, "ignored"):
        own.pop(name, None)
        other.pop(name, None)
    inside = all(place[name] in choices for name, choices in values.items())
    return place if inside and own == other else None


def placed(
    recipe: Recipe,
    values: Mapping[str, tuple[Any, ...]],
    place: Mapping[str, Any],
    kept: tuple[str, ...],
) -> Recipe:
    """The recipe at a place in its space, with these operators left in floating point."""
    rest = {
        name: value
        for name, value in (recipe.quantisation or {}).items()
        if name not in (*values, "ignored")
    }
    chosen = {name: place[name] for name, choices in values.items() if place[name] != choices[0]}
    ignored = {"ignored": sorted(kept)} if kept else {}
    return dataclasses.replace(
        recipe, quantisation={**rest, **chosen, **ignored}, tag=f"drawn{len(kept)}"
    )


def _doubled(first: int, last: int) -> list[int]:
    """Doubling from the first one; the last one is the end."""
    found = [first]
    while found[-1] * 2 < last:
        found.append(found[-1] * 2)
    return found if found[-1] >= last else [*found, last]


def _called(
    recipe: Recipe, callers: int, cores: int, dim: str | None, size: int, opt: int
) -> Recipe:
    batched = size != opt
    calls = Calls(
        callers=callers, batch_dim=dim if batched else None, batch=size if batched else None
    )
    if calls == ONE_AT_A_TIME:
        return recipe
    tag = (f"c{callers}" if callers > 1 else "") + (f"b{size}" if batched else "")
    threads = _CALLERS_THREADS[recipe.toolchain](cores // callers) if callers > 1 else {}
    return _with_options(recipe, tag, {**threads, **calls.options, **_batched(recipe, calls)})


def _static(recipe: Recipe, program: Program) -> Iterator[Tuning]:
    """A form for the sizes that latency is judged at; nothing where no dim varies.

    It is compiled anew, and other kernels round otherwise: its answers are to be looked at.
    """
    dims = program.signature.dims
    sizes = {name: opt for name, (low, opt, high) in dims.items() if low < high}
    if sizes:
        calls = calls_of(recipe.options)
        if calls.batch_dim is not None and calls.batch is not None:
            sizes[calls.batch_dim] = calls.batch
        chosen = _with_options(recipe, "static", {buckets.RESERVED: [sizes]})
        yield Tuning(recipe=chosen, exact=False)


def _batched(recipe: Recipe, calls: Calls) -> dict[str, Any]:
    """The recipe's buckets at the size of the calls' batch, which alone is run then."""
    own = recipe.options.get(buckets.RESERVED)
    if own is None or calls.batch_dim is None or calls.batch is None:
        return {}
    return {buckets.RESERVED: [{**bucket, calls.batch_dim: calls.batch} for bucket in own]}


_CALLERS_THREADS: Mapping[str, Callable[[int], dict[str, Any]]] = {
    # Each compiled model would pin its threads to the same first cores.
    "openvino": lambda count: {"INFERENCE_NUM_THREADS": count, "ENABLE_CPU_PINNING": False},
    "onnxruntime": lambda count: {"intra_op_threads": count},
    "executorch": lambda count: {"threads": count},
    "aotinductor": lambda count: {"threads": count},
}
"""Toolchain -> how a session of one of several callers is told its share of the cores."""

_Choice = tuple[str, Mapping[str, Any], bool]


def _threads(profile: Profile) -> Iterator[int]:
    """Fewer threads than cores: a small network loses more at the barriers than it gains."""
    cores = profile.cores or 1
    yield from sorted({1, cores // 2} - {0, cores})


def _openvino_tunings(recipe: Recipe, profile: Profile) -> Iterator[_Choice]:
    for count in _threads(profile):
        yield f"t{count}", {"INFERENCE_NUM_THREADS": count}, True
    hint = recipe.options.get("INFERENCE_PRECISION_HINT")
    if recipe.precision == "int8" and set(profile.isa) & set(BF16):
        other = "f32" if hint == "bf16" else "bf16"
        yield other, {"INFERENCE_PRECISION_HINT": other}, False
    yield "unpinned", {"ENABLE_CPU_PINNING": False}, True


def _onnxruntime_tunings(_: Recipe, profile: Profile) -> Iterator[_Choice]:
    for count in _threads(profile):
        yield f"t{count}", {"intra_op_threads": count}, True
    if (profile.cores or 1) > 1:
        yield "nospin", {"allow_spinning": False}, True
    # The last level blocks channels for convolutions, which costs reorders around everything else.
    yield "extended", {"graph_optimization": "extended"}, True


def _executorch_tunings(recipe: Recipe, profile: Profile) -> Iterator[_Choice]:
    if recipe.backend == "xnnpack":
        for count in _threads(profile):
            yield f"t{count}", {"threads": count}, True


def _aotinductor_tunings(_: Recipe, profile: Profile) -> Iterator[_Choice]:
    for count in _threads(profile):
        yield f"t{count}", {"threads": count}, True


def _with_options(recipe: Recipe, tag: str, options: Mapping[str, Any]) -> Recipe:
    tags = "-".join(part for part in (recipe.tag, tag) if part)
    return dataclasses.replace(recipe, tag=tags, options={**recipe.options, **options})


def _nncf_settings(recipe: Recipe, program: Program) -> Iterator[Recipe]:
    """What NNCF's users reach for when its default loses too much, the usual cure first."""
    products = share(program, ("matmul", "recurrent"))
    if products > 0.5:
        # Smoothing is for transformers alone, and so is keeping norms and scores in floats.
        for percent in (50, 80):
            yield _quantised(
                recipe,
                f"smooth{percent}",
                model_type="transformer",
                smooth_quant_percent=percent,
            )
        if not is_transformer(program):
            yield _quantised(recipe, "transformer", model_type="transformer")
    yield _quantised(recipe, "signed", preset="mixed")
    yield _quantised(recipe, "histogram", ranges="histogram")
    if products < 0.9:
        yield _quantised(recipe, "biased", bias_correction="accurate")


def _static_settings(recipe: Recipe) -> Iterator[Recipe]:
    """ONNX Runtime quantises every operator it can; its heavy ones alone are where int8 pays."""
    yield _quantised(recipe, "heavy", operators=["Conv", "ConvTranspose", "Gemm", "MatMul"])
    yield _quantised(recipe, "percentile", calibration="percentile")


def _quantised(recipe: Recipe, tag: str, **choices: Any) -> Recipe:
    quantisation = {**(recipe.quantisation or {}), **choices}
    tags = "-".join(part for part in (recipe.tag, tag) if part)
    return dataclasses.replace(recipe, quantisation=quantisation, tag=tags)
