"""Run OpenVINO IR with OpenVINO.

Options: `device` (default `CPU`); everything else goes to `compile_model` as it is, such as
`INFERENCE_PRECISION_HINT`, `INFERENCE_NUM_THREADS` or `PERFORMANCE_HINT`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from agent.buckets import GENERAL, Bucket
from agent.errors import ToolchainError
from agent.imports import without
from agent.manifest import Signature
from agent.sessions import PROFILE_WARMUP, OperatorTime, Session, operator_times
from agent.tensors import Array

FORMAT = "openvino"
PACKAGE = "openvino"
FIXES_SIZES = True


def load(
    path: Path,
    options: Mapping[str, Any],
    signature: Signature,
    *,
    fixed: Bucket = GENERAL,
) -> Session:
    """Load an `.xml` file with the `.bin` beside it.

    Args:
        path: of the file.
        options: see above.
        signature: of the model.
        fixed: dim -> the only size to compile for.

    Raises:
        ToolchainError: the runtime refuses the file, the device, an option or a size.
    """
    return _Session(_compiled(path, options, signature, fixed), signature)


def profile(
    path: Path,
    options: Mapping[str, Any],
    signature: Signature,
    inputs: Sequence[Mapping[str, Array]],
    runs: int,
    *,
    fixed: Bucket = GENERAL,
) -> tuple[OperatorTime, ...]:
    """What each node of the compiled graph costs; the engine is the kernel that ran it."""
    compiled = _compiled(path, {**options, "PERF_COUNT": True}, signature, fixed)
    session = _Session(compiled, signature)
    return operator_times(
        [session.profiled(inputs[index % len(inputs)]) for index in range(-PROFILE_WARMUP, runs)][
            PROFILE_WARMUP:
        ]
    )


def _compiled(path: Path, options: Mapping[str, Any], signature: Signature, fixed: Bucket) -> Any:
    openvino = import_runtime()
    device = str(options.get("device", "CPU"))
    ours = ("device", "check")
    properties = {name: value for name, value in options.items() if name not in ours}
    core = openvino.Core()
    try:
        model = core.read_model(path)
        if fixed:
            _fix_sizes(openvino, model, signature, fixed)
        return core.compile_model(model, device, properties)
    except (RuntimeError, TypeError) as error:
        at = f" at {dict(fixed)}" if fixed else ""
        raise ToolchainError(
            f"OpenVINO {openvino.__version__.split('-')[0]} cannot load {path.name} on {device}"
            f"{at}: {_reason(error)}",
            cause="The file or its .bin is missing or cut short, the device is not in "
            f"{core.available_devices}, or an option of {properties} is not known to it.",
            remedy="Copy or build it again, or choose a variant for this device.",
        ) from error


def _fix_sizes(openvino: Any, model: Any, signature: Signature, fixed: Bucket) -> None:
    """Fix these dims' sizes in the inputs' shapes; what follows from them is inferred anew."""
    model.reshape(
        {
            spec.name: openvino.PartialShape(
                [
                    openvino.Dimension(fixed[size])
                    if isinstance(size, str) and size in fixed
                    else found
                    for size, found in zip(
                        spec.shape, model.input(spec.name).get_partial_shape(), strict=False
                    )
                ]
            )
            for spec in signature.inputs
        }
    )


def import_runtime() -> Any:
    """All that `load` imports, so that its memory can be told from the variant's."""
    with without_telemetry():
        import openvino
    return openvino


@contextlib.contextmanager
def without_telemetry() -> Iterator[None]:
    """Import OpenVINO or NNCF in this block, and their usage reports stay off.

    Importing OpenVINO sends an event and writes a client id into the home folder, unless the user
    ran an opt-out tool before; there is no switch. Both packages take a missing
    `openvino_telemetry` for granted, so it is missing while they are imported.
    """
    with without("openvino_telemetry"):
        yield


class _Session:
    def __init__(self, compiled: Any, signature: Signature) -> None:
        self._compiled = compiled
        self._inputs = _indices("inputs", compiled.inputs, [s.name for s in signature.inputs])
        self._outputs = _indices("outputs", compiled.outputs, [s.name for s in signature.outputs])
        self._request = compiled.create_infer_request()
        self._keeps_state = bool(self._request.query_state())

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        tensors = {index: inputs[name] for name, index in self._inputs.items()}
        try:
            answers = self._request.infer(tensors, share_inputs=True, share_outputs=True)
        except RuntimeError as error:
            raise ToolchainError(
                f"OpenVINO failed while running: {_reason(error)}",
                cause="An operator does not take these sizes, or memory ran out.",
                remedy="Check the model at these sizes, or build again with narrower dims.",
            ) from error
        return {name: answers[index] for name, index in self._outputs.items()}

    def profiled(self, inputs: Mapping[str, Array]) -> list[tuple[str, str, str, float]]:
        """Run once, and tell (name, type, kernel, milliseconds) of each node that was executed."""
        self.run(inputs)
        return [
            (info.node_name, info.node_type, info.exec_type, info.real_time.total_seconds() * 1e3)
            for info in self._request.profiling_info
            if info.status == info.status.EXECUTED
        ]

    def take_state(self, other: _Session) -> None:
        """Go on where another form of the same model has stopped."""
        if self._keeps_state:
            theirs = {one.name: one for one in other._request.query_state()}
            for own in self._request.query_state():
                own.state = theirs[own.name].state

    def reset(self) -> None:
        self._request.reset_state()

    def close(self) -> None:
        self._request = self._compiled = None

    def placement(self) -> dict[str, float]:
        """Share of the operators per device; empty where OpenVINO decides from call to call."""
        devices = [str(name) for name in self._compiled.get_property("EXECUTION_DEVICES")]
        if len(devices) == 1:
            return {devices[0].strip("()"): 1.0}
        return {}


def _indices(what: str, ports: Any, expected: list[str]) -> dict[str, int]:
    """Where each name is: a tensor may carry several names, and be input and output at once."""
    found = {name: index for index, port in enumerate(ports) for name in port.get_names()}
    missing = [name for name in expected if name not in found]
    if missing or len(ports) != len(expected):
        raise ToolchainError(
            f"The file's {what} are {sorted(found)}, its record says {expected}.",
            cause="The file and its record come from different builds.",
            remedy="Copy the variant's folder whole, or build it again.",
        )
    return {name: found[name] for name in expected}


def _reason(error: Exception) -> str:
    """OpenVINO's messages begin with places in its sources; the reason follows."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith("Exception from")]
    return (telling or lines or [type(error).__name__])[0][:300]
