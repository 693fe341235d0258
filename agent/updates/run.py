"""The agent at work: look for an assignment, do it, watch its trial, keep what runs trustworthy."""

from __future__ import annotations

import contextlib
import random
import re
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from agent.config import Config
from agent.errors import NetworkError, SlipwayError, UsageError
from agent.files import storage_error
from agent.local import Listener
from agent.updates.action import Means, Supply, advance, begin
from agent.updates.assignment import SignedAssignment
from agent.updates.home import Home
from agent.updates.install import confirm_now, go_back, install, take_back
from agent.updates.journal import Action, waits
from agent.updates.keeping import Keeper
from agent.updates.obtain import Tell
from agent.updates.offers import offers
from agent.updates.outcome import fail, watch
from agent.updates.polling import Poller, poller_of
from agent.updates.proving import Prove, prove_apart
from agent.updates.recover import recover
from agent.updates.server import StandingError
from agent.updates.source import BusyError, source_of

MOST_BACKOFF_S = 3600.0
_SOON_S = 5.0  # whatever ends how often, the server is not told more often
_LISTENS_S = 1.0  # how often a trial's time and starts are looked at while nobody speaks


def once(home: Home, tell: Tell, prove: Prove = prove_apart) -> Action | None:
    """Finish what was interrupted, else take what is assigned; then stop.

    Returns:
        The last action that something was done about; None where there was nothing to do.

    Raises:
        NetworkError: the repository, or a file of it, cannot be had now; all that could go on
            without it has.
    """
    recover(home, tell)
    return look(home, Keeper(prove), tell)


def run(config: Config, tell: Tell, prove: Prove = prove_apart) -> int:
    """Work until SIGTERM or Ctrl-C; what runs goes on running without the agent.

    Returns:
        The number of the signal.

    Raises:
        StorageError: another agent has the state folder, or it cannot be written.
    """
    with Home(config) as home, _listener(home.folder) as listener, _until_told() as stopped:
        news = News(tell)
        keeper, poller, failures = Keeper(prove), poller_of(home), 0
        recover(home, news.tell)
        while not stopped:
            try:
                look(home, keeper, news.tell, poller)
                failures = 0
                wait_s = config.poll_s if poller is None else poller.wait_s
            except (SlipwayError, OSError) as error:
                # Nothing that the network, the disk or an operator does ends the agent.
                news.tell(_in_words(error))
                # Whoever waits to be accepted has not failed, and is not to wait for an hour more.
                is_pending = isinstance(error, StandingError) and error.standing == "pending"
                failures = 1 if is_pending else failures + 1
                # A server that asked to be left alone for longer may fail because it was not.
                usual_s = max(config.poll_s, 0.0 if poller is None else poller.wait_s)
                wait_s = backoff_s(usual_s, failures, random.random())  # noqa: S311
                if isinstance(error, BusyError) and error.after_s is not None:
                    wait_s = max(wait_s, min(error.after_s, MOST_BACKOFF_S))
            news.turn()
            _wait(home, keeper, listener, stopped, wait_s, news, poller)
    return stopped[0]


def look(home: Home, keeper: Keeper, tell: Tell, poller: Poller | None = None) -> Action | None:
    """One turn: the fleet's server, the repository, what is under way, what runs.

    Args:
        home: the state folder.
        keeper: looks after what runs.
        tell: is told what happens.
        poller: speaks to the server; without one a device that is enrolled has one for this turn.

    Raises:
        NetworkError: the server, the repository, or a file of it, cannot be had now; all that could
            go on without it has.
    """
    poller = poller or poller_of(home)
    action, trouble = _round(home, keeper, tell, poller)
    if poller is not None and poller.has_news():
        # The server is to see how it ended, and may have the next one.
        after, later = _round(home, keeper, tell, poller)
        action, trouble = after or action, trouble or later
    if trouble is not None:
        raise trouble
    return action


def backoff_s(poll_s: float, failures: int, chance: float) -> float:
    """How long to wait after so many failures in a row: twice as long each time, and never alike.

    >>> [round(backoff_s(60.0, n, 0.5)) for n in (1, 2, 3, 9)]
    [60, 120, 240, 3600]
    """
    longest = max(MOST_BACKOFF_S, poll_s)
    return min(longest, poll_s * 2.0 ** min(failures - 1, 20)) * (0.75 + chance / 2)


def do(
    home: Home,
    request: Mapping[str, Any],
    tell: Tell,
    keeper: Keeper,
    poller: Poller | None = None,
) -> dict[str, Any]:
    """Do what an operator asks of the agent that is at work: a closed list.

    Raises:
        UsageError: the request is not on it, or cannot be done now.
    """
    kind, model = request.get("do"), str(request.get("model", ""))
    reason = str(request.get("reason", "an operator's decision"))[:500]
    if kind == "install":
        return told(install(home, Path(str(request.get("package"))), tell, keeper.prove))
    if kind == "rollback":
        return told(go_back(home, model, reason, tell, keeper.prove))
    if kind == "mark-good":
        return told(confirm_now(home, model))
    if kind == "mark-bad":
        return told(take_back(home, model, reason))
    if kind == "once":
        return told(look(home, keeper, tell, poller))
    raise UsageError(
        f"The agent does not know the request {str(kind)[:80]!r}.",
        cause="It was made by something newer, or by hand.",
        remedy="Known are install, rollback, mark-good, mark-bad and once.",
    )


def told(action: Action | None) -> dict[str, Any]:
    """An action, as it is shown."""
    if action is None:
        return {"action": None}
    return {
        "action": action.id,
        "model": action.model,
        "release": action.release,
        "state": action.state,
        "reason": action.reason,
        "variant": action.variant,
        "slot": action.slot,
    }


