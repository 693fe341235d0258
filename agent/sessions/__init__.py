"""Load a variant and run it: `load(path).run({"name": array})`.

One module per runtime format, found by its file name; the runtime is imported inside `load`, so a
missing one breaks nothing else. `load` wraps every session in the same checks of names, dtypes and
shapes, so a runtime module only translates.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from agent import buckets
from agent.calls import of_runtime
from agent.errors import ToolchainError, UsageError
from agent.folders import cache_folder
from agent.formats import formats
from agent.identity import fingerprint
from agent.inputs import check_inputs
from agent.manifest import Signature, TensorSpec
from agent.tensors import Array
from agent.variant import RECORD_NAME, VariantRecord, prepared_name, read_record

if TYPE_CHECKING:
    from agent.active import ActiveSession

PROFILE_WARMUP = 3
"""Runs before those that are profiled: the first one plans memory and packs weights."""


class Session(Protocol):
    """A loaded variant: what a runtime module's `load` returns.

    `run` takes one array per input and returns one per output, by name; arrays may be views that
    the next `run` overwrites, so `load` copies them out.
    """

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]: ...
    def reset(self) -> None: ...
    def close(self) -> None: ...
    def placement(self) -> dict[str, float]: ...


class StaleError(ToolchainError):
    """A prepared file is not for this machine any more: prepare it again."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OperatorTime:
    """One operator as the runtime executes it, which is after its fusions."""

    name: str
    type: str
    engine: str
    """What ran it: an execution provider, or the kernel's own name."""
    ms: float
    """The median over the runs."""
    share: float
    """Of the sum over all operators: profiling itself costs time, so it is no share of a run."""


class SessionModule(Protocol):
    """A module in this folder: `PACKAGE` is the distribution whose version the runtime has.

    It may also have `import_runtime()`, which does all the imports that `load` will need: then
    `agent.bench` can tell the runtime's own memory and start from the variant's. And `INSTALL`: how
    to install the runtime, where `pip install PACKAGE` is not the answer.

    `prepare(path, options, signature, fingerprint, folder, *, again)` finishes the compile on the
    device and returns the file for `load`, which raises StaleError if that file is not for this
    machine. `profile(path, options, signature, inputs, runs)` loads the file anew and gives
    `operator_times`, where the runtime tells what each operator costs.

    With `FIXES_SIZES = True`, its `load` and `profile` also take `fixed`: dim -> size, and compile
    the file for these sizes alone (`agent.buckets`). Where its models keep state, such a session
    has `take_state(other)`, which copies the state of another form of the same file.
    """

    FORMAT: str
    PACKAGE: str

    def load(self, path: Path, options: Mapping[str, Any], signature: Signature) -> Session: ...


def session_module(format: str) -> SessionModule:
    """The module for one runtime format.

    Raises:
        UsageError: there is none; the message lists the known ones.
    """
    if format not in formats():
        raise UsageError(
            f"There is no session for the format {format!r}; known are {', '.join(formats())}.",
            cause="The variant was made by a newer Slipway, or its record was edited.",
            remedy="Update Slipway on this machine.",
        )
    module: Any = importlib.import_module(f"agent.sessions.{format}")
    return module  # type: ignore[no-any-return]


def load(path: str | Path, check_as: str | None = None) -> CheckedSession:
    """Load the variant in a folder (one that holds a `variant.json`).

    Args:
        path: the folder.
        check_as: a format that can read the same file on any CPU, to check its answers where the
            variant's own runtime or engine is not at hand; its options are then those under
            `check`.

    Raises:
        UsageError: the folder holds no variant, or its format is not known here.
        ToolchainError: the runtime is missing, refuses the file, or cannot fix sizes as the record
            asks.
        VerificationError: the record's reserved options make no sense.
    """
    return open_record(Path(path), read_record(Path(path)), check_as)


