"""Fleets and installed releases for tests that need many: made once, copied for each."""

from __future__ import annotations

import copy
import dataclasses
import functools
import shutil
import tempfile
from pathlib import Path

from agent.files import make_folders
from agent.manifest import parse, serialise
from agent.updates.blobs import Blobs
from agent.updates.shim_file import begin_count, end_count
from agent.updates.slots import Slots
from tests.updates.fleet import MODEL, Fleet, write_build

_KEPT: list[tempfile.TemporaryDirectory[str]] = []


def fresh_fleet(folder: Path) -> Fleet:
    """A fleet of its own: keys take half a second, a copy of them does not."""
    made = _base()
    fleet = copy.copy(made)
    fleet.folder = folder / "fleet"
    fleet.repo = fleet.folder / "repo"
    shutil.copytree(made.folder, fleet.folder)
    return fleet


@functools.cache
def _base() -> Fleet:
    kept = tempfile.TemporaryDirectory(prefix="slipway-fleet-")
    _KEPT.append(kept)  # until the tests are over
    return Fleet(Path(kept.name) / "base")


def put(state: Path, content: bytes, *, on_trial: bool = False) -> Slots:
    """Install a release whose file holds this, as the agent leaves it: without an agent."""
    slots = Slots(state / "models" / MODEL)
    with tempfile.TemporaryDirectory() as scratch:
        build = write_build(Path(scratch) / "build", {"best": content})
        manifest = parse((build / "manifest.json").read_bytes())
        release = dataclasses.replace(
            manifest, release=content.split()[0].decode(), release_counter=1
        )
        make_folders(state / "blobs" / "sha256")
        blobs = Blobs(state / "blobs" / "sha256")
        (entry,) = release.variants
        part = state / "part"
        part.write_bytes(content)
        blobs.adopt(part, entry.files[0].sha256, len(content))
        old, spare = slots.current(), slots.spare()
        slots.fill(spare, serialise(release), entry, blobs)
    if on_trial:
        begin_count(slots.folder, spare, old)
    else:
        end_count(slots.folder)
    slots.activate(spare)
    return slots
