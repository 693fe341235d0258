"""A fleet server, as a device speaks to it: signed requests, answers that are bounded and checked.

Nothing that it answers is believed here: what comes back has the form that was agreed on, no more.
docs/reference/protocol/fleet.md says what goes over the line.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import time
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from agent.codec import canonical, decode, encode, loads_signed
from agent.device import Device
from agent.errors import NetworkError, SlipwayError, UsageError
from agent.local import plain
from agent.membership import FILE, Membership
from agent.updates.http import CALL_S, Caller, Reply
from agent.updates.journal import Journal
from agent.updates.request import is_plain, signature_parameters, signed_headers
from agent.updates.source import BusyError
from agent.updates.wire import (
    LONGEST_POLL_S,
    SHORTEST_POLL_S,
    Answer,
    Nonce,
    Poll,
    ReportsTaken,
    StateOf,
)

COUNTER = "request_seq"
"""The journal's counter of signed requests."""
MOST_SEQ = 2**53 - 10**6
"""No server has seen a number as high as that: whoever says so lies."""
NONCE_S = 240.0
"""So long one is used; servers take it for 300 s."""
STATE_S = 10.0
"""The longest that telling one state may hold an update up."""
T = TypeVar("T")


class StandingError(NetworkError):
    """The server takes nothing from this device.

    Attributes:
        standing: `pending`, `rejected`, `quarantined`, `unknown` or `unsigned`.
    """

    def __init__(self, server: str, standing: str) -> None:
        cause, remedy = _STANDINGS[standing]
        super().__init__(
            f"{server} says that this device is {standing}.", cause=cause, remedy=remedy
        )
        self.standing = standing


class MalformedError(NetworkError):
    """The server cannot read what this agent sent; sending it again would change nothing."""


class Server:
    """The server of the fleet that this device belongs to."""

    def __init__(
        self,
        membership: Membership,
        device: Device,
        journal: Journal,
        now: Callable[[], dt.datetime],
    ) -> None:
        """Nothing is asked yet.

        Args:
            membership: of the device.
            device: signs.
            journal: counts the requests.
            now: UTC, as far as the device knows.

        Raises:
            UsageError: the membership names no server.
        """
        if not is_plain(membership.fleet):
            raise UsageError(
                f"{FILE} names the fleet {membership.fleet[:80]!r}, which no server is called.",
                cause="It was edited by hand.",
                remedy="Remove it and enrol again: sdk-agent enroll URL",
            )
        self._membership = membership
        self._device = device
        self._journal = journal
        self._now = now
        self._caller = Caller(membership.server)
        self._numbers: Iterator[int] = iter(())
        self._seq = 0
        self._clock_is_off = False
        self._nonce: tuple[str, float] | None = None

    def poll(self, told: Poll) -> Answer:
        """Say what is so here; the next poll is within bounds, whatever the server asks for.

        Raises:
            StandingError: the server takes nothing from this device.
            BusyError: it asks to come again later.
            NetworkError: it cannot be reached, or answers nonsense.
        """
        answer = self._told(Answer, "/v1/poll", told)
        bounded = min(max(answer.next_poll_s, SHORTEST_POLL_S), LONGEST_POLL_S)
        return dataclasses.replace(answer, next_poll_s=bounded)

    def send(self, reports: Sequence[bytes]) -> tuple[str, ...]:
        """Send signed reports: what became of each, in their order. Errors as for `poll`.

        Raises:
            MalformedError: it is not to be sent again like this.
        """
        told = {"reports": [json.loads(envelope) for envelope in reports]}
        taken = self._told(ReportsTaken, "/v1/reports", told).results
        if len(taken) != len(reports):
            raise nonsense(f"{len(taken)} results for {len(reports)} reports")
        return tuple(plain(result) for result in taken)

    def tell_state(self, action_id: str, told: StateOf) -> None:
        """Say that an action has come further. Errors as for `poll`."""
        path = f"/v1/actions/{urllib.parse.quote(action_id, safe='')}/state"
        self._told(dict[str, Any], path, told, limit_s=STATE_S)

    def _told(self, kind: type[T], path: str, told: Any, *, limit_s: float = CALL_S) -> T:
        body = canonical(encode(told))
        mended: set[str] = set()
        while True:
            reply = self._signed(path, body, limit_s)
            if reply.status == 200:
                return read_answer(kind, reply)
            code, record = problem_of(reply)
            if code in mended or not self._mend(code, record):
                raise error_of(self._membership.server, reply)
            mended.add(code)

    def _signed(self, path: str, body: bytes, limit_s: float) -> Reply:
        whole = urllib.parse.urlsplit(self._membership.server).path + path
        self._seq = self._next()
        parameters = signature_parameters(
            device_id=self._device.device_id,
            fleet=self._membership.fleet,
            created=None if self._clock_is_off else int(self._now().timestamp()),
            nonce=self._fresh_nonce() if self._clock_is_off else "",
        )
        headers = signed_headers(
            self._device.sign,
            method="POST",
            path=whole,
            body=body,
            seq=self._seq,
            parameters=parameters,
        )
        return self._caller.ask("POST", whole, body, headers, limit_s=limit_s)

    def _next(self) -> int:
        """A number that was never used, from a block that is this process's own."""
        number = next(self._numbers, None)
        if number is None:
            self._numbers = iter(self._journal.reserve(COUNTER))
            number = next(self._numbers)
        return number

    def _mend(self, code: str, record: dict[str, Any]) -> bool:
        """Whether another attempt is worth it, as another one."""
        if code == "clock" or (code == "unsigned" and self._clock_is_off):
            # The second: a server that was started anew does not know its nonces any more.
            self._clock_is_off, self._nonce = True, None
            return True
        seen = record.get("request_seq")
        if code != "replayed" or type(seen) is not int or not self._seq <= seen < MOST_SEQ:
            return False
        # This device lost its journal, or two have one key: which of them, the server finds out.
        self._journal.raise_number(COUNTER, seen)
        self._numbers = iter(())
        return True

    def _fresh_nonce(self) -> str:
        if self._nonce is None or time.monotonic() >= self._nonce[1]:
            until = time.monotonic() + NONCE_S
            path = urllib.parse.urlsplit(self._membership.server).path + "/v1/nonce"
            reply = self._caller.ask("GET", path)
            if reply.status != 200:
                raise error_of(self._membership.server, reply)
            nonce = read_answer(Nonce, reply).nonce
            if not is_plain(nonce):
                raise nonsense("its nonce cannot stand in a header")
            self._nonce = nonce, until
        return self._nonce[0]


