"""A build folder becomes one release: one signed manifest for all its profiles, and its blobs."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from agent.errors import LimitError, UsageError, VerificationError
from agent.files import sha256_of
from agent.manifest import Delta, File, Manifest, VariantEntry, parse, serialise
from agent.updates.trust import TARGETS
from sdk.release.deltas import smallest
from sdk.release.repository import Repository

_RELEASE = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+-]{0,63}")
MOST_BASES = 2
"""Deltas are made from the newest so many releases."""
Tell = Callable[[str], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Published:
    """What was written."""

    model: str
    release: str
    release_counter: int
    path: str
    manifest_sha256: str
    uploaded_bytes: int
    deltas: int


def publish(
    repository: Repository,
    build: Path,
    release: str,
    *,
    allow_unproven: bool = False,
    tell: Tell = lambda _: None,
) -> Published:
    """Publish a build.

    Args:
        repository: gets the release.
        build: `<out>/<model>`, as `sdk build` leaves it.
        release: its name, such as `1.2.0`.
        allow_unproven: also what no device has proven.
        tell: is told each step.

    Raises:
        UsageError: that is no build folder, the release is there already, or a key is missing.
        LimitError: a profile's verdict is unmet, or unproven without leave.
        VerificationError: a file is not what the manifest says.
        StorageError: the repository cannot be written; it stays as it was.
    """
    manifest, verdicts = _read(build)
    _check_release(release)
    _check_verdicts(manifest, verdicts, allow_unproven=allow_unproven)
    role = f"model-{manifest.model}"
    signed = repository.role(role).signed
    path = f"models/{manifest.model}/{release}/manifest.json"
    if path in signed.targets:
        raise UsageError(
            f"{manifest.model} {release} is published already.",
            cause="A release never changes.",
            remedy="Give it another name: --release",
        )
    counter = 1 + max((_counter(info) for info in signed.targets.values()), default=0)
    uploaded = 0
    for source, sha256, length in _files(build, manifest):
        uploaded += _upload(repository, source, sha256, length, tell)
    made = _with_deltas(repository, build, manifest, signed, tell)
    uploaded += sum(length for _, _, length in made.files)
    final = dataclasses.replace(
        manifest, release=release, release_counter=counter, variants=made.variants
    )
    content = serialise(final)
    sha256 = hashlib.sha256(content).hexdigest()
    repository.store.write(
        f"{TARGETS}/models/{manifest.model}/{release}/{sha256}.manifest.json", content
    )
    _sign(repository, role, path, content, sha256, counter)
    return Published(
        model=manifest.model,
        release=release,
        release_counter=counter,
        path=path,
        manifest_sha256=sha256,
        uploaded_bytes=uploaded,
        deltas=len(made.files),
    )


def manifest_of(repository: Repository, model: str, path: str) -> Manifest:
    """A release that is there."""
    info = repository.role(f"model-{model}").signed.targets[path]
    folder, _, name = path.rpartition("/")
    content = repository.store.read(f"{TARGETS}/{folder}/{info.hashes['sha256']}.{name}")
    if content is None or hashlib.sha256(content).hexdigest() != info.hashes["sha256"]:
        raise VerificationError(
            f"The manifest {path} is missing in the repository, or was changed.",
            cause="The repository was edited by hand or copied in part.",
            remedy="Restore it from a backup.",
        )
    return parse(content)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Made:
    variants: tuple[VariantEntry, ...]
    files: Sequence[tuple[Path, str, int]]


def _with_deltas(
    repository: Repository, build: Path, manifest: Manifest, signed: object, tell: Tell
) -> _Made:
    """The variants with deltas from the files of the newest releases, those that are worth it."""
    targets = getattr(signed, "targets")  # noqa: B009
    newest = sorted(targets, key=lambda path: -_counter(targets[path]))[:MOST_BASES]
    bases = [manifest_of(repository, manifest.model, path) for path in newest]
    variants, files = [], []
    for variant in manifest.variants:
        own = []
        for file in variant.files:
            deltas: list[Delta] = []
            for base in bases:
                old = _same(base, variant, file.path)
                if old is None or old.sha256 == file.sha256:
                    continue
                source = _place(build, variant, file.path)
                found = smallest(repository.store, old, source, tell)
                if found is not None:
                    delta, content = found
                    place = f"blobs/sha256/{delta.sha256}"
                    if not repository.store.has(place, delta.length):
                        repository.store.write(place, content)
                    deltas.append(delta)
                    files.append((source, delta.sha256, delta.length))
            own.append(dataclasses.replace(file, deltas=tuple(deltas)))
        variants.append(dataclasses.replace(variant, files=tuple(own)))
    return _Made(variants=tuple(variants), files=files)


def _same(base: Manifest, variant: VariantEntry, path: str) -> File | None:
    """The file of the same recipe in an older release; None where there is none."""
    for other in base.variants:
        if (other.profile, _recipe(other)) == (variant.profile, _recipe(variant)):
            return next((file for file in other.files if file.path == path), None)
    return None


def _recipe(variant: VariantEntry) -> str:
    return variant.id.rpartition("/")[2]


def _sign(
    repository: Repository, role: str, path: str, content: bytes, sha256: str, counter: int
) -> None:
    from tuf.api.metadata import TargetFile

    signed = repository.edit(role).signed
    signed.targets[path] = TargetFile(
        length=len(content),
        hashes={"sha256": sha256},
        path=path,
        unrecognized_fields={"custom": {"release_counter": counter}},
    )
    repository.commit()


def _counter(info: object) -> int:
    custom = getattr(info, "custom", None) or {}
    return int(custom.get("release_counter", 0))


def _read(build: Path) -> tuple[Manifest, dict[str, str]]:
    try:
        manifest = parse((build / "manifest.json").read_bytes())
        summary = json.loads((build / "summary.json").read_bytes())
        return manifest, {result["profile"]: result["verdict"] for result in summary["results"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{build} is no build: {error}.",
            cause="The path is not that of a model in a build folder.",
            remedy="Name one, such as build/my-model, or run `sdk build` first.",
        ) from error


def _check_release(release: str) -> None:
    if not _RELEASE.fullmatch(release) or release.endswith("."):
        raise UsageError(
            f"{release!r} is no name for a release.",
            cause="It becomes part of a path.",
            remedy="Use letters, digits, dots, plus and minus, such as 1.2.0",
        )


def _check_verdicts(manifest: Manifest, verdicts: dict[str, str], *, allow_unproven: bool) -> None:
    unmet = [name for name, verdict in verdicts.items() if verdict == "unmet"]
    if unmet or not manifest.variants:
        raise LimitError(
            f"Nothing of {manifest.model} is published: {', '.join(unmet) or 'no profile'} "
            "has no variant that keeps its limits.",
            cause="Every candidate breaks at least one.",
            remedy="See the build's report; build the profiles that do, or loosen the limit.",
        )
    unproven = [name for name, verdict in verdicts.items() if verdict == "unproven"]
    if unproven and not allow_unproven:
        raise LimitError(
            f"{manifest.model} is unproven on {', '.join(unproven)}.",
            cause="No such device has measured it, or samples were too few.",
            remedy="Build on such a device, or publish with --allow-unproven: devices prove it in "
            "their preflight.",
        )


def _files(build: Path, manifest: Manifest) -> Iterable[tuple[Path, str, int]]:
    for variant in manifest.variants:
        for file in variant.files:
            yield _place(build, variant, file.path), file.sha256, file.length
    yield build / "golden.safetensors", manifest.golden.sha256, manifest.golden.length
    if manifest.evaluation is not None:
        pack = manifest.evaluation
        yield build / "evaluation.safetensors", pack.sha256, pack.length


def _place(build: Path, variant: VariantEntry, path: str) -> Path:
    """A variant's file: its folder carries a digest that the manifest does not tell."""
    name = _recipe(variant)
    folders = sorted((build / variant.profile).glob(f"{name}@*"))
    wanted = {file.path: file for file in variant.files}[path]
    for folder in folders:
        place = folder / path
        if place.is_file() and place.stat().st_size == wanted.length:
            return place
    raise UsageError(
        f"{build / variant.profile / name}@…/{path} is missing.",
        cause="The build folder was copied in part, or cleaned.",
        remedy="Run `sdk build` again: what is cached costs nothing.",
    )


def _upload(repository: Repository, source: Path, sha256: str, length: int, tell: Tell) -> int:
    place = f"blobs/sha256/{sha256}"
    if repository.store.has(place, length):
        return 0
    found = sha256_of(source)
    if found != sha256:
        raise VerificationError(
            f"{source} has sha256 {found[:16]}…, the manifest says {sha256[:16]}….",
            cause="The file was changed after the build.",
            remedy="Run `sdk build` again.",
        )
    tell(f"uploading {source.name}, {length} bytes")
    repository.store.put(place, source)
    return length
