"""How often somebody may ask. Counted in each process apart: a bound on harm, not a quota."""

from __future__ import annotations

import math
import time

from limits import RateLimitItemPerMinute, storage, strategies

from sdk.fleet.refusals import RefusedError


class Limits:
    """Windows of a minute, by who asks."""

    def __init__(self, *, enrolments_per_minute: int, admin_per_minute: int) -> None:
        self._windows = strategies.FixedWindowRateLimiter(storage.MemoryStorage())
        self._enrolments = RateLimitItemPerMinute(enrolments_per_minute, namespace="enrol")
        self._admin = RateLimitItemPerMinute(admin_per_minute, namespace="admin")
        self._guesses = RateLimitItemPerMinute(enrolments_per_minute, namespace="guess")

    def enrolment(self, address: str) -> None:
        """Count an enrolment, or a challenge, from an address.

        Raises:
            RefusedError: too many of them.
        """
        self._count(self._enrolments, address)

    def admin(self, key_sha256: str) -> None:
        """Count a request with an API key. Raises as above."""
        self._count(self._admin, key_sha256)

    def guess(self, address: str) -> None:
        """Count a key that nobody has. Raises as above."""
        self._count(self._guesses, address)

    def _count(self, window: RateLimitItemPerMinute, who: str) -> None:
        if self._windows.hit(window, who):
            return
        ends_s, _ = self._windows.get_window_stats(window, who)
        raise RefusedError(
            "busy",
            f"More than {window.amount} requests came within a minute.",
            cause="A script asks in a loop, or many devices enrol behind one address.",
            remedy="Come again after the time in Retry-After.",
            retry_after_s=max(1, math.ceil(ends_s - time.time())),
        )
