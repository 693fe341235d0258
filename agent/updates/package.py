"""A release in one file, for devices without a network: a zip that nothing is unpacked from.

Its members are stored, not compressed, and are read in place by their paths, as a repository's
files are. What is in them counts by signatures and hashes alone; here it is only made sure that
reading them can neither lead elsewhere nor take more than the file has. So the archive is read by
these few lines and not by a library that makes the best of any: APPNOTE.TXT 6.3.10, sections 4.3
and 4.5.3, of which a package uses the least that other tools can still open.

    assignment.json  metadata/...  targets/models/<name>/<release>/<sha256>.manifest.json
    blobs/sha256/<hex>
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from agent.errors import NetworkError, UsageError, VerificationError
from agent.names import check_part
from agent.updates.source import CHUNK_BYTES, MissingError, Stream, open_regular

ASSIGNMENT = "assignment.json"
MOST_MEMBERS = 10_000
_DEPTH = 6
_DIRECTORY_BYTES = MOST_MEMBERS * 400  # 46 of each entry, its path, and 28 of ZIP64
_END = struct.Struct("<4s4H2LH")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR_64 = struct.Struct("<4sLQL")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_FULL_16, _FULL_32 = 0xFFFF, 0xFFFFFFFF  # "see the ZIP64 field"
_FLAG_UTF8 = 0x800
_STORED = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Member:
    offset: int
    """Of its local header."""
    size: int
    until: int
    """Where the next member's header begins, or the directory."""


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
            self._file = open_regular(path)
        except OSError as error:
            raise UsageError(
                f"The package {path} cannot be read: {error.strerror or error}.",
                cause="The path is wrong, or the stick is gone.",
                remedy="Name the file that sdk assign --export has written.",
            ) from error
        try:
            self._members = self._read_members()
        except BaseException:
            self._file.close()
            raise

    def close(self) -> None:
        """Give the file back."""
        self._file.close()

    def __enter__(self) -> PackageSource:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def open(self, path: str, *, offset: int = 0, etag: str | None = None) -> Iterator[Stream]:
        """See `agent.updates.source.Source`."""
        del etag
        member = self._members.get(path)
        if member is None:
            raise MissingError(
                f"The package {self._path} has no {path}.",
                cause="It was made for another device, or was cut short.",
                remedy="Export it anew for this device: sdk assign MODEL RELEASE --export FILE",
            )
        begin = min(offset, member.size)
        start = self._start_of(path, member)
        yield Stream(
            offset=begin, chunks=self._pieces(start + begin, start + member.size), etag=None
        )

    def _pieces(self, at: int, end: int) -> Iterator[bytes]:
        while at < end:
            chunk = self._pread(at, min(CHUNK_BYTES, end - at))
            yield chunk
            at += len(chunk)

    def _pread(self, at: int, size: int) -> bytes:
        """That many bytes, or fewer but some: from a place, so that readers do not share one."""
        try:
            content = os.pread(self._file.fileno(), size, at)
        except OSError as error:
            raise NetworkError(
                f"The package {self._path} cannot be read: {error.strerror}.",
                cause="The stick was pulled out, or is failing.",
                remedy="Put it back, and install the package again: it goes on where it was.",
            ) from error
        if not content:
            self._refuse(f"it ends before byte {at + size}")
        return content

    def _exactly(self, at: int, size: int) -> bytes:
        content = self._pread(at, size) if size else b""
        if len(content) != size:
            self._refuse(f"it ends before byte {at + size}")
        return content

    def _read_members(self) -> dict[str, _Member]:
        count, size, start = self._directory()
        if count > MOST_MEMBERS or size > _DIRECTORY_BYTES:
            self._refuse(f"it has {count} members, {MOST_MEMBERS} at most are read")
        found = self._entries(self._exactly(start, size), count)
        in_order = sorted(found.items(), key=lambda item: item[1][0])
        members, seen = {}, set()
        for (name, (offset, length)), (_, (until, _)) in itertools.pairwise(
            [*in_order, ("", (start, 0))]
        ):
            if offset + _LOCAL.size + len(name) + length > until:
                self._refuse(f"{name[:80]!r} reaches into what follows it")
            if name.casefold() in seen:
                self._refuse(f"{name[:80]!r} is there twice")
            seen.add(name.casefold())
            members[name] = _Member(offset=offset, size=length, until=until)
        return members

    def _directory(self) -> tuple[int, int, int]:
        """How many entries it has, how many bytes they take, and where they begin."""
        size = os.fstat(self._file.fileno()).st_size
        at = size - _END.size
        if at < 0:
            self._refuse("it is no zip")
        magic, disk, first, here, count, length, start, comment = _END.unpack(
            self._exactly(at, _END.size)
        )
        if magic != b"PK\5\6" or comment or disk or first or here != count:
            self._refuse("it is no zip, or one of several disks, or something follows it")
        if count == _FULL_16 or _FULL_32 in (length, start):
            at, count, length, start = self._directory_64(at)
        if start + length != at:
            self._refuse("its directory is not where it should be")
        return count, length, start

    def _directory_64(self, end: int) -> tuple[int, int, int, int]:
        at = end - _LOCATOR_64.size - _END_64.size
        if at < 0:
            self._refuse("it is no zip")
        magic, disk, place, disks = _LOCATOR_64.unpack(
            self._exactly(end - _LOCATOR_64.size, _LOCATOR_64.size)
        )
        if (magic, disk, place, disks) != (b"PK\6\7", 0, at, 1):
            self._refuse("its ZIP64 locator is malformed")
        magic, _, _, _, disk, first, here, count, length, start = _END_64.unpack(
            self._exactly(at, _END_64.size)
        )
        if magic != b"PK\6\6" or disk or first or here != count:
            self._refuse("its ZIP64 end is malformed")
        return at, count, length, start

    def _entries(self, directory: bytes, count: int) -> dict[str, tuple[int, int]]:
        """Path -> offset and size, of the directory's entries, each of which has to be plain."""
        found: dict[str, tuple[int, int]] = {}
        at = 0
        for _ in range(count):
            if at + _ENTRY.size > len(directory):
                self._refuse("its directory ends too early")
            fields = _ENTRY.unpack_from(directory, at)
            magic, _, _, flags, method, _, _, _, packed, size, n, x, c, disk, _, kind, offset = (
                fields
            )
            at += _ENTRY.size
            name = directory[at : at + n].decode("ascii", "replace")
            extra = directory[at + n : at + n + x]
            at += n + x + c
            if magic != b"PK\1\2" or at > len(directory) or disk:
                self._refuse("its directory is malformed")
            if stat.S_IFMT(kind >> 16) not in (0, stat.S_IFREG) or kind & 0x10:
                self._refuse(f"{name[:80]!r} is no regular file")
            if flags & ~_FLAG_UTF8 or method != _STORED:
                self._refuse(f"{name[:80]!r} is encrypted or compressed")
            size, packed, offset = self._wide(extra, size, packed, offset)
            if size != packed:
                self._refuse(f"{name[:80]!r} claims {size} bytes, and has {packed}")
            self._check_name(name)
            if name in found:
                self._refuse(f"{name[:80]!r} is there twice")
            found[name] = (offset, size)
        if at != len(directory):
            self._refuse("its directory holds more than its entries")
        return found

    def _wide(self, extra: bytes, *values: int) -> list[int]:
        """The values, those that are too large for 32 bits from the ZIP64 field, in its order."""
        wide = b""
        while len(extra) >= 4:
            tag, size = struct.unpack_from("<2H", extra)
            if tag == 1:
                wide = extra[4 : 4 + size]
            extra = extra[4 + size :]
        result = []
        for value in values:
            if value == _FULL_32:
                if len(wide) < 8:
                    self._refuse("a ZIP64 field is too short")
                result.append(int.from_bytes(wide[:8], "little"))
                wide = wide[8:]
            else:
                result.append(value)
        return result

    def _check_name(self, name: str) -> None:
        parts = name.split("/")
        if len(parts) > _DEPTH:
            self._refuse(f"{name[:80]!r} is too deep")
        for part in parts:
            check_part(part)

    def _start_of(self, name: str, member: _Member) -> int:
        """Where a member's content begins; its own header has to say what the directory says."""
        head = self._exactly(member.offset, _LOCAL.size)
        magic, _, flags, method, _, _, _, _, _, n, x = _LOCAL.unpack(head)
        own = self._exactly(member.offset + _LOCAL.size, n) if n == len(name) else b""
        start: int = member.offset + _LOCAL.size + n + x
        plain = magic == b"PK\3\4" and not flags & ~_FLAG_UTF8 and method == _STORED
        if not plain or own != name.encode() or start + member.size > member.until:
            self._refuse(f"the header of {name[:80]!r} is not what its directory says")
        return start

    def _refuse(self, why: str) -> NoReturn:
        raise VerificationError(
            f"{self._path} is no package that can be trusted: {why}.",
            cause="It was cut short, or made by something else.",
            remedy="Nothing was changed. Copy it again, or export it anew.",
        )
