"""What is done on a rig: a variant's answers, a contest, a look around, an installation.

Each pushes what is not there yet, runs, and turns what came into the records that the same work on
this machine gives. A run that ends badly has a typed outcome.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from agent.arena import log_name
from agent.bench import Budget, Failure, Measurement, Race
from agent.codec import canonical, decode, encode
from agent.errors import SlipwayError, ToolchainError, from_record
from agent.files import sha256_of
from agent.manifest import Fingerprint
from agent.variant import RECORD_NAME, read_record
from hil.outcome import Outcome
from hil.rig import OnEvent, OnProgress, Rig

PROBE_S = 120.0
INSTALL_S = 1800.0
_TURN_S = 300.0
LOG_BYTES = 256 << 10
"""Of a failed run's log, its end: what is fetched of it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answers:
    """What a variant answered on a rig."""

    content: bytes
    """safetensors with keys `<nnnnn>/out/<name>`."""
    placement: dict[str, float]
    seconds: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Probe:
    """What a rig is."""

    fingerprint: Fingerprint
    conditions: dict[str, Any]
    runtimes: dict[str, dict[str, Any]]
    """Format -> {version, error}; one of them is None."""


class RunFailedError(ToolchainError):
    """A run on a rig ended without a result; `outcome` says how."""

    def __init__(
        self, what: str, outcome: Outcome, *, log: str = "", cause: str = "", remedy: str = ""
    ) -> None:
        super().__init__(what, cause=cause, remedy=remedy)
        self.outcome: Outcome = outcome
        self.log = log
        """What it printed, the end of it."""

    @property
    def as_log(self) -> str:
        """How it ended, and what it printed: a file for who looks into it."""
        return f"{self.what}\n\n{self.log}"


def probe(rig: Rig) -> Probe:
    """What it is, and which runtimes work there.

    Raises:
        RunFailedError: it cannot be looked at.
        NetworkError: the line ended.
    """
    found = ran(rig, "probe", None, time_limit_s=PROBE_S)["found"]
    return Probe(
        fingerprint=decode(Fingerprint, found["fingerprint"]),
        conditions=found["conditions"],
        runtimes=found["runtimes"],
    )


def look(rig: Rig) -> Fingerprint:
    """What it is, without a try of its runtimes; raises as `probe` does."""
    found = ran(rig, "look", None, time_limit_s=PROBE_S)["found"]
    return decode(Fingerprint, found["fingerprint"])


def push_variant(rig: Rig, folder: Path, on_progress: OnProgress | None = None) -> str:
    """Send a variant's files, and put its folder together there; the folder's name there."""
    record = read_record(folder)
    names = [RECORD_NAME, *(file.path for file in record.files)]
    return push_files(rig, {name: folder / name for name in names}, on_progress)


def push_files(rig: Rig, files: Mapping[str, Path], on_progress: OnProgress | None = None) -> str:
    """Send files, and put a folder of them together: relative path -> file; its name there."""
    hashes = {name: sha256_of(path) for name, path in files.items()}
    rig.push({hashes[name]: path for name, path in files.items()}, on_progress)
    staged = hashlib.sha256(canonical(hashes)).hexdigest()[:32]
    rig.stage(staged, hashes)
    return staged


def answers(
    rig: Rig,
    folder: Path,
    questions: Path,
    *,
    check_as: str | None = None,
    time_limit_s: float,
    memory_limit_mib: int | None = None,
    on_event: OnEvent | None = None,
    on_progress: OnProgress | None = None,
) -> Answers:
    """What a variant answers to every input of a file, on the rig.

    Args:
        rig: that is leased.
        folder: of the variant.
        questions: safetensors with keys `<nnnnn>/in/<name>`.
        check_as: a format that runs its file on any CPU.
        time_limit_s: for all of it.
        memory_limit_mib: for its process tree there.
        on_event: is told how many are answered.
        on_progress: is told what was sent: (bytes, of).

    Raises:
        RunFailedError: it crashed, hung, or took too much memory.
        SlipwayError: it cannot be loaded or run there.
        NetworkError: the line ended.
    """
    variant = push_variant(rig, folder, on_progress)
    asked = push_files(rig, {"questions.safetensors": questions}, on_progress)
    try:
        found = ran(
            rig, "answer", on_event, time_limit_s=time_limit_s, memory_limit_mib=memory_limit_mib,
            variant=variant, questions=asked, check_as=check_as,
        )  # fmt: skip
    except SlipwayError as error:
        # There it lies under a digest; whoever reads this knows it by its own name.
        error.what = error.what.replace(variant, f"{read_record(folder).id} on {rig.name}")
        raise
    return Answers(
        content=rig.fetch(found["run"], "answers.safetensors"),
        placement=found["found"]["placement"],
        seconds=found["found"]["seconds"],
    )


