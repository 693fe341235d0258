"""A connection that does nothing is not kept: uvicorn waits for a request's head without an end."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

HEAD_S = 20.0
"""A request's head comes within this, from its first byte or from when the connection was made."""
STALLED_S = 120.0
"""Whoever takes none of an answer for so long is given up."""
MOST_HEAD_BYTES = 64 << 10
"""No head is longer; browsers and proxies stop far below."""


class Connection(HttpToolsProtocol):
    """A connection with a deadline wherever a client could leave the server waiting.

    The body of a request that is being answered has its own: sdk.fleet.web.bounds.
    """

    head_s = HEAD_S
    stalled_s = STALLED_S

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._deadline: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None
        self._in_head = False
        self._head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request, and not for ever."""
        super().connection_made(transport)
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing more is expected."""
        super().connection_lost(exc)
        self._expect_no_more()
        self._flows()

    def data_received(self, data: bytes) -> None:
        """Take the next bytes; what is no request yet has to become one in time."""
        was_in_head = self._in_head
        super().data_received(data)
        self._head_bytes = self._head_bytes + len(data) if was_in_head and self._in_head else 0
        if self._head_bytes > MOST_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("The head of the request is too long.")
        cycle: RequestResponseCycle | None = self.cycle
        is_answering = cycle is not None and not cycle.response_complete
        if not is_answering and self.timeout_keep_alive_task is None:
            self._expect()

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self._in_head = True

    def on_headers_complete(self) -> None:
        """Its head is here: it is answered from now on."""
        self._in_head = False
        self._expect_no_more()
        super().on_headers_complete()

    def pause_writing(self) -> None:
        """The client takes no more for now."""
        super().pause_writing()
        self._flows()
        self._stalled = self.loop.call_later(self.stalled_s, self.transport.abort)

    def resume_writing(self) -> None:
        """It takes more."""
        super().resume_writing()
        self._flows()

    def _expect(self) -> None:
        """Close the connection unless a request's head is here in time, whatever else comes."""
        if self._deadline is None and not self.transport.is_closing():
            self._deadline = self.loop.call_later(self.head_s, self.timeout_keep_alive_handler)

    def _expect_no_more(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _flows(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None
