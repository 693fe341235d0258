"""Build an engine with the `tensorrt` package. Runs in the child that `agent.engine_build` starts.

Attribute names are those of TensorRT 8.6, 10 and 11 alike; what differs among them is in the plan.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from agent.engine_plan import EnginePlan
from agent.errors import ToolchainError
from agent.files import write_atomic


def build(plan: EnginePlan, *, onnx: Path, engine: Path, timing_cache: Path | None) -> None:
    """Parse the ONNX file, build, and write the serialised engine.

    Raises:
        ToolchainError: the parser or the builder refuses.
        StorageError: the engine cannot be written.
    """
    import tensorrt

    logger = tensorrt.Logger(tensorrt.Logger.WARNING)
    tensorrt.init_libnvinfer_plugins(logger, "")
    builder = tensorrt.Builder(logger)
    network = builder.create_network(_bits(tensorrt, plan.network_flags))
    parser = tensorrt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(onnx)):  # from the file, so that weights beside it are found
        told = "; ".join(str(parser.get_error(index)) for index in range(parser.num_errors))
        raise ToolchainError(f"TensorRT cannot read the graph: {told}")
    config = builder.create_builder_config()
    _configure(tensorrt, builder, config, plan)
    cache = _use_timing_cache(config, timing_cache) if plan.timing_cache else None
    serialised = builder.build_serialized_network(network, config)
    if serialised is None:
        raise ToolchainError("TensorRT built nothing; its own words are in the log.")
    write_atomic(engine, bytes(serialised))
    if cache is not None and timing_cache is not None:
        with contextlib.suppress(Exception):  # a cache that is not kept costs time, nothing else
            write_atomic(timing_cache, bytes(cache.serialize()))


def _bits(tensorrt: Any, names: tuple[str, ...]) -> int:
    flags = tensorrt.NetworkDefinitionCreationFlag
    return sum(1 << int(getattr(flags, name)) for name in names)


def _configure(tensorrt: Any, builder: Any, config: Any, plan: EnginePlan) -> None:
    for name in plan.builder_flags:
        config.set_flag(getattr(tensorrt.BuilderFlag, name))
    for name in plan.cleared_flags:
        config.clear_flag(getattr(tensorrt.BuilderFlag, name))
    if plan.workspace_bytes is not None:
        config.set_memory_pool_limit(tensorrt.MemoryPoolType.WORKSPACE, plan.workspace_bytes)
    if plan.dla_core is not None:
        config.default_device_type = tensorrt.DeviceType.DLA
        config.DLA_core = plan.dla_core
    if plan.ranges:
        profile = builder.create_optimization_profile()
        for name, (least, usual, most) in plan.ranges.items():
            profile.set_shape(name, tuple(least), tuple(usual), tuple(most))
        config.add_optimization_profile(profile)


def _use_timing_cache(config: Any, path: Path | None) -> Any:
    content = b""
    if path is not None:
        with contextlib.suppress(OSError):
            content = path.read_bytes()
    cache = config.create_timing_cache(content)
    if not config.set_timing_cache(cache, ignore_mismatch=False):
        # Another GPU's or release's: start anew.
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, ignore_mismatch=False)
    return cache
