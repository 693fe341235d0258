"""A build folder becomes one release: one signed manifest for all its profiles, and its blobs."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agent.errors import SlipwayError, UsageError, VerificationError
from agent.manifest import File, Manifest, VariantEntry, parse, serialise
from agent.updates.fetch import blob_path
from agent.updates.trust import MANIFEST_BYTES, TARGETS
from sdk.release.build import Build, Source, check_files, check_release, check_verdicts, read_build
from sdk.release.deltas import Made, smallest
from sdk.release.repository import Repository

MOST_BASES = 2
"""Deltas are made from the newest so many releases."""
Tell = Callable[[str], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Published:
    """A release in a repository."""

    model: str
    release: str
    release_counter: int
    path: str
    """`models/<name>/<release>/manifest.json`."""
    manifest_sha256: str
    uploaded_bytes: int = 0
    """What was not there before."""
    deltas: int = 0


def publish(
    repository: Repository,
    folder: Path,
    release: str,
    *,
    allow_unproven: bool = False,
    tell: Tell = lambda _: None,
) -> Published:
    """Publish a build.

    Blobs first, then the manifest, then the metadata that names it, the timestamp last: cut off
    anywhere, the repository is what it was, and the next try uploads only what is missing.

    Args:
        repository: gets the release.
        folder: `<out>/<model>`, as `sdk build` leaves it.
        release: its name, such as `1.2.0`.
        allow_unproven: also what no device has proven.
        tell: is told each step.

    Raises:
        UsageError: that is no build folder, the release is there already, or a key is missing.
        LimitError: a limit is unmet, or unproven without leave.
        VerificationError: a file is not what the manifest says, or a key cannot be opened.
        StorageError: the repository cannot be written; it stays as it was.
        NetworkError: the same of one at a URL.
    """
    build = read_build(folder)
    check_release(release)
    check_verdicts(build, allow_unproven=allow_unproven)
    model = build.manifest.model
    role, path = f"model-{model}", f"models/{model}/{release}/manifest.json"
    with repository.locked():
        targets = repository.role(role).signed.targets
        if path in targets:
            raise UsageError(
                f"{model} {release} is published already.",
                cause="A release never changes.",
                remedy="Give it another name: --release. To assign or export it again: sdk assign",
            )
        repository.check_signers(role, "snapshot", "timestamp")
        tell(f"checking the files of {folder}")
        uploaded = sum(_upload(repository, one, tell) for one in check_files(build))
        counter = 1 + max((_counter(info) for info in targets.values()), default=0)
        variants, deltas = _with_deltas(repository, build, targets, tell)
        uploaded += sum(_upload_delta(repository, one) for one in deltas)
        final = dataclasses.replace(
            build.manifest, release=release, release_counter=counter, variants=variants
        )
        content = serialise(final)
        sha256 = hashlib.sha256(content).hexdigest()
        _check_readable(content)
        tell("signing")
        _sign(repository, role, path, content, counter)
    return Published(
        model=model,
        release=release,
        release_counter=counter,
        path=path,
        manifest_sha256=sha256,
        uploaded_bytes=uploaded,
        deltas=len(deltas),
    )


def find(repository: Repository, model: str, release: str) -> Published:
    """A release that is there.

    Raises:
        UsageError: it is not; those that are get named.
    """
    targets = repository.role(f"model-{model}").signed.targets
    path = f"models/{model}/{release}/manifest.json"
    if path not in targets:
        newest = sorted(targets, key=lambda path: -_counter(targets[path]))
        known = ", ".join(path.split("/")[2] for path in newest[:10]) or "none"
        raise UsageError(
            f"{model} {release} was never published here; the newest are {known}.",
            cause="The name is misspelt, or the repository is another one.",
            remedy="Name one of those, or publish it: sdk publish",
        )
    return Published(
        model=model,
        release=release,
        release_counter=_counter(targets[path]),
        path=path,
        manifest_sha256=targets[path].hashes["sha256"],
    )


def manifest_of(repository: Repository, model: str, path: str) -> Manifest:
    """The manifest of a release that is there.

    Raises:
        VerificationError: it is damaged.
    """
    sha256 = repository.role(f"model-{model}").signed.targets[path].hashes["sha256"]
    content = repository.store.read(manifest_place(path, sha256))
    if content is None or hashlib.sha256(content).hexdigest() != sha256:
        raise VerificationError(
            f"The manifest {path} is missing in the repository, or was changed.",
            cause="The repository was edited by hand or copied in part.",
            remedy="Restore it from a backup.",
        )
    return parse(content)


def manifest_place(path: str, sha256: str) -> str:
    """Where a repository keeps a release's manifest."""
    folder, _, name = path.rpartition("/")
    return f"{TARGETS}/{folder}/{sha256}.{name}"


