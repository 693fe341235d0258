"""The way of a poll: past the framework, which would cost as much again as the answer.

Devices ask hardly anything else. All other requests, and the description of this one, are
FastAPI's; what is answered, and what is refused, is the same.
"""

from __future__ import annotations

import time

from starlette.types import Receive, Scope, Send

from agent.updates.wire import MOST_BODY_BYTES
from sdk.fleet.server import Server
from sdk.fleet.web.bounds import body_of
from sdk.fleet.web.device_api import POLL, answered
from sdk.fleet.web.errors import answer_to
from sdk.fleet.web.metrics import Metrics
from sdk.fleet.web.signed import Nonces

PATH = "/v1/poll"


class Lane:
    """Answers polls."""

    def __init__(self, server: Server, nonces: Nonces, metrics: Metrics, slow_s: float) -> None:
        self._server = server
        self._nonces = nonces
        self._metrics = metrics
        self._slow_s = slow_s

    @staticmethod
    def takes(scope: Scope) -> bool:
        """Whether a request is one of those."""
        return bool(scope["type"] == "http" and scope["path"] == PATH and scope["method"] == "POST")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a poll."""
        began = time.perf_counter()
        try:
            content = await body_of(scope, receive, MOST_BODY_BYTES, self._slow_s)
            found = await answered(self._server, self._nonces, scope, content, POLL)
        except Exception as error:  # noqa: BLE001  whatever it is, the device gets an answer
            refusal = answer_to(error, PATH)
            await refusal(scope, receive, send)
            self._metrics.count(PATH, refusal.status_code, time.perf_counter() - began)
            return
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(found)).encode()),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": found})
        self._metrics.count(PATH, 200, time.perf_counter() - began)
