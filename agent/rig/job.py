"""One run on a rig, in a process of its own: the answers of a variant, a contest, or a look around.

Whatever a vendor's runtime does here, the runner sees a typed end: it answered, it failed, it
crashed, it hung, it ate the memory. What it prints goes to a log.
"""

from __future__ import annotations

import codecs
import dataclasses
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.codec import decode, encode
from agent.errors import SlipwayError, ToolchainError, UsageError, to_record
from agent.processes import adopt_orphans, die_with, serve

if TYPE_CHECKING:
    from agent.sessions import CheckedSession

Tell = Callable[[Mapping[str, Any]], None]
_TOLD_S = 1.0


def main(parent: str, questions: str, answers: str) -> None:
    """Answer the runner that started this."""
    die_with(int(parent))

    def tell(event: Mapping[str, Any]) -> None:
        os.write(int(answers), json.dumps({"event": dict(event)}).encode() + b"\n")

    opened = Opened()
    verbs = {
        "open": opened.open,
        "ask": opened.ask,
        "command": lambda **asked: command(tell=tell, **asked),
        "answer": lambda **asked: answer(tell=tell, **asked),
        "contest": lambda **asked: measure(tell=tell, **asked),
        "engine": _engine,
        "prepare": lambda **asked: _prepare(tell=tell, **asked),
        "operators": operators,
        "look": look,
        "probe": probe,
        "install": install,
    }
    serve(verbs, questions=int(questions), answers=int(answers))


def answer(
    *, tell: Tell, variant: str, questions: str, out: str, check_as: str | None
) -> dict[str, Any]:
    """Run a variant on every input of a file; its outputs go to another, in the same order.

    Args:
        tell: is told how many were answered.
        variant: its folder.
        questions: safetensors with keys `<nnnnn>/in/<name>`.
        out: safetensors with keys `<nnnnn>/out/<name>`.
        check_as: a format that runs its file on any CPU, or None.

    Returns:
        {count, placement, seconds}
    """
    from agent.sessions import load
    from agent.tensors import TensorWriter, by_sample, read_tensors

    samples = by_sample(read_tensors(Path(questions)), "in")
    began = told = time.monotonic()
    with load(variant, check_as) as session, TensorWriter(Path(out)) as writer:
        for number, (index, inputs) in enumerate(samples.items()):
            for name, array in session.run(inputs).items():
                writer.add(f"{index}/out/{name}", array)
            if time.monotonic() - told > _TOLD_S:
                told = time.monotonic()
                tell({"event": "answered", "count": number + 1, "of": len(samples)})
        placement = session.placement()
    return {
        "count": len(samples),
        "placement": placement,
        "seconds": time.monotonic() - began,
    }


class Opened:
    """A session that stays loaded between questions."""

    def __init__(self) -> None:
        self._session: CheckedSession | None = None

    def open(self, *, variant: str, check_as: str | None) -> dict[str, Any]:
        """Load a variant: {placement}."""
        from agent.sessions import load

        self._session = load(variant, check_as)
        return {"placement": self._session.placement()}

    def ask(self, *, inputs: str, out: str, reset: bool) -> dict[str, Any]:
        """Run it once: safetensors with the inputs' names -> a file with the outputs'; {seconds}.

        `reset` first, for a model that keeps state.
        """
        from agent.tensors import read_tensors, write_tensors

        assert self._session is not None
        if reset:
            self._session.reset()
        arrays = read_tensors(Path(inputs))
        began = time.monotonic()
        found = self._session.run(arrays)
        seconds = time.monotonic() - began
        write_tensors(Path(out), found.items())
        return {"seconds": seconds}


def command(
    *, tell: Tell, program: Sequence[str], folder: str, files: str | None
) -> dict[str, Any]:
    """Run a program of the rig, and tell what it prints; {status}, as a shell counts it.

    Args:
        tell: is told what it prints, in pieces.
        program: its name and arguments; no shell reads them.
        folder: it works there.
        files: a folder whose files are copied there first, or None.

    Raises:
        UsageError: there is no such program.
    """
    if files is not None:
        shutil.copytree(files, folder, dirs_exist_ok=True)
    adopt_orphans()  # so that what it leaves behind is ended with this process
    own = os.getpid()
    try:
        process = subprocess.Popen(
            program, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, preexec_fn=lambda: die_with(own),  # noqa: PLW1509  one thread
        )  # fmt: skip
    except OSError as error:
        raise UsageError(
            f"The rig cannot run {program[0][:200]!r}: {error.strerror}.",
            cause="It is not installed there, or was not sent along: it runs in a new folder.",
            remedy="Name it by its whole path, or send it: --send FILE",
        ) from error
    text = codecs.getincrementaldecoder("utf-8")("replace")
    with process:
        assert process.stdout is not None
        while piece := os.read(process.stdout.fileno(), 1 << 14):
            tell({"event": "output", "text": text.decode(piece)})
    status = process.returncode
    return {"status": status if status >= 0 else 128 - status}