class News:
    """Tells what is new: what was told in the turn before, and still holds, is not told again."""

    def __init__(self, tell: Tell) -> None:
        self.always = tell
        self._before: set[str] = set()
        self._now: set[str] = set()

    def tell(self, line: str) -> None:
        """Tell a line, unless the last turn told it."""
        same = re.sub(r"signed .* ago", "signed", line)  # an age grows with each poll
        if same not in self._before | self._now:
            self.always(line)
        self._now.add(same)

    def turn(self) -> None:
        """The next turn begins."""
        self._before, self._now = self._now, set()


def _round(
    home: Home, keeper: Keeper, tell: Tell, poller: Poller | None
) -> tuple[Action | None, NetworkError | None]:
    """The action that something was done about, and the first thing that could not be had."""
    trouble: NetworkError | None = None
    supply: Supply | None = None
    action: Action | None = None
    try:
        if poller is not None:
            poller.poll(tell)
    except NetworkError as error:
        trouble = error
    if poller is None or poller.wants_look():
        supply, missing = _supply(home, tell)
        trouble = trouble or missing
        if poller is not None and missing is None:
            poller.looked()
    try:
        action = _turn(home, keeper, supply, tell, poller)
    except NetworkError as error:
        trouble = trouble or error
    try:
        if poller is not None and poller.is_heard():
            poller.send(tell)
    except NetworkError as error:
        trouble = trouble or error
    return action, trouble


def _turn(
    home: Home, keeper: Keeper, supply: Supply | None, tell: Tell, poller: Poller | None
) -> Action | None:
    means = Means(
        tell=tell,
        supply=supply,
        prove=keeper.prove,
        noted=None if poller is None else poller.tell_state,
    )
    action = home.journal.unfinished()
    if supply is not None and (action is None or waits(action)):
        for found in _offered(home, supply, tell, poller):
            if action is not None and action.model != found.model:
                continue  # one action at a time: another model's waits, and replaces none
            if action is not None:
                fail(home, action, f"{found.action_id} was assigned instead")
            action = begin(home, found, "offline" if poller is None else "online")
            tell(f"{action.model}: {action.id} is assigned")
            break
    trouble = None
    if action is not None:
        try:
            action = advance(home, action, means)
        except NetworkError as error:
            trouble, action = error, home.journal.unfinished()
    if action is None or waits(action):
        # What runs is looked after meanwhile, and that goes ahead.
        ahead = keeper.look(home, supply.view if supply else None, tell)
        action = action if ahead is None else advance(home, ahead, means)
    if action is not None and action.state == "TRIAL":
        action = watch(home, action, ())
    if trouble is not None:
        raise trouble
    return action


def _offered(
    home: Home, supply: Supply, tell: Tell, poller: Poller | None
) -> list[SignedAssignment]:
    """What is to run here: a device of a fleet hears that from its server alone."""
    if poller is None:
        return offers(home, supply.source, supply.view, tell)
    return poller.assigned(supply.view, tell)


def _supply(home: Home, tell: Tell) -> tuple[Supply | None, NetworkError | None]:
    """The repository as it is trusted now; None where it is not, and why if that may pass."""
    place = home.config.repository
    if place is None:
        return None, None
    try:
        source = source_of(place)
        view = home.trust.refresh(source, home.now())
        signed = view.signed_at()
        if signed is not None:
            home.signed_at(*signed)
        return Supply(source=source, view=view), None
    except NetworkError as error:
        return None, error
    except SlipwayError as error:
        tell(_in_words(error))
        return None, None


def _wait(
    home: Home,
    keeper: Keeper,
    listener: Listener,
    stopped: list[int],
    wait_s: float,
    news: News,
    poller: Poller | None,
) -> None:
    """Listen until the next poll, which comes sooner where the server is to hear of something."""
    tell = news.always
    began = time.monotonic()
    until = began + wait_s
    while not stopped and (left := until - time.monotonic()) > 0:
        try:
            action = home.journal.unfinished()
            on_trial = action is not None and action.state == "TRIAL"
            timeout_s = min(left, _LISTENS_S) if on_trial else left
            words = tuple(
                listener.wait(timeout_s, lambda told: do(home, told, tell, keeper, poller))
            )
            action = home.journal.unfinished()
            if action is not None and action.state == "TRIAL":
                after = watch(home, action, words)
                if after.state != action.state:
                    tell(f"{after.model}: {after.state}: {after.reason}")
            if poller is not None and poller.has_news():
                until = min(until, began + _SOON_S)
        except (SlipwayError, OSError) as error:
            news.tell(_in_words(error))
            time.sleep(min(max(0.0, until - time.monotonic()), _LISTENS_S))


def _in_words(error: SlipwayError | OSError) -> str:
    if isinstance(error, OSError):
        error = storage_error(error, Path(str(error.filename or "?")))
    return f"{error.what} {error.cause}".strip()


@contextlib.contextmanager
def _listener(folder: Path) -> Iterator[Listener]:
    listener = Listener(folder)
    try:
        yield listener
    finally:
        listener.close()


@contextlib.contextmanager
def _until_told() -> Iterator[list[int]]:
    """A list that is empty until a signal asks to stop, which also ends what is inside."""
    asked: list[int] = []

    def stop(number: int, _: object) -> None:
        for other in before:
            signal.signal(other, signal.SIG_IGN)  # once is enough: it stops already
        asked.append(number)
        raise _Stop  # at once: whatever is cut off here goes on after the next start

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in before:
        signal.signal(number, stop)
    try:
        yield asked
    except _Stop:
        pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Stop(BaseException):
    """A signal asked to stop."""
