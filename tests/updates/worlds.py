"""A repository in memory, before and after a second release."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from agent.updates.trust import Trust
from sdk.release import ceremony
from sdk.release.keystore import KeyStore
from tests.updates.fleet import MODEL, PASSPHRASE, Fleet
from tests.updates.forge import Repo, signers_of


@dataclasses.dataclass(frozen=True)
class World:
    """A repository with two releases, as it was after the first, and after a root that followed."""

    folder: Path
    root: bytes
    first: Repo
    second: Repo
    path: str
    sha256: str
    content: bytes


def make_world(folder: Path) -> World:
    """One, in an empty folder."""
    fleet = Fleet(folder)
    fleet.publish("1.0.0")
    keys = KeyStore(folder / "keys", PASSPHRASE)
    first = Repo.read(fleet.repo, signers_of(keys))
    ceremony.rotate(fleet.repository(), "root-3")
    made = fleet.publish("2.0.0")
    second = Repo.read(fleet.repo, first.signers)
    sha256 = made.manifest_sha256
    content = second.files[f"targets/models/{MODEL}/2.0.0/{sha256}.manifest.json"]
    root = first.files["metadata/1.root.json"]
    return World(folder, root, first, second, made.path, sha256, content)


def trust_of(world: World, folder: Path) -> Trust:
    """Of a device that begins with the first root."""
    return Trust(folder / "trust", world.root)
