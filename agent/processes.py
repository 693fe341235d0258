"""Processes as Linux shows them: a child to talk to, what its tree uses, and how to end all of it.

A vendor's runtime can crash, hang, eat the memory or print into any stream. So it runs in a child
of its own that answers one JSON line per JSON line, watched for time and memory; whatever happens
becomes a `ChildError` that says which. Children die with their parent, also when that is killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from agent.errors import SlipwayError, from_record, to_record
from agent.memory_group import memory_group

Kind = Literal["crashed", "hung", "out_of_memory", "error"]

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_PR_SET_CHILD_SUBREAPER = 36
_END_S = 10.0  # a killed process is gone at once, unless the kernel waits for a device
_WATCH_S = 0.05  # how often memory is looked at: rarely enough to cost a measurement nothing


class ChildError(Exception):
    """The child did not answer; `kind` says why, `error` is its own record if it sent one."""

    def __init__(self, kind: Kind, message: str, error: dict[str, str] | None = None) -> None:
        self.kind: Kind = kind
        self.error = error
        super().__init__(message)


class Child:
    """A process that answers one JSON line per JSON line.

    The lines go through pipes of their own, whose numbers are its last two arguments; what it or
    its vendors print goes to `log`. It leads a session and a process group of its own, so a Ctrl-C
    reaches the parent alone, and the group can be paused and ended as one.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        log: Path,
        folder: Path,
        memory_limit_bytes: int | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._log = log
        self._memory_limit = memory_limit_bytes
        self._ending = contextlib.ExitStack()
        self._pending = b""
        self._over = False
        to_read, self._questions = os.pipe()
        self._answers, to_write = os.pipe()
        try:
            with log.open("wb") as stream:
                self._process = subprocess.Popen(
                    [*command, str(to_read), str(to_write)],
                    stdin=subprocess.DEVNULL,
                    stdout=stream,
                    stderr=stream,
                    cwd=folder,
                    env=None if environment is None else {**os.environ, **environment},
                    pass_fds=(to_read, to_write),
                    start_new_session=True,
                )
        except OSError as error:
            os.close(self._questions)
            os.close(self._answers)
            raise ChildError("error", f"{command[0]} cannot be started: {error}.") from error
        finally:
            os.close(to_read)
            os.close(to_write)
        self._group = self._ending.enter_context(memory_group(memory_limit_bytes))
        self._group.add(self.pid)

    @property
    def pid(self) -> int:
        """The process, which is also its group."""
        return self._process.pid

    def ask(
        self,
        message: Mapping[str, Any],
        *,
        time_limit_s: float,
        on_event: Callable[[Mapping[str, Any]], None] | None = None,
    ) -> dict[str, Any]:
        """Send a message and wait for the answer.

        Args:
            message: a verb and its arguments.
            time_limit_s: the answer comes within this.
            on_event: is told what the child says before, as lines `{"event": ...}`.

        Raises:
            ChildError: it ended, did not answer in time, used more memory than the limit, or
                answered with an error. It is then no longer of use; `end` it.
        """
        with contextlib.suppress(BrokenPipeError):  # it has ended: the answer says how
            os.write(self._questions, json.dumps(message).encode() + b"\n")
        deadline = time.monotonic() + time_limit_s
        answer = self._answer(str(message["verb"]), time_limit_s, deadline)
        while on_event is not None and "event" in answer:
            on_event(answer["event"])
            answer = self._answer(str(message["verb"]), time_limit_s, deadline)
        if "failed" in answer:
            kind: Kind = answer["failed"]
            raise ChildError(kind, str(from_record(answer["error"])), answer["error"])
        return answer

    def pause(self) -> None:
        """Stop the whole group: idle threads of a runtime spin, and would spoil others' figures."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Undo `pause`."""
        self._signal(signal.SIGCONT)

    def end(self) -> bool:
        """Kill the process and all that descend from it, paused or not, and reap it.

        Returns:
            Whether one of them lives on: a driver holds it in the kernel.
        """
        if self._over:  # reaped: its number may be somebody else's by now
            return False
        self._over = True
        members = tree(self.pid)
        self._signal(signal.SIGKILL)
        for pid in members[1:]:  # those that left the group
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        os.close(self._questions)
        os.close(self._answers)
        # One that a driver holds in the kernel cannot be killed; waiting on would hang here too.
        until = time.monotonic() + _END_S
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=_END_S)
        while any(map(lives, members)) and time.monotonic() < until:
            time.sleep(_WATCH_S)
        self._ending.close()
        return any(map(lives, members))

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def _answer(self, verb: str, time_limit_s: float, deadline: float) -> dict[str, Any]:
        memory_limit = self._memory_limit
        while b"\n" not in self._pending:
            left = deadline - time.monotonic()
            if left <= 0:
                raise ChildError(
                    "hung", f"No answer to {verb!r} within {time_limit_s:g} s. {self._last_words()}"
                )
            wait = left if memory_limit is None else min(left, _WATCH_S)
            if select.select([self._answers], [], [], wait)[0]:
                received = os.read(self._answers, 1 << 16)
                if not received:
                    raise self._ended(verb)
                self._pending += received
            elif memory_limit is not None and (
                tree_memory(self.pid) > memory_limit or self._group.has_killed()
            ):
                raise self._out_of_memory(verb)
        line, _, self._pending = self._pending.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _out_of_memory(self, verb: str) -> ChildError:
        limit = (self._memory_limit or 0) / 2**20
        return ChildError(
            "out_of_memory", f"It used more than the limit of {limit:.0f} MiB during {verb!r}."
        )

    def _ended(self, verb: str) -> ChildError:
        if self._group.has_killed():
            return self._out_of_memory(verb)
        # Looked at, not reaped: `end` still needs the number to reach what it left behind.
        found = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        assert found is not None  # only with WNOHANG
        how = f"exit status {found.si_status}"
        if found.si_code != os.CLD_EXITED:
            how = signal.Signals(found.si_status).name
            if found.si_status == signal.SIGKILL:
                how += " (by somebody's hand, or the kernel was out of memory)"
        return ChildError("crashed", f"It ended during {verb!r} with {how}. {self._last_words()}")

    def _last_words(self) -> str:
        with contextlib.suppress(OSError):
            lines = self._log.read_text(errors="replace").split("\n")
            words = " | ".join([line.strip() for line in lines if line.strip()][-3:])
            if words:
                return f"Its last words: {words[-400:]}"
        return "It said nothing."


