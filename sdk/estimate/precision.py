"""What each operator is computed in under a recipe, and how wide its numbers are then. Pure."""

from __future__ import annotations

from targets.interface import OpCost, Recipe, plain_name

ELEMENT_BYTES = {
    "f32": 4.0,
    "tf32": 4.0,
    "f16": 2.0,
    "bf16": 2.0,
    "int8": 1.0,
    "fp8": 1.0,
    "fp4": 0.5,
    "int4": 0.5,
}
"""How much memory traffic one number makes, by precision."""
_FLOATING = frozenset({
    "softmax", "_softmax", "layer_norm", "native_layer_norm", "layernormalization", "rms_norm",
    "group_norm", "groupnormalization", "instance_norm", "instancenormalization",
    "scaled_dot_product_attention",
})  # fmt: skip
"""What quantisers leave in floating point."""


def computed_in(recipe: Recipe, cost: OpCost) -> str:
    """What one operator is computed in, as far as the recipe decides it.

    Weights may be stored in f16 and computed in f32. Where weights alone are quantised, products
    are int8 only if the runtime quantises activations as they come. Quantised on the fly, only
    products are quantised; quantised before, norms and attention's scores are not, nor is what the
    recipe ignores, where the toolchain names operators as the program does: ExecuTorch.
    """
    precision = recipe.precision
    quantisation = recipe.quantisation or {}
    hint = str(recipe.options.get("INFERENCE_PRECISION_HINT"))
    rest = str(quantisation.get("rest", hint))
    if precision == "f16" and hint in ELEMENT_BYTES:
        return hint
    if quantisation.get("method") == "weights":
        dynamic = bool(recipe.options.get("DYNAMIC_QUANTIZATION_GROUP_SIZE"))
        return "int8" if dynamic and cost.kind == "matmul" else carried_in(recipe)
    if cost.name in quantisation.get("ignored", ()):
        return rest if rest in ELEMENT_BYTES else "f32"
    if quantisation.get("method") == "dynamic":
        return "int8" if cost.kind in ("matmul", "recurrent") else "f32"
    if quantisation and rest in ELEMENT_BYTES and plain_name(cost.op) in _FLOATING:
        return rest
    return precision


def carried_in(recipe: Recipe) -> str:
    """What the tensors between operators are in: narrow weights alone do not make them narrow."""
    if (recipe.quantisation or {}).get("method") != "weights":
        return recipe.precision
    hint = str(recipe.options.get("INFERENCE_PRECISION_HINT"))
    return hint if hint in ELEMENT_BYTES else "f32"
