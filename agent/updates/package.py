"""A release in one file, for devices without a network: a zip that nothing is unpacked from.

Its members are stored, not compressed, and are read in place by their paths, as a repository's
files are. What is in them counts by signatures and hashes alone; here it is only made sure that
reading them can neither lead elsewhere nor take more than the file has.

    assignment.json  metadata/...  targets/models/<name>/<release>/<sha256>.manifest.json
    blobs/sha256/<hex>
"""

from __future__ import annotations

import contextlib
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path

from agent.errors import UsageError, VerificationError
from agent.names import check_path
from agent.updates.source import CHUNK_BYTES, MissingError, Stream

ASSIGNMENT = "assignment.json"
MOST_MEMBERS = 10_000
_DEPTH = 6


class PackageSource:
    """The files of a package."""

    def __init__(self, path: Path) -> None:
        """Open a package.

        Raises:
            UsageError: there is no such file.
            VerificationError: it is no package, or holds what none may hold.
        """
        self._path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except OSError as error:
            raise UsageError(
                f"The package {path} cannot be read: {error.strerror or error}.",
                cause="The path is wrong, or the stick is gone.",
                remedy="Name the file that sdk publish --export has written.",
            ) from error
        except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
            raise _refused(path, str(error)) from error
        try:
            _check(path, self._zip.infolist())
        except BaseException:
            self._zip.close()
            raise

    def close(self) -> None:
        """Give the file back."""
        self._zip.close()

    def __enter__(self) -> PackageSource:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def open(self, path: str, *, offset: int = 0, etag: str | None = None) -> Iterator[Stream]:
        """See `agent.updates.source.Source`."""
        del etag
        try:
            member = self._zip.open(path)
        except KeyError as error:
            raise MissingError(
                f"The package {self._path} has no {path}.",
                cause="It was made for another device, or was cut short.",
                remedy="Export it anew for this device: sdk publish --export FILE",
            ) from error
        except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError) as error:
            raise _refused(self._path, f"{path}: {error}") from error
        with member:
            member.seek(offset)
            yield Stream(offset=offset, chunks=self._chunks(member, path), etag=None)

    def _chunks(self, member: object, path: str) -> Iterator[bytes]:
        read = getattr(member, "read")  # noqa: B009
        try:
            while chunk := read(CHUNK_BYTES):
                yield chunk
        except (zipfile.BadZipFile, OSError, EOFError) as error:
            raise _refused(self._path, f"{path}: {error}") from error


def _check(path: Path, members: list[zipfile.ZipInfo]) -> None:
    if len(members) > MOST_MEMBERS:
        raise _refused(path, f"it has {len(members)} members, {MOST_MEMBERS} at most are read")
    seen: set[str] = set()
    size = path.stat().st_size
    for member in members:
        name = member.filename
        kind = stat.S_IFMT(member.external_attr >> 16)
        if kind not in (0, stat.S_IFREG) or member.is_dir():
            raise _refused(path, f"{name[:80]!r} is no regular file")
        if member.flag_bits & 0x1 or member.compress_type != zipfile.ZIP_STORED:
            raise _refused(path, f"{name[:80]!r} is encrypted or compressed")
        if member.file_size != member.compress_size or member.file_size > size:
            raise _refused(path, f"{name[:80]!r} claims {member.file_size} bytes")
        if len(name.split("/")) > _DEPTH:
            raise _refused(path, f"{name[:80]!r} is too deep")
        for part in name.split("/"):
            check_path(part)
        if name.casefold() in seen:
            raise _refused(path, f"{name[:80]!r} is there twice")
        seen.add(name.casefold())


def _refused(path: Path, why: str) -> VerificationError:
    return VerificationError(
        f"{path} is no package that can be trusted: {why}.",
        cause="It was cut short, or made by something else.",
        remedy="Nothing was changed. Copy it again, or export it anew.",
    )
