"""When a device is to come again: spread out, and later where the server has much to do. Pure."""

from __future__ import annotations

import math

MINUTE_S = 60.0
JITTER = 0.1
"""So much sooner or later, so that devices that were started together come apart."""
MOST_STRETCH = 4.0


class Minutes:
    """How often each asked within this minute; whoever asks too often waits for the next one."""

    def __init__(self, most: int) -> None:
        """`most` requests a minute are answered."""
        self._most = most
        self._began_s = float("-inf")
        self._counts: dict[str, int] = {}

    def wait_s(self, name: str, now_s: float) -> int:
        """Count a request; for how many seconds its sender is to be silent, 0 if it may go on."""
        if not 0.0 <= now_s - self._began_s < MINUTE_S:
            self._began_s, self._counts = now_s, {}
        count = self._counts[name] = self._counts.get(name, 0) + 1
        left = math.ceil(MINUTE_S - (now_s - self._began_s))
        return 0 if count <= self._most else max(1, left)


def next_poll_s(poll_s: float, waited_s: float, chance: float) -> int:
    """Seconds until a device's next poll.

    Args:
        poll_s: where there is nothing to do.
        waited_s: how long requests wait for their turn just now.
        chance: from 0 to 1, another one each time.

    >>> [next_poll_s(60.0, waited, 0.5) for waited in (0.0, 0.5, 5.0)]
    [60, 150, 240]
    """
    stretch = 1.0 + (MOST_STRETCH - 1.0) * min(1.0, max(0.0, waited_s))
    return max(1, round(poll_s * stretch * (1.0 - JITTER + 2.0 * JITTER * chance)))
