"""Variants as the build leaves them: lowered into a folder, with their record."""

from __future__ import annotations

from pathlib import Path

import targets
from agent.files import sha256_of
from agent.manifest import File
from agent.variant import RECORD_NAME, VariantRecord, record_bytes
from targets.interface import Conversion, Converting, Lowered, Program
from targets.lowering.conversions import convert
from tests.toolchains.cases import Case
from tests.toolchains.zoo import Entry


def lower(case: Case, entry: Entry, program: Program, folder: Path) -> Lowered:
    """Lower one zoo entry into an empty folder, as a build does, and write the record beside it."""
    folder.mkdir()
    toolchain = targets.toolchain(case.recipe.toolchain)
    program = converted(case, program)
    calibration = entry.calibration() if case.needs_data else None
    lowered = toolchain.lower(program, case.recipe, calibration, folder)
    recorded(case, entry, program, lowered, folder)
    return lowered


def recorded(case: Case, entry: Entry, program: Program, lowered: Lowered, folder: Path) -> None:
    """Write the record beside what was lowered."""
    record = VariantRecord(
        version=1,
        id=f"{entry.name}/test/{case.recipe.name}",
        model=entry.name,
        target="test",
        profile="test",
        runtime=lowered.runtime,
        options=dict(case.recipe.options),
        signature=program.signature,
        files=tuple(
            File(
                path=name,
                sha256=sha256_of(folder / name),
                length=(folder / name).stat().st_size,
            )
            for name in lowered.files
        ),
        provenance={},
    )
    (folder / RECORD_NAME).write_bytes(record_bytes(record))


def converted(case: Case, program: Program) -> Program:
    """What the case's recipe begins with; made once for each program."""
    toolchain = targets.toolchain(case.recipe.toolchain)
    wanted = (
        toolchain.conversion(program, case.recipe) if isinstance(toolchain, Converting) else None
    )
    if wanted is None:
        return program
    out = program.path.parent / f"{wanted.kind}-{wanted.opset}"
    if (program.path, wanted) not in _CONVERTED:
        out.mkdir(exist_ok=True)
        _CONVERTED[program.path, wanted] = convert(program, wanted, out)
    return _CONVERTED[program.path, wanted]


_CONVERTED: dict[tuple[Path, Conversion], Program] = {}