def contest(
    rig: Rig,
    contestants: Mapping[str, Path],
    *,
    inputs: Path,
    budget: Budget | None = None,
    race: Race | None = None,
    turn_limit_s: float = _TURN_S,
    memory_limit_mib: int | None = None,
    log_folder: Path | None = None,
    alone: contextlib.AbstractContextManager[None] | None = None,
    on_event: OnEvent | None = None,
    on_progress: OnProgress | None = None,
) -> dict[str, Measurement | Failure]:
    """Measure variants against each other on the rig; as `agent.bench.contest` does it here.

    `alone` is entered once all is pushed, and left when it is measured. `log_folder` gets the log
    of each that failed there, the end of it.

    Raises:
        RunFailedError: the harness itself ended there.
        NetworkError: the line ended.
    """
    budget = budget or Budget()
    staged = {name: push_variant(rig, path, on_progress) for name, path in contestants.items()}
    asked = push_files(rig, {"inputs.safetensors": inputs}, on_progress)
    # Each may overspend (agent.arena), load as long as a turn may take, and be warmed.
    limit_s = len(contestants) * (8 * budget.seconds_per_contestant + 2 * turn_limit_s)
    with alone or contextlib.nullcontext():
        found = ran(
            rig, "contest", on_event, time_limit_s=limit_s, memory_limit_mib=memory_limit_mib,
            contestants=staged, inputs=asked, budget=encode(budget),
            race=None if race is None else encode(race), turn_limit_s=turn_limit_s,
        )  # fmt: skip
    notes = tuple(found["notes"])
    results = {
        name: decode(Failure, one["found"])
        if one["failed"]
        else _noted(decode(Measurement, one["found"]), notes)
        for name, one in found["found"]["found"].items()
    }
    if log_folder is not None:
        for name in (name for name, one in results.items() if isinstance(one, Failure)):
            (log_folder / log_name(name)).write_bytes(_log(rig, found["run"], log_name(name)))
    return results


def operators(rig: Rig, folder: Path, inputs: Path, *, time_limit_s: float) -> list[Any] | None:
    """Where a variant's time goes on the rig, as `agent.operators` tells it.

    Nothing else measures there meanwhile.

    Raises:
        RunFailedError: it crashed or hung.
        SlipwayError: it cannot be loaded or profiled there.
        NetworkError: the line ended.
    """
    found = ran(
        rig, "operators", None, time_limit_s=time_limit_s, variant=push_variant(rig, folder),
        inputs=push_files(rig, {"inputs.safetensors": inputs}), alone=True,
    )["found"]["operators"]  # fmt: skip
    return None if found is None else list(found)


def install(
    rig: Rig, wheels: Path, packages: Sequence[str], on_progress: OnProgress | None = None
) -> list[str]:
    """Install packages from a folder of wheels into the rig's own environment.

    Returns:
        What is installed there now, as `name==version`.

    Raises:
        ToolchainError: there are no wheels, or they are for another machine.
        NetworkError: the line ended.
    """
    files = {path.name: path for path in sorted(wheels.glob("*.whl"))}
    if not files:
        raise ToolchainError(
            f"There are no wheels in {wheels}.",
            cause="Nothing was downloaded yet.",
            remedy=f"pip download --only-binary :all: -d {wheels} {' '.join(packages)}",
        )
    staged = push_files(rig, files, on_progress)
    found = ran(
        rig, "install", None, time_limit_s=INSTALL_S, wheels=staged, packages=list(packages)
    )
    return list(found["found"]["installed"])


def command(
    rig: Rig,
    program: Sequence[str],
    *,
    files: Mapping[str, Path] | None = None,
    time_limit_s: float,
    alone: bool = False,
    on_output: Callable[[str], None],
    on_wait: Callable[[str], None] | None = None,
) -> int:
    """Run a program of the rig in a new folder there; its exit status, as a shell counts it.

    Args:
        rig: that is leased.
        program: its name and arguments; no shell reads them.
        files: that are sent into that folder first: relative path -> file.
        time_limit_s: for all of it.
        alone: nothing measures on that machine meanwhile.
        on_output: is told what it prints, in pieces.
        on_wait: is told what it waits for.

    Raises:
        UsageError: there is no such program.
        RunFailedError: it took too long.
        NetworkError: the line ended; what runs there is ended.
    """
    staged = push_files(rig, files) if files else None

    def heard(event: Mapping[str, Any]) -> None:
        if event["event"] == "output":
            on_output(event["text"])
        elif on_wait is not None:
            on_wait(str(event.get("message")))

    found = ran(
        rig, "command", heard, time_limit_s=time_limit_s, program=list(program), files=staged,
        alone=alone,
    )  # fmt: skip
    return int(found["found"]["status"])


def ran(rig: Rig, kind: str, on_event: OnEvent | None, **asked: Any) -> dict[str, Any]:
    """Do a run; what it found, if it ended well. Raises as `checked` does."""
    return checked(rig, rig.run(kind, on_event, **asked))


def checked(rig: Rig, found: dict[str, Any]) -> dict[str, Any]:
    """The end of a run that went well.

    Raises:
        RunFailedError: it did not; with the end of its log.
        SlipwayError: what the run itself has refused, with what to do.
    """
    if found["outcome"] == "ok":
        return found
    own: SlipwayError | None = from_record(found["error"]) if found.get("error") else None
    if found["outcome"] == "error" and own is not None and own.remedy:
        raise own
    raise RunFailedError(
        f"The run on {rig.name} ended ({found['outcome']}): {found['message']}",
        found["outcome"],
        log=_log(rig, found["run"], "log.txt").decode(errors="replace"),
        cause="The runtime failed on that machine." if own is None else own.cause,
        remedy=f"sdk hil doctor {rig.name}",
    )


def _log(rig: Rig, run: str, name: str) -> bytes:
    """The end of a log that a run left; nothing where it cannot be had any more."""
    try:
        return rig.fetch(run, name, LOG_BYTES)
    except SlipwayError:
        return b""


def _noted(found: Measurement, notes: tuple[str, ...]) -> Measurement:
    return dataclasses.replace(found, notes=(*found.notes, *notes)) if notes else found
