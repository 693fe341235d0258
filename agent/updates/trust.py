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
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from agent.errors import UsageError, VerificationError
from agent.files import make_folders, point_link, remove_tree, storage_errors, write_atomic
from agent.updates.client import METADATA, Client, tuf_errors
from agent.updates.freshness import (
    EXTENSION,
    TIMESTAMP,
    Freshness,
    freshness_of,
    signed_time,
)
from agent.updates.source import Source, read_short

TARGETS, ROOT = "targets", "root.json"
MANIFEST_BYTES = 4 << 20
"""No release's manifest is longer."""
MOST_COUNTER = 2**53 - 1


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

    def __init__(
        self, client: Client, source: Source, keep: Callable[[], None], now: dt.datetime
    ) -> None:
        self._client = client
        self._source = source
        self._keep = keep
        self._now = now

    def assignment_keys(self, *, offline: bool) -> Keys:
        """Who may say what this device is to run.

        Raises:
            VerificationError: root does not say.
        """
        role = "assignment_offline" if offline else "assignment"
        root = self._client.signed("root")
        with _malformed("root's x-slipway"):
            told = root.unrecognized_fields[EXTENSION][role]
            found = {keyid: root.keys[keyid] for keyid in told["keyids"]}
            threshold = _count(told["threshold"])
            if not 0 < threshold <= len(found):
                raise ValueError(f"threshold {threshold} of {len(found)} keys")
            return Keys(keys=tuple(found.values()), threshold=threshold)

    def signed_at(self) -> tuple[dt.datetime, tuple[str, ...]] | None:
        """When the timestamp was signed, and the names of the keys that may sign it.

        None where it does not say, or says what cannot be.
        """
        timestamp = self._client.signed("timestamp")
        moment = signed_time(timestamp.unrecognized_fields)
        if moment is None or moment >= timestamp.expires:
            return None
        return moment, tuple(self._client.signed("root").roles["timestamp"].keyids)

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
        with tuf_errors():
            info.verify_length_and_hashes(content)
        return content

    def revoked(self, model: str) -> Revoked:
        """What the model's signer took back.

        Raises:
            VerificationError: it is not told in the form that is agreed on.
            NetworkError: it cannot be fetched.
        """
        role = f"model-{model}"
        # Looking a path up is what makes python-tuf fetch the metadata of its role.
        self._found(f"models/{model}/any/manifest.json")
        signed = self._client.signed(role)
        if signed is None:
            return Revoked()
        with _malformed(f"the x-slipway of {role}"):
            told = signed.unrecognized_fields.get(EXTENSION, {})
            return Revoked(
                below=_count(told.get("revoked_below", 0)),
                releases=tuple(_count(counter) for counter in told.get("revoked", ())),
            )

    def _found(self, path: str) -> Any:
        """What is signed of a path; the metadata that this took is kept, and not fetched again."""
        info = self._client.find(path)
        self._client.check_expiry(self._now)
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
            VerificationError: the repository is not to be trusted: which role, and why, and how
                old is what was trusted before.
            NetworkError: it cannot be read.
            StorageError: the disk is full, or cannot be written.
        """
        scratch = self._copied("scratch")
        try:
            view = self._look(scratch, source, now, now, lambda: self._keep(scratch))
        except VerificationError as error:
            raise VerificationError(
                f"{error.what}{self._told_age(now)}", cause=error.cause, remedy=error.remedy
            ) from error
        return view

    def look_into(self, source: Source, issued: dt.datetime, now: dt.datetime) -> View:
        """Look at a package, without a network.

        The expiry of timestamp and snapshot is judged at the time when the assignment was issued,
        all other roles at the device's own; no version may be below what is trusted. What it
        brings is kept, so that a key that was replaced stays replaced, but for its timestamp: a
        time that was judged at its issue says nothing of what the repository shows now.

        Raises:
            VerificationError: the package is not to be trusted.
            NetworkError: a file of it is missing.
            StorageError: the disk is full, or cannot be written.
        """
        package = self._copied("package")
        return self._look(package, source, issued, now, lambda: self._keep(package, package=True))

    def freshness(self) -> Freshness | None:
        """Of the timestamp that is trusted; None before there is one."""
        return freshness_of(self._folder)

    def keyids(self) -> frozenset[str]:
        """The names of all keys that the newest root trusts."""
        roots = self._folder / "current" / "root_history"
        try:
            versions = [int(path.name.partition(".")[0]) for path in roots.glob("*.root.json")]
            newest = roots / f"{max(versions, default=0)}.root.json"
            content = newest.read_bytes() if versions else self._root
            return frozenset(json.loads(content)["signed"]["keys"])
        except (OSError, ValueError, LookupError, TypeError):
            return frozenset()

    def _look(
        self,
        scratch: Path,
        source: Source,
        judged: dt.datetime,
        now: dt.datetime,
        keep: Callable[[], None],
    ) -> View:
        client = Client(scratch, source, self._root, judged)
        try:
            client.refresh()
            client.check_expiry(now)
        finally:
            keep()
        return View(client, source, keep, now)

    def _copied(self, name: str) -> Path:
        """A copy of what is trusted, for python-tuf to work on; it is there until the next one."""
        scratch = self._folder / name
        with storage_errors(self._folder):
            make_folders(self._folder, 0o700)
            if scratch.is_dir() and _content(scratch) == _content(self._folder / "current"):
                return scratch  # most polls change nothing, and flash wears out
            # It need not survive anything, so it is not written by `agent.disk`.
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir(mode=0o700)
            for path, content in _content(self._folder / "current").items():
                (scratch / path).parent.mkdir(exist_ok=True)
                (scratch / path).write_bytes(content)
        return scratch

    def _keep(self, scratch: Path, *, package: bool = False) -> None:
        """Make the copy the trusted one, if anything in it is new."""
        new, old = _content(scratch), _content(self._folder / "current")
        if package:
            new.pop(TIMESTAMP, None)
            new.update({name: old[name] for name in (TIMESTAMP,) if name in old})
        if new == old:
            return
        with storage_errors(self._folder):
            numbers = [int(path.name) for path in self._folder.iterdir() if path.name.isdecimal()]
            place = self._folder / str(1 + max(numbers, default=0))
            for name, content in new.items():
                write_atomic(place / name, content)
            point_link(self._folder / "current", place.name)
            for number in numbers:
                remove_tree(self._folder / str(number))

    def _told_age(self, now: dt.datetime) -> str:
        found = self.freshness()
        age_s = found.age_s(now) if found else None
        if age_s is None:
            return ""
        return f" What is trusted here was signed {dt.timedelta(seconds=age_s)} ago."


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
    try:
        content = root.read_bytes()
    except OSError as error:
        raise UsageError(
            f"{root} cannot be read: {error.strerror}.",
            cause="The path is wrong.",
            remedy="Name the repository's metadata/1.root.json.",
        ) from error
    return keep_root(state, content, str(root))


def keep_root(state: Path, content: bytes, origin: str) -> dict[str, Any]:
    """Keep root metadata that came by a safe way; see `begin_trust`.

    Args:
        state: the state folder.
        content: of the root metadata.
        origin: where it came from, for a person.
    """
    from tuf.api.exceptions import RepositoryError
    from tuf.api.metadata import Metadata, Root

    try:
        found: Metadata[Root] = Metadata[Root].from_bytes(content)
        if found.signed.type != Root.type:
            raise ValueError(f"it is {found.signed.type} metadata")
        found.signed.verify_delegate(Root.type, found.signed_bytes, found.signatures)
    except (RepositoryError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise VerificationError(
            f"{origin} is no root metadata to trust: {error}.",
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


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= MOST_COUNTER:
        raise ValueError(f"{str(value)[:40]} is no count")
    return value


@contextlib.contextmanager
def _malformed(what: str) -> Iterator[None]:
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise VerificationError(
            f"In {what}, something is missing or malformed: {error!r}.",
            cause="The repository was made by something else, or by a newer Slipway.",
            remedy="Nothing was changed. Publish with this version, or update the agent.",
        ) from error


__all__ = [
    "EXTENSION",
    "METADATA",
    "ROOT",
    "TARGETS",
    "Keys",
    "Revoked",
    "Trust",
    "View",
    "begin_trust",
    "keep_root",
]
