"""Is the chosen variant ever slower than the best plain vendor default within the same limit?

All defaults and the chosen variant are measured in one contest, each in its own process, windows in
turn. A default counts by the rule that the chosen one was held to: on the final samples, the bound
of the paired comparison holds a drop of 2 % of the cosine to the original.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from unittest import mock

import torch

from agent.bench import Budget, Contestant, Failure, compare, contest
from agent.files import sha256_of
from agent.manifest import File, Runtime
from agent.measurement import Measurement, Ratio
from agent.metrics import metric, paired_drop
from agent.sessions import load
from agent.variant import VariantRecord, read_record, record_bytes
from benchmarks.models import MODELS, samples_of, write_project
from benchmarks.vendors import RECIPES
from sdk import build

LARGEST_DROP = 0.02
CONTESTS = 4


def ratio(model: str, environment: dict[str, str], folder: Path) -> Ratio:
    """The chosen variant's latency over that of the best default that counts."""
    project = write_project(folder / model, model)
    with mock.patch.dict(os.environ, environment):
        summary = build(project, targets=["intel"], profiles=["host"], out=folder / "out")
    built = folder / "out" / summary.model
    chosen = (built / "intel-host" / "chosen").resolve()
    folders = {"chosen": chosen}
    for recipe in RECIPES:
        place = folder / "defaults" / model / recipe
        found = subprocess.run(
            [sys.executable, "-m", "benchmarks.vendors", recipe, model, str(place)],
            check=False,
            env=environment,
            capture_output=True,
            text=True,
        )
        if found.returncode:
            print(f"  {recipe}: {found.stderr.strip().splitlines()[-1][:100]}")
            continue
        _write_record(place, recipe, found.stdout.splitlines()[-1], read_record(chosen))
        drop = _drop(place, model)
        if drop is None:
            print(f"  {recipe}: cannot be run here, does not count")
        elif drop <= LARGEST_DROP:
            folders[recipe] = place
        else:
            print(f"  {recipe}: a drop of up to {drop:.4f}, does not count")
    best = _fastest(folders, built, folder / "logs" / model)
    return _held_against(folders["chosen"], folders[best], built, folder / "logs" / model)


def _fastest(folders: Mapping[str, Path], built: Path, logs: Path) -> str:
    """The fastest default; prints all."""
    found = _measured(folders, built, logs, seconds=6.0)
    order = sorted(found, key=lambda name: found[name].latency_ms.p50)
    for name in order:
        print(f"  {name}: {found[name].latency_ms.p50:.3f} ms", flush=True)
    return next(name for name in order if name != "chosen")


def _held_against(chosen: Path, best: Path, built: Path, logs: Path) -> Ratio:
    """The ratio over several contests, and what of it may be noise.

    Two processes of one and the same file differ by some per cent, by where their memory came to
    lie, and no number of runs in them shows that. So the chosen variant takes part twice, and how
    far those two come apart is the noise.
    """
    folders = {"chosen": chosen, "again": chosen, "best": best}
    ratios, apart = [], []
    for _ in range(CONTESTS):
        found = _measured(folders, built, logs, seconds=3.0)
        ratios += [compare(found[name], found["best"]).value for name in ("chosen", "again")]
        apart.append(abs(math.log(compare(found["chosen"], found["again"]).value)))
    value, noise = statistics.median(ratios), math.exp(max(apart))
    return Ratio(value=value, low=value / noise, high=value * noise, rounds=CONTESTS)


def _measured(
    folders: Mapping[str, Path], built: Path, logs: Path, *, seconds: float
) -> dict[str, Measurement]:
    results = contest(
        [Contestant(name, place) for name, place in folders.items()],
        inputs=built / "evaluation.safetensors",  # golden data goes to the dims' bounds
        log_folder=logs,
        budget=Budget(seconds_per_contestant=seconds),
    )
    return {name: found for name, found in results.items() if not isinstance(found, Failure)}


def _write_record(place: Path, recipe: str, entry: str, like: VariantRecord) -> None:
    names = [entry] + (["model.bin"] if entry.endswith(".xml") else [])
    record = VariantRecord(
        version=1,
        id=f"{like.model}/any/{recipe}",
        model=like.model,
        target="any",
        profile="any",
        runtime=Runtime(format=recipe.split("-", maxsplit=1)[0], at_least=None, below=None),
        options={},
        signature=like.signature,
        files=tuple(
            File(path=n, sha256=sha256_of(place / n), length=(place / n).stat().st_size)
            for n in names
        ),
        provenance={},
    )
    (place / "variant.json").write_bytes(record_bytes(record))


def _drop(place: Path, model: str) -> float | None:
    """The upper bound of the drop, found in a process of its own; None if that fails."""
    found = subprocess.run(
        [sys.executable, "-m", "benchmarks.vendor_defaults", str(place), model],
        check=False,
        stdout=subprocess.PIPE,
        text=True,
    )
    if found.returncode:
        return None
    return float(json.loads(found.stdout.splitlines()[-1]))


def _scores(place: Path, model: str) -> Iterator[float]:
    """Cosine to the original on samples that no vendor calibrated with."""
    factory, shape = MODELS[model]
    original = factory()
    with load(place) as session, torch.inference_mode():
        for _, inputs in itertools.islice(samples_of(model), shape.samples // 2, None):
            answer = original(*map(torch.from_numpy, inputs.values()))
            named = answer if isinstance(answer, dict) else {"output": answer}
            reference = {name: tensor.numpy() for name, tensor in named.items()}
            yield metric("cosine").score(session.run(inputs), reference, None)


if __name__ == "__main__":
    scores = list(_scores(Path(sys.argv[1]), sys.argv[2]))
    ones = [1.0] * len(scores)
    print(paired_drop(ones, scores, higher_is_better=True, bounds=(0.0, 1.0)).high)