def serve(verbs: Mapping[str, Any], *, questions: int, answers: int) -> None:
    """The child's side: answer each line with its verb's result until the pipe is closed."""
    for descriptor in (questions, answers):
        # A process that a vendor starts must not hold them open.
        os.set_inheritable(descriptor, False)  # noqa: FBT003  it takes no keyword
    with os.fdopen(questions) as asked, os.fdopen(answers, "w") as answered:
        for line in asked:
            message = json.loads(line)
            answer = _tried(verbs[message.pop("verb")], message)
            answered.write(json.dumps(answer) + "\n")
            answered.flush()


def _tried(verb: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    try:
        answer: dict[str, Any] = verb(**arguments)
    except MemoryError as error:
        return _failed("out_of_memory", SlipwayError(f"Memory ran out: {error}"))
    except SlipwayError as error:
        return _failed("error", error)
    except Exception as error:  # noqa: BLE001  a vendor may raise anything; the parent reports it
        import traceback

        traceback.print_exc()
        return _failed("error", SlipwayError(f"{type(error).__name__}: {error}"))
    return answer


def _failed(kind: Kind, error: SlipwayError) -> dict[str, Any]:
    return {"failed": kind, "error": to_record(error)}


def die_with(parent: int) -> None:
    """End this process when the thread of the parent that started it ends, however it does."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it had ended before the line above
        os._exit(1)


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent ends: they stay in this process's tree."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)


def tree(pid: int) -> list[int]:
    """The process and all its descendants that live; the process itself comes first."""
    found = [pid]
    for member in found:
        for listing in Path(f"/proc/{member}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found.extend(int(child) for child in listing.read_text().split())
    return found


def lives(pid: int) -> bool:
    """Whether a process is there that is not merely waiting to be reaped."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state not in "ZX"


def tree_memory(pid: int) -> int:
    """Bytes of RAM that a process and its descendants use now; shared pages count in each."""
    return sum(memory(member) or 0 for member in tree(pid))


def tree_peak(pid: int) -> int | None:
    """The peaks of a process and its living descendants, summed: at least the peak of their sum."""
    peaks = [memory(member, "VmHWM") for member in tree(pid)]
    return None if peaks[0] is None else sum(peak or 0 for peak in peaks)


def memory(pid: int, field: Literal["VmRSS", "VmHWM"] = "VmRSS") -> int | None:
    """Bytes of RAM that one process uses now, or used at most; None where nothing tells."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    return None


def forget_peak() -> None:
    """Start this process's `VmHWM` anew from what it uses now, where the kernel lets it."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def threads(pid: int) -> int | None:
    """How many threads a process has; None where nothing tells."""
    with contextlib.suppress(OSError):
        return sum(1 for _ in Path(f"/proc/{pid}/task").iterdir())
    return None


def usable_cpus() -> int:
    """How many CPUs this process may run on."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
