"""Accuracy: named metrics, the drop against the original with its bounds, golden agreement.

The build and the device use this same code, so a device refuses by the rule that the build
accepted by. A metric scores one sample; what is compared are the scores of the same samples by the
original and by the variant. docs/explanation/measuring.md says what the figures mean.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np

from agent.drop import Drop, judge_drop, paired_drop, samples_needed
from agent.errors import UsageError, VerificationError
from agent.tensors import Array

SQNR_CEILING_DB = 120.0
"""What equal outputs score, about float32's own resolution: infinity has no mean."""

Score = Callable[[Mapping[str, Array], Mapping[str, Array], Any], float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metric:
    """How one sample is scored."""

    name: str
    higher_is_better: bool
    needs_label: bool
    bounds: tuple[float, float] | None
    """The least and the greatest score there can be; None where there is no such thing."""
    score: Score
    """`score(outputs, reference, label)`: `reference` holds the original's outputs of the sample.

    Outputs that hold NaN get the worst score there is; where there is none (mae, mse) the score
    is NaN, and `paired_drop` refuses it.
    """


def metric(name: str) -> Metric:
    """The metric of a name: `top1`, `top5` (any `top<k>`), `top1_agreement`, `cosine`, and so on.

    Raises:
        UsageError: there is none; the message lists the known ones.

    >>> metric("top5").needs_label
    True
    """
    by_rank = re.fullmatch(r"top([1-9]\d*)", name)
    if by_rank:
        return _top(name, int(by_rank[1]))
    if name in _OTHERS:
        return _OTHERS[name]
    near = difflib.get_close_matches(name, metric_names(), n=1)
    known = ", ".join(metric_names())
    raise UsageError(
        f"There is no metric {name!r}; known are {known}, and top<k> for any k.",
        cause=f"Did you mean {near[0]!r}?"
        if near
        else "The name is misspelt, or the metric is the task's own.",
        remedy="Use a known name, or give data.score a function of your own.",
    )


def metric_names() -> tuple[str, ...]:
    """The names to offer; `top5` stands for every `top<k>`."""
    return ("top1", "top5", *_OTHERS)


def agreement(kind: Literal["cosine", "equal_share"], output: Array, reference: Array) -> float:
    """How far one output agrees with the original's, as the floors of the manifest demand it.

    `cosine` is from -1 to 1, `equal_share` (for integers and booleans) from 0 to 1. An output
    that holds NaN or infinity where the original's is finite gets the least value.

    Raises:
        VerificationError: the shapes differ.
    """
    _check_shape("The output", output, reference)
    if kind == "equal_share":
        return float(np.mean(output == reference)) if reference.size else 1.0
    return _cosine(output, reference)


def _top(name: str, k: int) -> Metric:
    def score(outputs: Mapping[str, Array], reference: Mapping[str, Array], label: Any) -> float:
        del reference
        rows = _class_rows(outputs)
        if k > 1 and rows.dtype.kind in "iub":
            raise UsageError(
                f"{name} needs a score per class, but the model returns {rows.dtype} classes.",
                cause="The model ends in an argmax.",
                remedy="Use top1, or return the scores.",
            )
        return float(np.mean(_ranks(rows, _labels(label, len(rows), rows)) < k))

    return Metric(name=name, higher_is_better=True, needs_label=True, bounds=(0, 1), score=score)


def _top1_agreement(
    outputs: Mapping[str, Array], reference: Mapping[str, Array], label: Any
) -> float:
    del label
    name = _class_output(reference)
    _check_shape(f"Output {name}", outputs[name], reference[name])
    expected = _class_rows(reference)
    winners = expected[:, 0] if expected.dtype.kind in "iub" else np.argmax(expected, axis=-1)
    return float(np.mean(_ranks(_class_rows(outputs, name), winners.astype(np.int64)) < 1))


def _cosine_score(
    outputs: Mapping[str, Array], reference: Mapping[str, Array], label: Any
) -> float:
    """The worst output's; outputs of integers count by their equal share if there are no floats."""
    del label
    floats = _float_outputs(reference)
    for name, expected in reference.items():
        _check_shape(f"Output {name}", outputs[name], expected)
    if not floats:
        return min(agreement("equal_share", outputs[n], ref) for n, ref in reference.items())
    return max(0.0, min(_cosine(outputs[name], reference[name]) for name in floats))


def _sqnr_score(outputs: Mapping[str, Array], reference: Mapping[str, Array], label: Any) -> float:
    """Signal to quantisation noise of the worst float output, in dB, within +- the ceiling."""
    del label
    worst = SQNR_CEILING_DB
    for name in _float_outputs(reference) or list(reference):
        expected = reference[name].astype(np.float64)
        _check_shape(f"Output {name}", outputs[name], expected)
        with np.errstate(invalid="ignore"):
            noise = float(np.square(outputs[name].astype(np.float64) - expected).sum())
        if noise == 0.0:
            continue
        signal = float(np.square(expected).sum())
        if not math.isfinite(noise) or signal == 0.0:
            return -SQNR_CEILING_DB
        worst = min(worst, 10.0 * math.log10(signal / noise))
    return max(worst, -SQNR_CEILING_DB)


def _mean_absolute_error(
    outputs: Mapping[str, Array], reference: Mapping[str, Array], label: Any
) -> float:
    del reference
    return float(np.mean(np.abs(_errors(outputs, label))))


def _mean_squared_error(
    outputs: Mapping[str, Array], reference: Mapping[str, Array], label: Any
) -> float:
    del reference
    return float(np.mean(np.square(_errors(outputs, label))))


def _errors(outputs: Mapping[str, Array], label: Any) -> Array:
    """Differences between the first float output and a label of as many elements."""
    name = next(iter(_float_outputs(outputs)), next(iter(outputs)))
    wanted = np.asarray(_present(label), np.float64)
    if wanted.size != outputs[name].size:
        raise UsageError(
            f"The label has shape {wanted.shape}, the output {name} has {outputs[name].shape}.",
            cause="The label is not what the model predicts.",
            remedy="Yield one value per element of the output.",
        )
    return np.asarray(outputs[name].astype(np.float64).ravel() - wanted.ravel())


def _class_output(outputs: Mapping[str, Array]) -> str:
    """The first float output with at least two axes; without one, the first output."""
    for name in _float_outputs(outputs):
        if outputs[name].ndim >= 2:
            return name
    return next(iter(outputs))


def _class_rows(outputs: Mapping[str, Array], name: str | None = None) -> Array:
    """One row of class scores per answer; integers are the classes themselves, one per row."""
    array = outputs[name or _class_output(outputs)]
    if array.dtype.kind in "iub":
        return array.reshape(-1, 1)
    if array.ndim == 0 or array.shape[-1] < 2:
        raise UsageError(
            f"The output of shape {array.shape} has no axis of classes.",
            cause="The metric compares the scores of classes along the last axis.",
            remedy="Return one score per class (two for yes and no), or choose another metric.",
        )
    return array.reshape(-1, array.shape[-1])


def _ranks(rows: Array, labels: Array) -> Array:
    """The place of each row's label, 0 is first; of equal scores the lower class comes first.

    Rows that hold NaN put their label last.
    """
    if rows.dtype.kind in "iub":
        return np.asarray(rows[:, 0].astype(np.int64) != labels, np.int64)
    own = np.take_along_axis(rows, labels[:, None], axis=-1)
    earlier = np.arange(rows.shape[-1]) < labels[:, None]
    places: Array = np.sum((rows > own) | ((rows == own) & earlier), axis=-1)
    places[np.isnan(rows).any(axis=-1)] = rows.shape[-1]
    return places


def _labels(label: Any, count: int, rows: Array) -> Array:
    labels = np.asarray(_present(label)).ravel()
    classes = None if rows.dtype.kind in "iub" else rows.shape[-1]
    if labels.dtype.kind not in "iub" or labels.size != count:
        raise UsageError(
            f"The label is {labels.size} x {labels.dtype}, the model answers {count} times.",
            cause="A classification's label is the class's number, one per answer.",
            remedy="Yield an integer, or an array of integers for a batch.",
        )
    labels = labels.astype(np.int64)
    if classes is not None and not ((labels >= 0) & (labels < classes)).all():
        raise UsageError(
            f"The label {labels[(labels < 0) | (labels >= classes)][0]} is no class of {classes}.",
            cause="Classes count from 0.",
            remedy="Yield the index of the class in the model's output.",
        )
    return labels


def _present(label: Any) -> Any:
    if label is None:
        raise UsageError(
            "A sample has no label, and this metric holds answers against labels.",
            cause="The function in data.samples yields pairs, not triples.",
            remedy="Yield (id, inputs, label), or use cosine or top1_agreement.",
        )
    return label


def _float_outputs(outputs: Mapping[str, Array]) -> list[str]:
    return [name for name, array in outputs.items() if array.dtype.kind == "f"]


def _cosine(output: Array, reference: Array) -> float:
    if np.array_equal(output, reference):
        return 1.0  # exactly, zeros and rounding of the norms regardless
    left, right = (array.astype(np.float64).ravel() for array in (output, reference))
    # Where the original itself is infinite (a mask), agreeing there is as it should be.
    same = np.isinf(right) & (left == right)
    left, right = left[~same], right[~same]
    if not (np.isfinite(left).all() and np.isfinite(right).all()):
        return -1.0
    scale = float(np.linalg.norm(left)) * float(np.linalg.norm(right))
    if scale == 0.0:  # one of them is all zeros, the other is not
        return 1.0 if np.array_equal(left, right) else 0.0
    return max(-1.0, min(1.0, float(left @ right) / scale))


def _check_shape(what: str, output: Array, reference: Array) -> None:
    if output.shape != reference.shape:
        raise VerificationError(
            f"{what} has shape {output.shape}, the original's has {reference.shape}.",
            cause="The variant was built from another program, or its toolchain lost a dim.",
            remedy="Build it again; if that does not help, leave this recipe out.",
        )


def _fidelity(name: str, score: Score, bounds: tuple[float, float] | None = (0, 1)) -> Metric:
    return Metric(name=name, higher_is_better=True, needs_label=False, bounds=bounds, score=score)


def _error(name: str, score: Score) -> Metric:
    return Metric(name=name, higher_is_better=False, needs_label=True, bounds=None, score=score)


_OTHERS: dict[str, Metric] = {
    found.name: found
    for found in (
        _fidelity("top1_agreement", _top1_agreement),
        _fidelity("cosine", _cosine_score),
        _fidelity("sqnr", _sqnr_score, bounds=None),
        _error("mae", _mean_absolute_error),
        _error("mse", _mean_squared_error),
    )
}

__all__ = [
    "SQNR_CEILING_DB",
    "Drop",
    "Metric",
    "agreement",
    "judge_drop",
    "metric",
    "metric_names",
    "paired_drop",
    "samples_needed",
]
