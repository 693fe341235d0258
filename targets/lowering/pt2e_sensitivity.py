"""What quantising each group of operators costs for XNNPACK: one calibration, then short runs.

The quantised graph computes in floats and rounds weights and activations on their way. For each
group the rounding that would go with it is left out, and only what follows from it is computed
again.

An activation is rounded as long as its producer or one of its readers is quantised. Where it is the
rounding of one activation that hurts, none of them gains anything on its own, so they join one
group: if what the activation loses is a larger share of the error than they are of the work. The
same holds for a stream of activations, which sums and products without any weights hand on.

What shares a scale keeps it in these runs. Calibrated anew it may get a finer one, as what follows
a pooling does once that stays in floats: the gain is then larger than is told here.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from agent.manifest import Signature
from agent.tensors import Array
from targets.interface import Sensitivity
from targets.lowering.groups import chunks, ranked, squares, worst_error
from targets.lowering.pt2e import tensors
from targets.lowering.vendor import vendor_errors

LINK_SAMPLES = 2
"""What an activation loses is only held against shares of work: that takes few samples."""
LEAST_SHARE = 0.01
"""Operators without any work join one another only for at least this share of the error."""

Link = tuple[frozenset[int], frozenset[str]]
"""Units that share an activation, and the nodes that round it."""


def sensitivities(
    reference: Any, signature: Signature, inputs: Sequence[Mapping[str, Array]]
) -> tuple[Sensitivity, ...]:
    """Every group of operators that can be left out together, in the order of the graph.

    Args:
        reference: what `reference_pt2e` gives.
        signature: names of its inputs, in their order.
        inputs: real ones, some few.

    Raises:
        ToolchainError: a sample does not fit.
    """
    with vendor_errors(
        "The operators cannot be ranked for XNNPACK",
        cause="A sample does not fit, or the quantiser's graphs have changed with its release.",
        remedy="Nothing depends on it but the search for mixed precision.",
    ):
        samples = [tensors(sample, signature) for sample in inputs]
        runs = _Runs(reference)
        units = runs.units
        links = runs.links()
        work = runs.work(samples[0])
        total = sum(work) or 1.0
        parts = streams(work, [members for members, _ in links])
        found = [*links, *(_together([links[at] for at in part]) for part in parts)]
        whole, *rest = runs.errors(
            samples[:LINK_SAMPLES], [frozenset(), *(nodes for _, nodes in found)]
        )
        lost = [(whole - error) / whole if whole else 0.0 for error in rest]
        for at, part in enumerate(parts, start=len(links)):
            lost[at] -= sum(max(0.0, lost[link]) for link in part)
        groups = chunks(
            joined(
                [own / total for own in work],
                [(members, share) for (members, _), share in zip(found, lost, strict=True)],
            )
        )
        members = [[unit for group in chunk for unit in group] for chunk in groups]
        whole, *left = runs.errors(samples, [frozenset(), *map(runs.rounding_of, members)])
        return ranked(
            (
                tuple(name for unit in own for name in units[unit]),
                whole - error,
                sum(work[unit] for unit in own),
            )
            for own, error in zip(members, left, strict=True)
        )


def joined(
    work: Sequence[float], links: Sequence[tuple[frozenset[int], float]]
) -> list[tuple[int, ...]]:
    """Units in groups, so that no group is worth less than the activation that made it.

    Args:
        work: of each unit, its share of all.
        links: (units that share an activation, the share of the error that goes when it alone is
            not rounded); what loses most comes first.

    >>> joined([0.0, 0.3, 0.3, 0.4], [(frozenset({0, 1}), 0.6), (frozenset({2, 3}), 0.2)])
    [(0, 1), (2,), (3,)]
    """
    group_of = {unit: frozenset({unit}) for unit in range(len(work))}
    for members, share in sorted(links, key=lambda link: -link[1]):
        together = frozenset[int]().union(*(group_of[unit] for unit in members))
        if share >= max(LEAST_SHARE, sum(work[unit] for unit in together)):
            group_of.update(dict.fromkeys(together, together))
    return sorted({tuple(sorted(group)) for group in group_of.values()})


def streams(work: Sequence[float], links: Sequence[frozenset[int]]) -> list[list[int]]:
    """Links that operators without any work hand on to one another; only where there are several.

    >>> streams([0.5, 0.0, 0.5], [frozenset({0, 1}), frozenset({1, 2}), frozenset({2})])
    [[0, 1]]
    """
    found: list[tuple[set[int], list[int]]] = []
    for at, members in enumerate(links):
        own = {unit for unit in members if not work[unit]}
        met = [entry for entry in found if entry[0] & own]
        found = [entry for entry in found if entry not in met]
        units = own.union(*(units for units, _ in met))
        found.append((units, sorted([at, *(link for _, known in met for link in known)])))
    return sorted(part for _, part in found if len(part) > 1)


def _together(links: Sequence[Link]) -> Link:
    return (
        frozenset[int]().union(*(members for members, _ in links)),
        frozenset[str]().union(*(nodes for _, nodes in links)),
    )


class _Runs:
    """A quantised graph, and runs of it that leave some of the rounding out."""

    def __init__(self, module: Any) -> None:
        import torch

        ops = torch.ops.quantized_decomposed
        # dequantise -> the quantise before it, with floats between which both do nothing else
        narrow = {
            ops.dequantize_per_tensor.default: ops.quantize_per_tensor.default,
            ops.dequantize_per_channel.default: ops.quantize_per_channel.default,
        }
        self._module = module
        self._nodes = list(module.graph.nodes)
        self._rounding = {
            node: node.args[0]
            for node in self._nodes
            if node.target in narrow and node.args[0].target is narrow[node.target]
        }
        self._units = self._found_units()
        self._unit_of = {node: at for at, unit in enumerate(self._units) for node in unit}

    @property
    def units(self) -> list[tuple[str, ...]]:
        """Names of operators that cannot be told apart: a convolution and the ReLU fused to it."""
        return [tuple(node.name for node in unit) for unit in self._units]

    def links(self) -> list[Link]:
        """What each unit makes, and what several read; only where more than one is concerned."""
        read: dict[Any, tuple[set[int], set[str]]] = {}
        for node, narrowed in self._rounding.items():
            source = narrowed.args[0]
            units, names = read.setdefault(self._unit_of.get(source, source), (set(), set()))
            units |= self._concerned(node)
            names.add(node.name)
        return [
            (frozenset(units), frozenset(names)) for units, names in read.values() if len(units) > 1
        ]

    def rounding_of(self, members: Sequence[int]) -> frozenset[str]:
        """The nodes that would not round if these units stayed in floating point."""
        own = set(members)
        return frozenset(
            node.name
            for node in self._rounding
            if (concerned := self._concerned(node)) and concerned <= own
        )

    def work(self, sample: tuple[Any, ...]) -> list[float]:
        """The multiply-accumulates of each unit."""
        from torch.utils.flop_counter import FlopCounterMode

        found = [0.0] * len(self._units)

        def count(node: Any, run: Any) -> Any:
            if node not in self._unit_of:
                return run()
            with FlopCounterMode(display=False) as counter:
                value = run()
            found[self._unit_of[node]] += counter.get_total_flops() / 2
            return value

        self._run(sample, {}, frozenset(self._nodes), frozenset(), around=count)
        return found

    def errors(
        self, samples: Sequence[tuple[Any, ...]], left_out: Sequence[frozenset[str]]
    ) -> list[float]:
        """The error of the worst output over all samples, for each set of nodes that do not round.

        Args:
            samples: the inputs.
            left_out: names of dequantise nodes; the first is empty, as all others start from it.
        """
        everything = frozenset(self._nodes)
        exact = frozenset(node.name for node in self._rounding)
        affected = [self._affected(names) for names in left_out[1:]]
        sums: list[Any] = [0.0] * len(left_out)
        for sample in samples:
            expected = _answers(self._run(sample, {}, everything, exact))
            known: dict[Any, Any] = {}
            answers = self._run(sample, known, everything, left_out[0])
            sums[0] = sums[0] + squares(_answers(answers), expected)
            for at, names in enumerate(left_out[1:], start=1):
                answers = self._run(sample, dict(known), affected[at - 1], names)
                sums[at] = sums[at] + squares(_answers(answers), expected)
        return [worst_error(found) for found in sums]

    def _found_units(self) -> list[tuple[Any, ...]]:
        """Quantised operators, each with what is fused to it and what inherits its scale."""
        from torchao.quantization.pt2e.quantizer import SharedQuantizationSpec

        of: dict[Any, list[Any]] = {}
        for node in self._nodes:
            spec = _annotation(node)
            if spec is None:
                continue
            sources = [self._source(argument) for argument in node.all_input_nodes]
            before = [source for source in sources if source in of]
            fused = [source for source in before if source in node.all_input_nodes]
            shares = isinstance(spec.output_qspec, SharedQuantizationSpec) and len(sources) == 1
            host = next(iter(fused or (before if shares else [])), None)
            unit = of[host] if host is not None else []
            unit.append(node)
            of[node] = unit
        return [tuple(unit) for unit in {id(unit): unit for unit in of.values()}.values()]

    def _source(self, node: Any) -> Any:
        """What is rounded to become this value; a value that is not rounded is its own source."""
        narrowed = self._rounding.get(node)
        return node if narrowed is None else narrowed.args[0]

    def _concerned(self, node: Any) -> set[int]:
        """The units that a rounded value comes from and goes to."""
        ends = (self._source(node), *node.users)
        return {self._unit_of[end] for end in ends if end in self._unit_of}

    def _affected(self, names: frozenset[str]) -> frozenset[Any]:
        """These nodes and all that follows from them."""
        found = set[Any]()
        for node in self._nodes:
            if node.name in names or not found.isdisjoint(node.all_input_nodes):
                found.add(node)
        return frozenset(found)

    def _run(
        self,
        sample: tuple[Any, ...],
        known: dict[Any, Any],
        again: frozenset[Any],
        left_out: frozenset[str],
        *,
        around: Any = None,
    ) -> Any:
        """The outputs.

        Args:
            sample: the inputs.
            known: node -> value, which what is computed joins.
            again: what is computed; of all other nodes the value is known.
            left_out: names of the nodes that do not round.
            around: called with each node and what computes it, for its value.
        """
        import torch

        interpreter = torch.fx.Interpreter(self._module, garbage_collect_values=False)
        interpreter.env = known
        interpreter.args_iter = iter(sample)
        narrowing = set(self._rounding.values())
        with torch.no_grad():
            for node in self._nodes:
                if node not in again:
                    continue
                if node in narrowing:
                    known[node] = known[node.args[0]]
                elif node in self._rounding:
                    value = known[node.args[0]]
                    known[node] = (
                        value if node.name in left_out else self._rounded(node, value, interpreter)
                    )
                else:
                    changed = _changed(node)
                    held = {other: known[other] for other in changed}
                    # Other runs still need what an operator that works in place would change.
                    known.update({other: value.clone() for other, value in held.items()})
                    run = functools.partial(interpreter.run_node, node)
                    known[node] = around(node, run) if around else run()
                    known.update(held)
        return known[self._nodes[-1]]

    def _rounded(self, node: Any, value: Any, interpreter: Any) -> Any:
        """Quantise and dequantise at once, which is faster than one after the other."""
        import torch

        (_, *scale), _ = interpreter.fetch_args_kwargs_from_env(self._rounding[node])
        if node.target is torch.ops.quantized_decomposed.dequantize_per_tensor.default:
            step, zero, low, high, _ = scale
            return torch.fake_quantize_per_tensor_affine(value, step, zero, low, high)
        steps, zeros, axis, low, high, _ = scale
        return torch.fake_quantize_per_channel_affine(
            value, steps.float(), zeros.to(torch.int32), axis, low, high
        )


def _annotation(node: Any) -> Any:
    """What the quantiser noted on an operator that it quantises; None for all else."""
    from torchao.quantization.pt2e.quantizer.quantizer import Q_ANNOTATION_KEY

    found = node.meta.get(Q_ANNOTATION_KEY)
    if node.op != "call_function" or found is None:
        return None
    return found if found.input_qspec_map or found.output_qspec is not None else None


def _changed(node: Any) -> list[Any]:
    """The arguments that an operator changes in place."""
    schema = getattr(node.target, "_schema", None)
    if schema is None or not schema.is_mutable:
        return []
    return [
        value
        for argument, value in zip(schema.arguments, node.args, strict=False)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]


def _answers(outputs: Any) -> list[Array]:
    import torch
    from torch.utils import _pytree

    return [
        np.array(value.detach())
        for value in _pytree.tree_leaves(outputs)
        if isinstance(value, torch.Tensor)
    ]
