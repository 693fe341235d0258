"""The fleet server's part in a turn of the agent: what is said, what is taken, what is sent.

The server says what runs here, and only within what was signed elsewhere: an assignment counts like
one from a repository, an action is called off only while it has changed nothing. Without the server
everything else goes on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import time
from collections.abc import Callable, Iterable
from typing import Any

from agent.boot import boot_id
from agent.device import has_successor
from agent.errors import NetworkError, SlipwayError
from agent.identity import fingerprint_digest
from agent.local import plain
from agent.membership import Membership, keep_membership, membership_of
from agent.updates.assignment import (
    SignedAssignment,
    check_for_device,
    claimed_action,
    last_seen,
    opened,
)
from agent.updates.enrol import finish_new_key
from agent.updates.home import Home
from agent.updates.journal import Action
from agent.updates.obtain import Tell
from agent.updates.outcome import fail
from agent.updates.server import MalformedError, Server, StandingError
from agent.updates.slots import SLOTS
from agent.updates.states import CANCELLABLE
from agent.updates.trust import View
from agent.updates.wire import MOST_REPORTS, Answer, Doing, Poll, Refused, Running, StateOf

TOLD = "told_seq"
"""The journal's counter of the entries whose ends the server has heard of."""
LOOK_S = 3600.0
"""The repository is looked at so often, also where nothing is assigned: for what was revoked."""
BATCH_BYTES = 768 << 10
"""Of reports in one request."""
MOST = 256
"""Models or actions in one poll."""
_NAME = 200
_FETCHES = frozenset({"RECEIVED", "DOWNLOADING"})


