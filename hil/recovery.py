"""What is done once a run has ended badly: find out how, get the rig back, or put it aside.

A run may end with its process, with the line, with the machine, or never. The rig's boot id tells a
machine that was started anew from one that was merely out of reach. One that hangs is switched off
and on where its inventory says how; where nothing can be done, it is put aside on the rig itself,
so that nobody else runs into it, until `sdk hil doctor` finds it well.
"""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from agent.errors import NetworkError, SlipwayError
from hil import bench, power
from hil.bench import RunFailedError
from hil.health import Check, checks, unfit
from hil.outcome import LinkLostError, Outcome
from hil.rig import Rig

if TYPE_CHECKING:
    from hil.reach import Place

Say = Callable[[str], None]
REACH_S = 60.0
"""A rig whose line ended is tried for so long: a cut link, or a start by itself."""
RETURN_S = 240.0
"""A rig that was switched on is back within this, or is not."""
LOOK_S = 60.0
_TRY_S = 2.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Patience:
    """How long a rig is waited for."""

    reach_s: float = REACH_S
    return_s: float = RETURN_S


def examine(rig: Rig, who: str, differs: Callable[[bench.Probe], list[str] | None]) -> list[Check]:
    """Look at all of a rig that is leased; who finds it unfit puts it aside, who finds it fit not.

    Args:
        rig: that is leased, to inspect it.
        who: looks.
        differs: what is another way there than its profile asks.

    Raises:
        NetworkError: the line ended.
    """
    try:
        found = bench.probe(rig)
    except RunFailedError as error:
        told = [Check(what="look", found=error.what, is_well=False, is_grave=True,
                      remedy="Start it anew: sdk hil power NAME cycle")]  # fmt: skip
    else:
        hello = {**rig.look_again(), "holder": None}  # it is this client's, to look at it
        told = list(checks(hello, found, now_s=time.time(), differs=differs(found)))
    reason = unfit(told)
    if not reason:
        rig.give_back(passed=True)
    else:
        _put_aside(rig, who, reason)
    return told


@contextlib.contextmanager
def recovering(
    place: Place, rig: Rig, who: str, say: Say, patience: Patience | None = None
) -> Iterator[None]:
    """Tell how a run in this block ended, and see to its rig.

    Args:
        place: where the rig is, and how it is switched.
        rig: that is leased.
        who: runs there.
        say: is told what is done.
        patience: how long it is waited for.

    Raises:
        RunFailedError: the run ended so; also `hang` and `rig_reset`, after which the line is over.
        LinkLostError: the line ended, and the rig is still up, or cannot be reached at all.
    """
    try:
        yield
    except RunFailedError as error:
        if error.outcome == "hang":
            raise _after_hang(place, rig, who, say, patience or Patience(), error) from error
        _check_after(rig, who, say, error)
        raise
    except LinkLostError as error:
        raise _after_loss(place, rig, say, patience or Patience(), error) from error


def _check_after(rig: Rig, who: str, say: Say, error: RunFailedError) -> None:
    """A rig on which not even a look works any more is put aside."""
    try:
        bench.look(rig)
    except NetworkError:
        return  # told by whoever runs next
    except SlipwayError as second:
        reason = f"after a run that ended ({error.outcome}) nothing runs there: {second.what}"
        say(f"{rig.name} is put aside: {reason}")
        _put_aside(rig, who, reason)


def _after_hang(
    place: Place, rig: Rig, who: str, say: Say, patience: Patience, error: RunFailedError
) -> RunFailedError:
    """Its process cannot be ended: only a new start of the machine does that."""
    if _cycled(place, say):
        rig.close()
        found = _returned(place, say, patience.return_s)
        if found not in (None, rig.boot_id):
            return _typed(place, error, "hang", "The rig was switched off and on, and is back.")
        return _typed(place, error, "hang", "The rig was switched off and on, and is not back.")
    _put_aside(rig, who, error.what, hung=True)
    return _typed(place, error, "hang", "The rig is put aside: it has no power switch.")


def _after_loss(
    place: Place, rig: Rig, say: Say, patience: Patience, error: LinkLostError
) -> SlipwayError:
    rig.close()
    say(f"{place.name}: the line ended; it is tried for {patience.reach_s:.0f} s")
    found = _returned(place, say, patience.reach_s)
    if found == rig.boot_id:
        return error
    if found is not None:
        return _typed(place, error, "rig_reset", "It was started anew in the middle of the run.")
    if _cycled(place, say):
        back = _returned(place, say, patience.return_s) is not None
        return _typed(
            place, error, "hang",
            f"It answered nobody, was switched off and on, and is {'' if back else 'not '}back.",
        )  # fmt: skip
    if _listens(place):
        return _typed(place, error, "hang", "It takes connections, and answers none.")
    return error


def _typed(place: Place, error: SlipwayError, outcome: Outcome, more: str) -> RunFailedError:
    return RunFailedError(
        f"{error.what} {more}", outcome, log=error.log if isinstance(error, RunFailedError) else "",
        cause="The run took the whole machine with it: its driver, its memory, or its power.",
        remedy=f"Look at the rig; then: sdk hil doctor {place.name}",
    )  # fmt: skip


def _cycled(place: Place, say: Say) -> bool:
    """Switch it off and on, where that can be done."""
    if place.entry.power is None:
        return False
    say(f"{place.name} hangs: it is switched off and on")
    try:
        power.cycle(place.entry)
    except SlipwayError as error:
        say(f"{place.name} cannot be switched: {error.what}")
        return False
    return True


def _returned(place: Place, say: Say, most_s: float) -> str | None:
    """The boot id of a rig once it answers again; None where it does not."""
    until = time.monotonic() + most_s
    while True:
        try:
            with place.open() as rig:
                return rig.boot_id
        except NetworkError:
            if time.monotonic() > until:
                return None
        except SlipwayError as error:  # it answers, and not as it should
            say(f"{place.name}: {error.what}")
            return None
        time.sleep(_TRY_S)


def _listens(place: Place) -> bool:
    if place.entry.jump is not None or place.entry.driver != "ssh":
        return False
    with contextlib.suppress(OSError):
        socket.create_connection((place.entry.host, place.entry.port), timeout=_TRY_S).close()
        return True
    return False


def _put_aside(rig: Rig, who: str, reason: str, *, hung: bool = False) -> None:
    """Where a person has set it aside, that stands."""
    with contextlib.suppress(SlipwayError):
        rig.set_aside(who, reason, failed=True, hung=hung)
