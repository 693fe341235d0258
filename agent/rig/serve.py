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
import queue
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from agent.boot import boot_id, uptime_s
from agent.errors import SlipwayError, StorageError, UsageError, to_record
from agent.rig.lease import Lease
from agent.rig.runs import Runs, Tell, end_strays, tail
from agent.rig.store import Store, receive, skip

VERSION = 1
SILENT_S = 30.0
"""A client that says nothing for so long is taken for gone."""


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
        self._runs = Runs(home, self._store, self._check)
        self._is_busy = False
        self._work: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        threading.Thread(target=self._run_all, daemon=True).start()
        self._over = threading.Event()
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
            elif verb == "ask":
                if not self._ask(number, asked):
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
        self._runs.end()
        self._let_go()

    def _let_go(self) -> None:
        """Give the lease back, and leave nothing of its runs."""
        lease, self._lease = self._lease, None
        if lease is None:
            return
        still = False
        with contextlib.suppress(SlipwayError):
            lease.check()
            still = True
        self._runs.clear(remove=still)
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

    def _ask_lease(self, name: str, *, inspects: bool = False) -> dict[str, Any]:
        if self._lease is None:
            self._lease = Lease(self._home, name)
        waits = self._lease.ask(inspects=inspects)
        if waits is None:
            cleaned = [*end_strays(self._home), *self._store.clean()]
            return {"token": self._lease.token, "cleaned": cleaned}
        before, holder = waits
        return {"token": None, "before": before, "holder": holder.name if holder else None}

    def _release(self) -> dict[str, Any]:
        if self._is_busy:
            raise _busy()
        self._let_go()
        return {}

    def _aside(self, by: str, reason: str, **kinds: bool) -> dict[str, Any]:
        Lease(self._home, by).set_aside(by, reason, **kinds)
        return {}

    def _back(self, *, passed: bool = False) -> dict[str, Any]:
        return {"was": Lease(self._home, "").give_back(passed=passed)}

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

    def _fetch(self, run: str, name: str, last_bytes: int | None = None) -> bytes:
        """A file that a run left."""
        return tail(self._home, run, name, last_bytes)

    def _ask(self, number: int, asked: dict[str, Any]) -> bool:
        """Take a question's inputs, and answer it; False where the line cannot be followed."""
        try:
            length, token = int(asked["bytes"]), int(asked["token"])
            limit_s, reset = float(asked["time_limit_s"]), bool(asked["reset"])
        except (LookupError, TypeError, ValueError):
            self._say({"id": number, "error": to_record(_nonsense(b"ask"))})
            return False
        try:
            if self._is_busy:
                raise _busy()
            path = self._runs.inputs_file(token)
            receive(path, length, self._lines, self._heard)
        except EOFError:
            return False
        except SlipwayError as error:
            self._say({"id": number, "error": to_record(error)})
            if not isinstance(error, StorageError):  # of all others the bytes were not read
                skip(self._lines, length, self._heard)
            return True
        self._begin(number, lambda tell: self._runs.ask(tell, token, limit_s, reset=reset))
        return True

    def _begin_run(self, number: int, asked: dict[str, Any]) -> None:
        if self._is_busy:
            self._say({"id": number, "error": to_record(_busy())})
            return
        self._begin(number, lambda tell: self._runs.carry_out(tell, **asked))

    def _begin(self, number: int, work: Callable[[Tell], Any]) -> None:
        """Beside the thread that reads: whoever asked says meanwhile that it lives."""

        def tell(event: Mapping[str, Any]) -> None:
            self._say({"id": number, "event": dict(event)})

        def act() -> Any:
            try:
                return work(tell)
            finally:
                self._is_busy = False

        self._is_busy = True
        self._work.put(functools.partial(self._answer, number, act))

    def _run_all(self) -> None:
        """In one thread for all runs: a process dies with the thread that started it."""
        while True:
            self._work.get()()

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
                found = {}, found
            if isinstance(found, tuple):
                result, content = found
                self._say({"id": number, "result": result, "bytes": len(content)}, content)
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
