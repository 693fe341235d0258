"""Export a release as one file, with all that a device needs to trust it without a network."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from agent.errors import UsageError
from agent.files import storage_errors
from agent.manifest import Manifest
from agent.updates.assignment import Assignment
from agent.updates.package import ASSIGNMENT
from agent.updates.trust import METADATA, TARGETS
from sdk.release.assign import signed
from sdk.release.publish import manifest_of
from sdk.release.repository import Repository


def export(
    repository: Repository, assignment: Assignment, out: Path, profiles: Sequence[str] = ()
) -> int:
    """Write a package.

    Args:
        repository: holds the release.
        assignment: of it, for a device or a group.
        out: the file to write.
        profiles: only the variants for these; all if none is named.

    Returns:
        The bytes of the file.

    Raises:
        UsageError: the release has no variant for a profile that was named.
        StorageError: the file cannot be written.
    """
    manifest = manifest_of(repository, assignment.model, assignment.release_path)
    unknown = sorted(set(profiles) - {variant.profile for variant in manifest.variants})
    if unknown:
        known = sorted({variant.profile for variant in manifest.variants})
        raise UsageError(
            f"The release has no variant for {', '.join(unknown)}.",
            cause="It was not built for that profile.",
            remedy=f"It has some for {', '.join(known)}.",
        )
    beside = out.with_name(f".{out.name}.{os.getpid()}")
    with storage_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            with zipfile.ZipFile(beside, "w", zipfile.ZIP_STORED) as package:
                package.writestr(ASSIGNMENT, signed(repository, assignment))
                for path in _paths(repository, assignment, manifest, profiles):
                    content = repository.store.read(path)
                    if content is not None:
                        package.writestr(path, content)
            with beside.open("rb") as stream:
                os.fsync(stream.fileno())
            beside.replace(out)
        finally:
            beside.unlink(missing_ok=True)
    return out.stat().st_size


def _paths(
    repository: Repository, assignment: Assignment, manifest: Manifest, profiles: Sequence[str]
) -> Iterator[str]:
    role = f"model-{assignment.model}"
    newest = repository.role("root").signed.version
    yield from (f"{METADATA}/{version}.root.json" for version in range(1, newest + 1))
    yield f"{METADATA}/timestamp.json"
    for name in ("snapshot", "targets", role):
        yield f"{METADATA}/{repository.role(name).signed.version}.{name}.json"
    folder, _, name = assignment.release_path.rpartition("/")
    yield f"{TARGETS}/{folder}/{assignment.manifest_sha256}.{name}"
    blobs = {manifest.golden.sha256}
    if manifest.evaluation is not None:
        blobs.add(manifest.evaluation.sha256)
    for variant in manifest.variants:
        if not profiles or variant.profile in profiles:
            blobs |= {file.sha256 for file in variant.files}
    yield from (f"blobs/sha256/{sha256}" for sha256 in sorted(blobs))
