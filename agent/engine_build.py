"""Build a TensorRT engine on the device that will run it, in a process of its own.

The builder is the `tensorrt` package where this Python has it, since what runs the engine is then
the library that built it; else `trtexec`. Either may take minutes, crash, hang, eat the memory or
leave half a file, so it runs in a child with a time limit and a log, writes beside, and only a
whole file gets the engine's name.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agent.bootstrap import own_command
from agent.engine_plan import EnginePlan, trtexec_arguments, trtexec_release
from agent.errors import StorageError, ToolchainError
from agent.files import move_folder, sha256_of, storage_errors
from agent.processes import die_with, tree

ENGINE = "engine.plan"
RECORD = "engine.json"
LOG = "log.txt"

TIME_LIMIT_S = 3600.0
"""Large networks take tens of minutes on small boards."""

JETPACK_TRTEXEC = Path("/usr/src/tensorrt/bin/trtexec")
"""Where JetPack's packages put it, off the path."""

OnWords = Callable[[float, str], None]
"""Is told the seconds that a build has taken so far, and the builder's last line."""

_TOLD_S = 2.0
_ASK_S = 60.0  # trtexec --help starts CUDA, which takes seconds on a cold board


@dataclasses.dataclass(frozen=True, kw_only=True)
class Builder:
    """What builds engines here."""

    release: str
    trtexec: str | None
    """None: the `tensorrt` package of this Python."""


def find_builder() -> Builder:
    """The package, else `trtexec` from the path or JetPack's folder.

    Raises:
        ToolchainError: there is neither, or `trtexec` does not say which release it is.
    """
    release = package_release()
    if release is not None:
        return Builder(release=release, trtexec=None)
    found = shutil.which("trtexec")
    if found is None and JETPACK_TRTEXEC.is_file():
        found = str(JETPACK_TRTEXEC)
    if found is None:
        raise ToolchainError(
            "TensorRT engines are built on the device, and this machine has no TensorRT: neither "
            "the Python package tensorrt nor trtexec.",
            cause="It is not the device, or its Python environment does not see the system's "
            "packages.",
            remedy="Run it on the device. On a Jetson make the environment with "
            "--system-site-packages; on a server: pip install tensorrt",
        )
    return Builder(release=_ask_release(found), trtexec=found)


def package_release() -> str | None:
    """The release of the `tensorrt` package; None if it is not there, or without its libraries."""
    with contextlib.suppress(ImportError):
        import tensorrt

        # A folder that holds types alone imports as well, and is empty.
        release: str | None = getattr(tensorrt, "__version__", None)
        return release
    return None


