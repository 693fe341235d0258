"""What is known of a limit before anything is tried: that not even the original holds it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agent.drop import samples_needed
from agent.metrics import metric
from sdk.samples import FINAL


def rules_of(told: Mapping[str, Any]) -> dict[str, Any]:
    """How scores of a metric are compared: `higher_is_better` and `bounds`, as `paired_drop` asks.

    Args:
        told: capture's record of the metric; a user's own function has no bounds.
    """
    bounds = None if told["by_function"] else metric(told["name"]).bounds
    return {"higher_is_better": told["higher_is_better"], "bounds": bounds}


def unprovable(
    limits: Mapping[str, float],
    told: Mapping[str, Any] | None,
    scores: Mapping[str, Sequence[float]] | None,
) -> str | None:
    """What to say where the samples are too few for the limit on accuracy, whatever is tried.

    Args:
        limits: name -> value.
        told: capture's record of the metric.
        scores: the original's, split -> one for each sample.
    """
    limit = limits.get("accuracy_drop")
    if limit is None or told is None or not scores or not scores.get(FINAL):
        return None
    final = scores[FINAL]
    needed = samples_needed(final, final, limit=limit, **rules_of(told))
    if needed is not None and needed <= len(final):
        return None
    known = f"accuracy_drop <= {limit:g} is beyond proof here, even for the original itself"
    if needed is None:
        return (
            f"{known}: without any loss, no number of samples bounds the drop by that; "
            "loosen the limit"
        )
    return (
        f"{known}: without any loss it takes {needed} samples in the final split, which has "
        f"{len(final)} (about half of what [data] yields): yield more, or loosen the limit"
    )
