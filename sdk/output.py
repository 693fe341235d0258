"""The folder a build leaves: variants, `manifest.json`, `summary.json`, reports.

Variants are written first, each in a folder whose name carries a digest of its content, so nothing
that an older manifest names is touched; then the manifest and the summary are replaced, each by
one rename; what nobody names any more is removed last. A build killed anywhere leaves the old
output whole or the new one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from agent.codec import pretty
from agent.errors import StorageError
from agent.files import move_folder, point_link, storage_errors, write_atomic
from agent.manifest import Blob, EvaluationPack, Manifest, VariantEntry, serialise
from agent.variant import RECORD_NAME, VariantRecord, record_bytes
from sdk.cache import Cache
from sdk.gates import drop_max_ppm, floors, gates
from sdk.plan import Assignment
from sdk.result import Result
from sdk.select import Selection
from sdk.steps.capture import Captured
from sdk.steps.lower import Lowering
from sdk.summary import Summary

GOLDEN, EVALUATION = "golden.safetensors", "evaluation.safetensors"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Output:
    """One model's folder, held by one build at a time."""

    folder: Path

    @staticmethod
    @contextlib.contextmanager
    def locked(out: Path, model: str) -> Iterator[Output]:
        """Hold `out/model` for this build.

        Raises:
            StorageError: another build holds it, or it cannot be written.
        """
        folder = out.absolute() / model
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                holder = os.pread(descriptor, 20, 0).decode(errors="replace") or "unknown"
                raise StorageError(
                    f"{folder} is held by another build (process {holder}).",
                    cause="Two builds write into one folder.",
                    remedy="Wait for it, or build into another: --out DIR",
                ) from error
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
            yield Output(folder=folder)
        finally:
            os.close(descriptor)


def write_output(
    output: Output,
    summary: Summary,
    assignments: Sequence[Assignment],
    selections: Sequence[Selection],
    built: Mapping[str, Lowering],
    captured: Captured,
    cache: Cache,
    logs: Mapping[str, Path],
) -> Summary:
    """Write everything; returns the summary with the variants' paths.

    `logs` are those of what failed on a rig, by candidate.

    Raises:
        StorageError: the disk is full, or the folder cannot be written.
    """
    entries: list[VariantEntry] = []
    paths: dict[str, str] = {}
    for assignment, selection in zip(assignments, selections, strict=True):
        for rank, rung in enumerate(selection.ladder):
            lowering = built[rung.candidate.recipe.digest]
            record = _own_record(rung, assignment.target, lowering)
            folder = _place(output, record, lowering, cache)
            paths[record.id] = str(folder.relative_to(output.folder))
            entries.append(_entry(rung, rank, assignment, selection, record, captured))
    _write_logs(output.folder / "logs", {**_failed(built), **logs})
    golden = _copy_blob(captured.folder / GOLDEN, output.folder / GOLDEN, cache)
    evaluation = None
    if captured.has_evaluation:
        evaluation = _copy_blob(captured.folder / EVALUATION, output.folder / EVALUATION, cache)
    summary = dataclasses.replace(
        summary,
        results=tuple(
            dataclasses.replace(result, variant=paths.get(result.selected or ""))
            for result in summary.results
        ),
    )
    manifest = _manifest(summary.model, captured, golden, evaluation, entries)
    write_atomic(output.folder / "manifest.json", serialise(manifest))
    write_atomic(output.folder / "summary.json", pretty(summary))
    _point_links(output.folder, summary)
    _remove_unnamed(output.folder, set(paths.values()))
    return summary


def _failed(built: Mapping[str, Lowering]) -> dict[str, Path]:
    return {
        lowering.name: lowering.log
        for lowering in built.values()
        if lowering.log is not None and lowering.failure is not None
    }


