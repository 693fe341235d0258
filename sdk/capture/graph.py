"""A program of either kind as operators on named tensors: their costs, and peak memory. Pure.

**What compilers fuse.** An operator has no kernel of its own, so no launch and no memory traffic,
if it is

- constant: all it reads are weights, so it is computed once, when the model is compiled;
- a view: reshapes, transposes, splits and copies, which compilers express as strides or fold into
  the operator that reads them;
- element-wise on a result of another operator that is at least as large as its own: it is computed
  while that result is still in registers. That is how batch norms, activations, scales and residual
  sums disappear in all runtimes that we lower for.

Everything else is a kernel: convolutions, products, recurrent layers, reductions (softmax, norms,
pooling), concatenation, gathers, and element-wise operators on the program's own inputs.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

from sdk.capture.cost import Shape, operator_cost
from sdk.capture.liveness import Step, peak_bytes
from targets.interface import OpCost, plain_name

Role = Literal["constant", "view", "fused", "kernel"]
ELEMENT_BYTES = 4


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


VIEWS = _names("""
    view reshape flatten unflatten permute transpose t unsqueeze squeeze expand expand_as slice
    select split split_with_sizes chunk unbind getitem alias detach contiguous clone identity
    view_as narrow movedim swapaxes dropout feature_dropout lift_fresh_copy shape
    unsafe_split _unsafe_view _assert_tensor_metadata
""")
ELEMENTWISE = _names("""
    relu relu6 hardtanh clamp clamp_min clamp_max clip silu gelu sigmoid tanh hardswish hardsigmoid
    leaky_relu leakyrelu elu celu selu mish softplus softsign prelu swish erf exp log log1p sqrt
    rsqrt reciprocal pow square abs neg sign floor ceil round sin cos add sub rsub mul div
    true_divide maximum minimum where masked_fill eq equal ne lt less le lessorequal gt greater ge
    greaterorequal and or not logical_and logical_or logical_not bitwise_and bitwise_or bitwise_not
    batch_norm native_batch_norm _native_batch_norm_legit_no_training batchnormalization cast to
    _to_copy type_as float quantizelinear dequantizelinear quantize_per_tensor
    dequantize_per_tensor quantize_per_channel dequantize_per_channel
""")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Operator:
    """One operator and the tensors it reads and writes, by name."""

    op: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Graph:
    """A program at fixed sizes."""

    operators: tuple[Operator, ...]
    """In the order they run."""
    shapes: Mapping[str, tuple[Shape, ...]]
    """Name -> shape; several where an operator's tensors go under one name."""
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    constants: frozenset[str]
    """Weights and all else that is known before the first run."""

    def elements(self, name: str) -> int:
        """How many numbers a tensor holds; 0 where its shape is not known."""
        return sum(math.prod(shape) for shape in self.shapes.get(name, ()))


def roles(graph: Graph) -> tuple[Role, ...]:
    """What becomes of each operator when it is compiled; the module's text has the rule."""
    return tuple(role for role, _ in _compiled(graph))


def _compiled(graph: Graph) -> list[tuple[Role, tuple[str, ...]]]:
    """Each operator's role, and the tensors that it is a view of or may be computed in place of."""
    constants, computed = set(graph.constants), set[str]()
    found: list[tuple[Role, tuple[str, ...]]] = []
    for operator in graph.operators:
        name = plain_name(operator.op)
        reads = tuple(read for read in operator.reads if read not in constants)
        if not reads:
            constants.update(operator.writes)
            found.append(("constant", ()))
        elif name in VIEWS:
            if reads[0] in computed:
                computed.update(operator.writes)
            found.append(("view", reads[:1]))
        else:
            own = sum(graph.elements(name) for name in operator.writes)
            large = tuple(r for r in reads if r in computed and graph.elements(r) >= own)
            fused = name in ELEMENTWISE and bool(large)
            found.append(("fused", large) if fused else ("kernel", ()))
            computed.update(operator.writes)
    return found


def costs(graph: Graph) -> tuple[OpCost, ...]:
    """The cost table of a graph: one entry per operator that computes or moves anything."""
    constants = set(graph.constants)
    found = []
    for operator, role in zip(graph.operators, roles(graph), strict=True):
        if role == "constant":
            constants.update(operator.writes)
        inputs = [shape for name in operator.reads for shape in graph.shapes.get(name, ())]
        outputs = [shape for name in operator.writes for shape in graph.shapes.get(name, ())]
        if not outputs:
            continue
        weights = sum(graph.elements(name) for name in operator.reads if name in constants)
        cost = operator_cost(operator.op, inputs, outputs, ELEMENT_BYTES, weights)
        name = operator.writes[0]
        found.append(dataclasses.replace(cost, fused=role != "kernel", name=name))
    return tuple(found)


