"""A rig while it is reached: ask for a lease, push files, run, fetch.

What is asked goes out as JSON lines, and answers come back in any order (`agent.rig.serve` is the
other end). Whatever ends the line ends every question with a `LinkLostError`, and the rig's half
ends its run by itself.
"""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from agent.errors import SlipwayError, StorageError, UsageError, from_record
from agent.rig.serve import VERSION
from hil.greeting import greet
from hil.line import Line
from hil.outcome import LinkLostError

BEAT_S = 5.0
ANSWER_S = 30.0
"""A rig that answers nothing for so long is lost."""
_PIECE_BYTES = 128 << 10
"""One such piece goes out within `ANSWER_S`, on any link that is worth the name."""
_TOLD = {"version", "python", "boot_id", "free_bytes", "time_s", "holder", "aside"}
"""What every runner says of itself."""
OnEvent = Callable[[Mapping[str, Any]], None]
OnProgress = Callable[[int, int], None]


class Rig:
    """One rig, over one line. A context manager: with its end others may have the rig."""

    def __init__(self, name: str, line: Line, folder: str, *, is_sent: bool = True) -> None:
        """Start the runner there; its code is sent unless it is there.

        Args:
            name: for messages.
            line: where a Python reads a program: its length in a line, then itself.
            folder: on the rig.
            is_sent: False where the line leads to a runner that is there already.

        Raises:
            LinkLostError: nobody answers.
            UsageError: its Python is too old.
            StorageError: its folder cannot be written.
        """
        self.name = name
        self._line = line
        self._numbers = itertools.count(1)
        self._writing = threading.Lock()
        self._guard = threading.Condition()
        self._answers: dict[int, tuple[dict[str, Any], bytes]] = {}
        self._events: dict[int, OnEvent] = {}
        self._lost: str | None = None
        self._over = threading.Event()
        self._token = 0
        self._writes_since: float | None = None
        try:
            greet(name, line, folder, is_sent=is_sent, most_s=ANSWER_S)
        except BaseException:
            line.close()
            raise
        for work in (self._read, self._beat, self._watch):
            threading.Thread(target=work, daemon=True).start()
        self.hello: dict[str, Any] = self._asked("hello")
        lacks = _TOLD - self.hello.keys()
        if lacks or self.hello["version"] != VERSION:
            self.close()
            raise UsageError(
                f"The runner on {name} speaks version {self.hello.get('version')!r} of the protocol"
                f"{f', and lacks {sorted(lacks)}' if lacks else ''}; this client speaks {VERSION}.",
                cause="It is a runner of another kind, and of another Slipway's time.",
                remedy="Update the one that is older.",
            )

    def __enter__(self) -> Rig:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the rig back."""
        self._over.set()
        self._line.close()

    def look_again(self) -> dict[str, Any]:
        """What it says of itself at this moment."""
        self.hello = self._asked("hello")
        return self.hello

    @property
    def boot_id(self) -> str:
        """Another one after each start of the rig."""
        return str(self.hello["boot_id"])

    def lease(
        self, who: str, on_wait: Callable[[str], None], *, wait_s: float | None,
        inspects: bool = False,
    ) -> list[str]:  # fmt: skip
        """Have the rig for this client alone, once it is its turn.

        Args:
            who: for others: user@host and what for.
            on_wait: is told whom it waits for, whenever that changes.
            wait_s: how long at most; None for as long as it takes.
            inspects: to look for what is wrong: one that failed a check lets others in no more.

        Returns:
            What was cleaned up there that others had left.

        Raises:
            StorageError: somebody else has it, and the time is up; or it failed a check and is off.
            UsageError: somebody has set it aside.
        """
        began, told = time.monotonic(), ""
        while True:
            found = self._asked("lease", name=who, inspects=inspects)
            if found["token"] is not None:
                self._token = int(found["token"])
                return list(found["cleaned"])
            line = f"{self.name}: {found['before']} before this one; {found['holder']} has it"
            if line != told:
                on_wait(line)
                told = line
            if wait_s is not None and time.monotonic() - began > wait_s:
                self._asked("release")
                raise StorageError(
                    f"{found['holder']} has the rig {self.name}, and {wait_s:g} s are over.",
                    cause="Another run is under way there.",
                    remedy="Wait longer: --wait SECONDS; who has it tells: sdk hil list",
                )
            time.sleep(0.2)

    def release(self) -> None:
        """Let others have it, and stay on the line."""
        self._token = 0
        self._asked("release")

    @property
    def is_leased(self) -> bool:
        """Whether this client has it."""
        return self._token > 0

    @property
    def is_lost(self) -> bool:
        """Whether its line has ended."""
        return self._lost is not None

    def push(self, files: Mapping[str, Path], on_progress: OnProgress | None = None) -> int:
        """Send files that are not there, each once: hash -> path; how many bytes went out.

        Raises:
            StorageError: they do not fit there.
            LinkLostError: the line ended; what came is kept, and the next time goes on from there.
        """
        lengths = {sha256: path.stat().st_size for sha256, path in files.items()}
        missing = self._asked("have", token=self._token, files=lengths)["missing"]
        total = sum(lengths[sha256] - have for sha256, have in missing.items())
        sent = 0

        def progress(count: int) -> None:
            nonlocal sent
            sent += count
            if on_progress is not None:
                on_progress(sent, total)

        for sha256, have in missing.items():
            if not self._put(sha256, files[sha256], have, progress) and not self._put(
                sha256, files[sha256], 0, progress
            ):
                raise StorageError(
                    f"{files[sha256]} is another file than its name says: {sha256[:12]}.",
                    cause="It was changed while it was sent, or a disk is failing.",
                    remedy="Build again.",
                )
        return sent

    def stage(self, name: str, files: Mapping[str, str]) -> None:
        """Put a folder together there, of files that were pushed: relative path -> hash."""
        self._asked("stage", token=self._token, name=name, files=dict(files))

    def run(
        self, kind: str, on_event: OnEvent | None = None, *, time_limit_s: float, **asked: Any
    ) -> dict[str, Any]:
        """Run something there: {outcome, run, found | message, ...}; see `agent.rig.job`.

        Raises:
            LinkLostError: the line ended in the middle; its process there is ended.
        """
        return self._asked(
            "run", on_event=on_event, endless=True,
            token=self._token, kind=kind, time_limit_s=time_limit_s, **asked,
        )  # fmt: skip

    def ask(
        self, inputs: bytes, on_event: OnEvent | None = None, *, time_limit_s: float, reset: bool
    ) -> tuple[dict[str, Any], bytes]:
        """A question to the session that is open there: the run's end, and its outputs.

        Both are safetensors, with the inputs' and outputs' names.

        Raises:
            LinkLostError: the line ended in the middle; the session there is ended.
        """
        return self._answer_of(
            "ask", on_event, None, inputs, token=self._token, bytes=len(inputs),
            time_limit_s=time_limit_s, reset=reset,
        )  # fmt: skip

    def fetch(self, run: str, name: str, last_bytes: int | None = None) -> bytes:
        """A file that a run left, or only the end of it."""
        return self._answer_of(
            "fetch", None, ANSWER_S * 10, run=run, name=name, last_bytes=last_bytes
        )[1]

    def clean(self, keep_bytes: int | None = None) -> list[str]:
        """Remove what was pushed, the longest unused first, down to so many bytes."""
        found = self._asked("clean", token=self._token, keep_bytes=keep_bytes)
        return list(found["cleaned"])

    def set_aside(self, by: str, reason: str, *, failed: bool = False, hung: bool = False) -> None:
        """Keep others off, until it is given back; if it `failed` a check, until it passes one.

        One that `hung` passes none before it was started anew.

        Raises:
            UsageError: another one has.
        """
        self._asked("aside", by=by, reason=reason, failed=failed, hung=hung)

    def give_back(self, *, passed: bool = False) -> bool:
        """Let others have it again; whether it was set aside.

        `passed`: since it passed a check; what a person has set aside stays so.
        """
        return bool(self._asked("back", passed=passed)["was"])

    def _put(self, sha256: str, path: Path, offset: int, progress: Callable[[int], None]) -> bool:
        length = path.stat().st_size - offset
        number = next(self._numbers)
        head = {
            "id": number, "verb": "put", "token": self._token, "sha256": sha256,
            "offset": offset, "bytes": length,
        }  # fmt: skip
        with path.open("rb") as stream, self._writing:
            stream.seek(offset)
            self._write(json.dumps(head).encode() + b"\n")
            while length:
                chunk = stream.read(min(_PIECE_BYTES, length))
                chunk = chunk or b"\0" * min(_PIECE_BYTES, length)  # it became shorter: found there
                self._write(chunk)
                length -= len(chunk)
                progress(len(chunk))
        return bool(self._wait(number, ANSWER_S * 4)[0]["whole"])

    def _asked(
        self, verb: str, *, on_event: OnEvent | None = None, endless: bool = False, **asked: Any
    ) -> dict[str, Any]:
        return self._answer_of(verb, on_event, None if endless else ANSWER_S, **asked)[0]

    def _answer_of(
        self, verb: str, on_event: OnEvent | None, wait_s: float | None, content: bytes = b"",
        **asked: Any,
    ) -> tuple[dict[str, Any], bytes]:  # fmt: skip
        number = next(self._numbers)
        if on_event is not None:
            self._events[number] = on_event
        with self._writing:
            self._write(
                json.dumps({"id": number, "verb": verb, **asked}).encode() + b"\n" + content
            )
        try:
            return self._wait(number, wait_s)
        finally:
            self._events.pop(number, None)

    def _write(self, content: bytes) -> None:
        try:
            for begin in range(0, len(content), _PIECE_BYTES):
                self._writes_since = time.monotonic()
                self._line.write(content[begin : begin + _PIECE_BYTES])
        except OSError as error:
            self._lose(str(error) or type(error).__name__)
            raise self._lost_error() from error
        finally:
            self._writes_since = None

    def _watch(self) -> None:
        """The thread that ends a line which takes nothing more: who writes waits for ever else."""
        while not self._over.wait(1.0):
            since = self._writes_since
            if since is not None and time.monotonic() - since > ANSWER_S:
                self._lose(f"it has taken nothing for {ANSWER_S:g} s")
                self._line.close()
                return

    def _wait(self, number: int, wait_s: float | None) -> tuple[dict[str, Any], bytes]:
        """The answer of that number; a run's may take as long as the rig says that it lives."""
        until = None if wait_s is None else time.monotonic() + wait_s
        with self._guard:
            while number not in self._answers:
                if self._lost is not None:
                    raise self._lost_error()
                left = 1.0 if until is None else until - time.monotonic()
                if left <= 0:
                    self._lost = f"it has not answered for {wait_s:g} s"
                    raise self._lost_error()
                self._guard.wait(min(left, 1.0))
            answer, content = self._answers.pop(number)
        if "error" in answer:
            raise from_record(answer["error"])
        return answer["result"], content

    def _read(self) -> None:
        """The thread that takes what comes."""
        try:
            while line := self._line.readline():
                told: dict[str, Any] = json.loads(line)
                content = self._line.read(told["bytes"]) if "bytes" in told else b""
                if len(content) < told.get("bytes", 0):
                    raise EOFError("the line ended in the middle of an answer")
                number = told["id"]
                if "event" in told:
                    self._tell(number, told["event"])
                    continue
                with self._guard:
                    self._answers[number] = (told, content)
                    self._guard.notify_all()
        except (OSError, EOFError) as error:
            self._lose(str(error) or type(error).__name__)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            self._lose(f"it says something that is no answer ({error})")
        else:
            self._lose("the line ended")

    def _tell(self, number: int, event: Mapping[str, Any]) -> None:
        on_event = self._events.get(number)
        if on_event is not None:
            on_event(event)

    def _beat(self) -> None:
        """The thread that says that this client lives, and hears whether the rig does."""
        while not self._over.wait(BEAT_S):
            try:
                self._asked("beat")
            except SlipwayError:
                return

    def _lose(self, why: str) -> None:
        with self._guard:
            self._lost = self._lost or why
            self._guard.notify_all()

    def _lost_error(self) -> LinkLostError:
        words = "" if self._over.is_set() else self._line.last_words()
        said = f" Its last words: {words[-300:]}" if words else ""
        return LinkLostError(
            f"The rig {self.name} is lost: {self._lost}.{said}",
            cause="The network went down, or the rig was reset or switched off.",
            remedy="Run it again: what was pushed is still there.",
        )