def _write_logs(folder: Path, logs: Mapping[str, Path]) -> None:
    """Keep what was printed where a candidate failed, here or on a rig; older logs go."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, log in logs.items():
        if log.is_file():
            with storage_errors(folder):
                folder.mkdir(exist_ok=True)
                shutil.copyfile(log, folder / f"{name}.log")


def _own_record(rung: Result, target: str, lowering: Lowering) -> VariantRecord:
    assert lowering.record is not None
    return dataclasses.replace(
        lowering.record,
        id=rung.candidate.identifier,
        target=target,
        profile=rung.candidate.profile.name,
    )


def _place(output: Output, record: VariantRecord, lowering: Lowering, cache: Cache) -> Path:
    """Copy a variant's files into its folder, unless they are there already."""
    assert lowering.folder is not None
    content = record_bytes(record)
    name = f"{record.id.rsplit('/', 1)[-1]}@{hashlib.sha256(content).hexdigest()[:8]}"
    folder = output.folder / record.profile / name
    if _is_whole(folder, record, content, cache):
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    beside = folder.with_name(f".{name}.{os.getpid()}")
    with storage_errors(folder):
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        for file in record.files:
            (beside / file.path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(lowering.folder / file.path, beside / file.path)
        (beside / RECORD_NAME).write_bytes(content)
    move_folder(beside, folder)
    for file in record.files:
        cache.learn(folder / file.path, file.sha256)
    return folder


def _is_whole(folder: Path, record: VariantRecord, content: bytes, cache: Cache) -> bool:
    try:
        return (folder / RECORD_NAME).read_bytes() == content and all(
            cache.sha256_of(folder / file.path) == file.sha256 for file in record.files
        )
    except OSError:
        return False


def _copy_blob(source: Path, destination: Path, cache: Cache) -> Blob:
    digest, length = cache.sha256_of(source), source.stat().st_size
    if not destination.is_file() or cache.sha256_of(destination) != digest:
        beside = destination.with_name(f".{destination.name}.{os.getpid()}")
        with storage_errors(destination):
            shutil.copyfile(source, beside)
            with beside.open("rb") as stream:
                os.fsync(stream.fileno())
            beside.replace(destination)
    return Blob(sha256=digest, length=length)


def _entry(
    rung: Result,
    rank: int,
    assignment: Assignment,
    selection: Selection,
    record: VariantRecord,
    captured: Captured,
) -> VariantEntry:
    assert rung.role is not None
    return VariantEntry(
        id=record.id,
        target=assignment.target,
        profile=assignment.profile.name,
        role=rung.role,
        rank=rank,
        selection="rank" if selection.selected_by == "measured" else "measure",
        match=dict(assignment.profile.match),
        runtime=record.runtime,
        options=record.options,
        unpacked_bytes=record.size_bytes,
        files=record.files,
        floors=floors(rung, captured.program.signature),
        drop_max_ppm=drop_max_ppm(assignment.limits) if captured.has_evaluation else None,
        gates=gates(assignment.limits),
        provenance=record.provenance,
    )


def _manifest(
    model: str,
    captured: Captured,
    golden: Blob,
    evaluation: Blob | None,
    entries: list[VariantEntry],
) -> Manifest:
    signature = captured.program.signature
    pack = None
    if evaluation is not None and captured.metric is not None:
        pack = EvaluationPack(
            sha256=evaluation.sha256,
            length=evaluation.length,
            metric=captured.metric["name"],
            higher_is_better=captured.metric["higher_is_better"],
        )
    return Manifest(
        version=1,
        model=model,
        release=None,
        release_counter=None,
        requires=(),
        inputs=signature.inputs,
        outputs=signature.outputs,
        dims=signature.dims,
        golden=golden,
        evaluation=pack,
        variants=tuple(entries),
    )


def _point_links(folder: Path, summary: Summary) -> None:
    """`<profile>/chosen` leads to the selected variant: a path that stays the same."""
    for result in summary.results:
        link = folder / result.profile / "chosen"
        if result.variant is not None:
            point_link(link, Path(result.variant).name)
        else:
            link.unlink(missing_ok=True)


def _remove_unnamed(folder: Path, named: set[str]) -> None:
    for profile in folder.iterdir():
        if not profile.is_dir() or profile.is_symlink():
            continue
        for variant in profile.iterdir():
            is_ours = "@" in variant.name and variant.is_dir() and not variant.is_symlink()
            if is_ours and str(variant.relative_to(folder)) not in named:
                shutil.rmtree(variant, ignore_errors=True)
        with contextlib.suppress(OSError):
            profile.rmdir()  # only if nothing is left in it
