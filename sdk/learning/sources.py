"""Where reports are read from: builds' folders and files, the catalog, an export of a fleet.

A fleet's line names a variant of a signed manifest, which says recipe and program; the program's
operators are known to whoever built it: the catalog and the builds at hand.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from agent.codec import decode
from agent.errors import UsageError, VerificationError
from agent.files import storage_errors
from agent.manifest import Fingerprint, Manifest, parse
from sdk.catalog import Catalog
from sdk.learning.gather import Sighting
from sdk.learning.records import FILE_NAME, Reports, parse_reports
from targets.interface import Program, Recipe

CATALOG = "catalog"
"""The word for what the builds of this user have measured."""
_EXPORT = ".jsonl"
_SHA256 = "manifest_sha256"

Fetch = Callable[[str, str, str], bytes | None]
"""Model, release and sha256 of its manifest -> the manifest, where it can be had."""


class Sources:
    """All that is known here: reports of builds, and the programs that fleets report of."""

    def __init__(self, catalog: Catalog, fetch: Fetch | None = None) -> None:
        """Nothing is read yet.

        Args:
            catalog: of this user's builds.
            fetch: asks a fleet's server for what the catalog has not.
        """
        self._catalog = catalog
        self._fetch = fetch or (lambda *_: None)
        self._manifests: dict[str, Manifest | None] = {}
        self._programs: dict[str, Program | None] = {}

    def read(self, named: Iterable[str]) -> list[Sighting]:
        """The reports in these places: folders and files of builds, exports, or `catalog`.

        Raises:
            UsageError: there is none, or it is malformed.
        """
        found: list[Sighting] = []
        exports: list[Path] = []
        for name in named:
            if name == CATALOG:
                found += [one for kept in self._kept() for one in kept.sightings()]
            elif name.endswith(_EXPORT):
                exports.append(Path(name))
            else:
                reports = _reports_at(Path(name))
                self._programs.setdefault(reports.program.digest, reports.program)
                found += reports.sightings()
        for path in exports:  # after the builds, whose programs they may be of
            with storage_errors(path), path.open("rb") as stream:
                found += self.fleet(lines(stream, str(path)))
        return found

    def fleet(self, lines: Iterable[Mapping[str, Any]]) -> Iterator[Sighting]:
        """What a fleet's devices measured, as its export tells it."""
        for line in lines:
            variant = str(line.get("variant"))
            recipe, program = self._built(line, variant)
            yield Sighting(
                device=str(line.get("device_id")),
                origin="fleet",
                variant=variant,
                fingerprint=_fingerprint(line.get("fingerprint")),
                program=program,
                recipe=recipe,
                ms=_number(line.get("p50_ms")),
                stable=line.get("stable") is True,
                notes=tuple(map(str, line.get("notes") or ())),
            )

    def _built(self, line: Mapping[str, Any], variant: str) -> tuple[Recipe | None, Program | None]:
        manifest = self._manifest(*(str(line.get(k)) for k in ("model", "release", _SHA256)))
        entry = next((v for v in manifest.variants if v.id == variant), None) if manifest else None
        if entry is None:
            return None, None
        try:
            recipe = decode(Recipe, entry.provenance.get("recipe"), "recipe")
        except VerificationError:  # of a newer SDK
            return None, None
        return recipe, self._program(str(entry.provenance.get("program")))

    def _manifest(self, model: str, release: str, sha256: str) -> Manifest | None:
        if sha256 not in self._manifests:
            content = self._catalog.release(sha256) or self._fetch(model, release, sha256)
            is_it = content is not None and hashlib.sha256(content).hexdigest() == sha256
            self._manifests[sha256] = parse(content) if content and is_it else None
        return self._manifests[sha256]

    def _program(self, digest: str) -> Program | None:
        if digest not in self._programs:
            self._programs[digest] = next((one.program for one in self._kept(digest)), None)
        return self._programs[digest]

    def _kept(self, program: str | None = None) -> list[Reports]:
        return [parse_reports(content, "The catalog") for content in self._catalog.reports(program)]


def _reports_at(path: Path) -> Reports:
    file = path / FILE_NAME if path.is_dir() else path
    if not file.is_file():
        raise UsageError(
            f"There are no reports at {path}.",
            cause="It is no folder of a build (OUT/MODEL), or of one that was made before builds "
            "kept their reports.",
            remedy="Build again: what is cached costs nothing.",
        )
    with storage_errors(file):
        return parse_reports(file.read_bytes(), str(file))


def lines(stream: Iterable[bytes], origin: str) -> Iterator[dict[str, Any]]:
    """The lines of an export of measurements.

    Args:
        stream: a line each.
        origin: what messages call it.

    Raises:
        UsageError: it is another export, or cut short.
    """
    for number, line in enumerate(stream, 1):
        try:
            found = json.loads(line)
        except ValueError:
            found = None
        if not isinstance(found, dict) or _SHA256 not in found:
            raise UsageError(
                f"{origin}, line {number}, is no line of an export of measurements.",
                cause="It is another export, or was cut short.",
                remedy="sdk fleet export measurements --out FILE.jsonl",
            )
        yield found


def _fingerprint(value: object) -> Fingerprint | None:
    try:
        return None if value is None else decode(Fingerprint, value, "fingerprint")
    except VerificationError:
        return None


def _number(value: object) -> float:
    """Not a number where it is none: such a report is set aside."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return math.nan
    try:
        return float(value)
    except ValueError:
        return math.nan
