"""Run ONNX files with ONNX Runtime.

Options: `providers` (default the CPU), `intra_op_threads`, `inter_op_threads`, `graph_optimization`
(`none`, `basic`, `extended`, `all`), `allow_spinning`. What is absent stays the runtime's default.
"""

from __future__ import annotations

import bisect
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agent.buckets import GENERAL, Bucket
from agent.errors import ToolchainError, UsageError
from agent.manifest import Signature
from agent.sessions import PROFILE_WARMUP, OperatorTime, Session, operator_times
from agent.tensors import Array

FORMAT = "onnxruntime"
PACKAGE = "onnxruntime"
FIXES_SIZES = True

_LEVELS = {
    "none": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}
_OPTIONS = (
    "providers",
    "intra_op_threads",
    "inter_op_threads",
    "graph_optimization",
    "allow_spinning",
)
_KERNEL_TIME = "_kernel_time"
_WARNINGS = 2  # the runtime's severity for warnings and worse
_RECORD_ASSIGNMENT = "session.record_ep_graph_assignment_info"


def load(
    path: Path,
    options: Mapping[str, Any],
    signature: Signature,
    *,
    fixed: Bucket = GENERAL,
) -> Session:
    """Load an `.onnx` file.

    Args:
        path: of the file.
        options: see above.
        signature: of the model.
        fixed: dim -> the only size to plan for.

    Raises:
        UsageError: an option is not known.
        ToolchainError: the runtime refuses the file, an option or a size.
    """
    onnxruntime = import_runtime()
    settings = _settings(onnxruntime, options, fixed)
    runtime = _runtime(onnxruntime, path, options, settings)
    _check_fixed(runtime, signature, fixed)
    return _Session(runtime, signature, _failures(onnxruntime))


def profile(
    path: Path,
    options: Mapping[str, Any],
    signature: Signature,
    inputs: Sequence[Mapping[str, Array]],
    runs: int,
    *,
    fixed: Bucket = GENERAL,
) -> tuple[OperatorTime, ...]:
    """What each node costs, by the runtime's own trace; the engine is the execution provider."""
    onnxruntime = import_runtime()
    settings = _settings(onnxruntime, options, fixed)
    settings.enable_profiling = True
    with tempfile.TemporaryDirectory() as folder:
        settings.profile_file_prefix = str(Path(folder) / "trace")
        runtime = _runtime(onnxruntime, path, options, settings)
        session = _Session(runtime, signature, _failures(onnxruntime))
        for index in range(-PROFILE_WARMUP, runs):
            session.run(inputs[index % len(inputs)])
        events = json.loads(Path(runtime.end_profiling()).read_bytes())
        session.close()
    return operator_times(traced_runs(events)[PROFILE_WARMUP:])


def traced_runs(events: Sequence[Mapping[str, Any]]) -> list[list[tuple[str, str, str, float]]]:
    """(name, type, provider, milliseconds) of each node, by run: a trace of Chrome's form.

    The kernels of a run stand between its start and its end in time; the trace is in any order.
    """
    starts = sorted(event["ts"] for event in events if event.get("name") == "model_run")
    found: list[list[tuple[str, str, str, float]]] = [[] for _ in starts]
    for event in events:
        name = str(event.get("name", ""))
        if event.get("cat") != "Node" or not name.endswith(_KERNEL_TIME):
            continue
        index = bisect.bisect_right(starts, event["ts"]) - 1
        told = event["args"]
        entry = (name.removesuffix(_KERNEL_TIME), told["op_name"], told["provider"])
        found[max(0, index)].append((*entry, event["dur"] / 1e3))  # the trace's unit is 1 us
    return found


def _runtime(onnxruntime: Any, path: Path, options: Mapping[str, Any], settings: Any) -> Any:
    providers = [
        entry if isinstance(entry, str) else (str(entry[0]), dict(entry[1]))  # JSON has no tuples
        for entry in options.get("providers", ("CPUExecutionProvider",))
    ]
    names = [entry if isinstance(entry, str) else entry[0] for entry in providers]
    absent = sorted(set(names) - set(onnxruntime.get_available_providers()))
    if absent:
        # Without this check the runtime warns, and runs on the CPU instead.
        raise ToolchainError(
            f"ONNX Runtime {onnxruntime.__version__} has no {', '.join(absent)} here; it has "
            f"{', '.join(onnxruntime.get_available_providers())}.",
            cause="Each provider comes in its own build of the runtime.",
            remedy="Install the build that has it, or choose a variant for this device.",
        )
    try:
        return onnxruntime.InferenceSession(str(path), sess_options=settings, providers=providers)
    except _failures(onnxruntime) as error:
        raise ToolchainError(
            f"ONNX Runtime {onnxruntime.__version__} cannot load {path.name}: {error}",
            cause="The file is missing, cut short, or newer than this runtime.",
            remedy="Copy or build it again, or update onnxruntime.",
        ) from error


