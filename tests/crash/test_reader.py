"""An application reads `current` at any moment: what it then reads is one release, and whole."""

from __future__ import annotations

import os
import select
import traceback
from pathlib import Path

from tests.crash.world import SLOTS_OF, BrokenError, Real, World, taken_back, update


def _identity(link: Path) -> tuple[int, int]:
    found = os.lstat(link)
    return found.st_ino, found.st_mtime_ns


def _read_until(world: World, state: Path, told_to_stop: int) -> int:
    """Reads that were whole.

    A slot is cleared for the release after the next one: whoever reads for so long sees by the link
    that it has to begin again.
    """
    link, reads = state / SLOTS_OF / "current", 0
    while not select.select([told_to_stop], [], [], 0)[0]:
        before = _identity(link)
        try:
            assert world.runs(Real(state)) is not None
        except BrokenError:
            if _identity(link) == before:
                raise
        reads += 1
    return reads


def test_an_application_that_reads_all_the_time(world: World, memory: Path) -> None:
    for number in range(3):
        state = world.device("one", memory / f"device-{number}")
        told_to_stop, stop = os.pipe()
        reader = os.fork()
        if reader == 0:
            status = 70
            try:
                os.close(stop)
                status = 0 if _read_until(world, state, told_to_stop) > 10 else 2
            except BaseException:  # noqa: BLE001  it must not go on as the parent
                traceback.print_exc()
            finally:
                os._exit(status)
        os.close(told_to_stop)
        for release, work in (("1.1.0", update), ("1.2.0", taken_back)):
            with world.home(state, release) as home:
                work(world, home)
        os.close(stop)
        assert os.waitstatus_to_exitcode(os.waitpid(reader, 0)[1]) == 0
        assert world._release(world.runs(Real(state))) == "1.1.0"
