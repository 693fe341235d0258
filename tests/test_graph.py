"""Cost tables and peak memory: by hand for small nets, by rule for all."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdk.capture.cost import operator_cost
from sdk.capture.graph import Graph, Operator, activation_bytes, costs, onnx_graph, roles
from sdk.capture.liveness import Step, peak_bytes


def chain(sizes: list[int]) -> tuple[list[Step], dict[str, int]]:
    names = [f"t{index}" for index in range(len(sizes))]
    steps = [Step(reads=(a,), writes=(b,)) for a, b in itertools.pairwise(names)]
    return steps, dict(zip(names, sizes, strict=True))


@given(st.lists(st.integers(0, 1000), min_size=2, max_size=20))
def test_a_chain_needs_its_largest_neighbours(sizes: list[int]) -> None:
    steps, named = chain(sizes)
    found = peak_bytes(steps, named, inputs=["t0"], outputs=[f"t{len(sizes) - 1}"])
    assert found == max(a + b for a, b in itertools.pairwise(sizes))


@st.composite
def any_steps(draw: st.DrawFn) -> tuple[list[Step], dict[str, int]]:
    sizes = draw(st.lists(st.integers(0, 100), min_size=2, max_size=12))
    steps = []
    for index in range(1, len(sizes)):
        reads = draw(st.lists(st.integers(0, index - 1), min_size=1, max_size=3, unique=True))
        names = tuple(f"t{read}" for read in reads)
        kind = draw(st.sampled_from(["kernel", "view", "fused"]))
        steps.append(
            Step(
                reads=names,
                writes=(f"t{index}",),
                view_of=names[0] if kind == "view" else None,
                overwrites=names if kind == "fused" else (),
            )
        )
    return steps, {f"t{index}": size for index, size in enumerate(sizes)}


@given(any_steps())
def test_peak_memory_lies_between_one_step_and_everything(
    case: tuple[list[Step], dict[str, int]],
) -> None:
    steps, sizes = case
    last = f"t{len(sizes) - 1}"
    found = peak_bytes(steps, sizes, inputs=["t0"], outputs=[last])
    assert found <= sum(sizes.values())
    for step in steps:
        if step.view_of is None and not step.overwrites:
            reads = {name for name in step.reads if _made(name, steps)}
            assert found >= sizes[step.writes[0]] + max((sizes[n] for n in reads), default=0)


def _made(name: str, steps: list[Step]) -> bool:
    """By a step that takes memory of its own."""
    makers = [step for step in steps if name in step.writes]
    return not makers or (makers[0].view_of is None and not makers[0].overwrites)


@given(any_steps())
def test_reuse_never_costs_memory(case: tuple[list[Step], dict[str, int]]) -> None:
    steps, sizes = case
    last = f"t{len(sizes) - 1}"
    plain = [Step(reads=step.reads, writes=step.writes) for step in steps]
    reused = [Step(reads=s.reads, writes=s.writes, overwrites=s.overwrites) for s in steps]
    more = peak_bytes(plain, sizes, inputs=["t0"], outputs=[last])
    assert peak_bytes(reused, sizes, inputs=["t0"], outputs=[last]) <= more


LIVENESS = {
    # what, steps, sizes, outputs, peak
    "a branch is held until it is added": (
        [
            Step(reads=("in",), writes=("a",)),
            Step(reads=("a",), writes=("b",)),
            Step(reads=("a", "b"), writes=("out",)),
        ],
        {"in": 1, "a": 10, "b": 10, "out": 10},
        ["out"],
        30,
    ),
    "a sum may be written over what nobody reads again": (
        [
            Step(reads=("in",), writes=("a",)),
            Step(reads=("a",), writes=("b",)),
            Step(reads=("a", "b"), writes=("out",), overwrites=("a", "b")),
        ],
        {"in": 1, "a": 10, "b": 10, "out": 10},
        ["out"],
        20,
    ),
    "and not over what is read again": (
        [
            Step(reads=("in",), writes=("a",)),
            Step(reads=("a",), writes=("b",), overwrites=("a",)),
            Step(reads=("a", "b"), writes=("out",)),
        ],
        {"in": 1, "a": 10, "b": 10, "out": 1},
        ["out"],
        21,
    ),
    "a view takes nothing and keeps what it shows": (
        [
            Step(reads=("in",), writes=("a",)),
            Step(reads=("a",), writes=("v",), view_of="a"),
            Step(reads=("in",), writes=("b",)),
            Step(reads=("v", "b"), writes=("out",)),
        ],
        {"in": 1, "a": 10, "v": 10, "b": 5, "out": 1},
        ["out"],
        16,
    ),
    "an output stays to the end": (
        [Step(reads=("in",), writes=("a",)), Step(reads=("in",), writes=("b",))],
        {"in": 1, "a": 10, "b": 5},
        ["a", "b"],
        16,
    ),
    "what nobody reads dies at once": (
        [Step(reads=("in",), writes=("a",)), Step(reads=("in",), writes=("b",))],
        {"in": 1, "a": 10, "b": 5},
        ["b"],
        11,
    ),
}


@pytest.mark.parametrize("case", LIVENESS.values(), ids=LIVENESS)
def test_buffers_live_as_long_as_they_are_read(case: Any) -> None:
    steps, sizes, outputs, peak = case
    assert peak_bytes(steps, sizes, inputs=["in"], outputs=outputs) == peak


def graph(*operators: tuple[str, str, str], **shapes: tuple[int, ...]) -> Graph:
    """Operators as (name, "reads", writes); tensors called w... are weights."""
    made = tuple(Operator(op=op, reads=tuple(r.split()), writes=(w,)) for op, r, w in operators)
    return Graph(
        operators=made,
        shapes={name: (shape,) for name, shape in shapes.items()},
        inputs=("x",),
        outputs=(made[-1].writes[0],),
        constants=frozenset(name for name in shapes if name.startswith("w")),
    )


IMAGE, FILTER = (1, 8, 4, 4), (8, 8, 1, 1)
ROLES = {
    "an activation follows its convolution": (
        graph(("Conv", "x w", "a"), ("Relu", "a", "b"), x=IMAGE, w=FILTER, a=IMAGE, b=IMAGE),
        ("kernel", "fused"),
    ),
    "a residual sum": (
        graph(
            ("Conv", "x w", "a"), ("Conv", "a w", "b"), ("Add", "b a", "c"),
            x=IMAGE, w=FILTER, a=IMAGE, b=IMAGE, c=IMAGE,
        ),
        ("kernel", "kernel", "fused"),
    ),
    "on an input of the program it is a kernel": (
        graph(("aten.mul.Tensor", "x w", "a"), x=IMAGE, w=(1,), a=IMAGE),
        ("kernel",),
    ),
    "a gate scales the larger tensor": (
        graph(
            ("Conv", "x w", "a"), ("GlobalAveragePool", "a", "g"), ("Mul", "a g", "b"),
            x=IMAGE, w=FILTER, a=IMAGE, g=(1, 8, 1, 1), b=IMAGE,
        ),
        ("kernel", "kernel", "fused"),
    ),
    "a broadcast that grows is a kernel": (
        graph(
            ("GlobalAveragePool", "x", "g"), ("Add", "g w", "b"),
            x=IMAGE, g=(1, 8, 1, 1), w=IMAGE, b=IMAGE,
        ),
        ("kernel", "kernel"),
    ),
    "a view is nothing, and does not make an input a result": (
        graph(("Reshape", "x", "v"), ("Sigmoid", "v", "a"), x=IMAGE, v=(8, 16), a=(8, 16)),
        ("view", "kernel"),
    ),
    "what reads weights alone is computed once": (
        graph(
            ("Transpose", "w", "t"), ("MatMul", "x t", "a"), x=(4, 8), w=(8, 8), t=(8, 8), a=(4, 8)
        ),
        ("constant", "kernel"),
    ),
    "a softmax is a reduction": (
        graph(("MatMul", "x w", "a"), ("Softmax", "a", "b"), x=(4, 8), w=(8, 8), a=(4, 8), b=(4, 8)),
        ("kernel", "kernel"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ROLES.values(), ids=ROLES)
def test_compilers_leave_these_kernels(case: Any) -> None:
    made, expected = case
    assert roles(made) == expected
    assert [cost.fused for cost in costs(made)] == [role != "kernel" for role in expected]


COSTS = {
    # op, inputs, outputs, weight elements -> flops, bytes, weights, output, depthwise
    "a convolution": (
        ("Conv", [(1, 8, 4, 4), (16, 8, 3, 3), (16,)], [(1, 16, 4, 4)], 16 * 72 + 16),
        (2 * 256 * 72, 4 * (128 + 1168 + 256), 4 * 1168, 4 * 256, False),
    ),
    "depthwise": (
        ("aten.conv2d.default", [(1, 8, 4, 4), (8, 1, 3, 3)], [(1, 8, 4, 4)], 72),
        (2 * 128 * 9, 4 * (128 + 72 + 128), 4 * 72, 4 * 128, True),
    ),
    "one input channel is not depthwise": (
        ("Conv", [(1, 1, 4, 4), (8, 1, 3, 3)], [(1, 8, 4, 4)], 72),
        (2 * 128 * 9, 4 * (16 + 72 + 128), 4 * 72, 4 * 128, False),
    ),
    "an embedding reads the rows it needs": (
        ("aten.embedding.default", [(30000, 64), (1, 16)], [(1, 16, 64)], 30000 * 64),
        (1024, 4 * 2048, 4 * 1024, 4 * 1024, False),
    ),
    "a GRU of torch: two layers, both ways": (
        (
            "aten.gru.input",
            [
                (1, 10, 8),
                (4, 1, 16),
                *[(48, 8), (48, 16), (48,), (48,)] * 2,
                *[(48, 32), (48, 16), (48,), (48,)] * 2,
            ],
            [(1, 10, 32), (4, 1, 16)],
            0,
        ),
        (2 * 10 * 2 * 48 * (8 + 16 + 32 + 16), 4 * (80 + 64 + 7296 + 384), 0, 4 * 384, False),
    ),
    "an LSTM of torch without a batch": (
        (
            "aten.lstm.input",
            [(10, 8), (1, 16), (1, 16), (64, 8), (64, 16), (64,), (64,)],
            [(10, 16), (1, 16), (1, 16)],
            0,
        ),
        (2 * 10 * 64 * (8 + 16), 4 * (80 + 32 + 1664 + 192), 0, 4 * 192, False),
    ),
    "an LSTM of ONNX, both ways": (
        (
            "LSTM",
            [(10, 1, 8), (2, 64, 8), (2, 64, 16), (2, 128)],
            [(10, 2, 1, 16), (2, 1, 16), (2, 1, 16)],
            0,
        ),
        (2 * 10 * 2 * 64 * (8 + 16), 4 * (80 + 3072 + 256 + 384), 0, 4 * 384, False),
    ),
    "two activations": (
        ("MatMul", [(4, 8), (8, 2)], [(4, 2)], 0),
        (2 * 8 * 8, 4 * (32 + 16 + 8), 0, 4 * 8, False),
    ),
}


@pytest.mark.parametrize("case", COSTS.values(), ids=COSTS)
def test_an_operators_cost_is_told_apart(case: Any) -> None:
    (op, inputs, outputs, weights), expected = case
    cost = operator_cost(op, inputs, outputs, 4, weights)
    found = (cost.flops, cost.bytes, cost.weight_bytes, cost.output_bytes, cost.depthwise)
    assert found == expected
    assert cost.input_bytes >= 0


@pytest.mark.parametrize(
    ("name", "chains"),
    [("a GRU of torch: two layers, both ways", 4), ("an LSTM of ONNX, both ways", 2)],
)
def test_cells_that_run_one_after_another_are_counted(name: str, chains: int) -> None:
    op, inputs, outputs, _ = COSTS[name][0]
    cost = operator_cost(op, inputs, outputs, 4)
    assert (cost.rows, cost.groups) == (10, chains)


@pytest.mark.toolchain
class TestExported:
    """Real exported programs, counted by hand."""

    @staticmethod
    def graph_of(module: Any, *shape: int) -> Graph:
        import torch

        from sdk.capture.graph import exported_graph

        return exported_graph(torch.export.export(module.eval(), (torch.zeros(shape),)), {})

    def test_a_chain_of_convolutions(self) -> None:
        from torch import nn

        net = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 16, 3, padding=1, groups=1), nn.ReLU(),
            nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.Flatten(), nn.Linear(16 * 64, 10),
        )  # fmt: skip
        made = self.graph_of(net, 1, 3, 8, 8)
        # between the second and the third convolution: 16 x 8 x 8 twice
        assert activation_bytes(made) == 4 * 2 * 16 * 64
        kernels = [cost for cost in costs(made) if not cost.fused]
        assert [cost.kind for cost in kernels] == ["conv", "conv", "conv", "matmul"]
        assert [cost.depthwise for cost in kernels] == [False, False, True, False]
        assert kernels[0].flops == 2 * 8 * 64 * 27
        assert kernels[0].weight_bytes == 4 * (8 * 27 + 8)

    def test_a_residual_block_holds_its_shortcut(self) -> None:
        from torch import nn

        class Block(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.first, self.second = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)

            def forward(self, x: Any) -> Any:
                held = self.first(x).relu()
                return (held + self.second(held)).relu()

        # the sum and both activations are written over what dies: the shortcut and one result
        assert activation_bytes(self.graph_of(Block(), 1, 4, 8, 8)) == 4 * 2 * 256

    def test_a_concatenation_holds_its_parts(self) -> None:
        import torch
        from torch import nn

        class Fork(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.left, self.right = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 8, 1)

            def forward(self, x: Any) -> Any:
                return torch.cat([self.left(x), self.right(x)], 1)

        assert activation_bytes(self.graph_of(Fork(), 1, 4, 8, 8)) == 4 * 64 * (4 + 8 + 12)

    def test_splits_are_views(self) -> None:
        from torch import nn

        class Split(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.mix = nn.Linear(8, 16)

            def forward(self, x: Any) -> Any:
                gate, value = self.mix(x).chunk(2, -1)
                return gate.sigmoid() * value

        made = self.graph_of(Split(), 4, 8)
        kernels = [(cost.op, cost.name) for cost in costs(made) if not cost.fused]
        assert kernels == [("aten.linear.default", "linear")]
        # the input and the mixed tensor; or the mixed tensor and the gate's sigmoid
        assert activation_bytes(made) == 4 * (4 * 8 + 4 * 16)

    def test_dims_scale_what_is_alive(self) -> None:
        import torch
        from torch import nn

        from sdk.capture.graph import exported_graph

        program = torch.export.export(
            nn.Linear(8, 16).eval(),
            (torch.zeros(4, 8),),
            dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},),
        )
        (symbol,) = {str(s) for s in program.range_constraints}
        small, large = (exported_graph(program, {symbol: size}) for size in (1, 64))
        assert activation_bytes(small) == 4 * (8 + 16)
        assert activation_bytes(large) == 64 * activation_bytes(small)

    @pytest.mark.filterwarnings("ignore:The tensor attributes")  # torch's own cells do so
    def test_a_recurrent_layers_outputs_count_together(self) -> None:
        from torch import nn

        class Net(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.cell = nn.GRU(8, 16, batch_first=True)

            def forward(self, x: Any) -> Any:
                return self.cell(x)[0]

        made = self.graph_of(Net(), 1, 10, 8)
        (cell,) = [cost for cost in costs(made) if cost.kind == "recurrent"]
        gates = 3 * (16 * 8 + 16 * 16 + 16 + 16)
        assert cell.weight_bytes == 4 * (gates + 16)  # and the zeros that it starts from
        assert activation_bytes(made) >= 4 * 10 * (8 + 16)


@pytest.mark.toolchain
class TestOnnx:
    """Real ONNX models."""

    @staticmethod
    def model() -> Any:
        from onnx import TensorProto, helper, numpy_helper

        weight = numpy_helper.from_array(np.zeros((512, 512), np.float32), "w")
        shape = numpy_helper.from_array(np.array([0, 8, 64]), "shape")
        nodes = [
            helper.make_node("MatMul", ["x", "w"], ["a"]),
            helper.make_node("Relu", ["a"], ["b"]),
            helper.make_node("Reshape", ["b", "shape"], ["c"]),
            helper.make_node("Softmax", ["c"], ["y"], axis=-1),
        ]
        rows = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 512])]
        found = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 8, 64])]
        made = helper.make_graph(nodes, "net", rows, found, initializer=[weight, shape])
        return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)])

    def test_costs_and_memory_at_each_size(self) -> None:
        made = onnx_graph(self.model(), {"batch": 3})
        assert roles(made) == ("kernel", "fused", "view", "kernel")
        product = costs(made)[0]
        assert product.flops == 2 * 3 * 512 * 512
        assert product.weight_bytes == 4 * 512 * 512
        assert activation_bytes(made) == 4 * 2 * 3 * 512
        assert activation_bytes(onnx_graph(self.model(), {"batch": 6})) == 2 * 4 * 2 * 3 * 512

    def test_the_model_itself_is_left_as_it_was(self) -> None:
        model = self.model()
        before = model.SerializeToString(deterministic=True)
        onnx_graph(model, {"batch": 3})
        assert model.SerializeToString(deterministic=True) == before
