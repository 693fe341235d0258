"""Vendor packages: which are installed, and their exceptions made readable."""

from __future__ import annotations

import contextlib
import importlib.metadata
import re
from collections.abc import Iterator

from agent.errors import SlipwayError, ToolchainError
from targets.interface import Availability

_OPERATOR = re.compile(r"No (conversion rule|ONNX function) found for ")
"""How OpenVINO and torch.onnx name an operator that they lack: far down, or in an error's cause."""
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def availability(needed: tuple[str, ...], shaping: tuple[str, ...], extra: str) -> Availability:
    """Look distributions up without importing them.

    Args:
        needed: those without which the toolchain cannot run at all.
        shaping: those that shape the result where they are used.
        extra: the extra of `slipway-sdk` that installs them all.
    """
    found = {name: version_of(name) for name in needed + shaping}
    missing = tuple(name for name in needed if found[name] is None)
    return Availability(
        ok=not missing,
        versions={name: version for name, version in found.items() if version is not None},
        missing=missing,
        remedy=f"pip install 'slipway-sdk[{extra}]'" if missing else "",
    )


def version_of(distribution: str) -> str | None:
    """The installed version, or None."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


@contextlib.contextmanager
def vendor_errors(doing: str, *, cause: str, remedy: str) -> Iterator[None]:
    """Turn whatever a vendor's compiler raises into one ToolchainError.

    Args:
        doing: what was tried, as in "OpenVINO cannot convert the program".
        cause: the usual cause.
        remedy: what to do now.
    """
    try:
        yield
    except SlipwayError:
        raise
    except Exception as error:  # compilers raise dozens of kinds, most without a common base
        raise ToolchainError(f"{doing}: {summary(error)}", cause=cause, remedy=remedy) from error


def summary(error: BaseException) -> str:
    """The telling line of a vendor's message: many begin with places in their own sources."""
    named = [line for cause in _causes(error) for line in _lines(cause) if _OPERATOR.match(line)]
    lines = _lines(error)
    telling = [
        line for line in lines if not line.startswith(("Exception from", "Traceback", "File "))
    ]
    shown = (named or telling or lines or [type(error).__name__])[0]
    return f"{shown[:300]}{'…' if len(shown) > 300 else ''}"


def _lines(error: BaseException) -> list[str]:
    plain = _COLOUR.sub("", str(error))
    stripped = (line.strip().removeprefix("-- ") for line in plain.splitlines())
    return [line for line in stripped if line]


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__
