"""What was compiled on this device, such as engines: `prepared/<digest of a variant's files>/`.

Nobody signed these files, so the journal keeps their hashes from the moment they were proven.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from agent.files import remove_tree, sha256_of, storage_errors
from agent.updates.home import Home

_NAME_LENGTH = 64  # of sha256; what else lies there is the sessions' own, such as timing caches


def note_prepared(home: Home, prepared: str | None) -> None:
    """Remember the hashes of what was prepared for a variant, and proven just now.

    Args:
        home: the state folder.
        prepared: where it lies, relative to that; None where nothing is prepared.
    """
    if prepared is not None:
        home.journal.set_fact(_fact(prepared), _hashes(home.folder / prepared))


def is_as_prepared(home: Home, prepared: str | None) -> bool:
    """Whether every file that was noted is as it was; what came since, for other software, may."""
    noted = None if prepared is None else home.journal.fact(_fact(prepared))
    if prepared is None or noted is None:
        return True
    with storage_errors(home.folder / prepared):
        found = _hashes(home.folder / prepared)
    return all(found.get(name) == sha256 for name, sha256 in noted.items())


def forget_prepared(home: Home, prepared: str) -> None:
    """Remove it: it is made anew by the next proof."""
    with storage_errors(home.folder / prepared):
        remove_tree(home.folder / prepared)
    home.journal.set_fact(_fact(prepared), None)


def sweep_prepared(home: Home, wanted: Collection[str]) -> None:
    """Remove what was prepared for variants that are not here any more; `wanted` are digests."""
    folder = home.folder / "prepared"
    for path in sorted(folder.iterdir()):
        if len(path.name) == _NAME_LENGTH and path.name not in wanted:
            forget_prepared(home, f"prepared/{path.name}")


def _hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256_of(path) for path in files}


def _fact(prepared: str) -> str:
    return f"hashes:{prepared}"
