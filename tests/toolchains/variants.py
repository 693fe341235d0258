"""Variants as the build leaves them: lowered into a folder, with their record."""

from __future__ import annotations

from pathlib import Path

import targets
from agent.files import sha256_of
from agent.manifest import File
from agent.variant import RECORD_NAME, VariantRecord, record_bytes
from targets.interface import Form, Forming, Lowered, Program
from targets.lowering.forms import transform
from tests.toolchains.cases import Case
from tests.toolchains.zoo import Entry


def lower(case: Case, entry: Entry, program: Program, folder: Path) -> Lowered:
    """Lower one zoo entry into an empty folder, as a build does, and write the record beside it."""
    folder.mkdir()
    toolchain = targets.toolchain(case.recipe.toolchain)
    program = formed(case, program)
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


def formed(case: Case, program: Program) -> Program:
    """The program in the form that the case's recipe begins with; made once for each program."""
    toolchain = targets.toolchain(case.recipe.toolchain)
    form = toolchain.form(program, case.recipe) if isinstance(toolchain, Forming) else None
    if form is None:
        return program
    out = program.path.parent / f"{form.kind}-{form.opset}"
    if (program.path, form) not in _FORMED:
        out.mkdir(exist_ok=True)
        _FORMED[program.path, form] = transform(program, form, out)
    return _FORMED[program.path, form]


_FORMED: dict[tuple[Path, Form], Program] = {}
