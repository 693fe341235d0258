"""The verbs as functions: `from sdk import build`.

The command line is a thin layer over these; both give the same results.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from agent.bench import Budget, Comparison, Measurement, bench_one, compare_folders
from agent.codec import decode
from agent.errors import StorageError, UsageError, VerificationError
from agent.files import write_atomic
from agent.folders import cache_folder, data_folder
from agent.tensors import TensorWriter
from agent.variant import read_record, verify_files
from sdk import accepted, conductor
from sdk.capture.golden import is_at_opt
from sdk.catalog import Build, Catalog
from sdk.events import Event, OnEvent, ignore
from sdk.golden_check import GoldenCheck, check_golden
from sdk.learning.records import FILE_NAME as REPORTS
from sdk.limits import DEFAULT_ACCURACY_DROP, check_limit
from sdk.objective import Objective
from sdk.options import Options
from sdk.report.page import render
from sdk.samples import StoredSamples, write_sample
from sdk.summary import SCHEMA, Summary

if TYPE_CHECKING:
    from sdk.report.comparison import Comparison as BuildComparison

SPEED_DROP = 0.05
"""The limit on the accuracy drop under `prefer="speed"`, where the project gives none."""
ACCURACY_DROP = 0.005
"""The most that `prefer="accuracy"` allows."""


def build(
    project: str | Path = ".",
    *,
    targets: Sequence[str] = (),
    profiles: Sequence[str] = (),
    limits: Mapping[str, float] | None = None,
    out: str | Path = "build",
    jobs: int = 1,
    fresh: bool = False,
    prune: bool = True,
    budget_s: float | None = None,
    objective: Objective = "latency",
    seed: int = 0,
    prefer: Literal["speed", "accuracy"] | None = None,
    rig: str | None = None,
    inventory: Path | None = None,
    on_event: OnEvent = ignore,
) -> Summary:
    """Build a project: the same as `sdk build`.

    Args:
        project: the folder with `sdk.toml`, or the file.
        targets: names; those of the project file if empty.
        profiles: `NAME` or `TARGET=NAME`; `host` is this machine.
        limits: name -> value, over the project file's.
        out: where `<model>/<profile>/` goes.
        jobs: how many lowerings run side by side; measuring always runs alone.
        fresh: ignore the cache.
        prune: leave out candidates that cannot meet a limit even at the best of their estimate.
        budget_s: search for so many seconds for a better variant than the target's own recipes.
        objective: what is to be least among the variants that keep the limits.
        seed: of the search's order among what is equally promising.
        prefer: `speed` allows a drop of 5 % where the project sets no limit on accuracy;
            `accuracy` allows at most 0.5 %, whatever the project says.
        rig: prove on this rig of the inventory; without, on this machine.
        inventory: `hil.toml`; without, the one here or above, else the user's own.
        on_event: called with each `sdk.events.Event`; a `warning` where the finished build could
            not be added to the history.

    Raises:
        SlipwayError: with an exit code; a candidate that fails is part of the Summary instead.
    """
    checked = {name: check_limit(name, value, "limits") for name, value in (limits or {}).items()}
    options = Options(
        targets=tuple(targets),
        profiles=tuple(profiles),
        limits=checked,
        rig=rig,
        inventory=inventory,
        out=Path(out),
        jobs=jobs,
        fresh=fresh,
        prune=prune,
        objective=objective,
        budget_s=budget_s,
        seed=seed,
        drop_default=SPEED_DROP if prefer == "speed" else DEFAULT_ACCURACY_DROP,
        drop_most=ACCURACY_DROP if prefer == "accuracy" else None,
    )
    summary = conductor.build(Path(project), options, on_event)
    write_page(summary, Path(out) / summary.model / "report.html")
    try:
        catalog = Catalog(data_folder())
        catalog.record(summary, Path(project).absolute(), Path(out).absolute())
        reports = (Path(out) / summary.model / REPORTS).read_bytes()
        catalog.keep_reports(reports, summary.program_digest)
    except StorageError as error:  # what was asked for is built and written
        told = f"this build is not in the history: {error}"
        on_event(Event(kind="warning", message=told))
    return summary


def bench(variant: str | Path, *, seconds: float = 3.0) -> Measurement:
    """Measure one variant on this machine, in a process of its own.

    Raises:
        UsageError: the folder holds no variant, or no inputs to measure with are found.
        ToolchainError: it cannot be loaded or run here.
    """
    folder = Path(variant)
    with opt_inputs(folder) as inputs:
        return bench_one(folder, inputs=inputs, budget=Budget(seconds_per_contestant=seconds))


def compare(left: str | Path, right: str | Path, *, seconds: float = 3.0) -> Comparison:
    """Measure two variants of one model in alternating windows.

    Raises:
        UsageError: one of the folders holds no variant, or they take different inputs.
    """
    first, second = Path(left), Path(right)
    one, other = read_record(first).signature, read_record(second).signature
    if one.inputs != other.inputs:
        raise UsageError(
            f"{first.name} takes {[spec.name for spec in one.inputs]}, "
            f"{second.name} takes {[spec.name for spec in other.inputs]}.",
            cause="They are variants of different models.",
            remedy="Compare two variants of one model.",
        )
    with opt_inputs(first) as inputs:
        return compare_folders(
            first, second, inputs=inputs, budget=Budget(seconds_per_contestant=seconds)
        )


def verify(variant: str | Path) -> GoldenCheck:
    """Check a variant's files by hash, and its answers against the golden data.

    Raises:
        VerificationError: a file or an answer is not what it should be.
    """
    folder = Path(variant)
    verify_files(folder, read_record(folder))
    return check_golden(folder, golden_file(folder))


def history(model: str | None = None, *, limit: int = 20) -> list[Build]:
    """The latest builds on this machine, newest first."""
    return Catalog(data_folder()).builds(model, limit)


def read_summary(path: str | Path) -> Summary:
    """Read a `summary.json`: the file, the one in a model's folder, or the only one a level below.

    Raises:
        UsageError: there is none, or there are several.
        VerificationError: it has another form, or a newer one.
    """
    file = _summary_file(Path(path))
    try:
        document = json.loads(file.read_bytes(), parse_constant=_refuse_constant)
    except OSError as error:
        raise UsageError(
            f"There is no summary at {file}.",
            cause="Nothing was built there.",
            remedy="Run `sdk build` first, or name its output folder.",
        ) from error
    except (ValueError, RecursionError) as error:
        raise VerificationError(f"{file} is not JSON: {error}.", remedy="Build again.") from error
    found = document.get("schema") if isinstance(document, dict) else None
    if isinstance(found, int) and found > SCHEMA:
        raise VerificationError(
            f"{file} has the form {found}; this version reads up to {SCHEMA}.",
            cause="A newer Slipway wrote it.",
            remedy="Update Slipway here, or build again.",
        )
    return decode(Summary, document)


def accept(path: str | Path) -> tuple[str, ...]:
    """Make a build the one that later builds of its model are held against.

    Args:
        path: its folder, or its `summary.json`.

    Returns:
        The profiles that it has a variant for.

    Raises:
        UsageError: there is no build.
        LimitError: it has no variant.
    """
    return accepted.accept(read_summary(path), data_folder())


def write_page(summary: Summary, path: str | Path) -> None:
    """Write the HTML page of a build: one file that needs nothing beside it.

    Raises:
        StorageError: it cannot be written there.
    """
    page = render(summary, compiled=cache_folder() / "templates")
    write_atomic(Path(path), page.encode())


def compare_builds(old: str | Path, new: str | Path) -> BuildComparison:
    """What changed between two builds, by their folders or `summary.json` files.

    Raises:
        UsageError: one of them is not there, or they are of different models.
        VerificationError: one of them has another form.
    """
    from sdk.report.comparison import compare as compare_summaries

    return compare_summaries(read_summary(old), read_summary(new))


def _refuse_constant(name: str) -> float:
    """NaN and Infinity: Python reads them, JSON has no such thing, and no figure is one."""
    raise ValueError(f"{name} is no number")


def _summary_file(path: Path) -> Path:
    if not path.is_dir() or (path / "summary.json").exists():
        return path / "summary.json" if path.is_dir() else path
    below = sorted(path.glob("*/summary.json"))
    if len(below) > 1:
        raise UsageError(
            f"{path} holds the builds of {len(below)} models.",
            cause="A report is of one of them.",
            remedy=f"Name one: {', '.join(str(file.parent) for file in below)}",
        )
    return below[0] if below else path / "summary.json"


@contextlib.contextmanager
def opt_inputs(variant: Path) -> Iterator[Path]:
    """The golden inputs at the dims' `opt` sizes: what a build measures with, too."""
    signature = read_record(variant).signature
    samples = StoredSamples(golden_file(variant))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "inputs.safetensors"
        with TensorWriter(path) as writer:
            at_opt = (sample for sample in samples if is_at_opt(sample.inputs, signature))
            for index, sample in enumerate(at_opt):
                write_sample(writer.add, index, dataclasses.replace(sample, outputs={}))
        yield path


def golden_file(variant: Path) -> Path:
    """The golden data that belongs to a variant: two folders up, where the build put it."""
    folder = variant.resolve()
    found = folder.parent.parent / "golden.safetensors"
    if not found.is_file():
        raise UsageError(
            f"There is no golden data for {variant}: {found} is missing.",
            cause="The variant was copied without the folder it was built into.",
            remedy="Copy the model's whole output folder, or name the variant inside it.",
        )
    return found
