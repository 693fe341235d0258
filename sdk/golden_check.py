"""The golden check: a variant's answers against the original's recorded ones, on this machine."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from agent.errors import VerificationError
from agent.manifest import Floor, parse
from agent.sessions import load
from agent.variant import read_record
from hil.outcome import WrongAnswerError
from sdk.prove import Agreement, as_called, check_agreement
from sdk.recorded import RecordedSession
from sdk.samples import StoredSamples


@dataclasses.dataclass(frozen=True, kw_only=True)
class GoldenCheck:
    """How well each output agreed, at worst, over so many golden samples."""

    id: str
    samples: int
    agreements: tuple[Agreement, ...]
    floors: tuple[Floor, ...]
    max_abs: float | None


def check_golden(
    variant: Path, golden: Path, session: RecordedSession | None = None
) -> GoldenCheck:
    """Run the golden inputs and hold the answers against the manifest's floors.

    Args:
        variant: its folder.
        golden: the model's golden data.
        session: what was answered on a rig; without, the variant is loaded here.

    Raises:
        WrongAnswerError: an output agrees less than its floor.
        VerificationError: the manifest does not list it.
    """
    record = read_record(variant)
    floors = _floors(golden.parent / "manifest.json", record.id)
    samples = StoredSamples(golden)
    with session or load(variant) as opened:
        agreements, max_abs = check_agreement(opened, as_called(samples, record))
    for floor in floors:
        found = next((a.value for a in agreements if a.output == floor.output), 0.0)
        if found * 1_000_000 < floor.min_ppm:
            raise WrongAnswerError(
                f"Output {floor.output} of {record.id} agrees with the original by "
                f"{floor.metric} {found:.6f}, its floor is {floor.min_ppm / 1e6:.6f}.",
                cause="This machine's runtime or instruction set computes differently, or the "
                "files are another model's.",
                remedy="Build for this machine: sdk build --profile host",
            )
    return GoldenCheck(
        id=record.id,
        samples=len(samples),
        agreements=tuple(agreements),
        floors=floors,
        max_abs=max_abs,
    )


def _floors(manifest: Path, variant_id: str) -> tuple[Floor, ...]:
    if not manifest.is_file():
        raise VerificationError(
            f"{manifest} is missing, so there are no floors to hold {variant_id} against.",
            cause="The variant was copied without the folder it was built into.",
            remedy="Copy the model's whole output folder.",
        )
    for entry in parse(manifest.read_bytes()).variants:
        if entry.id == variant_id:
            return entry.floors
    raise VerificationError(
        f"{manifest} does not list {variant_id}.",
        cause="The folder was built again since, and the variant is an older one.",
        remedy="Use the folder's `chosen`, or build again.",
    )
