"""A hard memory limit for a child and all it starts: a Linux control group, where one may be made.

The kernel then ends the child at the limit, at once and before the machine suffers. Where no group
may be made (no root, no delegation, another system) the caller's watchdog on the processes' RSS is
all there is; it keeps watch in any case, since the two count shared pages differently.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_V1_LIMITS = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes")  # the second counts swap too


class MemoryGroup:
    """A limit on memory that a process is put under; without a folder it does nothing."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    @property
    def enforced(self) -> bool:
        """Whether the kernel holds the limit."""
        return self.folder is not None

    def add(self, pid: int) -> None:
        """Put a process under the limit, and all that it starts from now on."""
        if self.folder is not None:
            with contextlib.suppress(OSError):  # it has ended
                (self.folder / "cgroup.procs").write_text(str(pid))

    def has_killed(self) -> bool:
        """Whether the kernel ended a process here because the limit was reached."""
        if self.folder is None:
            return False
        for name in ("memory.events", "memory.oom_control"):  # version 2, version 1
            with contextlib.suppress(OSError):
                words = (self.folder / name).read_text().split()
                return int(words[words.index("oom_kill") + 1]) > 0
        return False


@contextlib.contextmanager
def memory_group(limit_bytes: int | None) -> Iterator[MemoryGroup]:
    """A group with this limit, removed afterwards; it holds nothing where none can be made.

    The processes in it must have ended when the block does.
    """
    folder = None if limit_bytes is None else _made(limit_bytes)
    try:
        yield MemoryGroup(folder)
    finally:
        if folder is not None:
            _remove(folder)


def _remove(folder: Path) -> None:
    """Remove a group; the kernel lets go of a process some moments after its parent has."""
    for _ in range(100):
        try:
            folder.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(0.01)


def _made(limit_bytes: int) -> Path | None:
    for parent, limits in _parents():
        folder = parent / f"slipway-{uuid.uuid4().hex[:12]}"
        try:
            folder.mkdir()
        except OSError:
            continue
        try:
            (folder / limits[0]).write_text(str(limit_bytes))
        except OSError:  # the parent does not hand this controller down
            folder.rmdir()
            continue
        for swap in limits[1:]:
            with contextlib.suppress(OSError):  # a kernel that does not count swap
                (folder / swap).write_text("0" if swap == "memory.swap.max" else str(limit_bytes))
        return folder
    return None


def _parents() -> Iterator[tuple[Path, tuple[str, ...]]]:
    """Where a group may be made, with the files that take its limits (cgroups(7))."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if "memory" in controllers.split(","):
                yield _ROOT / "memory" / path.lstrip("/"), _V1_LIMITS
            elif not controllers:
                # A group that holds processes hands no controller down, but a sibling may have it.
                own = _ROOT / path.lstrip("/")
                yield own, ("memory.max", "memory.swap.max")
                if own != _ROOT:
                    yield own.parent, ("memory.max", "memory.swap.max")