def activation_bytes(graph: Graph) -> int:
    """The most that is alive at one time, 4 bytes an element; weights and constants left out."""
    steps = [
        Step(
            reads=operator.reads,
            writes=operator.writes,
            view_of=sources[0] if role == "view" else None,
            overwrites=sources if role == "fused" else (),
        )
        for operator, (role, sources) in zip(graph.operators, _compiled(graph), strict=True)
        if role != "constant"
    ]
    sizes = {name: ELEMENT_BYTES * graph.elements(name) for name in graph.shapes}
    return peak_bytes(steps, sizes, inputs=graph.inputs, outputs=graph.outputs)


def exported_graph(program: Any, sizes: Mapping[str, int]) -> Graph:
    """A torch ExportedProgram with every symbol at its value in `sizes`."""
    signature = program.graph_signature
    inputs = tuple(name for name in signature.user_inputs if isinstance(name, str))
    operators, shapes, constants = [], {}, set()
    for node in program.graph.nodes:
        if "val" in node.meta:
            value = node.meta["val"]
            values = value if isinstance(value, (tuple, list)) else [value]
            found = tuple(_shape(tensor, sizes) for tensor in values if hasattr(tensor, "shape"))
            if found:
                shapes[node.name] = found
        if node.op in ("placeholder", "get_attr") and node.name not in inputs:
            constants.add(node.name)
        if node.op == "call_function" and node.name in shapes:
            reads = tuple(a.name for a in node.all_input_nodes if a.name in shapes)
            operators.append(Operator(op=_target(node.target), reads=reads, writes=(node.name,)))
    return Graph(
        operators=tuple(operators),
        shapes=shapes,
        inputs=inputs,
        outputs=tuple(name for name in signature.user_outputs if isinstance(name, str)),
        constants=frozenset(constants),
    )


def _target(target: Any) -> str:
    """`aten.linear.default`; plain functions such as `getitem` by their name."""
    return str(target) if hasattr(target, "_schema") else getattr(target, "__name__", str(target))


def _shape(tensor: Any, sizes: Mapping[str, int]) -> Shape:
    return tuple(symbol_size(size, sizes) for size in tensor.shape)


def symbol_size(size: Any, sizes: Mapping[str, int]) -> int:
    """A size as a number: a symbol or an expression of symbols takes their values."""
    if isinstance(size, int):
        return size
    expression = size.node.expr
    known = {s: sizes[str(s)] for s in expression.free_symbols if str(s) in sizes}
    found = expression.subs(known)
    return int(found) if found.is_number else 1


def onnx_graph(model: Any, sizes: Mapping[str, int]) -> Graph:
    """An ONNX model with every named dim at its size; shape inference fills in the rest."""
    import onnx

    weights = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    light = _at_sizes(model, sizes)
    with_shapes = onnx.shape_inference.infer_shapes(light).graph
    shapes: dict[str, tuple[Shape, ...]] = {}
    for value in (*with_shapes.input, *with_shapes.value_info, *with_shapes.output):
        if value.type.tensor_type.HasField("shape"):
            dims = value.type.tensor_type.shape.dim
            shapes[value.name] = (tuple(d.dim_value or sizes.get(d.dim_param, 1) for d in dims),)
    shapes.update({name: (shape,) for name, shape in weights.items()})
    return Graph(
        operators=tuple(
            Operator(
                op=node.op_type,
                reads=tuple(name for name in node.input if name),
                writes=tuple(name for name in node.output if name),
            )
            for node in model.graph.node
        ),
        shapes=shapes,
        inputs=tuple(value.name for value in model.graph.input if value.name not in weights),
        outputs=tuple(value.name for value in model.graph.output),
        constants=frozenset(weights),
    )


_SMALL_BYTES = 1 << 16  # shape inference reads such tensors: targets of Reshape, axes, repeats


def _at_sizes(model: Any, sizes: Mapping[str, int]) -> Any:
    """A copy without large weights, which inference does not read, and with numbers for dims.

    Inference serialises what it is given, and nothing above 2 GiB can be.
    """
    import onnx

    graph = model.graph
    small = [t for t in graph.initializer if len(t.raw_data) <= _SMALL_BYTES and t.dims]
    small += [t for t in graph.initializer if not t.dims]
    kept = {tensor.name for tensor in small}
    given = {value.name for value in graph.input}
    large = [
        onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
        for tensor in graph.initializer
        if tensor.name not in kept and tensor.name not in given
    ]
    copied = onnx.helper.make_graph(
        list(graph.node),
        graph.name,
        [*graph.input, *large],
        list(graph.output),
        initializer=small,
        value_info=list(graph.value_info),
    )
    for value in copied.input:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in sizes:
                dim.dim_value = sizes[dim.dim_param]
    light = onnx.helper.make_model(
        copied, opset_imports=list(model.opset_import), functions=list(model.functions)
    )
    light.ir_version = model.ir_version
    return light
