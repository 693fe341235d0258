"""Names that come from elsewhere, before they become paths here. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePosixPath

from agent.errors import VerificationError

MOST_PARTS = 4
MOST_LENGTH = 200
_PART = re.compile(r"[A-Za-z0-9_@+=][A-Za-z0-9_.@+=-]*")  # a dash in front would be an option
_DEVICES = frozenset(  # reserved by Windows, so nobody's file
    {"con", "prn", "aux", "nul"} | {f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10)}
)


def check_path(name: str) -> PurePosixPath:
    """A relative path of plain names, as files of a variant have them.

    >>> check_path("weights/model.bin").as_posix()
    'weights/model.bin'

    Raises:
        VerificationError: it is absolute, leads upwards, is hidden, too deep or too long, or holds
            anything but letters, digits and `_.@+=-`.
    """
    parts = name.split("/")
    plain = (
        0 < len(name) <= MOST_LENGTH
        and len(parts) <= MOST_PARTS
        and all(_PART.fullmatch(part) and not part.endswith(".") for part in parts)
        and not any(part.partition(".")[0].lower() in _DEVICES for part in parts)
    )
    if not plain:
        raise _refused(name)
    return PurePosixPath(name)


def check_part(name: str) -> str:
    """The name of one file or folder.

    Raises:
        VerificationError: as for `check_path`, or it has several parts.
    """
    if len(check_path(name).parts) != 1:
        raise _refused(name)
    return name


def check_distinct(names: Iterable[str]) -> None:
    """Refuse paths that are the same on some file system.

    Raises:
        VerificationError: two differ in case alone, or one is a folder of another.
    """
    seen: set[str] = set()
    folders: set[str] = set()
    for name in names:
        folded = check_path(name).as_posix().casefold()
        above = {parent.as_posix() for parent in PurePosixPath(folded).parents} - {"."}
        if folded in seen or folded in folders or above & seen:
            raise VerificationError(
                f"The path {name!r} is there twice, or is a folder of another one.",
                cause="On some file systems names that differ in case alone are one file.",
                remedy="Nothing was written. Ask whoever published the release.",
            )
        seen.add(folded)
        folders |= above


def _refused(name: str) -> VerificationError:
    return VerificationError(
        f"The path {name[:80]!r} is not one that a release may hold.",
        cause="It leads out of its folder, or holds characters that some file systems lack.",
        remedy="Nothing was written. Ask whoever published the release.",
    )
