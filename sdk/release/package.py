"""Export a release as one file, with all that a device needs to trust it without a network."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from agent.errors import UsageError, VerificationError
from agent.files import make_folders, storage_errors
from agent.manifest import Manifest
from agent.updates.assignment import Assignment, moment
from agent.updates.fetch import blob_path
from agent.updates.freshness import TIME_FORM
from agent.updates.package import ASSIGNMENT
from agent.updates.trust import METADATA
from sdk.release.assign import signed
from sdk.release.publish import Tell, manifest_of, manifest_place
from sdk.release.repository import Repository

_WHEN = (1980, 1, 1, 0, 0, 0)
"""Of every member: the package's bytes follow from what is in it alone."""


def export(
    repository: Repository,
    assignment: Assignment,
    out: Path,
    profiles: Sequence[str] = (),
    tell: Tell = lambda _: None,
) -> int:
    """Write a package.

    Args:
        repository: holds the release.
        assignment: of it, for a device or a group.
        out: the file to write; it appears whole, or not at all.
        profiles: only the variants for these; all if none is named.
        tell: is told what is written.

    Returns:
        The bytes of the file.

    Raises:
        UsageError: the release has no variant for a profile that was named, or a device would
            find the repository's metadata expired.
        VerificationError: the repository is damaged.
        StorageError: the file cannot be written.
    """
    with repository.locked():
        manifest = manifest_of(repository, assignment.model, assignment.release_path)
        _check_profiles(manifest, profiles)
        _check_fresh(repository, assignment)
        envelope = signed(repository, assignment)
        with _whole(out) as beside, zipfile.ZipFile(beside, "w", zipfile.ZIP_STORED) as package:
            package.writestr(zipfile.ZipInfo(ASSIGNMENT, _WHEN), envelope)
            for path, length in _short(repository, assignment):
                _add(repository, package, path, None, length)
            for sha256, length in sorted(_blobs(manifest, profiles).items()):
                tell(f"packing {sha256[:16]}…, {length} bytes")
                _add(repository, package, blob_path(sha256), sha256, length)
    return out.stat().st_size


def _check_profiles(manifest: Manifest, profiles: Sequence[str]) -> None:
    known = sorted({variant.profile for variant in manifest.variants})
    unknown = sorted(set(profiles) - set(known))
    if unknown:
        raise UsageError(
            f"The release has no variant for {', '.join(unknown)}.",
            cause="It was not built for that profile.",
            remedy=f"It has some for {', '.join(known)}.",
        )


def _check_fresh(repository: Repository, assignment: Assignment) -> None:
    """Devices judge a package's metadata at the time when its assignment was issued."""
    issued = moment(assignment.issued)
    for name in ("root", "targets", f"model-{assignment.model}", "snapshot", "timestamp"):
        expires = repository.role(name).signed.expires
        if expires <= issued:
            raise UsageError(
                f"The repository's {name} metadata expired at {expires:{TIME_FORM}}: no "
                "device would take the package.",
                cause="Nobody signed it anew.",
                remedy="sdk repo refresh, with the key that signs it; then export again.",
            )


def _short(repository: Repository, assignment: Assignment) -> Iterator[tuple[str, int | None]]:
    """The metadata that leads to the release, and its manifest."""
    newest = repository.role("root").signed.version
    for version in range(1, newest + 1):
        yield f"{METADATA}/{version}.root.json", None
    yield f"{METADATA}/timestamp.json", None
    for name in ("snapshot", "targets", f"model-{assignment.model}"):
        yield f"{METADATA}/{repository.role(name).signed.version}.{name}.json", None
    yield manifest_place(assignment.release_path, assignment.manifest_sha256), None


def _blobs(manifest: Manifest, profiles: Sequence[str]) -> dict[str, int]:
    """sha256 -> length of what these profiles' variants need: no deltas, whose bases may lack."""
    found = {manifest.golden.sha256: manifest.golden.length}
    if manifest.evaluation is not None:
        found[manifest.evaluation.sha256] = manifest.evaluation.length
    for variant in manifest.variants:
        if not profiles or variant.profile in profiles:
            found |= {file.sha256: file.length for file in variant.files}
    return found


def _add(
    repository: Repository, package: zipfile.ZipFile, path: str, sha256: str | None,
    length: int | None,
) -> None:  # fmt: skip
    """Add a file of the repository; one that is missing or was changed makes no package."""
    member = zipfile.ZipInfo(path, _WHEN)
    member.file_size = length or 0  # from it zipfile knows whether 32 bits are enough
    digest, written = hashlib.sha256(), 0
    with package.open(member, "w") as stream:
        for piece in repository.store.pieces(path):
            digest.update(piece)
            stream.write(piece)
            written += len(piece)
    wrong = sha256 is not None and digest.hexdigest() != sha256
    if wrong or (not written and length != 0):
        raise VerificationError(
            f"{path} is missing in the repository, or was changed.",
            cause="The repository was edited by hand or copied in part.",
            remedy="No package was written. Restore the repository from a backup.",
        )


@contextlib.contextmanager
def _whole(out: Path) -> Iterator[Path]:
    """A name beside `out` that becomes `out` at the end, durably; an error leaves nothing."""
    beside = out.with_name(f".{out.name}.{secrets.token_hex(4)}")
    with storage_errors(out):
        make_folders(out.absolute().parent)
        try:
            yield beside
            with beside.open("rb") as stream:
                os.fsync(stream.fileno())
            beside.replace(out)
        finally:
            beside.unlink(missing_ok=True)
        descriptor = os.open(out.absolute().parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