def measure(
    *,
    tell: Tell,
    contestants: Mapping[str, str],
    inputs: str,
    logs: str,
    budget: Mapping[str, Any],
    race: Mapping[str, Any] | None,
    time_limit_s: float,
    memory_limit_mib: int | None,
) -> dict[str, Any]:
    """A contest of some variants: name -> folder.

    Returns:
        {found: name -> {failed, found}, throttled: what the machine slowed down by, or nothing}
    """
    from agent.bench import Budget, Contestant, Failure, Race, contest
    from agent.rig.quiet import Throttle, with_throttling

    throttle = Throttle()
    found = contest(
        [Contestant(name, Path(folder)) for name, folder in contestants.items()],
        inputs=Path(inputs),
        log_folder=Path(logs),
        budget=decode(Budget, dict(budget)),
        time_limit_s=time_limit_s,
        memory_limit_mib=memory_limit_mib,
        on_event=lambda event: tell(event) if event["event"] != "window" else None,
        race=None if race is None else decode(Race, dict(race)),
    )
    throttled = throttle.told()
    return {
        "found": {
            name: {
                "failed": isinstance(one, Failure),
                "found": encode(
                    one if isinstance(one, Failure) else with_throttling(one, throttled)
                ),
            }
            for name, one in found.items()
        },
        "throttled": throttled,
    }


def operators(*, variant: str, inputs: str) -> dict[str, Any]:
    """Where a variant's time goes: {operators}; see `agent.operators`."""
    from agent.operators import profile_operators

    return {"operators": profile_operators(Path(variant), Path(inputs))}


def _engine(**asked: Any) -> dict[str, Any]:
    from agent.rig.engine import standing

    return standing(**asked)


def _prepare(**asked: Any) -> dict[str, Any]:
    from agent.rig.engine import prepare

    return prepare(**asked)


def look() -> dict[str, Any]:
    """What this machine is, by the Python that has the runtimes: {fingerprint}."""
    from agent.identity import fingerprint

    return {"fingerprint": encode(fingerprint())}


def probe() -> dict[str, Any]:
    """What this machine is, and which runtimes work: name -> version, or why it does not.

    Returns:
        {fingerprint, conditions, runtimes}; a runtime is {version, error}, one of them None.
    """
    from agent.formats import formats
    from agent.identity import conditions_now

    runtimes: dict[str, dict[str, Any]] = {}
    for name in formats():
        try:
            runtimes[name] = {"version": _version(name), "error": None}
        except SlipwayError as error:
            runtimes[name] = {"version": None, "error": to_record(error)}
        except ImportError as error:  # numpy itself
            told = SlipwayError(
                f"{error}.", cause="numpy is not installed.", remedy="pip install numpy"
            )
            runtimes[name] = {"version": None, "error": to_record(told)}
    return {
        **look(),
        "conditions": dataclasses.asdict(conditions_now()),
        "runtimes": runtimes,
    }


def install(*, wheels: str, home: str, packages: Sequence[str]) -> dict[str, Any]:
    """Make an environment of the rig's own, and install into it from wheels that were pushed.

    Returns:
        {installed: what pip says is there now}

    Raises:
        ToolchainError: its Python cannot make one, or the wheels are not for it.
    """
    python = own_python(Path(home))
    if not python.is_file():
        _run([sys.executable, "-m", "venv", str(python.parents[1])], "make an environment")
    pip = [str(python), "-m", "pip", "--disable-pip-version-check"]
    _run([*pip, "install", "--no-index", "--find-links", wheels, *packages], "install the wheels")
    return {"installed": _run([*pip, "list", "--format=freeze"], "look").split()}


def own_python(home: Path) -> Path:
    """The Python of the environment that `install` makes."""
    return home / "venv" / "bin" / "python"


def _run(command: Sequence[str], what: str) -> str:
    found = subprocess.run(
        command, check=False, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, errors="replace",
    )  # fmt: skip
    print(found.stdout, flush=True)  # noqa: T201  into the run's log
    if found.returncode:
        words = " | ".join(line for line in found.stdout.splitlines() if line.strip())[-400:]
        raise ToolchainError(
            f"The rig cannot {what}: {words}",
            cause="Debian's python3-venv is not installed there, or the wheels are for another "
            f"Python than {sys.version_info[0]}.{sys.version_info[1]} on {platform.machine()}.",
            remedy="Install it; pip download --platform gets wheels for another machine.",
        )
    return found.stdout


def _version(name: str) -> str | None:
    import importlib.metadata

    from agent import sessions

    sessions.import_runtime(name)
    try:
        return importlib.metadata.version(sessions.session_module(name).PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return None
