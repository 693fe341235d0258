"""What a repository says, as far as its signatures hold: python-tuf verifies, our files keep.

python-tuf writes neither durably nor all at once. So it works on a copy of the trusted metadata,
which then becomes the trusted one by a rename. What it accepted before an error stays accepted: a
new root counts even if the rest of the repository is broken.

    trust/<n>/            metadata as python-tuf keeps it
    trust/current -> <n>
    trust/scratch, package: its copies
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.errors import NetworkError, SlipwayError, UsageError, VerificationError
from agent.files import make_folders, point_link, storage_error, storage_errors, write_atomic
from agent.updates.source import MissingError, Source, read_short

if TYPE_CHECKING:
    from tuf.ngclient import Updater

METADATA, TARGETS, ROOT = "metadata", "targets", "root.json"
EXTENSION = "x-slipway"
"""The field of signed metadata that is ours: who signs assignments, what is revoked."""
MANIFEST_BYTES = 4 << 20
"""No release's manifest is longer."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Keys:
    """Who may sign something that is no TUF metadata."""

    keys: tuple[Any, ...]
    """`securesystemslib.signer.Key`."""
    threshold: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Revoked:
    """What a model's signer took back."""

    below: int = 0
    """Release counters lower than this."""
    releases: tuple[int, ...] = ()
    """Single release counters."""

    def covers(self, counter: int) -> bool:
        """Whether a release may not run any more."""
        return counter < self.below or counter in self.releases


class View:
    """A repository as it was trusted at one moment."""

    def __init__(self, updater: Updater, source: Source, keep: Callable[[], None]) -> None:
        self._updater = updater
        self._source = source
        self._trusted: Any = updater._trusted_set  # noqa: SLF001  it has no other door
        self._keep = keep

    def assignment_keys(self, *, offline: bool) -> Keys:
        """Who may say what this device is to run.

        Raises:
            VerificationError: root does not say.
        """
        role = "assignment_offline" if offline else "assignment"
        told = self._trusted.root.unrecognized_fields.get(EXTENSION, {}).get(role)
        with _malformed("root's x-slipway"):
            found = tuple(self._trusted.root.keys[keyid] for keyid in told["keyids"])
            threshold = int(told["threshold"])
            if not 0 < threshold <= len({key.keyid for key in found}):
                raise ValueError(f"threshold {threshold} of {len(found)} keys")
            return Keys(keys=found, threshold=threshold)

    def manifest(self, path: str, sha256: str) -> bytes:
        """A release's manifest, signed by its model's key.

        Args:
            path: `models/<name>/<release>/manifest.json`, without its hash.
            sha256: what the assignment says that it is.

        Raises:
            VerificationError: nobody trusted has signed it, or it is another one.
            NetworkError: it cannot be fetched.
        """
        info = self._found(path)
        if info is None:
            raise VerificationError(
                f"No trusted role has signed {path}.",
                cause="It was not published, or the server shows another state of the repository.",
                remedy="Nothing was changed. Publish the release, then assign it again.",
            )
        signed = info.hashes.get("sha256")
        if signed != sha256 or info.length > MANIFEST_BYTES:
            raise VerificationError(
                f"{path} is signed as {str(signed)[:16]}… with {info.length} bytes; the assignment "
                f"asks for {sha256[:16]}….",
                cause="The release was replaced after it was assigned, or the server means harm.",
                remedy="Nothing was changed. Assign the release again.",
            )
        folder, _, name = path.rpartition("/")
        content = read_short(self._source, f"{TARGETS}/{folder}/{sha256}.{name}", info.length)
        with _tuf_errors():
            info.verify_length_and_hashes(content)
        return content

    def revoked(self, model: str) -> Revoked:
        """What the model's signer took back.

        Raises:
            VerificationError: it is not told in the form that is agreed on.
        """
        role = f"model-{model}"
        # Looking a path up is what makes python-tuf fetch the metadata of its role.
        self._found(f"models/{model}/any/manifest.json")
        if role not in self._trusted._trusted_set:  # noqa: SLF001  it has no other door
            return Revoked()
        told = self._trusted[role].unrecognized_fields.get(EXTENSION, {})
        with _malformed(f"the x-slipway of {role}"):
            return Revoked(
                below=int(told.get("revoked_below", 0)),
                releases=tuple(int(counter) for counter in told.get("revoked", ())),
            )

    def _found(self, path: str) -> Any:
        """What is signed of a path; the metadata that this took is kept, and not fetched again."""
        with _tuf_errors():
            info = self._updater.get_targetinfo(path)
        self._keep()
        return info


