"""Both ends in one folder: keys and a repository, builds to publish, and devices to install on.

The builds hold any bytes and no model, so nothing here takes a toolchain or a runtime; devices that
only follow the rules of updates have `passing` for a preflight. tests/updates/test_real.py has real
models, with the real one.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from agent.codec import pretty
from agent.config import Config, Trial
from agent.files import sha256_of
from agent.manifest import (
    Blob,
    File,
    Gate,
    Manifest,
    Role,
    Runtime,
    TensorSpec,
    VariantEntry,
    serialise,
)
from agent.tensors import write_tensors
from agent.updates.assignment import Assignment
from agent.updates.home import Home
from agent.updates.proof import Asked, Proof
from agent.updates.trust import begin_trust
from sdk.release import ceremony
from sdk.release.assign import assign, assignment_for
from sdk.release.keystore import KeyStore
from sdk.release.package import export
from sdk.release.publish import Published, publish
from sdk.release.repository import Repository
from sdk.release.store import FolderStore

PASSPHRASE = "correct horse"
MODEL, GROUP = "net", "line-3"


class Fleet:
    """A repository with all its keys, and one model."""

    def __init__(self, folder: Path, *, small: bool = False) -> None:
        self.folder = folder
        self.repo = folder / "repo"
        self.repo.mkdir(parents=True)
        ceremony.initialise(self.repository(), small=small)
        ceremony.add_model(self.repository(), MODEL)

    def repository(self) -> Repository:
        """The repository as it is now, opened anew."""
        keys = KeyStore(self.folder / "keys", PASSPHRASE)
        return Repository(FolderStore(self.repo), keys)

    def build(
        self, name: str = "build", variants: Mapping[str, bytes] | None = None, **manifest: Any
    ) -> Path:
        """A build folder whose variants are these bytes, the best one first."""
        return write_build(self.folder / name, variants or {"best": name.encode() * 50}, **manifest)

    def publish(self, release: str, build: Path | None = None, **options: Any) -> Published:
        """Publish a build; without one, a build of its own."""
        made = build or self.build(f"build-{release}")
        return publish(self.repository(), made, release, **options)

    def assign(self, published: Published, **options: Any) -> Assignment:
        """Assign a release to `GROUP`, or as the options say, and put that into the repository."""
        chosen: dict[str, Any] = options if "device_id" in options else {"group": GROUP, **options}
        return assign(self.repository(), self._later(assignment_for(published, **chosen)))

    def release(self, name: str, build: Path | None = None, **options: Any) -> Assignment:
        """Publish and assign."""
        return self.assign(self.publish(name, build, **options))

    def package(self, published: Published, **options: Any) -> Path:
        """The release as one file, for `GROUP`."""
        chosen: dict[str, Any] = options if "device_id" in options else {"group": GROUP, **options}
        found = self._later(assignment_for(published, **chosen))
        out = self.folder / f"{published.model}-{published.release}-{found.assignment_seq}.zip"
        export(self.repository(), found, out)
        return out

    def device(self, name: str = "device", **config: Any) -> Config:
        """The configuration of a device that trusts this repository and polls it."""
        state = self.folder / name
        begin_trust(state, self.repo / "metadata" / "1.root.json")
        chosen: dict[str, Any] = {
            "repository": str(self.repo),
            "group": GROUP,
            "reserve_mib": 0,
            "trial": Trial(seconds=3600.0),
            **config,
        }
        return Config(state=state, **chosen)

    _issued = 0

    def _later(self, found: Assignment) -> Assignment:
        """Numbers come from the clock's seconds, and tests make several in one."""
        type(self)._issued = max(found.assignment_seq, type(self)._issued + 1)
        return dataclasses.replace(found, assignment_seq=type(self)._issued)


def write_build(
    folder: Path,
    variants: Mapping[str, bytes],
    *,
    verdict: str = "met",
    match: Mapping[str, Any] | None = None,
    selection: str = "rank",
    gates: tuple[Gate, ...] = (),
    files: Mapping[str, Mapping[str, bytes]] | None = None,
    model: str = MODEL,
) -> Path:
    """What `sdk build` leaves, of any bytes; `files` adds some to a variant."""
    folder.mkdir(parents=True)
    golden = folder / "golden.safetensors"
    ones = np.ones((1, 2), np.float32)
    write_tensors(golden, [("00000/in/x", ones), ("00000/out/y", ones)])
    spec = TensorSpec(name="x", dtype="float32", shape=(1, 2))
    roles: tuple[Role, ...] = ("chosen", "runner_up", "baseline")
    entries = []
    for rank, (name, content) in enumerate(variants.items()):
        place = folder / "intel-any" / f"{name}@0123abcd"
        contents = {"model.bin": content, **(files or {}).get(name, {})}
        for path, data in contents.items():
            (place / path).parent.mkdir(parents=True, exist_ok=True)
            (place / path).write_bytes(data)
        entries.append(
            VariantEntry(
                id=f"{model}/intel-any/{name}",
                target="intel",
                profile="intel-any",
                role=roles[min(rank, 2)],
                rank=rank,
                selection=selection,  # type: ignore[arg-type]
                match=dict(match or {}),
                runtime=Runtime(format="onnxruntime", at_least=None, below=None),
                options={},
                unpacked_bytes=sum(map(len, contents.values())),
                files=tuple(
                    File(path=path, sha256=sha256_of(place / path), length=len(data))
                    for path, data in contents.items()
                ),
                floors=(),
                drop_max_ppm=None,
                gates=gates,
                provenance={},
            )
        )
    manifest = Manifest(
        version=1,
        model=model,
        release=None,
        release_counter=None,
        requires=(),
        inputs=(spec,),
        outputs=(dataclasses.replace(spec, name="y"),),
        dims={},
        golden=Blob(sha256=sha256_of(golden), length=golden.stat().st_size),
        evaluation=None,
        variants=tuple(entries),
    )
    (folder / "manifest.json").write_bytes(serialise(manifest))
    summary = {
        "schema": 1,
        "model": model,
        "results": [{"profile": "intel-any", "verdict": verdict}],
    }
    (folder / "summary.json").write_bytes(pretty(summary))
    return folder


def passing(home: Home, asked: Asked, *, log: Path, time_limit_s: float) -> Proof:
    """A preflight that every variant passes whose file says nothing else.

    A file that holds `SLOW` or `WRONG` fails it, and `p50=<ms>` is its measured latency.
    """
    del home, log, time_limit_s
    content = (asked.variant.folder / "model.bin").read_bytes()
    for word in (b"SLOW", b"WRONG"):
        if word in content:
            return Proof(passed=False, stage="speed", reasons=(f"it is {word.decode().lower()}",))
    _, _, tail = content.partition(b"p50=")
    p50 = float(tail.split()[0]) if tail else 1.0
    return Proof(passed=True, stage="speed", facts={"measurement": {"latency_ms": {"p50": p50}}})


def reports_of(home: Home) -> Iterator[dict[str, Any]]:
    """What waits to be sent, opened."""
    import base64

    for _, envelope in home.journal.unsent(1000):
        yield json.loads(base64.b64decode(json.loads(envelope)["payload"]))


def silent(_: str) -> None:
    """Tells nobody."""


def utc(days: float = 0.0) -> dt.datetime:
    """Now, or so many days from now."""
    return dt.datetime.now(tz=dt.timezone.utc) + dt.timedelta(days=days)
