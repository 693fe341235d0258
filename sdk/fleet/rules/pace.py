"""When a device is to come again: spread out, and later where the server has much to do. Pure."""

from __future__ import annotations

JITTER = 0.1
"""So much sooner or later, so that devices that were started together come apart."""
MOST_STRETCH = 4.0


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