class Poller:
    """Speaks to the server; it remembers between turns what was asked and answered."""

    def __init__(
        self, home: Home, membership: Membership, now: Callable[[], float] = time.monotonic
    ) -> None:
        """Nothing is asked yet.

        Args:
            home: the state folder.
            membership: of this device.
            now: seconds.

        Raises:
            UsageError: the membership names no server.
        """
        self.wait_s = home.config.poll_s
        """Until the next poll, as the server has it."""
        self._home = home
        self._membership = membership
        self._server = Server(membership, home.device, home.journal, home.now)
        self._now = now
        self._looked: float | None = None
        self._assigned: dict[str, Any] | None = None
        self._asks_fingerprint = False
        self._behind = False
        self._refused: dict[str, str] = {}
        self._known: set[str] = set()
        self._heard: frozenset[str] | None = None
        self._is_silent = False

    def poll(self, tell: Tell) -> None:
        """Say what is so, and remember what is asked for; an action that is called off ends.

        Raises:
            NetworkError: the server cannot be asked, or takes nothing from this device.
        """
        self._assigned, self._heard, self._is_silent = None, None, True
        self._use_new_key(tell)
        told, ends = self._what_is_so()
        try:
            answer = self._server.poll(told)
        except StandingError as error:
            self._note_standing(error.standing)
            raise
        self._is_silent = False
        self._note_standing("accepted")
        self._home.journal.raise_number(TOLD, ends)
        for one in told.refused:
            self._refused.pop(one.action_id, None)
        self._known.clear()
        self._heard = self._under_way()
        self._take(answer, tell)

    def wants_look(self) -> bool:
        """Whether the repository is to be looked at in this turn."""
        return (
            self._assigned is not None
            or self._behind
            or self._looked is None
            or self._now() - self._looked >= LOOK_S
            or any(action.state in _FETCHES for action in self._home.journal.under_way())
        )

    def looked(self) -> None:
        """The repository was looked at."""
        self._looked = self._now()

    def assigned(self, view: View, tell: Tell) -> list[SignedAssignment]:
        """What the server assigned in this turn, if it counts here and was not taken before.

        Args:
            view: of the repository, as it is trusted now.
            tell: is told why an assignment does not count.
        """
        if self._assigned is None:
            return []
        content = json.dumps(self._assigned).encode()
        self._assigned = None
        journal = self._home.journal
        try:
            keys = view.assignment_keys(offline=False)
            found = opened(content, keys)
            if journal.action(found.action_id) is not None:
                self._known.add(found.action_id)
                return []
            check_for_device(
                found,
                device_id=self._home.device.device_id,
                group=None,
                now=self._home.now(),
                last_seq=last_seen(journal.number, "online", keys, found.model),
            )
        except SlipwayError as error:
            tell(f"{self._membership.server}: {error.what}")
            with contextlib.suppress(SlipwayError):
                self._refused = {claimed_action(content): error.what}
            return []
        return [found]

    def tell_state(self, action: Action) -> None:
        """Say that an action has come further, if the server listens; the next poll says it too."""
        if self._is_silent or action.kind != "online":
            return
        doing = self._doing(action)
        told = StateOf(state=doing.state, journal_seq=doing.journal_seq, reason=doing.reason)
        try:
            self._server.tell_state(action.id, told)
        except NetworkError:
            self._is_silent = True

    def send(self, tell: Tell) -> None:
        """Send what waits to be sent, the oldest first.

        Raises:
            NetworkError: the server does not take it now.
        """
        while batch := _batch(self._home.journal.unsent(MOST_REPORTS)):
            self._send(batch, tell)

    def is_heard(self) -> bool:
        """Whether the server answered the last poll."""
        return self._heard is not None

    def has_news(self) -> bool:
        """Whether an action has begun or ended since the last poll, and the server listens."""
        if self._heard is None:
            return False
        journal = self._home.journal
        return self._heard != self._under_way() or bool(journal.over_since(journal.number(TOLD), 1))

    def _use_new_key(self, tell: Tell) -> None:
        """Finish what `sdk-agent enroll --new-key` began, if that was cut off."""
        if not has_successor(self._home.folder):
            return
        try:
            self._home.device = finish_new_key(self._home.config, self._membership)
        except NetworkError as error:
            tell(f"the new key is not in use yet: {error.what}")
            return
        self._server = Server(
            self._membership, self._home.device, self._home.journal, self._home.now
        )

    def _send(self, batch: list[tuple[str, bytes]], tell: Tell) -> None:
        """What the server cannot read is told and left behind, so that it holds up no other."""
        try:
            results = self._server.send([envelope for _, envelope in batch])
        except MalformedError as error:
            if len(batch) > 1:
                for part in (batch[: len(batch) // 2], batch[len(batch) // 2 :]):
                    self._send(part, tell)
                return
            results = (f"refused: {error.what}",)
        self._home.journal.sent([name for name, _ in batch])
        for (name, _), result in zip(batch, results, strict=True):
            if result.startswith("refused"):
                tell(f"the report {name} is {result}")

    def _take(self, answer: Answer, tell: Tell) -> None:
        self.wait_s = float(answer.next_poll_s)
        self._asks_fingerprint = answer.send_fingerprint
        self._assigned = answer.assignment
        trusted = self._home.trust.freshness()
        version = answer.metadata_version
        self._behind = version is not None and (trusted is None or version > trusted.version)
        action = self._home.journal.action(answer.cancel) if answer.cancel else None
        if action is not None and action.kind == "online" and action.state in CANCELLABLE:
            fail(self._home, action, "the server called it off")
            tell(f"{action.model}: {action.id} was called off")

    def _what_is_so(self) -> tuple[Poll, int]:
        """The poll, and the highest entry of those ends that it tells."""
        home, journal = self._home, self._home.journal
        now = home.fingerprint()
        fresh = home.trust.freshness()
        under_way = journal.under_way()
        over = journal.over_since(journal.number(TOLD), MOST - len(under_way) - 1)
        again = [action for name in sorted(self._known) if (action := journal.action(name))]
        doing = {action.id: action for action in (*under_way, *(a for _, a in over), *again)}
        poll = Poll(
            agent=_version(),
            boot_id=boot_id(home.config.root_folder)[:_NAME],
            fingerprint_sha256=fingerprint_digest(now),
            fingerprint=now if self._asks_fingerprint else None,
            models=tuple(self._running(model) for model in home.models()[:MOST]),
            actions=tuple(self._doing(action) for action in doing.values()),
            refused=tuple(
                Refused(action_id=name, reason=plain(reason))
                for name, reason in self._refused.items()
            ),
            metadata_version=None if fresh is None else fresh.version,
            metadata_age_s=None if fresh is None else fresh.age_s(home.now()),
            reports_waiting=journal.reports_waiting(),
        )
        return poll, max((seq for seq, _ in over), default=0)

    def _running(self, model: str) -> Running:
        slots = self._home.slots(model)
        current = slots.current()
        slot = slots.read(current)
        other = slots.read(next((name for name in SLOTS if name != current), None))
        previous = None if other is None else other.record.manifest_sha256
        if slot is None:
            return Running(model=model, running_sha256=None, previous_sha256=previous)
        return Running(
            model=model,
            running_sha256=slot.record.manifest_sha256,
            release=(slot.manifest.release or "")[:_NAME] or None,
            variant=slot.record.variant[:_NAME],
            slot=slot.name,
            previous_sha256=previous,
        )

    def _doing(self, action: Action) -> Doing:
        sequence = self._home.journal.history(action.id)[-1][0]
        return Doing(
            action_id=action.id,
            state=action.state,
            journal_seq=sequence,
            reason=plain(action.reason),
        )

    def _under_way(self) -> frozenset[str]:
        return frozenset(action.id for action in self._home.journal.under_way())

    def _note_standing(self, standing: str) -> None:
        if standing != self._membership.status:
            self._membership = dataclasses.replace(self._membership, status=standing)
            keep_membership(self._home.folder, self._membership)


def poller_of(home: Home) -> Poller | None:
    """Speaks to the server of the fleet that a device belongs to; None where it was not enrolled.

    Raises:
        UsageError: what enrolment left cannot be read.
    """
    membership = membership_of(home.folder)
    return None if membership is None else Poller(home, membership)


def _batch(waiting: Iterable[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    """As many as go into one request; one at least."""
    found: list[tuple[str, bytes]] = []
    size = 0
    for name, envelope in waiting:
        size += len(envelope)
        if found and size > BATCH_BYTES:
            break
        found.append((name, envelope))
    return found


@functools.cache
def _version() -> str:
    """Of this agent."""
    import importlib.metadata

    try:
        return importlib.metadata.version("slipway-sdk")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
