"""The runner of a rig: it answers one client's JSON lines, over whatever line they come.

A request is a line of JSON with an `id`, a `verb` and its arguments; one with `bytes` is followed
by as many. An answer is a line with that `id` and a `result` or an `error`; events come between.
It ends with its line, or when the client is silent: its run ends then, and others have the rig.
docs/reference/protocol/rig.md is this page in words.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from agent.boot import boot_id, uptime_s
from agent.bootstrap import own_command
from agent.errors import SlipwayError, StorageError, UsageError, VerificationError, to_record
from agent.files import remove_tree
from agent.processes import Child, ChildError
from agent.rig.job import own_python
from agent.rig.lease import Lease
from agent.rig.machine import MachineLock
from agent.rig.quiet import wait_for_quiet
from agent.rig.store import Store

VERSION = 1
SILENT_S = 30.0
"""A client that says nothing for so long is taken for gone."""
_STEP_S = 0.2


def serve(home: str) -> None:
    """Answer what comes on standard input, until it ends."""
    lines, answers = _streams()
    runner = Runner(Path(home), lines, answers)
    watch = threading.Thread(target=runner.watch, daemon=True)
    watch.start()
    try:
        runner.answer_all()
    finally:
        runner.end()


def _streams() -> tuple[BinaryIO, BinaryIO]:
    """The two ends of the line; whatever else writes to standard output goes to the log instead."""
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    return sys.stdin.buffer, answers


class Runner:
    """What one client has of the rig."""

    def __init__(self, home: Path, lines: BinaryIO, answers: BinaryIO) -> None:
        self._home = home
        self._lines, self._answers = lines, answers
        self._writing = threading.Lock()
        self._store = Store(home)
        self._lease: Lease | None = None
        self._heard_s = time.monotonic()
        self._child: Child | None = None
        self._runs = False
        self._over = threading.Event()
        self._left: list[Path] = []
        self._verbs: dict[str, Callable[..., Any]] = {
            "hello": self._hello,
            "beat": self._beat,
            "lease": self._ask_lease,
            "release": self._release,
            "aside": self._aside,
            "back": self._back,
            "have": self._have,
            "stage": self._stage,
            "clean": self._clean,
            "fetch": self._fetch,
        }

    def answer_all(self) -> None:
        """Until the line ends."""
        while line := self._lines.readline():
            self._heard()
            try:
                asked = json.loads(line)
                number, verb = int(asked.pop("id")), str(asked.pop("verb"))
            except (ValueError, TypeError, KeyError, AttributeError):
                self._say({"id": 0, "error": to_record(_nonsense(line))})
                return  # what follows may be half of a file
            if verb == "put":
                if not self._put(number, asked):
                    return
            elif verb == "run":
                self._begin_run(number, asked)
            elif verb in self._verbs:
                self._answer(number, functools.partial(self._verbs[verb], **asked))
            else:
                self._say({"id": number, "error": to_record(_unknown(verb))})

    def watch(self) -> None:
        """End everything once the client is silent."""
        while not self._over.wait(1.0):
            if time.monotonic() - self._heard_s > SILENT_S:
                self.end()
                os._exit(3)  # the other threads may be stuck in the dead line

    def end(self) -> None:
        """End what runs, and let others have the rig."""
        self._over.set()
        child = self._child
        if child is not None:
            with contextlib.suppress(OSError):
                child.end()
        self._let_go()

    def _let_go(self) -> None:
        """Give the lease back, and leave nothing of its runs."""
        lease, self._lease = self._lease, None
        if lease is None:
            return
        with contextlib.suppress(SlipwayError):
            lease.check()  # else they are another client's by now
            for folder in self._left:
                remove_tree(folder)
        self._left.clear()
        lease.release()

    def _hello(self) -> dict[str, Any]:
        """Who answers, without a look at any runtime: that takes seconds."""
        from agent.codec import encode
        from agent.identity import fingerprint

        lease = Lease(self._home, "")
        holder = lease.holder()
        return {
            "version": VERSION,
            "python": list(sys.version_info[:3]),
            "executable": sys.executable,
            "boot_id": boot_id(),
            "uptime_s": uptime_s(),
            "time_s": time.time(),
            "free_bytes": self._store.free_bytes(),
            "folder": str(self._home),
            "fingerprint": encode(fingerprint()),
            "holder": holder.name if holder is not None and lease.is_held() else None,
            "aside": lease.aside(),
        }

    def _beat(self) -> dict[str, Any]:
        if self._lease is not None:
            self._lease.beat()
        return {}

    def _ask_lease(self, name: str) -> dict[str, Any]:
        if self._lease is None:
            self._lease = Lease(self._home, name)
        waits = self._lease.ask()
        if waits is None:
            cleaned = self._store.clean()
            return {"token": self._lease.token, "cleaned": cleaned}
        before, holder = waits
        return {"token": None, "before": before, "holder": holder.name if holder else None}

    def _release(self) -> dict[str, Any]:
        if self._runs:
            raise _busy()
        self._let_go()
        return {}

    def _aside(self, by: str, reason: str) -> dict[str, Any]:
        Lease(self._home, by).set_aside(by, reason)
        return {}

    def _back(self) -> dict[str, Any]:
        return {"was": Lease(self._home, "").give_back()}

    def _have(self, token: int, files: Mapping[str, int]) -> dict[str, Any]:
        self._check(token)
        return {"missing": self._store.missing(files)}

    def _stage(self, token: int, name: str, files: Mapping[str, str]) -> dict[str, Any]:
        self._check(token)
        self._store.sync()
        self._store.stage(name, files)
        return {}

    def _clean(self, token: int, keep_bytes: int | None = None) -> dict[str, Any]:
        self._check(token)
        return {"cleaned": self._store.clean(keep_bytes=keep_bytes)}

    def _put(self, number: int, asked: dict[str, Any]) -> bool:
        """Take a file; False where the line cannot be followed any further."""
        try:
            length = int(asked["bytes"])
            sha256, offset, token = str(asked["sha256"]), int(asked["offset"]), int(asked["token"])
        except (LookupError, TypeError, ValueError):
            self._say({"id": number, "error": to_record(_nonsense(b"put"))})
            return False
        try:
            self._check(token)
            whole = self._store.put(sha256, offset, length, self._lines, self._heard)
        except EOFError:
            return False
        except SlipwayError as error:
            self._say({"id": number, "error": to_record(error)})
            return isinstance(error, StorageError)  # of all others the bytes were not read
        self._say({"id": number, "result": {"whole": whole}})
        return True

    def _fetch(self, run: str, name: str) -> bytes:
        """A file that a run left."""
        folder = self._home / "runs" / run
        path = folder / name
        if not run.isdigit() or path.parent != folder or not path.is_file():
            raise VerificationError(
                f"The run {run[:20]!r} left no {name[:80]!r}.",
                cause="It was cleaned up: another client had the rig since.",
                remedy="Run it again.",
            )
        return path.read_bytes()

    def _begin_run(self, number: int, asked: dict[str, Any]) -> None:
        """In a thread of its own: whoever asked says meanwhile that it lives."""
        if self._runs:
            self._say({"id": number, "error": to_record(_busy())})
            return

        def act() -> dict[str, Any]:
            try:
                return self._carried_out(number, **asked)
            finally:
                self._runs = False

        self._runs = True
        threading.Thread(target=self._answer, args=(number, act), daemon=True).start()

    def _carried_out(
        self,
        number: int,
        token: int,
        kind: str,
        time_limit_s: float,
        memory_limit_mib: int | None = None,
        **asked: Any,
    ) -> dict[str, Any]:
        """One run: {outcome: ok | crashed | hung | out_of_memory | error, ...}."""
        self._check(token)
        folder = self._store.run_folder()
        self._left.append(folder)

        def tell(event: Mapping[str, Any]) -> None:
            self._say({"id": number, "event": dict(event)})

        arguments = self._arguments(kind, folder, memory_limit_mib, asked)
        lock = MachineLock(lambda line: tell({"event": "waiting", "message": line}))
        with contextlib.ExitStack() as ending:
            notes = []
            if kind == "contest":
                ending.callback(lock.release)
                lock.take(self._pause)
                restless = wait_for_quiet(lambda _: self._pause(3.0))
                notes = [restless] if restless else []
            child = Child(
                own_command("agent.rig.job", python=self._python(kind)),
                log=folder / "log.txt",
                folder=folder,
                memory_limit_bytes=None
                if kind == "contest" or memory_limit_mib is None
                else memory_limit_mib << 20,
            )
            ending.callback(child.end)
            self._child = child
            ending.callback(self._forget)
            try:
                found = child.ask(
                    {"verb": kind, **arguments}, time_limit_s=time_limit_s, on_event=tell
                )
            except ChildError as error:
                return {
                    "outcome": error.kind,
                    "message": str(error),
                    "error": error.error,
                    "run": folder.name,
                }
        self._check(token)
        return {"outcome": "ok", "found": found, "notes": notes, "run": folder.name}

    def _arguments(
        self, kind: str, folder: Path, memory_limit_mib: int | None, asked: Mapping[str, Any]
    ) -> dict[str, Any]:
        """What the job is asked, with the folders here that its names stand for."""
        if kind == "answer":
            return {
                "variant": str(self._store.staged(asked["variant"])),
                "questions": str(self._one_file(asked["questions"])),
                "out": str(folder / "answers.safetensors"),
                "check_as": asked.get("check_as"),
            }
        if kind == "contest":
            return {
                "contestants": {
                    name: str(self._store.staged(staged))
                    for name, staged in asked["contestants"].items()
                },
                "inputs": str(self._one_file(asked["inputs"])),
                "logs": str(folder),
                "budget": asked["budget"],
                "race": asked.get("race"),
                "time_limit_s": asked["turn_limit_s"],
                "memory_limit_mib": memory_limit_mib,
            }
        if kind in ("look", "probe"):
            return {}
        if kind == "install":
            wheels = str(self._store.staged(asked["wheels"]))
            return {"wheels": wheels, "home": str(self._home), "packages": asked["packages"]}
        raise _unknown(kind)

    def _python(self, kind: str) -> str:
        """The environment that was installed here has the runtimes, where there is one."""
        own = own_python(self._home)
        return str(own) if own.is_file() and kind != "install" else sys.executable

    def _one_file(self, staged: str) -> Path:
        return next(path for path in self._store.staged(staged).iterdir() if path.is_file())

    def _pause(self, seconds: float = _STEP_S) -> None:
        if self._over.wait(seconds):
            raise UsageError("The run was called off.")

    def _forget(self) -> None:
        self._child = None

    def _check(self, token: int) -> None:
        if self._lease is None or self._lease.token != token:
            raise UsageError(
                f"The lease {token} is not this client's.",
                cause="It never asked for one, or has given it back.",
                remedy="Ask for a lease first.",
            )
        self._lease.check()

    def _heard(self) -> None:
        self._heard_s = time.monotonic()

    def _answer(self, number: int, act: Callable[[], Any]) -> None:
        try:
            found = act()
        except SlipwayError as error:
            self._say({"id": number, "error": to_record(error)})
        except (OSError, TypeError, ValueError, LookupError, StopIteration) as error:
            told = SlipwayError(f"The rig failed: {type(error).__name__}: {error}")
            self._say({"id": number, "error": to_record(told)})
        else:
            if isinstance(found, bytes):
                self._say({"id": number, "result": {}, "bytes": len(found)}, found)
            else:
                self._say({"id": number, "result": found})

    def _say(self, told: Mapping[str, Any], content: bytes = b"") -> None:
        if self._over.is_set():  # whoever asked has gone
            return
        with self._writing, contextlib.suppress(BrokenPipeError):
            left = memoryview(json.dumps(told).encode() + b"\n" + content)
            while left:
                left = left[self._answers.write(left) :]


def _nonsense(line: bytes) -> UsageError:
    return UsageError(
        f"{line[:80]!r} is no request.",
        cause="Another version of Slipway speaks here, or the line is not clean.",
        remedy="Update Slipway where it was sent from.",
    )


def _unknown(verb: str) -> UsageError:
    return UsageError(
        f"This rig does not know {verb[:80]!r}.",
        cause="It was sent by a newer Slipway.",
        remedy="Update Slipway.",
    )


def _busy() -> UsageError:
    return UsageError("A run is under way on this line.", remedy="Wait until it is over.")
