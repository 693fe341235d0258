"""Which operators go to XNNPACK, Vulkan or Core ML: the vendor's partitioners, mended where needed.

Each takes what its backend supports and leaves the rest to ExecuTorch's portable kernels. Where one
takes an operator that its backend then fails on, the whole lowering would fail; those are left out.
"""

from __future__ import annotations

import math
from typing import Any

from targets.interface import Recipe

DEPLOYMENT_TARGETS = ("iOS16", "iOS17", "iOS18")
"""The oldest first: earlier ones lack the program format that these files hold."""


def partitioner(recipe: Recipe) -> Any:
    """The partitioner of the recipe's backend, for `to_edge_transform_and_lower`."""
    if recipe.backend == "vulkan":
        return _vulkan_partitioner()
    if recipe.backend == "coreml":
        return _coreml_partitioner(
            str(recipe.options.get("minimum_deployment_target", DEPLOYMENT_TARGETS[0]))
        )
    return _xnnpack_partitioner()


def _vulkan_partitioner() -> Any:
    from executorch.backends.vulkan.partitioner.vulkan_partitioner import VulkanPartitioner

    class FiniteVulkan(VulkanPartitioner):  # type: ignore[misc]  # the vendor is untyped
        """Vulkan's files pass through JSON, which has no infinity; attention compares to it."""

        def partition(self, exported_program: Any) -> Any:
            self.operator_blocklist |= {
                node.target
                for node in exported_program.graph.nodes
                if any(isinstance(value, float) and math.isinf(value) for value in node.args)
            }
            return super().partition(exported_program)

    return FiniteVulkan({"force_fp16": True})


def _coreml_partitioner(deployment_target: str) -> Any:
    import coremltools
    from executorch.backends.apple.coreml.compiler import CoreMLBackend
    from executorch.backends.apple.coreml.partition import CoreMLPartitioner

    return CoreMLPartitioner(
        compile_specs=CoreMLBackend.generate_compile_specs(
            compute_precision=coremltools.precision.FLOAT16,
            minimum_deployment_target=coremltools.target[deployment_target],
            # Compiling it for a device takes Apple's tools; the phone does it at the first load.
            model_type=CoreMLBackend.MODEL_TYPE.MODEL,
        )
    )


def _xnnpack_partitioner() -> Any:
    from executorch.backends.xnnpack.partition.config import ALL_PARTITIONER_CONFIGS
    from executorch.backends.xnnpack.partition.config.generic_node_configs import (
        UnsqueezeCopyConfig,
    )
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from torch.fx.experimental.symbolic_shapes import free_symbols

    class OneDynamicDim(UnsqueezeCopyConfig):  # type: ignore[misc]  # the vendor is untyped
        """XNNPACK's reshape takes one dynamic dim; its partitioner forgets to ask, then fails."""

        def check_constraints(self, node: Any, ep: Any) -> bool:
            dynamic = sum(bool(free_symbols(size)) for size in node.meta["val"].shape)
            return dynamic <= 1 and bool(super().check_constraints(node, ep))

    return XnnpackPartitioner(
        configs=[
            OneDynamicDim if config is UnsqueezeCopyConfig else config
            for config in ALL_PARTITIONER_CONFIGS
        ]
    )