def _upload(repository: Repository, source: Source, tell: Tell) -> int:
    place = blob_path(source.sha256)
    if repository.store.has(place, source.length):
        return 0
    tell(f"uploading {source.path.name}, {source.length} bytes")
    repository.store.put(place, source.path, source.sha256)
    return source.length


def _upload_delta(repository: Repository, made: Made) -> int:
    place = blob_path(made.delta.sha256)
    if repository.store.has(place, made.delta.length):
        return 0
    repository.store.write(place, made.content)
    return made.delta.length


def _with_deltas(
    repository: Repository, build: Build, targets: dict[str, Any], tell: Tell
) -> tuple[tuple[VariantEntry, ...], list[Made]]:
    """The variants with deltas from the files of the newest releases, those that are worth it."""
    newest = sorted(targets, key=lambda path: -_counter(targets[path]))[:MOST_BASES]
    bases = [manifest_of(repository, build.manifest.model, path) for path in newest]
    made: dict[tuple[str, str], Made | None] = {}

    def made_of(old: File, new: File, source: Path) -> Made | None:
        key = old.sha256, new.sha256
        if key not in made:
            made[key] = smallest(repository.store, old, new, source, tell)
        return made[key]

    variants = []
    for variant in build.manifest.variants:
        files = []
        for file in variant.files:
            source = build.file(variant, file.path).path
            olds = {old.sha256: old for base in bases for old in _same(base, variant, file.path)}
            olds.pop(file.sha256, None)
            found = [made_of(old, file, source) for old in olds.values()]
            deltas = tuple(one.delta for one in found if one is not None)
            files.append(dataclasses.replace(file, deltas=deltas))
        variants.append(dataclasses.replace(variant, files=tuple(files)))
    return tuple(variants), [one for one in made.values() if one is not None]


def _same(base: Manifest, variant: VariantEntry, path: str) -> list[File]:
    """The file in an older release: of the same recipe, else of one that is called alike.

    A recipe that follows from the weights, such as which layers stay in f32, changes its digest.
    """
    profile = [one for one in base.variants if one.profile == variant.profile]
    name = variant.id.rpartition("/")[2]
    exact = [one for one in profile if one.id.rpartition("/")[2] == name]
    alike = [
        one
        for one in profile
        if one.id.rpartition("/")[2].rpartition("-")[0] == name.rpartition("-")[0]
    ]
    return [file for one in (exact or alike)[:1] for file in one.files if file.path == path]


def _check_readable(content: bytes) -> None:
    """What is signed is what devices read: by their own reader, and not longer than it reads."""
    try:
        parse(content)
    except SlipwayError as error:
        raise VerificationError(
            f"No device could read this release: {error.what}",
            cause="The build's manifest was edited by hand.",
            remedy="Nothing was published. Run `sdk build` again.",
        ) from error
    if len(content) > MANIFEST_BYTES:
        raise UsageError(
            f"The manifest has {len(content)} bytes, devices read {MANIFEST_BYTES} at most.",
            cause="The build has very many profiles or files.",
            remedy="Nothing was published. Build fewer profiles into one release.",
        )


def _sign(repository: Repository, role: str, path: str, content: bytes, counter: int) -> None:
    from tuf.api.metadata import TargetFile

    sha256 = hashlib.sha256(content).hexdigest()
    repository.edit(role).signed.targets[path] = TargetFile(
        length=len(content),
        hashes={"sha256": sha256},
        path=path,
        unrecognized_fields={"custom": {"release_counter": counter}},
    )
    repository.stage()
    repository.store.write(manifest_place(path, sha256), content)
    repository.write()


def _counter(info: Any) -> int:
    return int((info.custom or {}).get("release_counter", 0))
