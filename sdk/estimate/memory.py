"""Memory and file size: weights as they are stored, the peak of activations, the runtime. Pure."""

from __future__ import annotations

from profiles import Profile
from sdk.estimate.constants import DEFAULT, Constants
from sdk.estimate.interval import Interval
from sdk.estimate.precision import ELEMENT_BYTES, carried_in
from targets.interface import Program, Recipe


def peak_memory_bytes(
    program: Program, profile: Profile, recipe: Recipe, constants: Constants
) -> Interval:
    """The process's peak: the runtime, its copies of the weights, and what is alive between them.

    `low` counts on a runtime that maps its file and needs half of the weights that are read in one
    run, and nothing else: of an embedding's table only a few rows are. `high` counts on the dims'
    `max` where they vary.
    """
    scale = _scale(recipe.precision)
    weights = program.weight_bytes * scale
    native = profile.platform in ("android", "ios")
    runtimes = constants.native_runtime_bytes if native else constants.runtime_bytes
    runtime = runtimes.get(recipe.toolchain, runtimes["*"]).value
    value = runtime + constants.weight_copies.value * weights + _activations(program, recipe)
    grown = max(program.activation_bytes_at_max - program.activation_bytes, 0)
    at_max = grown * _scale(carried_in(recipe))
    read = min(program.weight_bytes, sum(c.weight_bytes for c in program.costs if not c.fused))
    low = max(1.0, _LEAST_SHARE * read * scale)
    high = (value + at_max) * constants.memory_spread.value
    return Interval(value=int(value), low=int(low), high=int(high))


def file_bytes(program: Program, recipe: Recipe, constants: Constants = DEFAULT) -> Interval:
    """The size of the variant's files: the weights in their precision, and the graph.

    `low` is half the weights: some may be folded away or stored more narrowly than the recipe says.
    """
    weights = program.weight_bytes * _scale(recipe.precision)
    graph = constants.file_bytes_per_operator.value * len(program.costs)
    # Quantised models keep what is sensitive in floating point, at worst all of it.
    high = max(weights, program.weight_bytes) * 1.1 + 4 * graph
    return Interval(value=weights + graph, low=_LEAST_SHARE * weights, high=high)


_LEAST_SHARE = 0.5


def _activations(program: Program, recipe: Recipe) -> float:
    """What is alive at one time; where liveness is not known, the operator that touches most."""
    most = program.activation_bytes or max((cost.bytes for cost in program.costs), default=0)
    return most * _scale(carried_in(recipe))


def _scale(precision: str) -> float:
    """Bytes of the precision for each byte of f32."""
    return ELEMENT_BYTES[precision] / ELEMENT_BYTES["f32"]
