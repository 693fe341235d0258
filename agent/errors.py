"""The errors a person sees, and the exit code of each.

Standard library only: every package may import this module. A message has three beats: what
failed with both values, the usual cause, what to do now.
"""

from __future__ import annotations

EXIT_CODES: dict[int, str] = {
    0: "done, every limit met or unproven",
    1: "a bug (the traceback is kept in a file)",
    2: "usage or project file",
    3: "a limit unmet, or unproven under --strict",
    4: "no toolchain of a target can lower here",
    5: "the model cannot be captured",
    6: "disk, permission or lock",
    7: "verification or signature",
    8: "network or rig",
    130: "interrupted",
}
"""What the exit codes of `sdk` and `sdk-agent` mean. The documentation's table comes from here."""


class SlipwayError(Exception):
    """Something a person can act on: printed without a traceback.

    Attributes:
        what: what failed, with the value found and the value expected.
        cause: the usual cause.
        remedy: what to do now.
    """

    exit_code = 1

    def __init__(self, what: str, *, cause: str = "", remedy: str = "") -> None:
        self.what = what
        self.cause = cause
        self.remedy = remedy
        super().__init__(" ".join(part for part in (what, cause, remedy) if part))


class UsageError(SlipwayError):
    """The command line, the project file, a profile or a call's arguments are wrong."""

    exit_code = 2


class LimitError(SlipwayError):
    """A limit is unmet, or unproven where proof was demanded."""

    exit_code = 3


class ToolchainError(SlipwayError):
    """A toolchain or a runtime is missing, refused the program, or failed."""

    exit_code = 4


class CaptureError(SlipwayError):
    """The user's model or data cannot be captured."""

    exit_code = 5


class StorageError(SlipwayError):
    """The disk is full, a path cannot be written, or somebody else holds the lock."""

    exit_code = 6


class VerificationError(SlipwayError):
    """A file is not what its record, hash or golden data says it is."""

    exit_code = 7


class NetworkError(SlipwayError):
    """A server or a rig did not answer, or answered nonsense."""

    exit_code = 8


_BY_NAME: dict[str, type[SlipwayError]] = {
    kind.__name__: kind
    for kind in (
        SlipwayError,
        UsageError,
        LimitError,
        ToolchainError,
        CaptureError,
        StorageError,
        VerificationError,
        NetworkError,
    )
}


def to_record(error: SlipwayError) -> dict[str, str]:
    """The error as strings, so that it can cross a process border; it keeps its exit code."""
    kinds = (kind.__name__ for kind in type(error).__mro__)
    return {
        "kind": next(kind for kind in kinds if kind in _BY_NAME),
        "what": error.what,
        "cause": error.cause,
        "remedy": error.remedy,
    }


def from_record(record: dict[str, str]) -> SlipwayError:
    """The error that `to_record` wrote."""
    kind = _BY_NAME.get(record["kind"], SlipwayError)
    return kind(record["what"], cause=record["cause"], remedy=record["remedy"])