def open_record(
    folder: Path,
    record: VariantRecord,
    check_as: str | None = None,
    *,
    prepared: Path | None = None,
) -> CheckedSession:
    """Open a variant whose record is known already, such as that of an installed release.

    Args:
        folder: holds its files.
        record: of the variant.
        check_as: as for `load`.
        prepared: where its prepared files are kept; by default `prepared_folder`.

    Raises:
        UsageError: its format is not known here.
        ToolchainError: as for `load`.
        VerificationError: as for `load`.
    """
    module = session_module(check_as or record.runtime.format)
    own = of_runtime(record.options)
    options = own if check_as is None else own.get("check", {})
    fixed = _buckets(module, record)
    entry = folder / record.files[0].path
    with _runtime_errors(module, folder.name):
        if hasattr(module, "prepare"):
            home = prepared or prepared_folder(record)
            inner = _load_prepared(module, entry, options, record, home)
        else:
            inner = module.load(entry, options, record.signature)
        if fixed:
            fixing: Any = module
            forms = [
                (bucket, fixing.load(entry, options, record.signature, fixed=bucket))
                for bucket in fixed
            ]
            inner = buckets.Forms(inner, forms, record.signature)
    return CheckedSession(inner, record)


def _buckets(module: SessionModule, record: VariantRecord) -> tuple[buckets.Bucket, ...]:
    found = buckets.buckets_of(record.options, record.signature)
    if found and not getattr(module, "FIXES_SIZES", False):
        raise ToolchainError(
            f"The record asks for forms of fixed sizes, {[dict(one) for one in found]}, and the "
            f"session for {module.FORMAT} makes one form for all sizes.",
            cause="The record was edited by hand, or a newer Slipway wrote it.",
            remedy="Take `buckets` out of the record's options, or update Slipway on this machine.",
        )
    return found


def import_runtime(format: str) -> None:
    """Do the imports that loading a variant of this format will need, as far as they are told.

    Raises:
        UsageError: the format is not known here.
        ToolchainError: the runtime is missing; the message names its package.
    """
    module: Any = session_module(format)
    if hasattr(module, "import_runtime"):
        with _runtime_errors(module, "it"):
            module.import_runtime()


