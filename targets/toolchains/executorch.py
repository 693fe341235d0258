"""ExecuTorch: an exported program to one `.pte` file, for XNNPACK, Vulkan or Core ML.

Recipes: `backend` xnnpack (f32, int8, int4), vulkan (f16) or coreml (f16). Where it is narrow,
`quantisation` is {method, samples, per_channel, smooth_quant, ignored} (targets/lowering/pt2e.py
tells the methods); int4 is `dynamic`: weights of 4 bits, activations of 8.
Options: `threads` for the session; `minimum_deployment_target` (default iOS16, the oldest) for Core
ML here.

What no delegate takes runs on portable kernels, which are slow: the share is in the placement.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agent.errors import ToolchainError
from agent.files import storage_errors
from agent.manifest import Runtime
from targets.interface import (
    Availability,
    Calibration,
    Lowered,
    Problem,
    Program,
    Recipe,
    Sensitivity,
)
from targets.lowering import pt2e_sensitivity
from targets.lowering.export import load_exported
from targets.lowering.ignored import ignored_problems
from targets.lowering.partitioners import DEPLOYMENT_TARGETS, partitioner
from targets.lowering.pt2e import METHODS, SETTINGS, STATIC, quantise_pt2e, reference_pt2e
from targets.lowering.vendor import availability, vendor_errors, version_of

NAME = "executorch"
EXTRA = "mobile"
FORMAT = "executorch"

_BITS = {"int8": 8, "int4": 4}
_PRECISIONS = {"xnnpack": ("f32", *_BITS), "vulkan": ("f16",), "coreml": ("f16",)}
_DELEGATES = {
    "xnnpack": "XnnpackBackend",
    "vulkan": "VulkanBackend",
    "coreml": "CoreMLBackend",
}
_DTYPES = ("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64")
"""What the portable kernels take at the border of a program, as numpy names it."""

_IDENTIFIER = b"ET12"  # of the .pte format, at byte 4; it has not changed since ExecuTorch 0.1
_OPTIONS = ("threads", "minimum_deployment_target")
_FILE = "program.pte"
_RANKING_SAMPLES = 8  # each is run once for every group of operators


def available() -> Availability:
    """Which versions are installed; imports none of them."""
    return availability(("executorch", "torch", "torchao"), ("coremltools", "nncf"), EXTRA)


def supports(program: Program, recipe: Recipe) -> list[Problem]:
    """Why ExecuTorch cannot take this program with this recipe; empty where it can."""
    if program.kind != "exported":
        return [Problem(what="ExecuTorch takes exported programs, not ONNX", where="model.source")]
    backend = str(recipe.backend)
    if backend not in _PRECISIONS:
        known = ", ".join(_PRECISIONS)
        return [Problem(what=f"no backend {backend!r}; known are {known}", where="backend")]
    return [
        *_custom_operators(program),
        *_borders(program),
        *_choices(recipe, backend),
    ]


def lower(program: Program, recipe: Recipe, calibration: Calibration | None, out: Path) -> Lowered:
    """Write `program.pte` into `out`.

    Raises:
        ToolchainError: ExecuTorch refuses the program, or what it wrote is not what was asked for.
        StorageError: the file cannot be written.
    """
    backend = str(recipe.backend)
    exported = load_exported(program)
    notes = []
    if recipe.precision in _BITS:
        settings = dict(recipe.quantisation or {})
        bits = _BITS[recipe.precision]
        exported = quantise_pt2e(exported, program.signature, settings, calibration, bits=bits)
        if calibration is not None and len(calibration) < settings.get("samples", 0):
            notes.append(
                f"calibrated with {len(calibration)} samples, {settings['samples']} were asked for"
            )
    with vendor_errors(
        f"ExecuTorch cannot lower the program to {backend}",
        cause="An operator, or an operator at dynamic sizes, is not supported there.",
        remedy="Read the log beside the candidate, fix the dims in sdk.toml, or skip this recipe.",
    ):
        edge = _to_edge(exported, recipe)
        counts = _operators(edge.exported_program().graph_module)
        _check_dims(edge, program)
        lowered = edge.to_executorch(_settings())
        path = out / _FILE
        with storage_errors(path), path.open("wb") as stream:
            lowered.write_to_file(stream)
    delegated = _check_structure(path, backend)
    share = counts[backend] / max(counts.total(), 1)
    if not delegated:
        notes.append("no operator was delegated: all of it runs on slow portable kernels")
    return Lowered(
        files=(_FILE,),
        runtime=_runtime(),
        placement={backend: round(share, 4), "portable": round(1 - share, 4)},
        notes=tuple(notes),
    )


def sensitivities(
    program: Program, recipe: Recipe, calibration: Calibration
) -> tuple[Sensitivity, ...]:
    """What static int8 of each group of operators costs, of those that can be left out together.

    Raises:
        ToolchainError: the quantiser refuses.
    """
    exported, settings = load_exported(program), dict(recipe.quantisation or {})
    return pt2e_sensitivity.sensitivities(
        reference_pt2e(exported, program.signature, settings, calibration),
        program.signature,
        list(itertools.islice(calibration, _RANKING_SAMPLES)),
    )


def _custom_operators(program: Program) -> Iterator[Problem]:
    for name in program.custom_ops:
        yield Problem(what="ExecuTorch has no kernel for this custom operator", where=name)


def _borders(program: Program) -> Iterator[Problem]:
    for spec in (*program.signature.inputs, *program.signature.outputs):
        if spec.dtype not in _DTYPES:
            yield Problem(
                what=f"ExecuTorch's kernels take {', '.join(_DTYPES)}, not {spec.dtype}",
                where=spec.name,
            )


def _choices(recipe: Recipe, backend: str) -> Iterator[Problem]:
    if recipe.precision not in _PRECISIONS[backend]:
        known = ", ".join(_PRECISIONS[backend])
        yield Problem(what=f"{backend} takes {known}, not {recipe.precision}", where="precision")
    for option in sorted(set(recipe.options) - set(_OPTIONS)):
        yield Problem(what=f"unknown option; known are {', '.join(_OPTIONS)}", where=option)
    minimum = recipe.options.get("minimum_deployment_target", DEPLOYMENT_TARGETS[0])
    if minimum not in DEPLOYMENT_TARGETS:
        known = ", ".join(DEPLOYMENT_TARGETS)
        yield Problem(what=f"{minimum!r} is not among {known}", where="minimum_deployment_target")
    quantisation = recipe.quantisation
    if (recipe.precision in _BITS) != (quantisation is not None):
        what = f"{' and '.join(_BITS)}, and only they, say how they are quantised"
        yield Problem(what=what, where="quantisation")
    if quantisation is None:
        return
    if recipe.precision == "int4" and quantisation.get("method") != "dynamic":
        yield Problem(what="only weights go to 4 bits: method 'dynamic'", where="int4")
    if quantisation.get("method") not in METHODS:
        yield Problem(
            what=f"no method {quantisation.get('method')!r}; known are {', '.join(METHODS)}",
            where="quantisation",
        )
    for setting in sorted(set(quantisation) - set(SETTINGS)):
        yield Problem(what=f"unknown setting; known are {', '.join(SETTINGS)}", where=setting)
    yield from ignored_problems(quantisation)
    samples = quantisation.get("samples", 0)
    if quantisation.get("method") in STATIC and (not isinstance(samples, int) or samples < 1):
        yield Problem(what="static int8 needs samples of 1 or more", where="quantisation")
    if quantisation.get("method") == "nncf-pt2e" and version_of("nncf") is None:
        yield Problem(what="nncf is not installed: pip install nncf", where="quantisation")


def _to_edge(exported: Any, recipe: Recipe) -> Any:
    from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower

    # The validity check runs every operator once with concrete sizes, and by that turns a dynamic
    # dim into the example's size wherever a tensor is made from it (aten.full, aten.arange).
    return to_edge_transform_and_lower(
        exported,
        partitioner=[partitioner(recipe)],
        compile_config=EdgeCompileConfig(_check_ir_validity=False),
    )


def _settings() -> Any:
    from executorch.exir import ExecutorchBackendConfig

    # By the names of the buffers it writes to, a session knows that a model has state to reset.
    return ExecutorchBackendConfig(emit_mutable_buffer_names=True)


def _check_dims(edge: Any, program: Program) -> None:
    """A dim that an earlier pass made static would show only at the first other size."""
    edge_program = edge.exported_program()
    nodes = {node.name: node for node in edge_program.graph.nodes}
    names = edge_program.graph_signature.user_inputs
    for spec, name in zip(program.signature.inputs, names, strict=True):
        found = nodes[name].meta["val"].shape
        for expected, size in zip(spec.shape, found, strict=True):
            low, _, high = program.signature.dims.get(str(expected), (0, 0, 0))
            if low < high and isinstance(size, int):
                raise ToolchainError(
                    f"ExecuTorch fixed the dim {expected} of {spec.name} to {size}; it should go "
                    f"from {low} to {high}.",
                    cause="One of its passes took the example's size for the only one.",
                    remedy=f"Give {expected} one size in [dims], or use another toolchain.",
                )


def _operators(graph_module: Any) -> Counter[str]:
    """Operators per engine. Inside a delegate, (de)quantisation is part of the int8 kernels."""
    from executorch.exir.lowered_backend_module import LoweredBackendModule
    from torch.fx import GraphModule

    engines = {delegate: backend for backend, delegate in _DELEGATES.items()}
    counts: Counter[str] = Counter()
    for module in graph_module.modules():
        if isinstance(module, LoweredBackendModule):
            inner = module.original_module.graph_module
            counts[engines[module.backend_id]] += sum(
                not name.startswith("quantized_decomposed") for name in _operator_names(inner)
            )
        elif isinstance(module, GraphModule):
            counts["portable"] += sum(1 for _ in _operator_names(module))
    return counts


def _operator_names(graph_module: Any) -> Iterator[str]:
    """Names like `aten.linear.default`; getitem, arithmetic on sizes and calls are none."""
    for node in graph_module.graph.nodes:
        schema = getattr(node.target, "_schema", None)
        if node.op == "call_function" and schema is not None:
            name = str(schema.name).replace("::", ".")
            if not name.startswith(("aten.sym_", "higher_order")):
                yield name


def _check_structure(path: Path, backend: str) -> int:
    """Read the file back: how many delegates it calls. Vulkan and Core ML must have one.

    No phone is at hand, so this is what can be proven of those files here.
    """
    from executorch.exir._serialize._program import deserialize_pte_binary

    content = path.read_bytes()
    with vendor_errors(
        f"{path.name}, just written, cannot be read back",
        cause="The disk lost a part of it, or this is a bug of ExecuTorch.",
        remedy="Build again with --fresh.",
    ):
        program = deserialize_pte_binary(content).program
    found = [
        (delegate.id, len(program.backend_delegate_data[delegate.processed.index].data))
        for plan in program.execution_plan
        for delegate in plan.delegates
    ]
    foreign = {name for name, _ in found} - {_DELEGATES[backend]}
    if content[4:8] != _IDENTIFIER or foreign or not all(size for _, size in found):
        raise ToolchainError(
            f"{path.name} has the identifier {content[4:8]!r} and delegates {found}; expected "
            f"{_IDENTIFIER!r} and non-empty {_DELEGATES[backend]}.",
            cause="This ExecuTorch writes another format, or a bug of it.",
            remedy="Install the executorch version that constraints.txt names.",
        )
    missing = _without_kernel(program)
    if missing:
        raise ToolchainError(
            f"ExecuTorch's runtime has no kernel for {', '.join(missing)}, and {backend} took none "
            "of them.",
            cause="The portable kernels cover the core operators only.",
            remedy="Write the operators in simpler ones, or use another toolchain.",
        )
    if not found and backend != "xnnpack":
        raise ToolchainError(
            f"ExecuTorch delegated none of the program's operators to {backend}.",
            cause=f"{backend} supports none of them at these dtypes and dims, so the file would "
            "run on slow portable kernels alone.",
            remedy="Use the xnnpack recipe, fix the dims in sdk.toml, or change the operators.",
        )
    return len(found)


def _without_kernel(program: Any) -> list[str]:
    """Operators left to the runtime that it lacks: it would refuse the whole file."""
    import executorch.kernels.quantized  # noqa: F401  registers its kernels with the runtime
    from executorch.extension.pybindings import _portable_lib as runtime

    called = {
        f"{operator.name}.{operator.overload}" if operator.overload else operator.name
        for plan in program.execution_plan
        for operator in plan.operators
    }
    return sorted(called - set(runtime._get_operator_names()))  # noqa: SLF001


def _runtime() -> Runtime:
    """A .pte loads with its own version and, by the vendor's policy, the next minor one."""
    version = str(version_of("executorch"))
    major, minor = version.split(".")[:2]
    return Runtime(format=FORMAT, at_least=version, below=f"{major}.{int(minor) + 2}")
