"""No request may be longer, slower or packed tighter than is allowed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SLOW_S = 20.0
"""A body comes within this, and a long one in as much more as the slowest line takes."""
SLOWEST_BYTES_S = 1000
"""Of a line that is waited for: whoever sends a byte now and then would never come to an end."""


class Bounds:
    """An ASGI layer that counts what comes in."""

    def __init__(self, app: ASGIApp, most_bytes: Callable[[str], int], slow_s: float = SLOW_S):
        """`most_bytes` says how long a body may be, by the path."""
        self._app = app
        self._most_bytes = most_bytes
        self._slow_s = slow_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, bounded."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        most, came, is_whole = self._most_bytes(scope["path"]), 0, False
        refusal = _refused(dict(scope["headers"]), most)
        until_s = asyncio.get_running_loop().time() + self._slow_s

        async def bounded() -> Message:
            nonlocal came, is_whole
            if is_whole:  # whoever asks now waits for the client to go
                return await receive()
            if refusal is not None:
                raise refusal
            message = await _next_piece(receive, until_s + came / SLOWEST_BYTES_S)
            came += len(message.get("body", b""))
            if came > most:
                raise HTTPException(413, "large")
            is_whole = not message.get("more_body", False)
            return message

        await self._app(scope, bounded, send)


async def body_of(scope: Scope, receive: Receive, most: int, slow_s: float) -> bytes:
    """The body of a request, whole.

    Raises:
        HTTPException: it is too long, too slow or compressed.
    """
    refusal = _refused(dict(scope["headers"]), most)
    if refusal is not None:
        raise refusal
    content = bytearray()
    until_s = asyncio.get_running_loop().time() + slow_s
    while True:
        message = await _next_piece(receive, until_s + len(content) / SLOWEST_BYTES_S)
        if message["type"] == "http.disconnect":
            raise HTTPException(400, "malformed")
        content += message.get("body", b"")
        if len(content) > most:
            raise HTTPException(413, "large")
        if not message.get("more_body", False):
            return bytes(content)


async def _next_piece(receive: Receive, until_s: float) -> Message:
    """What comes next, by the loop's clock in time; otherwise an HTTPException."""
    try:
        async with asyncio.timeout_at(until_s):
            return await receive()
    except TimeoutError as error:
        raise HTTPException(408, "slow") from error


def _refused(headers: dict[bytes, bytes], most: int) -> HTTPException | None:
    if headers.get(b"content-encoding", b"identity").strip().lower() not in (b"", b"identity"):
        return HTTPException(415, "encoded")
    length = headers.get(b"content-length", b"0")
    if length.isdigit() and int(length[:20]) > most:
        return HTTPException(413, "large")
    return None
