"""The build of a model that was last accepted, by profile, and what a newer one does worse."""

from __future__ import annotations

import dataclasses
import datetime
import json
import re
from collections.abc import Iterator
from pathlib import Path

from agent.codec import decode, pretty
from agent.errors import LimitError, UsageError, VerificationError
from agent.files import write_atomic
from sdk.report import figures
from sdk.report.comparison import Comparison, Delta, ProfileChange, compare
from sdk.summary import ProfileSummary, Summary

_WORSE = ("slower", "worse", "larger")
_RANKS = {"met": 0, "unproven": 1, "unmet": 2}
_FIGURES = {
    "latency_p50_ms": ("p50", "ms", figures.milliseconds),
    "accuracy_drop": ("drop", "%", figures.percent),
    "peak_memory_bytes": ("memory", "MiB", figures.size_mib),
    "size_bytes": ("size", "MiB", figures.size_mib),
}


def accept(summary: Summary, folder: Path) -> tuple[str, ...]:
    """Make a build the one that later ones are held against, for each profile that it serves.

    Args:
        summary: of the build.
        folder: the user's data folder.

    Returns:
        The profiles.

    Raises:
        LimitError: it has no variant for any profile.
        StorageError: the folder cannot be written.
    """
    served = [result for result in summary.results if result.selected is not None]
    if not served:
        raise LimitError(
            f"The build of {summary.model} has no variant to accept.",
            cause="Every candidate breaks a limit, or failed.",
            remedy="Accept a build that has one: sdk report DIR shows why this one has none.",
        )
    for result in served:
        own = dataclasses.replace(summary, results=(result,))
        write_atomic(_file(folder, summary.model, result.profile), pretty(own))
    return tuple(result.profile for result in served)


def with_regressions(summary: Summary, folder: Path) -> Summary:
    """The summary with a note for each profile that has an accepted build: what got worse."""
    return dataclasses.replace(
        summary,
        results=tuple(
            dataclasses.replace(result, notes=(*result.notes, *_notes(summary, result, folder)))
            for result in summary.results
        ),
    )


def _notes(summary: Summary, result: ProfileSummary, folder: Path) -> Iterator[str]:
    old = _accepted(folder, summary.model, result.profile)
    if old is not None:
        yield told(compare(old, dataclasses.replace(summary, results=(result,))))


def told(found: Comparison) -> str:
    """One profile's comparison with the accepted build, in a sentence. Pure."""
    (change,) = found.profiles
    when = datetime.datetime.fromtimestamp(found.old_started, datetime.timezone.utc)
    accepted = f"the build accepted of {when:%Y-%m-%d %H:%M} UTC"
    worse = [*_verdict(change), *(_figure(d) for d in change.selected if d.answer in _WORSE)]
    if worse:
        return f"worse than {accepted}: {'; '.join(worse)}"
    unlike = sorted({delta.note for delta in change.selected if delta.answer == "not comparable"})
    if unlike:
        return f"no worse than {accepted} as far as they compare ({'; '.join(unlike)})"
    return f"no worse than {accepted}, beyond noise"


def _verdict(change: ProfileChange) -> Iterator[str]:
    old, new = change.old_verdict, change.new_verdict
    if old is not None and new is not None and _RANKS[new] > _RANKS[old]:
        limits = " under other limits" if change.limits else ""
        yield f"{new}, was {old}{limits}"


def _figure(delta: Delta) -> str:
    name, unit, shown = _FIGURES[delta.quantity]
    return f"{delta.answer}, {name} {shown(delta.old)} -> {shown(delta.new)} {unit}"


def _accepted(folder: Path, model: str, profile: str) -> Summary | None:
    path = _file(folder, model, profile)
    try:
        return decode(Summary, json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, VerificationError, UsageError):
        return None  # spoilt, or of another form: as if none had been accepted


def _file(folder: Path, model: str, profile: str) -> Path:
    own, of = (re.sub(r"[^\w.+-]", "_", name) for name in (profile, model))
    return folder / "accepted" / of / f"{own}.json"
