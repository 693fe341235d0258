"""`reports.json`: what a build leaves of what it measured, with all that a fit needs of it.

A time alone teaches nothing: it takes the operators of the program, the whole recipe, and what the
device was. So a file of one build can be copied anywhere, and learnt from there.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from agent.codec import decode, pretty
from agent.errors import UsageError, VerificationError
from agent.manifest import Fingerprint
from sdk.learning.gather import Sighting
from sdk.select import Selection
from targets.interface import Program, Recipe

FILE_NAME = "reports.json"
SCHEMA = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """One variant that was measured on the device itself."""

    identifier: str
    profile: str
    recipe: Recipe
    ms: float
    """The median of one request."""
    stable: bool
    notes: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reports:
    """What one build measured, and what of."""

    schema: int
    model: str
    device: str
    """The rig's name, or `host`."""
    fingerprint: Fingerprint
    program: Program
    """Its path is empty: the operators are all that a fit reads."""
    measured: tuple[Measured, ...]
    """None where no such device was at hand: the operators serve what a fleet reports."""

    def sightings(self) -> list[Sighting]:
        """Each as a report of one device."""
        return [
            Sighting(
                device=self.device,
                origin="rig",
                variant=entry.identifier,
                fingerprint=self.fingerprint,
                program=self.program,
                recipe=entry.recipe,
                ms=entry.ms,
                stable=entry.stable,
                notes=entry.notes,
            )
            for entry in self.measured
        ]


def reports_of(
    model: str,
    selections: Sequence[Selection],
    program: Program,
    device: str,
    fingerprint: Fingerprint,
) -> Reports:
    """The reports of a build: of what was measured on a unit that its profile matches."""
    return Reports(
        schema=SCHEMA,
        model=model,
        device=device,
        fingerprint=fingerprint,
        program=dataclasses.replace(program, path=Path(), source=None),
        measured=tuple(
            Measured(
                identifier=result.candidate.identifier,
                profile=result.candidate.profile.name,
                recipe=result.candidate.recipe,
                ms=result.speed.latency_ms.p50,
                stable=result.speed.latency_ms.stable,
                notes=result.speed.notes,
            )
            for selection in selections
            for result in selection.results
            if result.speed is not None
        ),
    )


def reports_bytes(reports: Reports) -> bytes:
    """As `reports.json` has it."""
    return pretty(reports)


def parse_reports(content: bytes | str, origin: str) -> Reports:
    """Read a file of reports.

    Args:
        content: of the file.
        origin: what messages call it.

    Raises:
        UsageError: it is no such file, or a newer one.
    """
    try:
        found = json.loads(content)
        if isinstance(found, dict) and found.get("schema") != SCHEMA:
            raise ValueError(f"its schema is {found.get('schema')!r}, this reader knows {SCHEMA}")
        return decode(Reports, found)
    except (ValueError, VerificationError) as error:
        raise UsageError(
            f"{origin} holds no reports: {error}",
            cause="It is another file, was cut short, or is of another version.",
            remedy=f"Name a build's folder, its {FILE_NAME}, or an export of a fleet.",
        ) from error
