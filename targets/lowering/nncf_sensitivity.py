"""What quantising each group of operators costs: NNCF's own ranking, without its loop.

NNCF's accuracy control removes the quantisers that hurt most, one group after the other, until a
metric holds, and looks at no stopwatch. Here its groups are only ranked, each by the error that
goes when it alone is left in floating point; what to do about it is the search's decision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from agent.tensors import Array
from targets.interface import Sensitivity
from targets.lowering.groups import chunks, ranked, squares, worst_error
from targets.lowering.vendor import vendor_errors


def sensitivities(
    core: Any,
    original: Any,
    quantised: Any,
    inputs: Sequence[Mapping[str, Array]],
    work: Mapping[str, float],
) -> tuple[Sensitivity, ...]:
    """Every group of operators that can be left out together, in the order of the graph.

    Args:
        core: OpenVINO's.
        original: the model in floating point.
        quantised: the same by NNCF, with the weights still in floats behind their quantisers.
        inputs: real ones, some few.
        work: operator -> multiply-accumulates.

    Raises:
        ToolchainError: NNCF or OpenVINO refuses.
    """
    with vendor_errors(
        "NNCF cannot rank the operators",
        cause="An operator confuses NNCF, or its interior has changed with its release.",
        remedy="Nothing depends on it but the search for mixed precision.",
    ):
        reference = _answers(core, original, inputs)
        whole = _error(_answers(core, quantised, inputs), reference)
        found = []
        for operators, reverted in _reverted(original, quantised):
            rest = _error(_answers(core, reverted, inputs), reference)
            found.append((operators, whole - rest, sum(work.get(n, 0.0) for n in operators)))
    return ranked(found)


def multiply_accumulates(model: Any) -> dict[str, float]:
    """Operator -> multiply-accumulates, of convolutions and matrix products.

    Args:
        model: with static shapes.
    """
    found = {}
    for operator in model.get_ops():
        kind = operator.get_type_name()
        if kind == "MatMul":
            inner = operator.input(0).get_shape()[
                -2 if operator.get_attributes()["transpose_a"] else -1
            ]
        elif "Convolution" in kind:
            kernel = operator.input(1).get_shape()
            # [out, in, ...], or [groups, out, in, ...]
            inner = int(np.prod(kernel[2 if kind.startswith("Group") else 1 :]))
        else:
            continue
        found[operator.get_friendly_name()] = float(np.prod(operator.output(0).get_shape())) * inner
    return found


def _reverted(original: Any, quantised: Any) -> Any:
    """(operators, the quantised model with them in floating point), group by group."""
    from nncf.common.factory import build_graph
    from nncf.common.quantization.quantizer_removal import (
        revert_operations_to_floating_point_precision,
    )
    from nncf.quantization.advanced_parameters import RestoreMode
    from nncf.quantization.algorithms.accuracy_control.algorithm import (
        QuantizationAccuracyRestorer,
    )
    from nncf.quantization.algorithms.accuracy_control.openvino_backend import (
        OVAccuracyControlAlgoBackend,
    )
    from nncf.quantization.algorithms.accuracy_control.ranker import Ranker

    backend = OVAccuracyControlAlgoBackend()
    graph = build_graph(quantised)
    QuantizationAccuracyRestorer._collect_original_biases_and_weights(  # noqa: SLF001
        build_graph(original), graph, original, backend
    )
    groups = Ranker(1, None, backend, None).find_groups_of_quantizers_to_rank(graph)
    for chunk in chunks([group for group in reversed(groups) if group.operations]):
        operations = [node for group in chunk for node in group.operations]
        yield (
            tuple(dict.fromkeys(node.node_name for node in operations)),
            revert_operations_to_floating_point_precision(
                operations,
                [node for group in chunk for node in group.quantizers],
                quantised,
                graph,
                RestoreMode.ACTIVATIONS_AND_WEIGHTS,
                backend.get_op_with_weights_metatypes(),
                backend.is_node_with_weight,
                backend.get_weight_tensor_port_ids,
            ),
        )


def _answers(core: Any, model: Any, inputs: Sequence[Mapping[str, Array]]) -> list[list[Array]]:
    request = core.compile_model(
        model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    ).create_infer_request()
    return [
        [np.array(answer, np.float64) for answer in request.infer(dict(sample)).values()]
        for sample in inputs
    ]


def _error(answers: list[list[Array]], reference: list[list[Array]]) -> float:
    """Over all samples, of the worst output."""
    pairs = zip(answers, reference, strict=True)
    return worst_error(np.sum([squares(*pair) for pair in pairs], axis=0))
