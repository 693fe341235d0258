"""The state folder of one agent, opened: its lock, its journal, its blobs, its slots.

agent.db  device.key  device.json  root.json  health.sock  agent.sock
blobs/sha256/  staging/<action>/  models/<name>/{A,B,current,trial}  prepared/  trust/
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from agent.boot import boot_id, uptime_s
from agent.codec import canonical
from agent.config import Config
from agent.device import Device, device_of
from agent.errors import StorageError, UsageError
from agent.files import make_folders, remove_tree, storage_error, storage_errors
from agent.identity import fingerprint
from agent.manifest import Fingerprint, Manifest, VariantEntry
from agent.names import check_part
from agent.updates.blobs import Blobs
from agent.updates.freshness import BUILT
from agent.updates.journal import Journal
from agent.updates.slots import Slot, SlotName, Slots, variant_record
from agent.updates.states import Clock
from agent.updates.trust import ROOT, Revoked, Trust
from agent.variant import prepared_name

_SIGNED = "signed_times"
"""A fact of the journal: key -> the latest time that something it signed was signed."""
_FOLDERS = {
    "blobs/sha256": 0o755,
    "models": 0o755,
    "prepared": 0o755,
    # Nobody else may swap what is still to be verified, or what is trusted.
    "staging": 0o700,
    "trust": 0o700,
}
_FULL_BYTES = 1 << 20


class Home:
    """What one agent has; only one at a time, by a lock on the folder itself."""

    def __init__(self, config: Config) -> None:
        """Open the state folder; what is not there yet is made.

        Raises:
            StorageError: it cannot be written, or another agent has it.
            UsageError: there is no root metadata to trust.
            VerificationError: the device's key cannot be read.
        """
        self.config = config
        self.folder = config.state
        with storage_errors(self.folder):
            for name, mode in _FOLDERS.items():
                make_folders(self.folder / name, mode)
        with contextlib.ExitStack() as opened:
            opened.enter_context(only_agent(self.folder))
            self.trust = Trust(self.folder / "trust", _root(config))
            self.journal = _journal(self.folder)
            opened.callback(self.journal.close)
            self.device: Device = device_of(self.folder)
            self.blobs = Blobs(self.folder / "blobs" / "sha256")
            self._opened = opened.pop_all()

    def slots(self, model: str) -> Slots:
        """A model's slots.

        Raises:
            VerificationError: that is no name of a model.
        """
        return Slots(self.folder / "models" / check_part(model))

    def models(self) -> list[str]:
        """Every model that was ever installed here, or is being installed."""
        return sorted(path.name for path in (self.folder / "models").iterdir() if path.is_dir())

    def installed(self) -> Iterator[tuple[str, Slot]]:
        """Every model that runs here, with its slot."""
        for model in self.models():
            slots = self.slots(model)
            slot = slots.read(slots.current())
            if slot is not None:
                yield model, slot

    def is_revoked(self, manifest: Manifest, said: Revoked | None = None) -> bool:
        """Whether its signer took a release back; what was once said stays known.

        Args:
            manifest: of the release.
            said: what a repository says now, if one was asked.
        """
        model = manifest.model
        if said is not None:
            self.journal.raise_number(f"revoked_below:{model}", said.below)
            known = set(self.journal.fact(f"revoked:{model}") or ())
            if not known >= set(said.releases):
                self.journal.set_fact(f"revoked:{model}", sorted(known | set(said.releases)))
        return known_revoked(self.journal, manifest)

    def prepared(self, manifest: Manifest, variant: VariantEntry) -> str | None:
        """Where a variant's prepared files lie in the state folder; None where it has none."""
        name = f"prepared/{prepared_name(variant_record(manifest, variant))}"
        return name if (self.folder / name).is_dir() else None

    def software(self) -> str:
        """A name for the software of this device: what was proven under one is not under another.

        sha256 of the fingerprint's `software`.
        """
        return hashlib.sha256(canonical(self.fingerprint().software)).hexdigest()

    def is_proven(self, slot: Slot) -> bool:
        """Whether what lies in a slot was proven under the software that is here now."""
        about = [slot.record.manifest_sha256, slot.record.variant, self.software()]
        proven: bool = self.journal.fact(_proven(slot.manifest.model, slot.name)) == about
        return proven

    def note_proven(self, model: str, slot: SlotName, manifest_sha256: str, variant: str) -> None:
        """Remember that what lies in a slot was proven just now."""
        about = [manifest_sha256, variant, self.software()]
        self.journal.set_fact(_proven(model, slot), about)

    def forget_proven(self, slot: Slot) -> None:
        """What lies in a slot is to be proven anew."""
        self.journal.set_fact(_proven(slot.manifest.model, slot.name), None)

    def staging(self, action: str) -> Path:
        """A folder for one action's parts."""
        return self.folder / "staging" / check_part(action)

    def fingerprint(self) -> Fingerprint:
        """What this device is now."""
        return fingerprint(self.config.root_folder)

    def now(self) -> dt.datetime:
        """UTC, and never before this was built or a key which is trusted now has last signed.

        So a key that was stolen, and sets the time years ahead, does so only until root names
        another one.
        """
        wall = max(dt.datetime.now(tz=dt.timezone.utc), BUILT)
        signed = self.journal.fact(_SIGNED)
        if not signed:
            return wall
        trusted = self.trust.keyids()
        floor = max((time for key, time in signed.items() if key in trusted), default=0)
        return max(wall, dt.datetime.fromtimestamp(floor, tz=dt.timezone.utc))

    def signed_at(self, moment: dt.datetime, keyids: Iterable[str]) -> None:
        """Remember when something was signed, by which of the trusted keys."""
        signed = dict(self.journal.fact(_SIGNED) or {})
        later = {key: moment.timestamp() for key in keyids}
        later = {key: time for key, time in later.items() if time > signed.get(key, 0)}
        if later:
            trusted = self.trust.keyids()
            kept = {key: time for key, time in signed.items() if key in trusted}
            self.journal.set_fact(_SIGNED, {**kept, **later})

    def clock(self) -> Clock:
        """For deadlines."""
        return Clock(boot_id=boot_id(self.config.root_folder), uptime_s=uptime_s())

    def free_bytes(self) -> int:
        """Room on the disk beside what is kept free."""
        return shutil.disk_usage(self.folder).free - (self.config.reserve_mib << 20)

    def close(self) -> None:
        """Let another agent have it."""
        self._opened.close()

    def __enter__(self) -> Home:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def known_revoked(journal: Journal, manifest: Manifest) -> bool:
    """Whether a journal remembers that a release was taken back."""
    model, counter = manifest.model, manifest.release_counter or 0
    below = journal.number(f"revoked_below:{model}")
    return counter < below or counter in (journal.fact(f"revoked:{model}") or ())


