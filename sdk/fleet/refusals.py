"""Why the server turns a request away: one code each, with the status that goes with it."""

from __future__ import annotations

from collections.abc import Mapping

from agent.errors import SlipwayError

STATUSES: Mapping[str, int] = {
    "malformed": 400,
    "unsigned": 401,
    "unknown": 401,
    "clock": 401,
    "key": 401,
    "token": 401,
    "role": 403,
    "pending": 403,
    "rejected": 403,
    "quarantined": 403,
    "missing": 404,
    "method": 405,
    "slow": 408,
    "replayed": 409,
    "taken": 409,
    "conflict": 409,
    "large": 413,
    "encoded": 415,
    "impossible": 422,
    "busy": 429,
    "bug": 500,
    "down": 503,
}
"""Code -> HTTP status."""


class RefusedError(SlipwayError):
    """A request that is not carried out; nothing was changed.

    Attributes:
        code: one of `STATUSES`.
        request_seq: of a replay, the highest number that counted.
        retry_after_s: when to come again, where that helps.
    """

    def __init__(
        self,
        code: str,
        what: str,
        *,
        cause: str = "",
        remedy: str = "",
        request_seq: int | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(what, cause=cause, remedy=remedy)
        self.code = code
        self.request_seq = request_seq
        self.retry_after_s = retry_after_s

    @property
    def status(self) -> int:
        """Of HTTP."""
        return STATUSES[self.code]


def missing(what: str, name: str) -> RefusedError:
    """There is no such thing, or it is not this tenant's: the answer is the same."""
    return RefusedError(
        "missing",
        f"There is no {what} {name[:80]!r}.",
        cause="It is misspelt, or belongs to another tenant.",
        remedy=f"List them: sdk fleet {what}s list",
    )
