"""A rig as the place where a build proves: reached when something is to be run there, and once.

While it measures, nothing else does: neither on that rig, nor on another one of the same machine.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from agent import manifest
from agent.arena import log_name
from agent.bench import Budget, Failure, Measurement, Race
from agent.boot import boot_id
from agent.errors import UsageError
from agent.files import storage_errors
from agent.manifest import Fingerprint
from hil import bench, engines
from hil.bench import RunFailedError
from hil.outcome import FAILED_AS
from hil.reach import Place, Say, who
from hil.recovery import recovering
from hil.rig import Rig
from profiles import Profile
from sdk.workers import Workers

_CHIP = ("identity.emulated", "identity.soc", "identity.cores", "identity.memory_bytes")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contest:
    """What came of a contest on a rig."""

    found: Mapping[str, Measurement | Failure]
    out: Mapping[str, Failure]
    """In whose turn the run itself ended. Another try alone could tell whether it was they."""


class RigBench:
    """The rig of one build. Others may have it while the build compiles."""

    def __init__(self, place: Place, say: Say, locks: Path, timed: Path) -> None:
        """Nothing is reached yet.

        Args:
            place: where it is.
            say: is told what happens.
            locks: a folder of this machine, for a lock per machine that measures.
            timed: a folder of this machine; see `hil.engines.prepare`.
        """
        self.name = place.name
        self._place, self._say, self._locks, self._timed = place, say, locks, timed
        self._ending = contextlib.ExitStack()
        self._rig: Rig | None = None

    def close(self) -> None:
        """Give it back."""
        self._rig = None
        self._ending.close()

    def device(self) -> Fingerprint:
        """What the rig is.

        Raises:
            NetworkError: it cannot be reached, or is lost.
            StorageError: somebody else has it.
        """
        rig = self._reached()
        found = bench.look(rig)
        rig.release()
        return found

    def check(self, profile: Profile, device: Fingerprint) -> None:
        """Whether the rig is what its profile says.

        Raises:
            UsageError: it is another device: its figures would count for what it is not.
        """
        differs = differences(profile, device)
        if not differs:
            return
        raise UsageError(
            f"The rig {self.name} is no {profile.name}: {'; '.join(differs)}.",
            cause="The inventory names another profile, or another board has its address.",
            remedy=f"sdk hil probe {self.name} tells what it is, and which profile fits.",
        )

    def answers(
        self, folder: Path, questions: Path, check_as: str | None, time_limit_s: float,
        memory_limit_mib: int | None,
    ) -> bench.Answers:  # fmt: skip
        """See `hil.bench.answers`; what has to be built there first, is."""
        with self._recovering() as rig:
            if check_as is None:
                engines.prepare(rig, folder, self._timed, self._say, self._progress())
            return bench.answers(
                rig, folder, questions,
                check_as=check_as, time_limit_s=time_limit_s, memory_limit_mib=memory_limit_mib,
                on_progress=self._progress(),
            )  # fmt: skip

    def operators(
        self, folder: Path, inputs: Path, time_limit_s: float, workers: Workers
    ) -> list[Any] | None:
        """See `hil.bench.operators`."""
        with self._recovering() as rig, self._alone(rig, (), workers):
            return bench.operators(rig, folder, inputs, time_limit_s=time_limit_s)

    def contest(
        self,
        contestants: Mapping[str, Path],
        *,
        inputs: Path,
        budget: Budget,
        race: Race | None,
        turn_limit_s: float,
        log_folder: Path,
        workers: Workers,
    ) -> Contest:
        """See `hil.bench.contest`; nothing else measures on that machine meanwhile.

        A contestant in whose turn the run ends, with the rig or without it, is out; the others are
        measured anew.

        Raises:
            RunFailedError: the run ended, and it was nobody's turn.
            NetworkError: the line ended, and the rig is still up.
        """
        left, out = dict(contestants), dict[str, Failure]()
        found: Mapping[str, Measurement | Failure] = {}
        while left and not found:
            turns = _Turns(self._say)
            try:
                with self._recovering() as rig:
                    found = bench.contest(
                        rig, left, inputs=inputs, budget=budget, race=race,
                        turn_limit_s=turn_limit_s, log_folder=log_folder,
                        alone=self._alone(rig, left, workers),
                        on_progress=self._progress(), on_event=turns,
                    )  # fmt: skip
            except RunFailedError as error:
                kind, name = FAILED_AS.get(error.outcome), turns.last
                if kind is None or name not in left:
                    raise
                (log_folder / log_name(name)).write_text(error.as_log)
                out[name] = Failure(name=name, kind=kind, message=error.what)
                del left[name]
                self._say(f"{name} is out: the run ended in its turn ({error.outcome})")
        return Contest(found=found, out=out)

    @contextlib.contextmanager
    def _recovering(self) -> Iterator[Rig]:
        """The rig for one run. After one that took the rig along, the next one begins anew."""
        rig = self._reached()
        try:
            with recovering(self._place, rig, who("sdk build"), self._say):
                yield rig
        except RunFailedError as error:
            if error.outcome in ("hang", "rig_reset"):
                self._rig = None
            raise

    @contextlib.contextmanager
    def _alone(self, rig: Rig, contestants: Iterable[str], workers: Workers) -> Iterator[None]:
        for name in contestants:
            self._say(f"{name} is on {self.name}")
        if rig.boot_id == boot_id():  # the rig is this machine
            with workers.quiet():
                yield
            return
        path = self._locks / f"measure-{rig.boot_id or self.name}.lock"
        with storage_errors(path):
            self._locks.mkdir(parents=True, exist_ok=True)
            stream = path.open("ab")
        with stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield

    def _reached(self) -> Rig:
        rig = self._rig
        if rig is None or (rig.is_lost and not rig.is_leased):  # it went while nobody used it
            self._say(f"reaching the rig {self.name}")
            rig = self._rig = self._ending.enter_context(self._place.open())
        if not rig.is_leased:
            self._place.lease(rig, who("sdk build"), self._say, wait_s=None)
        return rig

    def _progress(self) -> Callable[[int, int], None]:
        told = 0

        def progress(sent: int, total: int) -> None:
            nonlocal told
            tenth = 10 * sent // max(total, 1)
            if total > 32 << 20 and tenth > told:
                told = tenth
                self._say(f"pushing to {self.name}: {sent >> 20} of {total >> 20} MiB")

        return progress


class _Turns:
    """Hears whose turn it is, and passes on what is worth a line."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self.last = ""

    def __call__(self, event: Mapping[str, Any]) -> None:
        if event.get("event") == "turn":
            self.last = str(event["name"])
        elif event.get("event") == "waiting":
            self._say(str(event["message"]))


def differences(profile: Profile, device: Fingerprint) -> list[str]:
    """What of a device is another way than a profile asks; nothing where it fits.

    One that is emulated has no chip: it is asked for all but that.
    """
    asked = profile.match
    if device.identity.get("emulated"):
        asked = {path: wanted for path, wanted in asked.items() if path not in _CHIP}
    return manifest.differences(asked, device)