def read_answer(kind: type[T], reply: Reply) -> T:
    """An answer in its form.

    Raises:
        NetworkError: it has another.
    """
    try:
        return decode(kind, loads_signed(reply.content), "answer")
    except SlipwayError as error:
        raise nonsense(error.what) from error
    except ValueError as error:
        raise nonsense(f"it is no JSON that can be read: {error}") from error


def problem_of(reply: Reply) -> tuple[str, dict[str, Any]]:
    """The code of a refusal, and all that is told with it; empty where nothing can be read."""
    try:
        whole = loads_signed(reply.content)
        told = {"request_seq": whole.get("request_seq"), **whole["error"]}
        return str(told["code"])[:40], told
    except (ValueError, LookupError, TypeError, AttributeError):
        return "", {}


def error_of(server: str, reply: Reply) -> NetworkError:
    """What a person can act on, of an answer that is none."""
    code, told = problem_of(reply)
    if reply.status in (429, 503):
        return BusyError(f"{server} is busy ({reply.status}).", reply.after_s)
    if reply.status in (401, 403) and code in _STANDINGS:
        return StandingError(server, code)
    kind = MalformedError if reply.status in (400, 413, 415) else NetworkError
    said = {name: plain(str(told.get(name) or "")) for name in ("what", "cause", "remedy")}
    return kind(
        f"{server} refuses a request ({reply.status} {plain(code)}): {said['what'] or 'no reason'}",
        cause=said["cause"] or "The server has trouble, or something else answers in its place.",
        remedy=said["remedy"] or "It is tried again by itself; the server's log says more.",
    )


def nonsense(why: str) -> NetworkError:
    """The error of an answer that has another form than was agreed on."""
    return NetworkError(
        f"The server's answer makes no sense: {plain(why)}.",
        cause="Something else answers in its place, or it runs another version.",
        remedy="Nothing was changed. It is tried again by itself.",
    )


_STANDINGS: dict[str, tuple[str, str]] = {
    "pending": (
        "It was not announced, and no operator has accepted it yet.",
        "Compare its key with what sdk-agent doctor shows here, and accept it on the server.",
    ),
    "rejected": (
        "An operator turned it away.",
        "What runs goes on running. Accept it on the server if that was a mistake.",
    ),
    "quarantined": (
        "Two machines were found under its name.",
        "What runs goes on running. Give the copy a state folder of its own, then accept one.",
    ),
    "unknown": (
        "It was removed there, or the server begins anew.",
        "What runs goes on running. Enrol again: sdk-agent enroll URL",
    ),
    "unsigned": (
        "Its key is another one than the server knows, or a proxy changes what is sent.",
        "What runs goes on running. Enrol again: sdk-agent enroll URL",
    ),
}
"""How a device may stand that gets no work: why, and what to do."""
