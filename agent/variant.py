"""`variant.json`: what a variant's folder says of itself, so that it can be loaded alone.

It holds what the manifest says of this one variant, plus the model's signature. Its files are
listed by hash: a folder that was tampered with or half-copied is found before it is loaded.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

from agent.codec import canonical, decode, pretty
from agent.errors import UsageError, VerificationError
from agent.files import sha256_of
from agent.manifest import File, Runtime, Signature

RECORD_NAME = "variant.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class VariantRecord:
    """A built candidate: what it is, what loads it, and its files. `files[0]` is the entry file."""

    version: int
    id: str
    """`<model>/<profile>/<toolchain>-<precision>-<recipe>`"""
    model: str
    target: str
    profile: str
    runtime: Runtime
    options: dict[str, Any]
    signature: Signature
    files: tuple[File, ...]
    provenance: dict[str, Any]

    @property
    def size_bytes(self) -> int:
        """All files together."""
        return sum(file.length for file in self.files)


def read_record(folder: Path) -> VariantRecord:
    """Read the record of a variant's folder.

    Raises:
        UsageError: there is no such record.
        VerificationError: it is malformed.
    """
    path = folder / RECORD_NAME
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"{folder} holds no variant: {path.name} cannot be read ({error.strerror}).",
            cause="The path is not the folder of one variant.",
            remedy="Name one, such as build/MODEL/PROFILE/chosen, or run `sdk build` first.",
        ) from error
    try:
        value = json.loads(content)
    except ValueError as error:
        raise VerificationError(
            f"{path} is not JSON: {error}.",
            cause="The file was cut short or edited by hand.",
            remedy="Run `sdk build` again.",
        ) from error
    return decode(VariantRecord, value)


def record_bytes(record: VariantRecord) -> bytes:
    """The record as it is written to `variant.json`."""
    return pretty(record)


def prepared_name(record: VariantRecord) -> str:
    """What a variant's folder of prepared files is called: a digest of its files."""
    files = [(file.path, file.sha256) for file in record.files]
    return hashlib.sha256(canonical(files)).hexdigest()


def verify_files(folder: Path, record: VariantRecord) -> None:
    """Check every file against its length and hash.

    Raises:
        VerificationError: one is missing or differs; the message names it with both values.
    """
    for file in record.files:
        path = folder / file.path
        if not path.is_file():
            raise VerificationError(
                f"{path} is missing.",
                cause="The folder was copied in part.",
                remedy="Copy it whole, or run `sdk build` again.",
            )
        found = sha256_of(path)
        if found != file.sha256:
            raise VerificationError(
                f"{path} has sha256 {found[:16]}…, its record says {file.sha256[:16]}….",
                cause="The file was changed or cut short after the build.",
                remedy="Copy it again, or run `sdk build` again.",
            )
