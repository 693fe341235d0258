"""One variant on a rig: measured, or held against its golden data, as the same verbs do it here."""

from __future__ import annotations

import tempfile
from pathlib import Path

from agent.bench import Budget, Failure, Measurement
from agent.errors import ToolchainError
from agent.variant import read_record, verify_files
from hil import bench
from hil.engines import prepare
from hil.reach import Say
from hil.rig import Rig
from sdk.api import golden_file, opt_inputs
from sdk.golden_check import GoldenCheck, check_golden
from sdk.prove import as_called
from sdk.recorded import RecordedSession, write_questions
from sdk.samples import StoredSamples

_VERIFY_S = 1800.0


def bench_on(rig: Rig, variant: Path, seconds: float, timed: Path, say: Say) -> Measurement:
    """Measure one variant on a rig; as `sdk.api.bench` does it here.

    Args:
        rig: that is leased.
        variant: its folder.
        seconds: to measure for.
        timed: see `hil.engines.prepare`.
        say: is told how an engine's build goes on.

    Raises:
        ToolchainError: it cannot be loaded or run there.
    """
    prepare(rig, variant, timed, say)
    with opt_inputs(variant) as inputs:
        found = bench.contest(
            rig, {variant.name: variant}, inputs=inputs,
            budget=Budget(seconds_per_contestant=seconds),
        )[variant.name]  # fmt: skip
    if isinstance(found, Failure):
        raise ToolchainError(
            f"{variant.name} cannot be measured on {rig.name} ({found.kind}): {found.message}",
            cause="Its runtime is not installed there, or failed.",
            remedy=f"sdk hil doctor {rig.name}",
        )
    return found


def is_emulated(rig: Rig) -> bool:
    """Whether it has only the instruction set of what it stands for, and no speed."""
    return bool(bench.look(rig).identity.get("emulated"))


def verify_on(rig: Rig, variant: Path, timed: Path, say: Say) -> GoldenCheck:
    """Check a variant's answers on a rig against the golden data; arguments as of `bench_on`.

    Raises:
        VerificationError: an answer is not what it should be, or a file of it.
        ToolchainError: it cannot be loaded or run there.
    """
    record = read_record(variant)
    verify_files(variant, record)
    golden = golden_file(variant)
    prepare(rig, variant, timed, say)
    with tempfile.TemporaryDirectory() as folder:
        questions, answered = Path(folder) / "questions", Path(folder) / "answers"
        write_questions(
            questions, (sample.inputs for sample in as_called(StoredSamples(golden), record))
        )
        found = bench.answers(rig, variant, questions, time_limit_s=_VERIFY_S)
        answered.write_bytes(found.content)
        session = RecordedSession(record, questions, answered, found.placement)
        return check_golden(variant, golden, session)
