"""How accurate a variant is on samples that nobody was given: the same code for every contestant.

`python -m benchmarks.rivals.judge VARIANT MODEL FOLDER` prints a line of JSON. What decides is the
drop as it was seen there, without a bound: a vendor's default makes no claim that a bound could
hold it to.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from agent.metrics import metric
from agent.sessions import load
from agent.tensors import read_tensors
from benchmarks.rivals.contestant import extend
from benchmarks.rivals.data import load_samples
from benchmarks.rivals.models import CASES, LIMITS


def judge(variant: Path, name: str, folder: Path) -> dict[str, float | bool]:
    """The original's and the variant's mean score, the drop between them, and the lowest score."""
    case, samples = CASES[name], load_samples(folder / "held_out")
    score = metric(case.metric).score
    references: list[dict[str, np.ndarray]] = [{} for _ in range(len(samples))]
    for key, array in read_tensors(folder / "answers.safetensors").items():
        index, _, output = key.partition("/")
        references[int(index)][output] = array
    own, original = [], []
    with load(variant) as session:
        names = [spec.name for spec in session.outputs]
        for index, (inputs, reference) in enumerate(zip(samples, references, strict=True)):
            found = session.run(inputs)
            outputs = dict(zip(reference, (found[n] for n in names), strict=True))
            label = None if samples.labels is None else samples.labels[index]
            own.append(score(outputs, reference, label))
            original.append(score(reference, reference, label))
    drop = (np.mean(original) - np.mean(own)) / np.mean(original)
    return {
        "original": float(np.mean(original)),
        "score": float(np.mean(own)),
        "lowest": float(np.min(own)),
        "drop": float(drop),
        "within": bool(drop <= LIMITS[case.metric]),
    }


if __name__ == "__main__":
    extend()
    print(json.dumps(judge(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))))
