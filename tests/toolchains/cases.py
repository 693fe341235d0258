"""What the conformance suite runs: one line per recipe, and the gaps that are known.

A new toolchain joins by its lines in `CASES` (and in `GAPS`, where it cannot do something yet).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest

import targets
from profiles import Stack, find
from targets import recipes
from targets.interface import Recipe


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One recipe and how close to torch it must stay."""

    name: str
    recipe: Recipe
    relative: float | None = None
    """The largest error, as a share of the output's largest value; for f32."""
    cosine: float | None = None
    """The least cosine per output; for what rounds."""
    quick: tuple[str, ...] | None = None
    """The zoo entries of the fast run; all others are marked long. None: all are quick."""

    only: tuple[str, ...] | None = None
    """The zoo entries that the recipe is for, where a target plans it for some kinds alone."""

    @property
    def run_as(self) -> str | None:
        """What runs it here, where the recipe's own engine is not: a check on the CPU."""
        return self.recipe.check

    @property
    def needs_data(self) -> bool:
        return int((self.recipe.quantisation or {}).get("samples", 0)) > 0


def _openvino(precision: str, quantisation: Mapping[str, Any] | None = None) -> Recipe:
    hint = "bf16" if precision == "bf16" else "f32"
    return Recipe(
        toolchain="openvino",
        format="openvino",
        precision=precision,
        quantisation=quantisation,
        backend="CPU",
        options={"device": "CPU", "INFERENCE_PRECISION_HINT": hint},
    )


def _onnxruntime(precision: str, quantisation: Mapping[str, Any] | None = None) -> Recipe:
    return Recipe(
        toolchain="onnxruntime",
        format="onnxruntime",
        precision=precision,
        quantisation=quantisation,
        backend="CPU",
        opset=20,
    )


def _aotinductor(precision: str) -> Recipe:
    return Recipe(toolchain="aotinductor", format="aotinductor", precision=precision, backend="CPU")


def _tensorrt(
    precision: str, quantisation: Mapping[str, Any] | None = None, release: str = "10.3.0"
) -> Recipe:
    stack = Stack(name="stack", python=None, runtimes={"tensorrt": release}, source="the test")
    profile = dataclasses.replace(find("core-ultra-155h", ()), software={"stack": stack})
    return recipes.tensorrt(profile, precision, quantisation=quantisation)


_NNCF = {"method": "nncf", "preset": "performance", "samples": 8}
_FEW = ("cnn", "gru", "encoder")

CASES: tuple[Case, ...] = (
    Case(name="openvino-f32", recipe=_openvino("f32"), relative=1e-4),
    Case(name="openvino-f16", recipe=_openvino("f16"), cosine=0.9999, quick=_FEW),
    Case(name="openvino-bf16", recipe=_openvino("bf16"), cosine=0.999, quick=_FEW),
    Case(name="openvino-int8", recipe=_openvino("int8", _NNCF), cosine=0.95),
    Case(
        name="openvino-int8-transformer",
        recipe=_openvino("int8", {**_NNCF, "preset": "mixed", "model_type": "transformer"}),
        cosine=0.98,
        quick=("encoder",),
        only=("encoder", "vit"),
    ),
    Case(
        name="openvino-int8-weights",
        recipe=recipes.openvino_weights("int8_asym", "f32"),
        cosine=0.999,
        quick=("encoder", "cnn", "gru"),
    ),
    Case(
        name="openvino-int4-weights",
        recipe=recipes.openvino_weights("int4_asym", "f32", group_size=32),
        cosine=0.98,
        quick=("encoder",),
        only=("encoder", "vit"),
    ),
    Case(
        name="openvino-gpu-f16",
        recipe=recipes.openvino("GPU", "f16", "f16"),
        cosine=0.9999,
        quick=("cnn",),
    ),
    Case(
        name="openvino-gpu-int8",
        recipe=recipes.openvino("GPU", "int8", "f16", quantisation=_NNCF),
        cosine=0.95,
        quick=("cnn",),
    ),
    Case(name="tensorrt-f32", recipe=_tensorrt("f32"), relative=1e-4, quick=_FEW),
    Case(
        name="tensorrt-f32-8.6",
        recipe=_tensorrt("f32", release="8.6.1"),
        relative=1e-4,
        quick=("cnn", "encoder", "detector"),
    ),
    Case(name="tensorrt-f16", recipe=_tensorrt("f16"), cosine=0.9999),
    Case(
        name="tensorrt-f16-8.6",
        recipe=_tensorrt("f16", release="8.6.1"),
        cosine=0.9999,
        quick=_FEW,
    ),
    Case(
        name="tensorrt-int8",
        recipe=_tensorrt("int8", _NNCF),
        cosine=0.95,
        quick=("mobile", "encoder", "two-heads", "buffers"),
    ),
    Case(
        name="tensorrt-int8-8.6",
        recipe=_tensorrt("int8", _NNCF, "8.6.1"),
        cosine=0.95,
        quick=("cnn", "gru"),
    ),
    Case(
        name="tensorrt-int8-f16",
        recipe=_tensorrt("int8", {**_NNCF, "rest": "f16"}),
        cosine=0.95,
        quick=("batched-cnn", "recommender", "lstm"),
    ),
    Case(
        name="tensorrt-int8-transformer",
        recipe=_tensorrt("int8", {**_NNCF, "model_type": "transformer", "rest": "f16"}),
        cosine=0.98,
        quick=("encoder",),
        only=("encoder", "vit"),
    ),
    Case(
        name="tensorrt-fp8",
        recipe=_tensorrt("fp8", {**_NNCF, "rest": "f16"}),
        cosine=0.95,
        quick=("cnn", "encoder", "gru"),
    ),
    Case(name="onnxruntime-f32", recipe=_onnxruntime("f32"), relative=1e-4),
    Case(
        name="onnxruntime-int8",
        recipe=_onnxruntime("int8", {"method": "static", "samples": 8}),
        cosine=0.95,
        quick=("cnn", "mobile", "lstm", "recommender", "encoder", "two-heads"),
    ),
    Case(
        name="onnxruntime-int8-reduced",
        recipe=_onnxruntime("int8", {"method": "static", "samples": 8, "reduce_range": True}),
        cosine=0.95,
        quick=("cnn",),
    ),
    Case(
        name="onnxruntime-int8-dynamic",
        recipe=_onnxruntime("int8", {"method": "dynamic"}),
        cosine=0.99,
        quick=_FEW,
    ),
    # Each compiles with the C++ compiler for many seconds.
    Case(name="aotinductor-f32", recipe=_aotinductor("f32"), relative=1e-4, quick=("cnn",)),
    Case(name="aotinductor-bf16", recipe=_aotinductor("bf16"), cosine=0.99, quick=()),
)