class Trust:
    """The trusted metadata of one device."""

    def __init__(self, folder: Path, root: bytes) -> None:
        """`folder` is `trust`; `root` is the root metadata that came with the agent."""
        self._folder = folder
        self._root = root

    def refresh(self, source: Source, now: dt.datetime) -> View:
        """Bring the trusted metadata up to date and keep it.

        Args:
            source: the repository.
            now: not before any time that was signed and trusted earlier.

        Raises:
            VerificationError: the repository is not to be trusted: which role, and why.
            NetworkError: it cannot be read.
            StorageError: the disk is full, or cannot be written.
        """
        scratch = self._copied("scratch")
        updater = self._updater(scratch, source, now)
        try:
            with _tuf_errors():
                updater.refresh()
        finally:
            self._keep(scratch)
        return View(updater, source, lambda: self._keep(scratch))

    def look_into(self, source: Source, issued: dt.datetime, now: dt.datetime) -> View:
        """Look at a package without a network: what is trusted stays as it is.

        The expiry of timestamp and snapshot is judged at the time when the assignment was issued,
        all other roles at the device's own; no version may be below what is trusted.

        Raises:
            VerificationError: the package is not to be trusted.
            NetworkError: a file of it is missing.
        """
        updater = self._updater(self._copied("package"), source, issued)
        with _tuf_errors():
            updater.refresh()
        trusted: Any = updater._trusted_set  # noqa: SLF001
        for role in ("root", "targets"):
            _check_expiry(role, trusted[role], now)
        return View(updater, source, lambda: None)

    def _updater(self, scratch: Path, source: Source, now: dt.datetime) -> Updater:
        from tuf.ngclient import Updater, UpdaterConfig

        with _tuf_errors():
            updater = Updater(
                metadata_dir=str(scratch),
                metadata_base_url=METADATA,
                fetcher=_fetcher(source),
                config=UpdaterConfig(),
                bootstrap=self._root,
            )
        updater._trusted_set.reference_time = now  # noqa: SLF001  a device's clock may be wrong
        return updater

    def _copied(self, name: str) -> Path:
        """A copy of what is trusted, for python-tuf to work on; it is there until the next one."""
        scratch = self._folder / name
        with storage_errors(self._folder):
            make_folders(self._folder)
            shutil.rmtree(scratch, ignore_errors=True)
            current = self._folder / "current"
            if current.is_dir():
                shutil.copytree(current, scratch, symlinks=True)
            else:
                scratch.mkdir()
        return scratch

    def _keep(self, scratch: Path) -> None:
        """Make the copy the trusted one, if anything in it is new."""
        new, old = _content(scratch), _content(self._folder / "current")
        if new == old:
            return
        with storage_errors(self._folder):
            number = 1 + max(
                (int(path.name) for path in self._folder.iterdir() if path.name.isdigit()),
                default=0,
            )
            place = self._folder / str(number)
            for name, content in new.items():
                write_atomic(place / name, content)
            point_link(self._folder / "current", place.name)
            for path in self._folder.iterdir():
                if path.name.isdigit() and path != place:
                    shutil.rmtree(path, ignore_errors=True)


def begin_trust(state: Path, root: Path) -> dict[str, Any]:
    """Keep a root metadata file as the one that this device begins with.

    Args:
        state: the state folder.
        root: the file.

    Returns:
        {root_version, root_sha256, expires}: to be compared with what the publisher says.

    Raises:
        UsageError: the file cannot be read, or this device trusts another root already.
        VerificationError: it is no root metadata, or is not signed by its own keys.
    """
    from tuf.api.exceptions import RepositoryError
    from tuf.api.metadata import Metadata, Root

    try:
        content = root.read_bytes()
    except OSError as error:
        raise UsageError(
            f"{root} cannot be read: {error.strerror}.",
            cause="The path is wrong.",
            remedy="Name the repository's metadata/1.root.json.",
        ) from error
    try:
        found: Metadata[Root] = Metadata[Root].from_bytes(content)
        found.verify_delegate(Root.type, found)
    except (RepositoryError, ValueError, AttributeError) as error:
        raise VerificationError(
            f"{root} is no root metadata to trust: {error}.",
            cause="It is another file, or was changed.",
            remedy="Copy the repository's metadata/1.root.json again.",
        ) from error
    place = state / ROOT
    if place.exists() and place.read_bytes() != content:
        raise UsageError(
            f"This device trusts another root already, in {place}.",
            cause="It belongs to another fleet, or the root was made anew.",
            remedy="Devices follow a rotated root by themselves. For another fleet begin with "
            "another state folder.",
        )
    write_atomic(place, content)
    digest = hashlib.sha256(content).hexdigest()
    expires = f"{found.signed.expires:%Y-%m-%d}"
    return {"root_version": found.signed.version, "root_sha256": digest, "expires": expires}


