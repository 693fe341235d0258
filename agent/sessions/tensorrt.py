"""Run ONNX files as TensorRT engines, which are built on the device by `prepare`.

Options: `release` and `builder`, as `agent.engine_plan` reads them. An engine belongs to one GPU,
one TensorRT and one driver, so it never travels: the ONNX file does. Inputs and outputs are host
arrays; a run copies them to the device and back.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from agent.codec import canonical
from agent.cuda import Cuda, load_cuda, room_for
from agent.engine_build import (
    ENGINE,
    RECORD,
    Builder,
    OnWords,
    build_engine,
    find_builder,
    package_release,
)
from agent.engine_plan import EnginePlan, plan_engine, settings_of
from agent.errors import ToolchainError, UsageError
from agent.manifest import Fingerprint, Signature, TensorSpec
from agent.sessions import PROFILE_WARMUP, OperatorTime, Session, StaleError, operator_times
from agent.tensors import Array

FORMAT = "tensorrt"
PACKAGE = "tensorrt"
INSTALL = (
    "Run it on the device. On a Jetson JetPack brings it: make the environment with "
    "--system-site-packages. On a server with an NVIDIA GPU: pip install tensorrt"
)

_NARROWER = {"int64": "int32"}
"""TensorRT 8 gives such inputs and outputs the narrower type."""


def prepare(
    path: Path,
    options: Mapping[str, Any],
    signature: Signature,
    fingerprint: Fingerprint,
    folder: Path,
    *,
    again: bool = False,
    on_words: OnWords | None = None,
) -> Path:
    """The engine for an ONNX file on this machine: the one that is there, or a new one.

    It lies in `folder/<hash of what it depends on>/`, for the software and the GPU that the
    fingerprint names and for the builder's settings.

    Args:
        path: the ONNX file.
        options: the variant's.
        signature: gives the ranges of shapes.
        fingerprint: this machine's.
        folder: the variant's own, where its prepared files are kept.
        again: build a new one even so.
        on_words: is told how a build goes on.

    Raises:
        ToolchainError: this machine cannot build it.
        StorageError: there is no room for it.
    """
    place = place_of(options, signature, fingerprint, folder)
    if again:
        shutil.rmtree(place.home, ignore_errors=True)
    if place.is_built:
        return place.home / ENGINE
    return build_engine(
        place.builder, place.plan, path, place.home,
        timing_cache=place.timing_cache, on_words=on_words,
    )  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
    """Where the engine of a variant belongs on this machine, and what builds it."""

    builder: Builder
    plan: EnginePlan
    home: Path
    timing_cache: Path
    """What the builder has timed here. Good for every machine of the same name: its stem."""

    @property
    def is_built(self) -> bool:
        """Whether an engine is there, whole."""
        return (self.home / ENGINE).is_file() and (self.home / RECORD).is_file()


def place_of(
    options: Mapping[str, Any], signature: Signature, fingerprint: Fingerprint, folder: Path
) -> Place:
    """Where an engine belongs; arguments as of `prepare`.

    Raises:
        ToolchainError: this machine has nothing that builds one.
    """
    builder = find_builder()
    plan = plan_engine(settings_of(options), signature, builder.release)
    software = _software(fingerprint, builder.release)
    return Place(
        builder=builder,
        plan=plan,
        home=folder / _digest({"software": software, "plan": dataclasses.asdict(plan)}),
        timing_cache=folder.parent / "timing" / f"{_digest(software)}.cache",
    )


def load(path: Path, options: Mapping[str, Any], signature: Signature) -> Session:
    """Load an engine file that `prepare` built.

    Raises:
        UsageError: an option is not known.
        StaleError: TensorRT refuses the file: build it again.
        ToolchainError: there is no CUDA, or not enough memory.
    """
    settings = settings_of(options)
    tensorrt = import_runtime()
    logger = tensorrt.Logger(tensorrt.Logger.WARNING)
    tensorrt.init_libnvinfer_plugins(logger, "")
    runtime = tensorrt.Runtime(logger)
    if settings.dla_core is not None:
        runtime.DLA_core = settings.dla_core
    try:
        content = path.read_bytes()
    except OSError as error:
        raise StaleError(f"{path} cannot be read: {error.strerror}.") from error
    engine = runtime.deserialize_cuda_engine(content)
    if engine is None:
        raise StaleError(
            f"TensorRT {tensorrt.__version__} cannot load {path.name}.",
            cause="It was built by another TensorRT or driver, for another GPU, or was cut short.",
            remedy="Build it again: remove its folder.",
        )
    on_dla = settings.dla_core is not None
    return _Session(tensorrt, runtime, engine, signature, load_cuda(), on_dla=on_dla)


def profile(
    path: Path,
    options: Mapping[str, Any],
    signature: Signature,
    inputs: Sequence[Mapping[str, Array]],
    runs: int,
) -> tuple[OperatorTime, ...]:
    """Milliseconds of each layer of an engine, as TensorRT's `IProfiler` tells them.

    A layer is what the builder made of several operators. `path` is an engine file.

    Raises:
        ToolchainError: as for `load`.
    """
    tensorrt = import_runtime()
    told: list[tuple[str, str, str, float]] = []

    base: Any = tensorrt.IProfiler

    class Listener(base):  # type: ignore[misc]  # a vendor's class, without types
        def __init__(self) -> None:
            super().__init__()  # TensorRT refuses an object whose own constructor has not run

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            told.append((layer_name, "Layer", "gpu", ms))

    with contextlib.closing(load(path, options, signature)) as session:
        assert isinstance(session, _Session)
        session.listen(Listener())
        found = []
        for index in range(-PROFILE_WARMUP, runs):
            told.clear()
            session.run(inputs[index % len(inputs)])
            found.append(list(told))
    return operator_times(found[PROFILE_WARMUP:])


def import_runtime() -> Any:
    """All that `load` imports, so that its memory can be told from the variant's.

    Raises:
        ImportError: it is not there.
    """
    import tensorrt

    if package_release() is None:
        raise ImportError("the package tensorrt holds types alone")
    return tensorrt


def _software(fingerprint: Fingerprint, release: str) -> dict[str, Any]:
    """What an engine depends on beside its file: not on the other runtimes of the machine."""
    return {
        "tensorrt": release,
        **{name: fingerprint.software.get(name) for name in ("os", "driver", "jetpack")},
        **{name: fingerprint.identity.get(name) for name in ("arch", "soc", "gpu", "sm")},
    }


def _digest(value: Any) -> str:
    return hashlib.sha256(canonical(value)).hexdigest()[:32]


class Context(Protocol):
    """What is used of `tensorrt.IExecutionContext`, in 8.6, 10 and 11 alike."""

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool: ...
    def set_tensor_address(self, name: str, memory: int) -> bool: ...
    def get_tensor_shape(self, name: str) -> Iterable[int]: ...
    def execute_async_v3(self, stream_handle: int) -> bool: ...

    profiler: Any
    """An `IProfiler`, or None."""


class Engine(Protocol):
    """What is used of `tensorrt.ICudaEngine`."""

    @property
    def num_io_tensors(self) -> int: ...
    def get_tensor_name(self, index: int) -> str: ...
    def get_tensor_dtype(self, name: str) -> Any: ...
    def create_execution_context(self) -> Context | None: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Port:
    """One input or output of the engine, with its place on the device."""

    spec: TensorSpec
    dtype: Any
    """What the engine takes, as numpy names it."""
    address: int
    dynamic: bool


class _Session:
    def __init__(
        self,
        tensorrt: Any,
        runtime: Any,
        engine: Engine,
        signature: Signature,
        cuda: Cuda,
        *,
        on_dla: bool,
    ) -> None:
        # The runtime must outlive the engine, and the engine its context.
        self._held: list[Any] = [runtime, engine]
        self._cuda = cuda
        self._on_dla = on_dla
        self._owned: list[int] = []
        check_ports(
            [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)], signature
        )
        self._stream = cuda.stream()
        try:
            context = engine.create_execution_context()
            if context is None:
                raise ToolchainError(
                    "TensorRT cannot make room to run the engine.",
                    cause="The GPU's memory is full.",
                    remedy="Close what else uses it, or use a smaller variant.",
                )
            self._context = context
            self._held.append(context)

            def ports(specs: Iterable[TensorSpec]) -> list[_Port]:
                kinds = (tensorrt.nptype(engine.get_tensor_dtype(spec.name)) for spec in specs)
                pairs = zip(specs, kinds, strict=True)
                return [self._port(spec, np.dtype(kind), signature) for spec, kind in pairs]

            self._inputs, self._outputs = ports(signature.inputs), ports(signature.outputs)
        except BaseException:
            self.close()
            raise

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        held = []  # until the copies are done
        for port in self._inputs:
            array = as_engine_takes(inputs[port.spec.name], port.dtype, port.spec.name)
            held.append(array)
            if port.dynamic:
                _must(self._context.set_input_shape(port.spec.name, array.shape), port.spec.name)
            self._cuda.upload(port.address, array, self._stream)
        if not self._context.execute_async_v3(self._stream):
            raise ToolchainError(
                "TensorRT failed while running; its own words are in the log.",
                cause="An operator does not take these sizes, or the GPU failed.",
                remedy="Check the model at these sizes, or build again with narrower dims.",
            )
        answers = {}
        for port in self._outputs:
            shape = tuple(self._context.get_tensor_shape(port.spec.name))
            answers[port.spec.name] = np.empty(shape, port.dtype)
            self._cuda.download(answers[port.spec.name], port.address, self._stream)
        self._cuda.synchronise(self._stream)
        return {
            port.spec.name: answers[port.spec.name].astype(port.spec.dtype, copy=False)
            for port in self._outputs
        }

    def listen(self, listener: Any) -> None:
        """Have each layer's time told after each run, from now on."""
        self._context.profiler = listener

    def reset(self) -> None:
        """Nothing to forget: state goes in and out as inputs and outputs."""

    def close(self) -> None:
        # The context first: one that outlives its engine crashes.
        self._context = None  # type: ignore[assignment]
        while self._held:
            self._held.pop()
        with contextlib.suppress(ToolchainError):  # after a fault on the device every call fails
            for address in self._owned:
                self._cuda.free(address)
            self._cuda.end_stream(self._stream)
        self._owned = []

    def placement(self) -> dict[str, float]:
        """An engine runs on the GPU whole; what a DLA handed back to it, nothing tells."""
        return {} if self._on_dla else {"gpu": 1.0}

    def _port(self, spec: TensorSpec, dtype: Any, signature: Signature) -> _Port:
        if str(dtype) not in (spec.dtype, _NARROWER.get(spec.dtype)):
            raise ToolchainError(
                f"{spec.name} is {dtype} in the engine, {spec.dtype} in the record.",
                cause="TensorRT changed the type, or file and record come from different builds.",
                remedy="Cast it to float32 inside the model, or build it again.",
            )
        largest = tuple(
            size if isinstance(size, int) else signature.dims[size][2] for size in spec.shape
        )
        address = self._cuda.allocate(room_for(largest, dtype))
        self._owned.append(address)
        _must(self._context.set_tensor_address(spec.name, address), spec.name)
        dynamic = any(isinstance(size, str) for size in spec.shape)
        return _Port(spec=spec, dtype=dtype, address=address, dynamic=dynamic)


