"""A user's own score: a function of `(session, split)` that returns one number per sample."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from agent.errors import CaptureError
from agent.tensors import Array
from sdk.project import Project
from sdk.samples import Sample, StoredSamples
from sdk.usercode import load_function, user_error

_SAME = 1e-5  # relative: what outputs may differ by between two runs
Run = Callable[[Mapping[str, Array]], dict[str, Array]]


class ScoringSession:
    """What a score function gets to run: the original, or a variant."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """One array per input, one array per output, by name."""
        return self._run(inputs)


class ScoringSplit:
    """The samples of one split: iterate for `(id, inputs, label)`; `len()` says how many."""

    def __init__(self, samples: StoredSamples) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    def __iter__(self) -> Iterator[tuple[str, dict[str, Array], Array | None]]:
        return ((sample.id, sample.inputs, sample.label) for sample in self._items())

    def _items(self) -> Iterator[Sample]:
        return iter(self._samples)


def noise_of_scores(once: Sequence[float], again: Sequence[float]) -> str:
    """What is to be said of a function that scores the same answers differently, or nothing.

    >>> noise_of_scores([1.0, 1.0], [1.0, 1.0])
    ''
    >>> noise_of_scores([1.0, 1.0], [1.1, 0.9])
    'the score function is noisy: the same answers, scored twice, differ by 10 % on average'
    """
    mean = abs(float(np.mean(once))) if once else 0.0
    apart = float(np.mean(np.abs(np.subtract(once, again)))) if once else 0.0
    if apart <= _SAME * mean:
        return ""
    return (
        "the score function is noisy: the same answers, scored twice, differ by "
        f"{100 * apart / mean:.2g} % on average"
    )


def score_by_function(project: Project, run: Run, samples: StoredSamples) -> list[float]:
    """Call the project's score function.

    Raises:
        CaptureError: it raises, or does not return one finite number per sample.
    """
    assert project.data is not None
    source = project.data.score
    assert source is not None
    function = load_function(project.root, source.file, source.function, "data.score")
    try:
        answer = function(ScoringSession(run), ScoringSplit(samples))
        scores = np.asarray(list(answer), dtype=np.float64)
    except Exception as error:
        raise user_error(
            f"{source} raised", error, project.root, remedy="Correct that line."
        ) from error
    if scores.shape != (len(samples),) or not np.isfinite(scores).all():
        raise CaptureError(
            f"{source} returned {scores.size} numbers, {int(np.isfinite(scores).sum())} of them "
            f"finite, for {len(samples)} samples.",
            cause="It returns one number for the whole split, or divides by zero.",
            remedy="Return one finite number per sample, in the split's order.",
        )
    return [float(score) for score in scores]
