"""Who has the rig: one client at a time, in the order in which they came.

The kernel keeps the lease. A runner that has it holds a lock on a file, and one that waits a lock
on its ticket; whoever dies loses both at once, so nothing is ever left locked. A runner that lives
and does not speak, because it was stopped or its disk hangs, tells no heartbeat, and is killed by
the next in line. Each lease has a higher number than the one before: a runner that comes back to
life finds another number there, and writes nothing more (a fencing token).
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import signal
from pathlib import Path
from typing import IO, Any

from agent.boot import boot_id, uptime_s
from agent.errors import NetworkError, SlipwayError, StorageError, UsageError
from agent.files import storage_errors, write_atomic
from agent.rig.machine import locked

SILENT_S = 60.0
"""A holder that has not said for so long that it lives is taken for dead."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Holder:
    """Who has the rig, as its file says."""

    token: int
    name: str
    """Of the client, for a person: user@host and what it does."""
    pid: int
    born: str
    """When that process was started, in the kernel's ticks: numbers of processes are used again."""
    boot_id: str
    beat_s: float
    """Uptime when it last said that it lives."""


class Lease:
    """The lease of one rig, as one runner sees it."""

    def __init__(self, home: Path, name: str) -> None:
        self._folder = home / "lease"
        self._queue = self._folder / "queue"
        with storage_errors(home):
            self._queue.mkdir(parents=True, exist_ok=True)
        self._name = name
        self._held: IO[bytes] | None = None
        self._ticket: tuple[Path, IO[bytes]] | None = None
        self.token: int | None = None

    def ask(self, *, inspects: bool = False) -> tuple[int, Holder | None] | None:
        """Take the lease if it is free and nobody was here before.

        Args:
            inspects: to look for what is wrong with a rig, also where it is off for that.

        Returns:
            None once it is ours; else how many are before us, its holder too, and who that is.

        Raises:
            UsageError: somebody has set the rig aside.
            StorageError: it failed a check and is off; or its folder cannot be written.
        """
        self._refuse_aside(inspects=inspects)
        with storage_errors(self._folder):
            before = self._before()
            if before == 0 and self._take():
                self._drop_ticket()
                return None
        holder = self.holder()
        if holder is not None and before == 0:
            self._end_if_dead(holder)
        return before + 1, holder

    def check(self) -> None:
        """Whether this runner still has it; called before anything is written.

        Raises:
            NetworkError: it has not: another one took it.
        """
        holder = self.holder()
        if self.token is None or holder is None or holder.token != self.token:
            raise NetworkError(
                f"The lease {self.token} of this rig is over; the newest is "
                f"{holder.token if holder else None}.",
                cause="This client was silent for too long, and another one took the rig.",
                remedy="Run it again: it waits for its turn.",
            )

    def beat(self) -> None:
        """Say that this runner lives."""
        if self.token is not None:
            self._note(self.token)

    def release(self) -> None:
        """Give it back, or leave the queue."""
        self._drop_ticket()
        self.token = None
        if self._held is not None:
            self._held.close()
            self._held = None

    def holder(self) -> Holder | None:
        """Who has it, or had it last."""
        try:
            return Holder(**json.loads((self._folder / "holder.json").read_bytes()))
        except (OSError, ValueError, TypeError):
            return None

    def is_held(self) -> bool:
        """Whether anybody has it at this moment."""
        with _opened(self._folder / "lock") as stream:
            return not locked(stream)

    def set_aside(self, by: str, reason: str, *, failed: bool = False, hung: bool = False) -> None:
        """Keep everybody off until it is given back; who has it at this moment goes on.

        Args:
            by: who does it.
            reason: for others.
            failed: not a person wants it so: the rig failed a check, and is off until it passes.
            hung: which it cannot before the machine is started anew.

        Raises:
            UsageError: somebody else has set it aside; a check that fails changes nothing of that.
        """
        found = self.aside()
        if found is not None and not found["failed"] and (failed or found["by"] != by):
            raise _aside(found)
        told = {
            "by": by, "reason": reason, "failed": failed, "hung_boot": boot_id() if hung else None,
        }  # fmt: skip
        write_atomic(self._folder / "aside.json", json.dumps(told).encode())

    def give_back(self, *, passed: bool = False) -> bool:
        """Let others have it again; whether it was set aside.

        `passed`: since it passed a check; what a person has set aside stays so.
        """
        found = self.aside()
        if found is None or (passed and not found["failed"]):
            return False
        with storage_errors(self._folder), contextlib.suppress(FileNotFoundError):
            (self._folder / "aside.json").unlink()
        return True

    def aside(self) -> dict[str, Any] | None:
        """Who set it aside, and why: {by, reason, failed, hung_boot}; None where nobody did."""
        try:
            found: dict[str, Any] = json.loads((self._folder / "aside.json").read_bytes())
        except (OSError, ValueError):
            return None
        return found

    def _refuse_aside(self, *, inspects: bool) -> None:
        found = self.aside()
        if found is None or (found["failed"] and inspects):
            return
        if found["failed"] or not self._name.startswith(f"{found.get('by')} "):
            raise _aside(found)

    def _before(self) -> int:
        """How many live tickets are older than ours, which is drawn if there is none."""
        with _opened(self._folder / "queue.lock") as guard:
            fcntl.flock(guard, fcntl.LOCK_EX)
            numbers = sorted(path for path in self._queue.iterdir() if path.name.isdigit())
            if self._ticket is None:
                last = int(numbers[-1].name) if numbers else 0
                path = self._queue / f"{last + 1:012d}"
                stream = _opened(path)
                locked(stream, keep=True)
                self._ticket = (path, stream)
                numbers.append(path)
            before = 0
            for path in numbers:
                if path == self._ticket[0]:
                    break
                with _opened(path) as stream:
                    if locked(stream):  # nobody holds it: its runner is gone
                        path.unlink(missing_ok=True)
                    else:
                        before += 1
        return before

    def _take(self) -> bool:
        stream: IO[bytes] = _opened(self._folder / "lock")
        if not locked(stream, keep=True):
            stream.close()
            return False
        last = self.holder()
        self._held, self.token = stream, 1 + (last.token if last else 0)
        self._note(self.token)
        return True

    def _note(self, token: int) -> None:
        told = Holder(
            token=token,
            name=self._name,
            pid=os.getpid(),
            born=_born(os.getpid()),
            boot_id=boot_id(),
            beat_s=uptime_s(),
        )
        if self._held is None:
            return
        holder = self.holder()
        if holder is None or holder.token <= token:
            # Not synced: after a power cut nobody has it, and a beat should not stir the disk.
            beside = self._folder / f".holder.{os.getpid()}"
            with storage_errors(beside):
                beside.write_text(json.dumps(dataclasses.asdict(told)))
                beside.replace(self._folder / "holder.json")

    def _end_if_dead(self, holder: Holder) -> None:
        """Kill a holder that is silent; its lock is free with its end."""
        alike = holder.boot_id == boot_id() and holder.born == _born(holder.pid)
        if alike and uptime_s() - holder.beat_s > SILENT_S:
            for end in (os.killpg, os.kill):
                with contextlib.suppress(OSError):
                    end(holder.pid, signal.SIGKILL)

    def _drop_ticket(self) -> None:
        if self._ticket is not None:
            path, stream = self._ticket
            path.unlink(missing_ok=True)
            stream.close()
            self._ticket = None


def _opened(path: Path) -> IO[bytes]:
    return path.open("ab")


def _born(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _aside(found: dict[str, Any]) -> SlipwayError:
    if found["failed"]:
        return StorageError(
            f"This rig is off since it failed a check: {found.get('reason')}.",
            cause=f"{found.get('by')} found it so.",
            remedy="It is back once it passes: sdk hil doctor NAME; or: sdk hil unlock NAME",
        )
    return UsageError(
        f"{found.get('by')} has set this rig aside: {found.get('reason') or 'no reason is given'}.",
        cause="Somebody works at it by hand.",
        remedy="Ask them, or give it back: sdk hil unlock NAME",
    )