@contextlib.contextmanager
def _runtime_errors(module: Any, who: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise ToolchainError(
            f"{who} needs the runtime {module.PACKAGE}, which cannot be imported: {error}.",
            cause="It is not installed in this Python environment.",
            remedy=getattr(module, "INSTALL", f"Install it: pip install {module.PACKAGE}"),
        ) from error


def prepared_folder(record: VariantRecord) -> Path:
    """Where a variant's prepared files lie: `<cache>/prepared/<digest of its files>`.

    The cache is `$SLIPWAY_CACHE`, else `$XDG_CACHE_HOME/slipway`, else `~/.cache/slipway`.
    """
    return cache_folder() / "prepared" / prepared_name(record)


def _load_prepared(
    module: Any, entry: Path, options: Mapping[str, Any], record: VariantRecord, folder: Path
) -> Session:
    here = fingerprint()
    prepared = module.prepare(entry, options, record.signature, here, folder)
    try:
        found: Session = module.load(prepared, options, record.signature)
    except StaleError:
        # Something that the fingerprint does not tell has changed, such as a library beside it.
        prepared = module.prepare(entry, options, record.signature, here, folder, again=True)
        try:
            found = module.load(prepared, options, record.signature)
        except StaleError as error:
            raise ToolchainError(
                f"{error.what} It was built here just now.",
                cause="The builder and the runtime are of different releases, or the disk fails.",
                remedy="Make trtexec and the Python package the same release.",
            ) from error
    return found


def profile(
    path: str | Path, inputs: Sequence[Mapping[str, Array]], *, runs: int
) -> tuple[OperatorTime, ...] | None:
    """Where a run's time goes, the slowest operator first; None where the runtime does not tell.

    Of several forms, the one that takes the first input is profiled, on the inputs that it takes.

    Args:
        path: the folder of a variant.
        inputs: of its signature, used in turn.
        runs: how many count; a few before them warm up.

    Raises:
        UsageError: the folder holds no variant, or its format is not known here.
        ToolchainError: the runtime refuses the file, or to be profiled.
    """
    folder = Path(path)
    record = read_record(folder)
    module: Any = session_module(record.runtime.format)
    measure = getattr(module, "profile", None)
    if measure is None:
        return None
    checked = [check_inputs(record.signature, one) for one in inputs]
    fixed = _buckets(module, record)
    router = buckets.Router(fixed, record.signature)
    taken_by = [router.find(one) for one in checked]
    first = taken_by[0]
    entry, options = folder / record.files[0].path, of_runtime(record.options)
    if hasattr(module, "prepare"):
        home = prepared_folder(record)
        entry = module.prepare(entry, options, record.signature, fingerprint(), home)
    found: tuple[OperatorTime, ...] = measure(
        entry,
        options,
        record.signature,
        [one for one, by in zip(checked, taken_by, strict=True) if by == first],
        runs,
        **({} if first is None else {"fixed": fixed[first]}),
    )
    return found


def operator_times(
    runs: Sequence[Sequence[tuple[str, str, str, float]]],
) -> tuple[OperatorTime, ...]:
    """The operators' medians over runs of (name, type, engine, milliseconds), the slowest first.

    An operator that a run skipped counts as 0 in it.

    >>> [(o.name, o.ms, o.share) for o in operator_times([[("a", "Add", "cpu", 3.0),
    ...     ("b", "Mul", "cpu", 1.0)]])]
    [('a', 3.0, 0.75), ('b', 1.0, 0.25)]
    """
    times: dict[tuple[str, str, str], list[float]] = {}
    for index, run in enumerate(runs):
        for name, kind, engine, ms in run:
            own = times.setdefault((name, kind, engine), [0.0] * len(runs))
            own[index] += ms
    medians = {key: float(np.median(own)) for key, own in times.items()}
    total = sum(medians.values())
    slowest_first = sorted(medians.items(), key=lambda item: (-item[1], item[0]))
    return tuple(
        OperatorTime(name=name, type=kind, engine=engine, ms=ms, share=ms / total)
        for (name, kind, engine), ms in slowest_first
        if ms > 0
    )


def active(model: str, state: str | Path | None = None) -> ActiveSession:
    """Open the release of a model that is installed on this device; see `agent.active`.

    Args:
        model: its name.
        state: the agent's state folder, where it is not the usual one.

    Raises:
        UsageError: none is installed.
        ToolchainError: its runtime is missing, or refuses the file.
    """
    from agent.active import ActiveSession  # rigs, which only measure, do without

    return ActiveSession(model, None if state is None else Path(state), open_record)


class CheckedSession:
    """A session whose inputs are checked before the runtime sees them."""

    def __init__(self, inner: Session, record: VariantRecord) -> None:
        self._inner = inner
        self.record = record

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Name, dtype and shape of each input."""
        return self.record.signature.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Name, dtype and shape of each output."""
        return self.record.signature.outputs

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Array]:
        """Run once.

        Args:
            inputs: one array per input, of the declared dtype and shape; a dim's name stands for
                any size within its bounds, the same for all inputs.

        Raises:
            UsageError: a name, dtype or shape does not fit the signature.
        """
        arrays = check_inputs(self.record.signature, inputs)
        return {name: np.array(array) for name, array in self._inner.run(arrays).items()}

    def run_unchecked(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The same without checks and copies: for timing the runtime alone."""
        return self._inner.run(inputs)

    def run_all_forms(self, inputs: Mapping[str, Array]) -> None:
        """Where there are several, run each that takes these inputs, so that it takes its memory.

        A stateful model's state is forgotten.
        """
        if isinstance(self._inner, buckets.Forms):
            self._inner.run_all(inputs)

    def reset(self) -> None:
        """Forget the state of a stateful model."""
        self._inner.reset()

    def close(self) -> None:
        """Give the runtime's memory back."""
        self._inner.close()

    def placement(self) -> dict[str, float]:
        """Which engine runs which share of the graph: {"xnnpack": 0.97, "portable": 0.03}."""
        return self._inner.placement()

    def __enter__(self) -> CheckedSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


__all__ = [
    "RECORD_NAME",
    "CheckedSession",
    "OperatorTime",
    "Session",
    "SessionModule",
    "StaleError",
    "active",
    "check_inputs",
    "formats",
    "import_runtime",
    "load",
    "open_record",
    "operator_times",
    "prepared_folder",
    "profile",
    "session_module",
]
