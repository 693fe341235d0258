"""Take what was signed elsewhere into a tenant's repository: files by their hashes, then metadata.

A publisher holds the keys of models; the server holds those of snapshot and timestamp. What comes
is held against who has to sign it before any metadata is written; the timestamp is written last. A
publication that is cut off leaves files that nobody names.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from agent import disk
from agent.errors import SlipwayError, VerificationError
from agent.files import make_folders, storage_errors
from agent.manifest import parse
from agent.updates.fetch import blob_path
from sdk.fleet.online import Tenant
from sdk.fleet.refusals import RefusedError
from sdk.release.publish import manifest_place
from sdk.release.repository import Repository
from sdk.release.roles import said

MOST_BLOB_BYTES = 64 << 30
"""No file of a release is longer."""


async def receive(place: Path, sha256: str, chunks: AsyncIterator[bytes]) -> int:
    """Write a file that is named by its hash; it is there whole, or not at all.

    Returns:
        Its bytes.

    Raises:
        RefusedError: what came has another hash.
        StorageError: the disk is full, or cannot be written.
    """
    from starlette.concurrency import run_in_threadpool

    digest, length = hashlib.sha256(), 0
    beside = place.with_name(f".{place.name}.{id(digest):x}.part")
    with storage_errors(place):
        await run_in_threadpool(make_folders, place.parent)
        try:
            with disk.Writer(beside, mode=0o444) as copy:
                async for chunk in chunks:
                    digest.update(chunk)
                    length += len(chunk)
                    await run_in_threadpool(copy.write, chunk)
                await run_in_threadpool(copy.sync)
            if digest.hexdigest() != sha256:
                raise RefusedError(
                    "impossible",
                    f"The file has sha256 {digest.hexdigest()[:16]}…, not {sha256[:16]}….",
                    cause="It changed, or was cut short on the way.",
                    remedy="Nothing was kept. Publish again.",
                )
            disk.rename(beside, place)
            disk.sync_folder(place.parent)
        finally:
            with contextlib.suppress(OSError):
                disk.unlink(beside)
    return length


def accept(tenant: Tenant, contents: Mapping[str, bytes]) -> list[str]:
    """Make new metadata of models, or of targets, the repository's.

    Args:
        tenant: whose repository; its snapshot and timestamp are signed here.
        contents: role -> its next metadata.

    Returns:
        The paths that were written.

    Raises:
        RefusedError: it is not the next one, is not signed by whom it has to be, changes a release,
            lowers what is revoked, or names what is not there.
        StorageError: the repository cannot be written; it stays as it was.
    """
    repository = tenant.repository()
    with repository.locked():
        before = {name: _present(repository, name) for name in contents}
        try:
            # Targets first: they may name the key of a new model.
            for name in sorted(contents, key=lambda name: name != "targets"):
                _check_form(name, repository.adopt(name, contents[name]).signed, before[name])
            for name in contents:
                if name.startswith("model-"):
                    _check_model(repository, name.removeprefix("model-"), before[name])
            repository.stage()
        except SlipwayError as error:
            raise RefusedError(
                "impossible", error.what, cause=error.cause, remedy=error.remedy
            ) from error
        return repository.write()


def _present(repository: Repository, name: str) -> Any:
    """The metadata of a role as it is; None of one that is new."""
    if name != "targets" and not name.startswith("model-"):
        raise _refused(f"{name[:80]} is not changed by a publication")
    if name == "targets" or name.removeprefix("model-") in repository.models():
        return repository.role(name).signed
    return None


def _check_form(name: str, signed: Any, before: Any) -> None:
    due = 1 if before is None else before.version + 1
    if signed.type != "targets" or signed.version != due:
        raise _refused(
            f"the new {name} metadata has version {signed.version}; {due} comes next",
            "Somebody else published meanwhile: publish again.",
        )
    if signed.is_expired(dt.datetime.now(tz=dt.timezone.utc)):
        raise _refused(f"the new {name} metadata expired at {signed.expires:%Y-%m-%d}")


def _check_model(repository: Repository, model: str, before: Any) -> None:
    signed = repository.role(f"model-{model}").signed
    old = {} if before is None else before.targets
    for path, info in old.items():
        if path not in signed.targets or signed.targets[path].hashes != info.hashes:
            raise _refused(f"{path} is published, and a release never changes")
    told, was = said(signed), {} if before is None else said(before)
    if told.get("revoked_below", 0) < was.get("revoked_below", 0):
        raise _refused(f"what is revoked of {model} would be less than before")
    for path in set(signed.targets) - set(old):
        _check_release(repository, model, path, signed.targets[path].hashes.get("sha256", ""))


def _check_release(repository: Repository, model: str, path: str, sha256: str) -> None:
    """Whether a release is here: devices would look in vain for what is not."""
    parts = path.split("/")
    if len(parts) != 4 or (parts[0], parts[1], parts[3]) != ("models", model, "manifest.json"):
        raise _refused(f"{path[:200]} is no release of {model}")
    content = repository.store.read(manifest_place(path, sha256))
    if content is None or hashlib.sha256(content).hexdigest() != sha256:
        raise _refused(f"the manifest {path} is not here")
    manifest = parse(content)
    if (manifest.model, manifest.release) != (model, parts[2]):
        raise _refused(f"{path} holds {manifest.model} {manifest.release}")
    wanted = {manifest.golden.sha256: manifest.golden.length}
    if manifest.evaluation is not None:
        wanted[manifest.evaluation.sha256] = manifest.evaluation.length
    for variant in manifest.variants:
        for file in variant.files:
            wanted[file.sha256] = file.length
            wanted |= {delta.sha256: delta.length for delta in file.deltas}
    lacking = [
        one for one, length in wanted.items() if not repository.store.has(blob_path(one), length)
    ]
    if lacking:
        raise _refused(f"{len(lacking)} files of {path} are not here, such as {lacking[0]}")


def _refused(why: str, remedy: str = "Nothing was changed.") -> VerificationError:
    return VerificationError(
        f"The publication is not taken: {why}.",
        cause="It was made for another state of the repository, or by something else.",
        remedy=remedy,
    )
