"""Group commit: whatever has come in meanwhile goes into one transaction, and is answered after it.

A commit waits for the disk. One for each request would let a disk say how many devices a server can
have; so requests that come while one is on its way share the next.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import sqlalchemy as sa

from agent.errors import NetworkError, StorageError
from sdk.fleet.database import writing

Ask = TypeVar("Ask")
Reply = TypeVar("Reply")
MOST_TOGETHER = 128
"""In one transaction: more would let the first of them wait too long for the last."""
MOST_WAITING = 4096
"""Beyond, devices are asked to come again."""


class BusyError(NetworkError):
    """More requests wait than can be answered soon."""


@dataclasses.dataclass
class _Waiting(Generic[Ask, Reply]):
    ask: Ask
    loop: asyncio.AbstractEventLoop
    reply: asyncio.Future[Reply]
    came_s: float


class Committer(Generic[Ask, Reply]):
    """One thread that writes; what it is given, it answers in the order in which it came."""

    def __init__(
        self,
        engine: sa.Engine,
        carry_out: Callable[[sa.Connection, Sequence[Ask]], Sequence[Reply | Exception]],
    ) -> None:
        """`carry_out` does what is asked inside a transaction, and says what came of each."""
        self._engine = engine
        self._carry_out = carry_out
        self._waiting: collections.deque[_Waiting[Ask, Reply]] = collections.deque()
        self._changed = threading.Condition()
        self._stops = False
        self._waited_s = 0.0
        self._thread = threading.Thread(target=self._work, name="slipway-committer", daemon=True)
        self._thread.start()

    @property
    def waited_s(self) -> float:
        """How long those waited that are answered now."""
        return self._waited_s

    async def submit(self, ask: Ask) -> Reply:
        """What came of it; durable when this returns.

        Raises:
            BusyError: too many wait already, or the server stops.
            StorageError: the database cannot be written; nothing was noted.
            SlipwayError: what `carry_out` says of it.
        """
        loop = asyncio.get_running_loop()
        waiting = _Waiting[Ask, Reply](ask, loop, loop.create_future(), time.monotonic())
        with self._changed:
            if self._stops or len(self._waiting) >= MOST_WAITING:
                raise BusyError(
                    f"{len(self._waiting)} requests wait already.",
                    cause="More devices come than this server can answer, or it stops.",
                    remedy="Come again later.",
                )
            self._waiting.append(waiting)
            self._changed.notify()
        return await waiting.reply

    def close(self) -> None:
        """Answer what has come, then stop."""
        with self._changed:
            self._stops = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._stops:
                    self._changed.wait()
                if not self._waiting:
                    return
                count = min(len(self._waiting), MOST_TOGETHER)
                batch = [self._waiting.popleft() for _ in range(count)]
            self._waited_s = time.monotonic() - batch[0].came_s
            self._answer(batch)

    def _answer(self, batch: Sequence[_Waiting[Ask, Reply]]) -> None:
        found = self._done(batch)
        for loop in {id(one.loop): one.loop for one in batch}.values():
            own = [pair for pair in zip(batch, found, strict=True) if pair[0].loop is loop]
            try:
                loop.call_soon_threadsafe(_tell, own)
            except RuntimeError:  # the loop is closed: nobody waits for it any more
                continue

    def _done(self, batch: Sequence[_Waiting[Ask, Reply]]) -> Sequence[Reply | Exception]:
        try:
            with writing(self._engine) as connection:
                return self._carry_out(connection, [one.ask for one in batch])
        except StorageError as error:
            return [error] * len(batch)
        except Exception as error:  # noqa: BLE001  one that cannot be carried out fails alone
            if len(batch) == 1:
                return [error]
            return [found for one in batch for found in self._done([one])]


def _tell(answers: Sequence[tuple[_Waiting[Any, Any], Any]]) -> None:
    for waiting, found in answers:
        if waiting.reply.done():  # whoever asked has gone
            continue
        if isinstance(found, Exception):
            waiting.reply.set_exception(found)
        else:
            waiting.reply.set_result(found)