def build_engine(
    builder: Builder,
    plan: EnginePlan,
    onnx: Path,
    folder: Path,
    *,
    timing_cache: Path | None = None,
    time_limit_s: float = TIME_LIMIT_S,
    on_words: OnWords | None = None,
) -> Path:
    """Build `folder/engine.plan`, with its record and the builder's log beside it.

    The folder appears whole or not at all; if somebody else was faster, theirs is kept.
    `on_words` is told every few seconds how long it has taken, and the builder's last line.

    Raises:
        ToolchainError: the builder refused, crashed, hung or wrote nothing of use.
        StorageError: the disk is full or cannot be written.
    """
    with storage_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        if timing_cache is not None:
            timing_cache.parent.mkdir(parents=True, exist_ok=True)
    try:
        started = time.monotonic()
        paths = {"onnx": str(onnx.resolve()), "engine": str(scratch / ENGINE)}
        cache = None if timing_cache is None else str(timing_cache)
        arguments = None
        if builder.trtexec is not None:
            arguments = [
                builder.trtexec,
                *trtexec_arguments(plan, **paths, timing_cache=cache),
            ]
        request = {
            "plan": dataclasses.asdict(plan),
            **paths,
            "timing_cache": cache,
            "arguments": arguments,
        }
        _run(builder, request, scratch, time_limit_s, on_words)
        record = {
            "release": builder.release,
            "builder": builder.trtexec or "tensorrt",
            "plan": request["plan"],
            "arguments": arguments,
            "seconds": round(time.monotonic() - started, 3),
            "sha256": sha256_of(scratch / ENGINE),
        }
        with storage_errors(folder):
            (scratch / RECORD).write_text(json.dumps(record, indent=1) + "\n")
        move_folder(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder / ENGINE


def main(parent: str, request: str) -> None:
    """The child's side: become `trtexec`, or build with the package."""
    die_with(int(parent))
    asked: dict[str, Any] = json.loads(request)
    if asked["arguments"] is not None:
        arguments = asked["arguments"]
        os.execv(arguments[0], arguments)  # noqa: S606  and still dies with the parent
    from agent.engine_package import build

    plan = asked["plan"]
    timing_cache = asked["timing_cache"]
    build(
        EnginePlan(
            **{
                **plan,
                "network_flags": tuple(plan["network_flags"]),
                "builder_flags": tuple(plan["builder_flags"]),
                "cleared_flags": tuple(plan["cleared_flags"]),
            }
        ),
        onnx=Path(asked["onnx"]),
        engine=Path(asked["engine"]),
        timing_cache=None if timing_cache is None else Path(timing_cache),
    )


def _sweep(folder: Path) -> None:
    """Remove what builds left that were killed with their parent."""
    for old in folder.parent.glob(f".{folder.name}.*"):
        with contextlib.suppress(OSError):
            if time.time() - old.stat().st_mtime > 2 * TIME_LIMIT_S:
                shutil.rmtree(old)


def _run(
    builder: Builder,
    request: dict[str, Any],
    scratch: Path,
    time_limit_s: float,
    on_words: OnWords | None,
) -> None:
    log = scratch / LOG
    command = own_command("agent.engine_build", json.dumps(request))
    with storage_errors(log), log.open("wb") as stream:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            cwd=scratch,
            start_new_session=True,
        )
    name = "trtexec" if builder.trtexec else "TensorRT's builder"
    hung = False
    try:
        _wait(process, log, time_limit_s, on_words)
    except subprocess.TimeoutExpired:
        hung = True
    finally:
        _end(process)
    words = _last_words(log)
    if hung:
        raise ToolchainError(
            f"{name} {builder.release} did not finish within {time_limit_s:g} s. {words}",
            cause="The board is throttled or busy, or the builder hangs.",
            remedy="Try again with nothing else running, or use another variant.",
        )
    if "No space left on device" in words:
        raise StorageError(
            f"No space left while building an engine in {scratch.parent}.",
            cause="The disk or the quota is full.",
            remedy="Free some space and run the same command again.",
        )
    engine = scratch / ENGINE
    whole = engine.is_file() and engine.stat().st_size > 0
    if process.returncode == 0 and whole:
        return
    raise ToolchainError(
        f"{name} {builder.release} built no engine: it ended with "
        f"{_how(process.returncode)}{'' if whole else ' and left no engine file'}. {words}",
        cause="TensorRT refuses an operator or a type of this graph, or memory ran out: the "
        "builder needs more of it than the engine.",
        remedy="Read its words; close what else uses the GPU; or use another variant.",
    )


def _wait(
    process: subprocess.Popen[bytes], log: Path, time_limit_s: float, on_words: OnWords | None
) -> None:
    started = time.monotonic()
    while on_words is not None and time.monotonic() - started + _TOLD_S < time_limit_s:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=_TOLD_S)
            return
        on_words(time.monotonic() - started, _last_line(log))
    process.wait(timeout=max(0.0, time_limit_s - (time.monotonic() - started)))


def _last_line(log: Path) -> str:
    with contextlib.suppress(OSError), log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - 2000))
        lines = [line.strip() for line in stream.read().decode(errors="replace").splitlines()]
        return next((line for line in reversed(lines) if line), "")[-200:]
    return ""


def _how(status: int) -> str:
    return signal.Signals(-status).name if status < 0 else f"exit status {status}"


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of the child and all that it started."""
    if process.poll() is not None:
        return
    members = tree(process.pid)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    for pid in members[1:]:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=10)


def _last_words(log: Path) -> str:
    with contextlib.suppress(OSError):
        lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
        # trtexec prints its whole help when it does not know an option, errors before it.
        errors = [line for line in lines if "[E]" in line or "rror" in line]
        told = (errors or [line for line in lines if line])[-3:]
        if told:
            return f"Its last words: {' | '.join(told)[-400:]}"
    return "It said nothing."


def _ask_release(trtexec: str) -> str:
    try:
        asked = subprocess.run(
            [trtexec, "--help"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_ASK_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        told = str(error)
    else:
        told = (asked.stdout + asked.stderr).decode(errors="replace")
        release = trtexec_release(told)
        if release is not None:
            return release
    raise ToolchainError(
        f"{trtexec} does not say which TensorRT it belongs to: {told.strip()[:200]!r}.",
        cause="It does not start here, or is something else of that name.",
        remedy=f"Run {trtexec} --help by hand and mend what it complains about.",
    )