def import_runtime() -> Any:
    """All that `load` imports, so that its memory can be told from the variant's.

    Since 1.31 the official wheels send usage events and write a device id into the home folder as
    soon as they are imported. Off is what nobody asked to be on; whoever set the variable decides.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    return onnxruntime


def _settings(onnxruntime: Any, options: Mapping[str, Any], fixed: Bucket) -> Any:
    unknown = sorted(set(options) - set(_OPTIONS))
    if unknown:
        raise UsageError(
            f"ONNX Runtime has no option {', '.join(unknown)} here; known are "
            f"{', '.join(_OPTIONS)}.",
            cause="The variant was made by a newer Slipway, or its record was edited.",
            remedy="Update Slipway on this machine.",
        )
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = _WARNINGS
    for dim, size in fixed.items():
        settings.add_free_dimension_override_by_name(dim, size)
    if "intra_op_threads" in options:
        settings.intra_op_num_threads = int(options["intra_op_threads"])
    if "inter_op_threads" in options:
        settings.inter_op_num_threads = int(options["inter_op_threads"])
    if "graph_optimization" in options:
        level = str(options["graph_optimization"])
        if level not in _LEVELS:
            raise UsageError(
                f"graph_optimization is {level!r}; known are {', '.join(_LEVELS)}.",
                cause="The record was edited.",
                remedy="Use one of the known words.",
            )
        settings.graph_optimization_level = getattr(
            onnxruntime.GraphOptimizationLevel, _LEVELS[level]
        )
    if "allow_spinning" in options:
        spins = "1" if options["allow_spinning"] else "0"
        settings.add_session_config_entry("session.intra_op.allow_spinning", spins)
        settings.add_session_config_entry("session.inter_op.allow_spinning", spins)
    if len(options.get("providers", ())) > 1:
        settings.add_session_config_entry(_RECORD_ASSIGNMENT, "1")
    return settings


def _failures(onnxruntime: Any) -> tuple[type[Exception], ...]:
    """The runtime's exceptions: they share no base class, and each release adds some."""
    module = onnxruntime.capi.onnxruntime_pybind11_state
    found = [getattr(module, name) for name in dir(module)]
    return tuple(kind for kind in found if isinstance(kind, type) and issubclass(kind, Exception))


class _Session:
    def __init__(
        self, runtime: Any, signature: Signature, failures: tuple[type[Exception], ...]
    ) -> None:
        self._runtime = runtime
        self._failures = failures
        self._outputs = [spec.name for spec in signature.outputs]
        _check_names("inputs", runtime.get_inputs(), [spec.name for spec in signature.inputs])
        _check_names("outputs", runtime.get_outputs(), self._outputs)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        try:
            answers = self._runtime.run(self._outputs, inputs)
        except self._failures as error:
            raise ToolchainError(
                f"ONNX Runtime failed while running: {error}",
                cause="An operator does not take these sizes, or memory ran out.",
                remedy="Check the model at these sizes, or build again with narrower dims.",
            ) from error
        return dict(zip(self._outputs, answers, strict=True))

    def reset(self) -> None:
        """Nothing to forget: state goes in and out as inputs and outputs."""

    def close(self) -> None:
        self._runtime = None

    def placement(self) -> dict[str, float]:
        """Share of the graph's nodes per execution provider; empty where the runtime hides it."""
        active = self._runtime.get_providers()
        if len(active) == 1:
            return {active[0]: 1.0}
        if not hasattr(self._runtime, "get_provider_graph_assignment_info"):
            return {}  # before 1.24
        nodes: dict[str, int] = {}
        for part in self._runtime.get_provider_graph_assignment_info():
            nodes[part.ep_name] = nodes.get(part.ep_name, 0) + len(part.get_nodes())
        total = sum(nodes.values())
        return {name: count / total for name, count in nodes.items()} if total else {}


def _check_fixed(runtime: Any, signature: Signature, fixed: Bucket) -> None:
    """The runtime says nothing to a dim that the file has under another name."""
    shapes = {port.name: port.shape for port in runtime.get_inputs()}
    for spec in signature.inputs:
        for size, found in zip(spec.shape, shapes.get(spec.name, spec.shape), strict=False):
            if isinstance(size, str) and size in fixed and found != fixed[size]:
                raise ToolchainError(
                    f"{size} cannot be fixed at {fixed[size]}: the file calls that axis of "
                    f"{spec.name} {found!r}.",
                    cause="ONNX Runtime fixes a dim by its name in the file.",
                    remedy=f"Name the axis {size} in the ONNX file, or take `buckets` out of the "
                    "record's options.",
                )


def _check_names(what: str, ports: Any, expected: list[str]) -> None:
    found = [port.name for port in ports]
    if set(found) != set(expected):
        raise ToolchainError(
            f"The file's {what} are {found}, its record says {expected}.",
            cause="The file and its record come from different builds.",
            remedy="Copy the variant's folder whole, or build it again.",
        )
