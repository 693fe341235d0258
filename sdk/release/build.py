"""A build folder, as `sdk build` leaves it, before it is published: whole, and proven so far."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agent.errors import LimitError, SlipwayError, UsageError
from agent.files import sha256_of
from agent.manifest import Manifest, VariantEntry, parse
from agent.names import check_distinct, check_path
from sdk.release.ceremony import check_model
from sdk.release.store import changed

# What sdk.output calls them; it knows targets, which a fleet server must not.
GOLDEN, EVALUATION = "golden.safetensors", "evaluation.safetensors"
_RELEASE = re.compile(r"[0-9A-Za-z][0-9A-Za-z._+-]{0,63}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """One file of a build."""

    path: Path
    sha256: str
    length: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Build:
    """A build folder."""

    folder: Path
    manifest: Manifest
    verdicts: dict[str, str]
    """Profile -> verdict."""
    broken: tuple[str, ...]
    """Variants of the manifest that break a limit, by the summary."""

    @property
    def sources(self) -> Iterator[Source]:
        """All files that a release of it holds."""
        for variant in self.manifest.variants:
            for file in variant.files:
                yield self.file(variant, file.path)
        golden, pack = self.manifest.golden, self.manifest.evaluation
        yield Source(path=self.folder / GOLDEN, sha256=golden.sha256, length=golden.length)
        if pack is not None:
            yield Source(path=self.folder / EVALUATION, sha256=pack.sha256, length=pack.length)

    def file(self, variant: VariantEntry, path: str) -> Source:
        """A variant's file: its folder carries a digest that the manifest does not tell.

        Raises:
            UsageError: it is not there.
        """
        name = variant.id.rpartition("/")[2]
        above = self.folder / str(check_path(variant.profile))
        wanted = next(file for file in variant.files if file.path == path)
        found = [
            folder / str(check_path(path))
            for folder in sorted(above.glob(f"{check_path(name)}@*"))
            if (folder / path).is_file()
        ]
        same = [place for place in found if place.stat().st_size == wanted.length] or found
        if not same:
            raise UsageError(
                f"{above / name}@…/{path} is missing.",
                cause="The build folder was copied in part, or cleaned.",
                remedy="Run `sdk build` again: what is cached costs nothing.",
            )
        right = (place for place in same if sha256_of(place) == wanted.sha256)
        place = same[0] if len(same) == 1 else next(right, same[0])
        return Source(path=place, sha256=wanted.sha256, length=wanted.length)


def read_build(folder: Path) -> Build:
    """A build folder.

    Raises:
        UsageError: it is none.
        VerificationError: a path in it leads elsewhere.
    """
    try:
        manifest = parse((folder / "manifest.json").read_bytes())
        summary = json.loads((folder / "summary.json").read_bytes())
        verdicts = {str(one["profile"]): str(one["verdict"]) for one in summary["results"]}
        candidates = [one for result in summary["results"] for one in result.get("candidates", ())]
        broken = {str(one["identifier"]) for one in candidates if _breaks(one)}
        model = summary["model"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SlipwayError) as error:
        what = error.what if isinstance(error, SlipwayError) else f"{type(error).__name__}: {error}"
        raise UsageError(
            f"{folder} is no build: {what}",
            cause="The path is not that of a model in a build folder.",
            remedy="Name one, such as build/my-model, or run `sdk build` first.",
        ) from error
    if model != manifest.model or manifest.release is not None:
        raise UsageError(
            f"{folder} is no build: its manifest is of {manifest.model} {manifest.release or ''}, "
            f"its summary of {model}.",
            cause="Files of different builds were mixed, or this is a release already.",
            remedy="Name what `sdk build` has written.",
        )
    check_model(manifest.model)
    for variant in manifest.variants:
        check_distinct(file.path for file in variant.files)
    return Build(
        folder=folder,
        manifest=manifest,
        verdicts=verdicts,
        broken=tuple(one.id for one in manifest.variants if one.id in broken),
    )


def check_verdicts(build: Build, *, allow_unproven: bool) -> None:
    """Whether what was proven is enough.

    Raises:
        LimitError: a limit is unmet, or unproven without leave.
    """
    model = build.manifest.model
    unmet = [name for name, verdict in build.verdicts.items() if verdict == "unmet"]
    if unmet or build.broken or not build.manifest.variants:
        raise LimitError(
            f"Nothing of {model} is published: a limit is unmet by "
            f"{', '.join([*unmet, *build.broken]) or 'every candidate'}.",
            cause="A variant that breaks a limit never goes to a device.",
            remedy="See the build's report; build the profiles that keep theirs, or loosen the "
            "limit.",
        )
    profiles = dict.fromkeys(variant.profile for variant in build.manifest.variants)
    unproven = [name for name in profiles if build.verdicts.get(name) != "met"]
    if unproven and not allow_unproven:
        raise LimitError(
            f"{model} is unproven on {', '.join(unproven)}.",
            cause="No such device has measured it, or samples were too few.",
            remedy="Build on such a device, or publish with --allow-unproven: devices prove it in "
            "their preflight.",
        )


def check_files(build: Build) -> list[Source]:
    """All files of a build, each once, if they are what the manifest says.

    Raises:
        UsageError: one is missing.
        VerificationError: one was changed.
    """
    found = {}
    for source in build.sources:
        if source.sha256 in found:
            continue
        try:
            own = sha256_of(source.path)
        except OSError as error:
            raise UsageError(
                f"{source.path} cannot be read: {error.strerror}.",
                cause="The build folder was copied in part, or cleaned.",
                remedy="Run `sdk build` again: what is cached costs nothing.",
            ) from error
        if own != source.sha256 or source.path.stat().st_size != source.length:
            raise changed(source.path, own, source.sha256)
        found[source.sha256] = source
    return list(found.values())


def check_release(release: str) -> None:
    """Whether a release may be called so.

    Raises:
        UsageError: its name cannot be a part of a path everywhere.
    """
    try:
        check_path(release)
        plain = _RELEASE.fullmatch(release) is not None
    except SlipwayError:
        plain = False
    if not plain:
        raise UsageError(
            f"{release!r} is no name for a release.",
            cause="It becomes part of a path.",
            remedy="Use letters, digits, dots, underscores, plus and minus, such as 1.2.0",
        )


def _breaks(candidate: dict[str, Any]) -> bool:
    return any(limit["verdict"] == "unmet" for limit in candidate.get("limits", ()))
