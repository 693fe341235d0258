"""The agent at work: look for an assignment, do it, watch its trial, step along the ladder."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator

from agent import update
from agent.assignment import Assignment, check_for_device, opened
from agent.config import Config
from agent.errors import NetworkError, SlipwayError
from agent.health import Listener, Word
from agent.home import Home
from agent.journal import Action
from agent.recover import recover
from agent.shim import starts_of
from agent.source import Missing, Source, source_of
from agent.states import MOST_STARTS, is_over
from agent.trust import View

_ASSIGNMENT_BYTES = 64 << 10


def once(home: Home, tell: update.Tell) -> Action | None:
    """Look once: finish what was interrupted, else take what is assigned; then stop.

    Returns:
        The last action that something was done about; None where there was nothing to do.
    """
    source = source_of(home.config.repository) if home.config.repository else None
    action = recover(home, tell)
    if action is None and source is not None:
        action = _taken(home, source, tell)
    if action is None:
        return None
    action = update.advance(home, action, source, tell)
    return watch(home, action, ()) if action.state == "TRIAL" else action


def run(config: Config, tell: update.Tell) -> None:
    """Work until SIGTERM or Ctrl-C; whatever runs goes on running without the agent."""
    with Home(config) as home, _listening(home) as listener, _until_told() as stopped:
        while not stopped:
            try:
                once(home, tell)
            except NetworkError as error:
                tell(error.what)
            until = time.monotonic() + config.poll_s
            while not stopped and (left := until - time.monotonic()) > 0:
                words = tuple(listener.wait(min(left, 1.0)))
                action = home.journal.unfinished()
                if action is not None and action.state == "TRIAL":
                    watch(home, action, words)


def watch(home: Home, action: Action, words: tuple[Word, ...]) -> Action:
    """Judge a trial by what was said, by starts, and by its time."""
    own = [word for word in words if word.model == action.model]
    bad = next((word for word in own if not word.good), None)
    if bad is not None:
        return update.roll_back(home, action, f"the application says: {bad.reason or 'bad'}")
    starts = starts_of(home.slots(action.model).folder)
    if starts > MOST_STARTS:
        return update.roll_back(home, action, f"{starts} starts and no good word")
    if home.slots(action.model).current() != action.slot:
        return update.roll_back(home, action, "the shim fell back")
    if any(word.good for word in own):
        return update.confirm(home, action, own[-1].reason or "the application is well")
    if is_over(action.deadline, home.clock()):
        if home.config.trial.confirm == "deadline":
            return update.confirm(home, action, "no bad word until the deadline")
        return update.roll_back(home, action, "its time was up without a good word")
    return action


def _taken(home: Home, source: Source, tell: update.Tell) -> Action | None:
    """The newest assignment in the repository for this device or its group, begun."""
    try:
        view = home.trust.refresh(source, home.now())
        found = _found(home, source, view)
        if found is None:
            return None
        check_for_device(
            found,
            device_id=home.device.device_id,
            group=home.config.group,
            now=home.now(),
            last_seq=home.journal.number("assignment_seq:offline"),
        )
        return update.begin(home, found, view, source, kind="offline")
    except NetworkError:
        raise
    except SlipwayError as error:
        tell(error.what)
        return None


def _found(home: Home, source: Source, view: View) -> Assignment | None:
    """The device's own before the group's; one that was done already is none."""
    places = [f"assignments/device-{home.device.device_id}.json"]
    places += [f"assignments/group-{home.config.group}.json"] if home.config.group else []
    keys = view.assignment_keys(offline=True)
    seen = home.journal.number("assignment_seq:offline")
    for place in places:
        try:
            content = _short(source, place)
        except Missing:
            continue
        found = opened(content, keys)
        if found.assignment_seq > seen:
            return found
    return None


def _short(source: Source, path: str) -> bytes:
    content = b""
    with source.open(path) as stream:
        for chunk in stream.chunks:
            content += chunk
            if len(content) > _ASSIGNMENT_BYTES:
                break
    return content


@contextlib.contextmanager
def _listening(home: Home) -> Iterator[Listener]:
    listener = Listener(home.folder)
    try:
        yield listener
    finally:
        listener.close()


@contextlib.contextmanager
def _until_told() -> Iterator[list[int]]:
    """A list that is empty until a signal asks to stop."""
    told: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _: told.append(number))
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
