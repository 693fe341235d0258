"""Two slots for each model, and the link that says which one runs.

    models/<name>/A/  files of one variant, hard links to blobs; slot.json; manifest.json
    models/<name>/B/
    models/<name>/current -> A or B

A slot is filled while the other one runs. Its manifest is written last, so a slot that holds a
manifest whose files are all there is complete. The switch is one rename of the link, and nothing
else says what runs.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any, Literal

from agent import disk
from agent.codec import decode, pretty
from agent.errors import VerificationError
from agent.files import (
    make_folders,
    point_link,
    remove_tree,
    sha256_of,
    share,
    storage_errors,
    write_atomic,
)
from agent.manifest import File, Manifest, VariantEntry, parse
from agent.names import check_path
from agent.updates.blobs import Blobs
from agent.variant import RECORD_NAME, VariantRecord

SlotName = Literal["A", "B"]
SLOTS: tuple[SlotName, SlotName] = ("A", "B")
CURRENT, MANIFEST, SLOT = "current", "manifest.json", "slot.json"
OWN_FILES = (MANIFEST, SLOT, RECORD_NAME)
"""Beside a variant's files, here or in a preflight: no release may bring one of these names."""
VERSION = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class SlotRecord:
    """`slot.json`: what a client in any language reads after it has followed `current`."""

    version: int
    manifest_sha256: str
    variant: str
    """The identifier of one of the manifest's variants."""
    files: tuple[File, ...]
    """Beside this record; the first one is what a session opens."""
    options: dict[str, Any]
    prepared: str | None
    """Relative to the state folder: where this device's compiled form lies, if there is one."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Slot:
    """A complete slot."""

    name: SlotName
    folder: Path
    record: SlotRecord
    manifest: Manifest

    @property
    def entry(self) -> VariantEntry:
        """What the manifest says of the variant that lies here."""
        return next(v for v in self.manifest.variants if v.id == self.record.variant)

    @property
    def variant(self) -> VariantRecord:
        """The same as a variant's own record, which sessions open."""
        return variant_record(self.manifest, self.entry)


def variant_record(manifest: Manifest, entry: VariantEntry) -> VariantRecord:
    """What a release says of one variant, as the variant's own record, which sessions open."""
    return VariantRecord(
        version=1,
        id=entry.id,
        model=manifest.model,
        target=entry.target,
        profile=entry.profile,
        runtime=entry.runtime,
        options=dict(entry.options),
        signature=manifest.signature,
        files=entry.files,
        provenance=entry.provenance,
    )


class Slots:
    """The slots of one model."""

    def __init__(self, folder: Path) -> None:
        """`folder` is `models/<name>`."""
        self.folder = folder

    def current(self) -> SlotName | None:
        """The slot that runs; None where nothing is installed."""
        try:
            said = (self.folder / CURRENT).readlink().as_posix()
        except OSError:
            return None
        return next((name for name in SLOTS if name == said), None)

    def spare(self) -> SlotName:
        """The slot to fill: the one that does not run."""
        return "B" if self.current() == "A" else "A"

    def read(self, name: SlotName | None) -> Slot | None:
        """A slot, if it is complete: every file with its length; hashes are `verify`'s."""
        if name is None:
            return None
        folder = self.folder / name
        try:
            content = (folder / MANIFEST).read_bytes()
            record = decode(SlotRecord, json.loads((folder / SLOT).read_bytes()))
            manifest = parse(content)
        except (OSError, ValueError, VerificationError):
            return None
        slot = Slot(name=name, folder=folder, record=record, manifest=manifest)
        named = next((v for v in manifest.variants if v.id == record.variant), None)
        whole = all(_has(folder / file.path, file.length) for file in record.files)
        same = sha256_of_bytes(content) == record.manifest_sha256
        return slot if named and named.files == record.files and whole and same else None

    def verify(self, slot: Slot) -> None:
        """Hash every file again.

        Raises:
            VerificationError: one is not what the manifest says.
        """
        for file in slot.record.files:
            found = sha256_of(slot.folder / file.path)
            if found != file.sha256:
                raise VerificationError(
                    f"{slot.folder / file.path} has sha256 {found[:16]}…, its manifest says "
                    f"{file.sha256[:16]}….",
                    cause="The disk is failing, or somebody changed the file.",
                    remedy="Nothing was activated; install the release again.",
                )

    def clear(self, name: SlotName) -> None:
        """Empty a slot that does not run, its manifest first: what is half gone is not complete.

        Nothing of this is made durable: a power cut may bring some back, which is cleared again
        before the slot is filled.

        Raises:
            ValueError: it is the slot that runs.
        """
        if name == self.current():
            raise ValueError(f"slot {name} of {self.folder.name} runs")
        folder = self.folder / name
        if not folder.is_dir():
            return
        with storage_errors(folder):
            disk.unlink(folder / MANIFEST)
            remove_tree(folder)

    def fill(
        self,
        name: SlotName,
        content: bytes,
        variant: VariantEntry,
        blobs: Blobs,
        *,
        prepared: str | None = None,
    ) -> Slot:
        """Fill a slot that does not run with one variant; its manifest is written last.

        Args:
            name: of the slot.
            content: the signed manifest's bytes.
            variant: the one of its variants that is to run here.
            blobs: hold its files.
            prepared: where its compiled form lies, relative to the state folder.

        Raises:
            StorageError: the disk is full, or cannot be written.
            VerificationError: a path of the manifest leads elsewhere.
        """
        self.clear(name)
        folder = self.folder / name
        folders = {folder}
        with storage_errors(folder):
            make_folders(folder)
            for file in variant.files:
                place = folder / check_path(file.path)
                make_folders(place.parent)
                folders.add(place.parent)
                share(blobs.path(file.sha256), place)
            for made in sorted(folders, key=lambda path: -len(path.parts)):
                disk.sync_folder(made)
        record = SlotRecord(
            version=VERSION,
            manifest_sha256=sha256_of_bytes(content),
            variant=variant.id,
            files=variant.files,
            options=dict(variant.options),
            prepared=prepared,
        )
        write_atomic(folder / SLOT, pretty(record))
        write_atomic(folder / MANIFEST, content)
        found = self.read(name)
        if found is None:
            raise VerificationError(
                f"Slot {name} of {self.folder.name} was filled, and is not complete.",
                cause="A blob is shorter than it was, or the disk is failing.",
                remedy="Nothing was activated; it is fetched again at the next attempt.",
            )
        return found

    def activate(self, name: SlotName) -> None:
        """The commit point: one rename makes this slot the one that runs."""
        point_link(self.folder / CURRENT, name)


def sha256_of_bytes(content: bytes) -> str:
    """Hex digest."""
    return hashlib.sha256(content).hexdigest()


def _has(path: Path, length: int) -> bool:
    try:
        return path.stat().st_size == length
    except OSError:
        return False