GAPS: dict[tuple[str, str], str] = {
    # (case, zoo entry): what the refusal says. A gap that closes fails the suite: remove it then.
    # NNCF leaves the weights of recurrent cells as they are.
    ("openvino-int8-weights", "gru"): "The weights take",
    ("openvino-int8-weights", "lstm"): "The weights take",
    # 24 weights: scales and zero points take as much as they save.
    ("openvino-int8-weights", "buffers"): "The weights take",
    # Convolutions alone: dynamic quantisation changes none of them.
    ("onnxruntime-int8-dynamic", "detector"): "nothing to change",
    # ONNX Runtime turns a transpose before a product into the product's own transposition, and its
    # quantiser takes only products without one.
    ("onnxruntime-int8-dynamic", "buffers"): "nothing to change",
    # The states that a recurrent cell begins with are exported in f32.
    ("aotinductor-bf16", "gru"): "recurrent cells stay in f32",
    ("aotinductor-bf16", "lstm"): "recurrent cells stay in f32",
}


VENDOR_WARNINGS = tuple(
    pytest.mark.filterwarnings(f"ignore:{text}")
    for text in (
        # torch 2.13 about its own tree specs, on every torch.export.save.
        r"`isinstance\(treespec, LeafSpec\)` is deprecated:FutureWarning",
        # torch 2.13 about its own recurrent cells, on every torch.export.export of one.
        r"The tensor attributes self\.model\.cell\._flat_weights:UserWarning",
        # torch 2.13 about its own compiler's libraries.
        r"`torch\.jit\.script_method` is deprecated:DeprecationWarning",
        # NNCF 3.4 about the mean of a mask that holds the lowest float.
        r"overflow encountered in reduce:RuntimeWarning",
        # The same mask's mean, when it becomes a range.
        r"invalid value encountered in cast:RuntimeWarning",
    )
)
"""What vendors warn of in calls that are as they should be."""


def parameters(entries: tuple[str, ...]) -> list[Any]:
    """Every case with every entry; a toolchain that is missing skips and says how to get it."""
    found = []
    for case in CASES:
        availability = targets.toolchain(case.recipe.toolchain).available()
        missing = pytest.mark.skipif(
            not availability.ok, reason=f"{case.recipe.toolchain}: {availability.remedy}"
        )
        for entry in entries if case.only is None else case.only:
            marks = [missing]
            if case.quick is not None and entry not in case.quick:
                marks.append(pytest.mark.long)
            found.append(pytest.param(case, entry, id=f"{case.name}-{entry}", marks=marks))
    return found
