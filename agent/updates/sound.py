"""What a release may not hold, whoever signed it: looked at before anything of it is used. Pure.

A signer's key can be stolen, and a signer can err. So names that become paths, lengths that become
room on the disk, and counts that become work are bounded here, where the manifest is first read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from agent.errors import VerificationError
from agent.manifest import Blob, Delta, EvaluationPack, File, Manifest, VariantEntry
from agent.names import check_distinct, check_part, check_path
from agent.versions import version_key

MOST_VARIANTS, MOST_FILES, MOST_DELTAS = 1000, 1000, 16
_SHA256 = re.compile(r"[0-9a-f]{64}")


def check_sound(manifest: Manifest, reserved: Iterable[str] = ()) -> None:
    """Refuse a release that cannot be meant.

    Args:
        manifest: as it was signed.
        reserved: names beside a variant's files that are not a release's to give.

    Raises:
        VerificationError: it leads out of its folder, holds too much of something, or contradicts
            itself.
    """
    check_part(manifest.model)
    if manifest.release is None or manifest.release_counter is None:
        raise _unsound(f"it is a build of {manifest.model} that was never published")
    check_part(manifest.release)
    if manifest.release_counter < 1:
        raise _unsound(f"its counter is {manifest.release_counter}")
    if not 0 < len(manifest.variants) <= MOST_VARIANTS:
        raise _unsound(f"it has {len(manifest.variants)} variants")
    names = [variant.id for variant in manifest.variants]
    if len(set(names)) != len(names):
        raise _unsound("two of its variants have one name")
    for variant in manifest.variants:
        _check_variant(variant, list(reserved))
    lengths: dict[str, int] = {}
    for item in _items(manifest):
        if not _SHA256.fullmatch(item.sha256):
            raise _unsound(f"{item.sha256[:80]!r} is no sha256")
        if item.length < 0 or lengths.setdefault(item.sha256, item.length) != item.length:
            raise _unsound(f"{item.sha256[:16]}… has {item.length} bytes, and other ones elsewhere")


def _check_variant(variant: VariantEntry, reserved: list[str]) -> None:
    check_path(variant.id)
    if not 0 < len(variant.files) <= MOST_FILES:
        raise _unsound(f"{variant.id} has {len(variant.files)} files")
    check_distinct([*reserved, *(file.path for file in variant.files)])
    if any(len(file.deltas) > MOST_DELTAS for file in variant.files):
        raise _unsound(f"a file of {variant.id} has more than {MOST_DELTAS} deltas")
    for delta in (delta for file in variant.files for delta in file.deltas):
        if not _SHA256.fullmatch(delta.base_sha256):
            raise _unsound(f"{delta.base_sha256[:80]!r} is no sha256")
    if variant.unpacked_bytes < 0 or variant.rank < 0:
        raise _unsound(f"{variant.id} takes {variant.unpacked_bytes} bytes, rank {variant.rank}")
    for bound in (variant.runtime.at_least, variant.runtime.below):
        if bound is not None and version_key(bound) is None:
            raise _unsound(f"{bound[:40]!r} is no version of a runtime")


def _items(manifest: Manifest) -> Iterable[Blob | EvaluationPack | File | Delta]:
    yield manifest.golden
    if manifest.evaluation is not None:
        yield manifest.evaluation
    for file in (file for variant in manifest.variants for file in variant.files):
        yield file
        yield from file.deltas


def _unsound(why: str) -> VerificationError:
    return VerificationError(
        f"The manifest is none that a release may have: {why}.",
        cause="It was made by something else, or by somebody who means harm.",
        remedy="Nothing was written. Ask whoever published the release.",
    )