def is_held(folder: Path) -> bool | None:
    """Whether an agent has a state folder; None where the system does not tell (proc(5))."""
    try:
        inode = str(folder.stat().st_ino)
        locks = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return None
    held = (line.split() for line in locks if " FLOCK " in line)
    return any(words[5].rpartition(":")[2] == inode for words in held if len(words) > 5)


def _proven(model: str, slot: SlotName) -> str:
    return f"proven:{model}:{slot}"


@contextlib.contextmanager
def only_agent(folder: Path) -> Iterator[None]:
    """Be the only agent of a state folder: by a lock on the folder itself.

    One that was moved aside and made anew is another one.

    Raises:
        StorageError: another agent has it, or it cannot be opened.
    """
    with storage_errors(folder):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _lock(descriptor, folder)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_ino != folder.stat().st_ino:
            raise BlockingIOError
    except BlockingIOError as error:
        raise StorageError(
            f"Another agent has the state folder {folder}.",
            cause="sdk-agent run is already running, perhaps as a service.",
            remedy="Stop it first (systemctl stop slipway-agent), or name another --state.",
        ) from error
    except OSError as error:
        raise storage_error(error, folder) from error


def _journal(folder: Path) -> Journal:
    """The journal; on a disk that is too full to open it, what was fetched goes first."""
    try:
        return Journal(folder / "agent.db")
    except StorageError:
        if shutil.disk_usage(folder).free >= _FULL_BYTES:
            raise
        for path in (folder / "staging").iterdir():
            remove_tree(path)
        return Journal(folder / "agent.db")


def _root(config: Config) -> bytes:
    path = config.root or config.state / ROOT
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"There is no root metadata at {path}: {error.strerror}.",
            cause="The agent does not know yet whom to trust.",
            remedy="Bring metadata/1.root.json of your repository here by a safe way, then: "
            "sdk-agent trust 1.root.json",
        ) from error