def _must(taken: bool, name: str) -> None:  # noqa: FBT001  it is what TensorRT returned
    if not taken:
        raise ToolchainError(
            f"TensorRT does not take {name} as its record describes it.",
            cause="File and record come from different builds, or the shape is out of range.",
            remedy="Build the variant again.",
        )


def as_engine_takes(array: Array, dtype: Any, name: str) -> Array:
    """An input in the engine's own type.

    Raises:
        UsageError: a value does not fit.
    """
    if array.dtype == dtype:
        return array
    narrow = array.astype(dtype)
    if not np.array_equal(narrow, array):
        raise UsageError(
            f"Input {name} holds values that {np.dtype(dtype).name} cannot, such as "
            f"{array.flat[int(np.abs(array).argmax())]}.",
            cause="This TensorRT computes in 32 bits what the model computes in 64.",
            remedy="Keep the values below 2**31, or use another variant.",
        )
    return narrow


def check_ports(found: list[str], signature: Signature) -> None:
    """Hold an engine's names against the signature.

    Raises:
        ToolchainError: they differ.
    """
    expected = [spec.name for spec in (*signature.inputs, *signature.outputs)]
    if sorted(found) != sorted(expected):
        raise ToolchainError(
            f"The engine has {found}, its record says {expected}.",
            cause="TensorRT dropped an input that nothing uses, or file and record differ.",
            remedy="Remove unused inputs from the model, or build it again.",
        )
