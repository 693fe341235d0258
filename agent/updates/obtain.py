"""Have the files of a release here: what is missing, by a delta where one fits, else whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from agent import disk
from agent.errors import NetworkError, StorageError, VerificationError
from agent.files import make_folders, storage_errors
from agent.manifest import Blob, EvaluationPack, File, Manifest, VariantEntry
from agent.updates import delta
from agent.updates.blobs import Blobs
from agent.updates.fetch import Wanted, blob_path, fetch, part_of
from agent.updates.source import MissingError, Source

FETCH_S = 6 * 3600.0
"""The longest that one attempt at one file may take."""
Tell = Callable[[str], None]
Item = File | Blob | EvaluationPack


def needed(manifest: Manifest, variants: Iterable[VariantEntry]) -> dict[str, Item]:
    """sha256 -> what of a release is needed to prove and to run these variants."""
    items: list[Item] = [manifest.golden]
    if manifest.evaluation is not None:
        items.append(manifest.evaluation)
    items += [file for variant in variants for file in variant.files]
    return {item.sha256: item for item in items}


def check_room(items: Iterable[Item], blobs: Blobs, staging: Path, free_bytes: int) -> None:
    """Whether what is missing fits on the disk, beside the parts that are here already.

    Raises:
        StorageError: it does not; both values are named.
    """
    missing = sum(
        item.length - min(item.length, part_of(staging, item.sha256).length or 0)
        for item in items
        if not blobs.has(item.sha256, item.length)
    )
    if missing > free_bytes:
        raise StorageError(
            f"The release takes {missing} bytes more, and {max(0, free_bytes)} are free.",
            cause="The disk is too small, or full of something else.",
            remedy="Free some space, or lower reserve_mib in the configuration.",
        )


def obtain(item: Item, blobs: Blobs, source: Source | None, staging: Path, tell: Tell) -> None:
    """Have one of them here.

    Args:
        item: as the signed manifest names it.
        blobs: where it goes to.
        source: None without a network.
        staging: the action's own folder, which keeps what was fetched in part.
        tell: is told what is fetched.

    Raises:
        NetworkError: it cannot be fetched now; the next attempt goes on where this one stopped.
        VerificationError: what can be had is not what was signed.
        StorageError: the disk is full, or cannot be written.
    """
    if blobs.has(item.sha256, item.length):
        return
    with storage_errors(staging):
        make_folders(staging, 0o700)
        if isinstance(item, File) and _by_delta(item, blobs, source, staging, tell):
            return
        _whole(item, blobs, source, staging, tell)


def _by_delta(file: File, blobs: Blobs, source: Source | None, staging: Path, tell: Tell) -> bool:
    """By the smallest delta whose base is here; where that fails, the whole file will do.

    A delta that is not there is no reason to wait: a package, for one, holds whole files alone.
    """
    fits = [
        found
        for found in file.deltas
        if found.algo in delta.ALGORITHMS
        and found.length < file.length
        and blobs.path(found.base_sha256).is_file()
    ]
    for found in sorted(fits, key=lambda found: found.length):
        made = staging / f"{file.sha256}.made"
        try:
            _whole(Blob(sha256=found.sha256, length=found.length), blobs, source, staging, tell)
            disk.unlink(made)  # of an attempt that was cut off
            with disk.Writer(made) as writer:
                base, patch = blobs.path(found.base_sha256), blobs.path(found.sha256)
                for piece in delta.apply(found.algo, base, patch, file.length):
                    writer.write(piece)
            blobs.adopt(made, file.sha256, file.length)
        except (VerificationError, MissingError) as error:
            disk.unlink(made)
            tell(f"{error.what} The whole file is fetched.")
        else:
            return True
    return False


def _whole(item: Item, blobs: Blobs, source: Source | None, staging: Path, tell: Tell) -> None:
    if blobs.has(item.sha256, item.length):
        return
    if source is None:
        raise NetworkError(
            f"The blob {item.sha256[:16]}… is not here, and there is nowhere to fetch it from.",
            cause="There is no network, or the package that began this is gone.",
            remedy="It is tried again by itself; a package is to be installed again.",
        )
    tell(f"fetching {item.length} bytes")
    wanted = Wanted(path=blob_path(item.sha256), sha256=item.sha256, length=item.length)
    fetch(wanted, source, blobs, staging, deadline_s=FETCH_S)


def all_of(
    manifest: Manifest,
    variants: Sequence[VariantEntry],
    blobs: Blobs,
    source: Source | None,
    staging: Path,
    *,
    free_bytes: int,
    tell: Tell,
) -> None:
    """Have all that these variants need; arguments and errors as for `obtain` and `check_room`."""
    items = needed(manifest, variants)
    with storage_errors(blobs.folder):
        for sha256 in items:
            if blobs.drop_damaged(sha256):
                tell(f"the blob {sha256[:16]}… was damaged here, and is fetched anew")
    check_room(items.values(), blobs, staging, free_bytes)
    for item in items.values():
        obtain(item, blobs, source, staging, tell)
