"""The command line by which tuf-conformance drives a client, over the agent's own trust.

    python -m tests.conformance.client --metadata-dir DIR init ROOT
    python -m tests.conformance.client --metadata-dir DIR --metadata-url URL refresh
    ... --target-name NAME --target-base-url URL --target-dir DIR download

What is under test is the agent's: `agent.updates.trust` (python-tuf verifies, our files keep) over
`agent.updates.source.HttpSource`. This file maps the suite's two addresses to the one folder that
the agent knows, copies what is trusted to where the suite looks, and fetches targets of any name.
The suite is at https://github.com/theupdateframework/tuf-conformance, its protocol in CLIENT-CLI.md.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import shutil
import sys
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tuf.api.exceptions import RepositoryError

from agent.errors import SlipwayError, VerificationError
from agent.files import write_atomic
from agent.updates.http_source import HttpSource
from agent.updates.source import Stream, read_short
from agent.updates.trust import METADATA, TARGETS, Trust, View

ROOT, STATE = "root.json", "state"


class AnyNames(HttpSource):
    """Metadata of roles that may be called anything, as our models may not: nothing is a folder."""

    def _url(self, path: str) -> str:
        return self._base + urllib.parse.quote(path, "")


class Places:
    """A repository whose metadata and targets lie at two addresses."""

    def __init__(self, metadata_url: str, target_base_url: str | None) -> None:
        self._places: dict[str, HttpSource] = {METADATA: AnyNames(metadata_url)}
        if target_base_url is not None:
            self._places[TARGETS] = HttpSource(target_base_url)

    @contextlib.contextmanager
    def open(self, path: str, *, offset: int = 0, etag: str | None = None) -> Iterator[Stream]:
        """See `agent.updates.source.Source`."""
        place, _, rest = path.partition("/")
        with self._places[place].open(rest, offset=offset, etag=etag) as stream:
            yield stream


def refreshed(folder: Path, source: Places) -> View:
    """The repository as the agent trusts it after a refresh."""
    trust = Trust(folder / STATE, (folder / STATE / ROOT).read_bytes())
    return trust.refresh(source, dt.datetime.now(tz=dt.timezone.utc))


def show(folder: Path) -> None:
    """Copy what is trusted to where the suite looks for it: the metadata folder itself."""
    current = folder / STATE / "current"
    if not current.is_dir():
        return
    for path in folder.glob("*.json"):
        path.unlink()
    for path in current.glob("*.json"):
        shutil.copyfile(path, folder / path.name)
    roots = (current / "root_history").glob("*.root.json")
    newest = max(roots, key=lambda path: int(path.name.partition(".")[0]))
    shutil.copyfile(newest, folder / ROOT)


def download(view: View, source: Places, name: str, folder: Path) -> None:
    """Have a target in a folder; one that is there already is not fetched."""
    info = view._found(name)
    if info is None:
        raise VerificationError(f"No trusted role has signed {name}.")
    place = folder / urllib.parse.quote(name, "")
    if place.is_file() and _fits(info, place.read_bytes()):
        return
    above, slash, file = name.rpartition("/")
    if view._client.signed("root").consistent_snapshot:
        file = f"{next(iter(info.hashes.values()))}.{file}"
    content = read_short(source, f"{TARGETS}/{above}{slash}{file}", info.length)
    info.verify_length_and_hashes(content)
    write_atomic(place, content)


def _fits(info: Any, content: bytes) -> bool:
    try:
        info.verify_length_and_hashes(content)
    except RepositoryError:
        return False
    return True


def main() -> int:
    """Do what the suite asks; 1 where anything of it failed."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--metadata-dir", type=Path, required=True)
    parser.add_argument("--metadata-url")
    parser.add_argument("--target-name", action="append", default=[])
    parser.add_argument("--target-base-url")
    parser.add_argument("--target-dir", type=Path)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("init").add_argument("root", type=Path)
    verbs.add_parser("refresh")
    verbs.add_parser("download")
    asked = parser.parse_args()
    if asked.verb == "init":
        write_atomic(asked.metadata_dir / STATE / ROOT, asked.root.read_bytes())
        shutil.copyfile(asked.root, asked.metadata_dir / ROOT)
        return 0
    source = Places(asked.metadata_url, asked.target_base_url)
    try:
        view = refreshed(asked.metadata_dir, source)
        for name in asked.target_name:
            download(view, source, name, asked.target_dir)
    except (SlipwayError, RepositoryError) as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 1
    finally:
        show(asked.metadata_dir)
    return 0


if __name__ == "__main__":
    sys.exit(main())
