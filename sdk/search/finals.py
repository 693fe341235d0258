"""Who comes into the final, and why the others do not. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sdk.limits import KINDS
from sdk.objective import is_speed
from sdk.search.moves import files_of
from sdk.search.standing import Attempt, Standing

FINALISTS = 4
"""Beside the baseline and what they vary: the chosen one, runners-up, and one to spare."""
ALIKE = 2
"""Of these, so many may run the same files: what is wrong with one is with all."""


def finalists(standing: Standing) -> Sequence[Attempt]:
    """The best few, what they vary, and the baseline; all built where nothing can be measured.

    A heat is short: a tuned one that led it may have had luck, and what is delivered must not be
    slower than the vendor's default. So the default runs beside it once more.
    """
    if not standing.measurable:
        return [one for one in standing.attempts if one.result.status == "built"]
    found: list[Attempt] = []
    for one in standing.ranking():
        alike = [other for other in found if files_of(other) == files_of(one)]
        if len(found) < FINALISTS and len(alike) < ALIKE:
            found.append(one)
    beside = [standing.find(files_of(one)) for one in found]
    for other in (*beside, standing.baseline):
        if other is not None and other not in found and other.result.status == "built":
            found.append(other)
    return found


def why_left(standing: Standing, attempt: Attempt) -> str:
    """What decided about one that was built and is no finalist."""
    accuracy = attempt.result.accuracy
    drop = accuracy.selection if accuracy else None
    if drop is not None and not standing.is_accurate(attempt):
        limit = standing.limits["accuracy_drop"]
        return f"accuracy_drop {drop.value:.4g} > {limit:.4g} on the selection split"
    if not standing.keeps_limits(attempt):
        broken = ", ".join(name for name in standing.limits if name in KINDS)
        return f"in its heat it broke one of {broken}"
    best = standing.best()
    if best is not None and attempt.pace is not None and best.pace:
        ratio = attempt.pace / best.pace
        if is_speed(standing.objective) and math.isfinite(ratio):
            what = "latency" if standing.objective == "latency" else "time per run"
            return f"{ratio:.3g} times the {what} of {best.move.recipe.name} in its heat"
    if best is not None and not is_speed(standing.objective):
        own, least = standing.in_words(attempt), standing.in_words(best)
        return f"{own} in its heat; {best.move.recipe.name} has {least}"
    return f"worse than the finalists by {standing.objective}"