def _content(folder: Path) -> dict[str, bytes]:
    """Every file but `root.json`, which only names the newest of the roots."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*.json"))
        if path.is_file() and not path.is_symlink()
    }


def _fetcher(source: Source) -> Any:
    from tuf.api.exceptions import DownloadError, DownloadHTTPError
    from tuf.ngclient import FetcherInterface

    class Fetcher(FetcherInterface):
        """python-tuf's view of a source."""

        def _fetch(self, url: str) -> Iterator[bytes]:
            try:
                with source.open(url) as stream:
                    yield from stream.chunks
            except MissingError as error:
                raise DownloadHTTPError(error.what, 404) from error
            except NetworkError as error:
                raise DownloadError(error.what) from error

    return Fetcher()


@contextlib.contextmanager
def _tuf_errors() -> Iterator[None]:
    """What python-tuf raises, as what a person can act on."""
    from tuf.api import exceptions as tuf

    try:
        yield
    except tuf.RepositoryError as error:
        cause, remedy = _WHY.get(type(error).__name__, _OTHERWISE)
        raise VerificationError(
            f"The repository is not to be trusted: {error}.", cause=cause, remedy=remedy
        ) from error
    except tuf.DownloadLengthMismatchError as error:
        raise VerificationError(
            f"The repository is not to be trusted: {error}.",
            cause="The server sends more than was signed.",
            remedy="Nothing was changed. Ask whoever runs the server.",
        ) from error
    except tuf.DownloadError as error:
        if isinstance(error.__cause__, SlipwayError):
            raise error.__cause__ from error
        raise NetworkError(
            f"The repository cannot be read: {error}.",
            cause="The network or the server is down, or the repository is not there.",
            remedy="It is tried again by itself.",
        ) from error
    except OSError as error:  # of its copy of the metadata, which python-tuf writes itself
        raise storage_error(error, Path(error.filename or "trust")) from error


_WHY: Mapping[str, tuple[str, str]] = {
    "ExpiredMetadataError": (
        "Nobody signed it anew, or the server holds the newer one back, or the clock is ahead.",
        "What runs goes on running. On the server: sdk repo refresh; on the device: set the clock.",
    ),
    "BadVersionNumberError": (
        "The server shows an older state than this device has seen.",
        "What runs goes on running. Ask whoever runs the server.",
    ),
    "UnsignedMetadataError": (
        "Too few of the keys that are trusted for it have signed it.",
        "What runs goes on running. Publish with the right keys, or rotate them: sdk keys rotate",
    ),
    "LengthOrHashMismatchError": (
        "The server mixes files of different states, or changed one.",
        "What runs goes on running. Publish the repository again as a whole.",
    ),
}
_OTHERWISE = (
    "A file is malformed, or belongs to another repository.",
    "What runs goes on running. Publish the repository again as a whole.",
)


@contextlib.contextmanager
def _malformed(what: str) -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise VerificationError(
            f"In {what}, something is missing or malformed: {error!r}.",
            cause="The repository was made by something else, or by a newer Slipway.",
            remedy="Nothing was changed. Publish with this version, or update the agent.",
        ) from error


def _check_expiry(role: str, signed: Any, now: dt.datetime) -> None:
    if signed.is_expired(now):
        raise VerificationError(
            f"The {role} metadata of the package expired on {signed.expires:%Y-%m-%d}.",
            cause="The package is old, or this device's clock is ahead.",
            remedy="Export the release anew: sdk publish --export FILE",
        )
