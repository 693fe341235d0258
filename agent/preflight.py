"""Prove one variant on this device, before it runs: in a process that can be ended.

`python -m agent.preflight REQUEST` reads what to prove and prints one JSON line. The agent watches
it for time and memory (`agent.processes`), so a runtime that hangs, crashes or eats the memory
refuses a release and harms nothing else. In order, and each only if the one before held: prepare
(compile for this device), golden data against their floors, accuracy on the evaluation pack, room
in memory for two sessions, speed and memory against the gates.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from agent.codec import decode, encode
from agent.manifest import Floor, Gate
from agent.tensors import Array
from agent.variant import RECORD_NAME, VariantRecord, record_bytes

Stage = Literal["prepare", "golden", "accuracy", "memory", "speed"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
    """What to prove, and by what."""

    folder: Path
    """Of the slot that holds the variant."""
    record: VariantRecord
    golden: Path
    """safetensors with the original's answers."""
    floors: tuple[Floor, ...]
    evaluation: Path | None
    metric: str | None
    higher_is_better: bool = True
    drop_max_ppm: int | None = None
    gates: tuple[Gate, ...] = ()
    running: tuple[Path, VariantRecord] | None = None
    """What runs now, to measure beside it; None at a first install, or where that would disturb."""
    seconds_per_contestant: float = 4.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Proof:
    """What was found."""

    passed: bool
    stage: Stage
    """The last one that was begun."""
    reasons: tuple[str, ...] = ()
    """Why it did not pass."""
    notes: tuple[str, ...] = ()
    agreement: Mapping[str, float] = dataclasses.field(default_factory=dict)
    drop: Mapping[str, float] | None = None
    """{value, low, high, n}"""
    measurement: Mapping[str, Any] | None = None
    ratio_to_running: Mapping[str, float] | None = None


def prove(asked: Asked) -> Proof:
    """Prove a variant, in this process."""
    from agent.sessions import open_record

    found = Proof(passed=False, stage="prepare")
    with open_record(asked.folder, asked.record) as session:
        found = _golden(asked, session, found)
        if found.reasons:
            return found
        found = _accuracy(asked, session, found)
        if found.reasons:
            return found
    return _speed(asked, found)


def _golden(asked: Asked, session: Any, found: Proof) -> Proof:
    from agent.judge import judge_floors
    from agent.metrics import agreement

    kinds = {floor.output: floor.metric for floor in asked.floors}
    worst: dict[str, float] = {}
    for sample in _samples(asked.golden):
        outputs = session.run(sample["in"])
        for name, kind in kinds.items():
            value = agreement(kind, outputs[name], sample["out"][name])
            worst[name] = min(value, worst.get(name, value))
    judged = judge_floors(asked.floors, worst)
    reasons = tuple(breach.what for breach in judged.breaches)
    return dataclasses.replace(found, stage="golden", agreement=worst, reasons=reasons)


def _accuracy(asked: Asked, session: Any, found: Proof) -> Proof:
    from agent.metrics import judge_drop, metric, paired_drop

    if asked.evaluation is None or asked.metric is None or asked.drop_max_ppm is None:
        note = "there is no evaluation pack: accuracy is not looked at here"
        return dataclasses.replace(found, stage="accuracy", notes=(*found.notes, note))
    chosen = metric(asked.metric)
    original, own = [], []
    for sample in _samples(asked.evaluation):
        label, reference = sample.get("label"), sample["out"]
        if chosen.needs_label and label is None:
            note = f"{asked.metric} needs labels, which did not leave the build"
            return dataclasses.replace(found, stage="accuracy", notes=(*found.notes, note))
        original.append(chosen.score(reference, reference, label))
        own.append(chosen.score(session.run(sample["in"]), reference, label))
    drop = paired_drop(
        original, own, higher_is_better=asked.higher_is_better, bounds=chosen.bounds
    )
    limit = asked.drop_max_ppm / 1e6
    reasons: tuple[str, ...] = ()
    if judge_drop(drop, limit) == "unmet":
        reasons = (f"{asked.metric} drops by {drop.value:.4f} (at least {drop.low:.4f}), the limit "
                   f"is {limit:.4f}",)  # fmt: skip
    told = {"value": drop.value, "low": drop.low, "high": drop.high, "n": drop.n}
    return dataclasses.replace(found, stage="accuracy", drop=told, reasons=reasons)


def _speed(asked: Asked, found: Proof) -> Proof:
    from agent.bench import Budget, Contestant, Failure, compare, contest
    from agent.judge import judge

    with tempfile.TemporaryDirectory() as scratch:
        contestants = [Contestant("new", _alone(Path(scratch) / "new", asked.folder, asked.record))]
        if asked.running is not None:
            folder, record = asked.running
            contestants.append(
                Contestant("running", _alone(Path(scratch) / "running", folder, record))
            )
        results = contest(
            contestants,
            inputs=asked.golden,
            log_folder=Path(scratch) / "logs",
            budget=Budget(seconds_per_contestant=asked.seconds_per_contestant),
        )
    own, running = results["new"], results.get("running")
    if isinstance(own, Failure):
        reason = f"it cannot be measured ({own.kind}): {own.message}"
        return dataclasses.replace(found, stage="speed", reasons=(reason,))
    other = None if running is None or isinstance(running, Failure) else running
    judged = judge(asked.gates, own, running=other, baseline=None)
    ratio = None if other is None else compare(own, other)
    return dataclasses.replace(
        found,
        stage="speed",
        passed=judged.holds,
        reasons=tuple(breach.what for breach in judged.breaches),
        notes=(*found.notes, *judged.skipped),
        measurement=encode(own),
        ratio_to_running=ratio
        and {"value": ratio.value, "low": ratio.low, "high": ratio.high},
    )


def _alone(place: Path, folder: Path, record: VariantRecord) -> Path:
    """A slot as a variant's folder of its own, for the harness: links and a record."""
    place.mkdir(parents=True)
    for file in record.files:
        (place / file.path).parent.mkdir(parents=True, exist_ok=True)
        (place / file.path).symlink_to((folder / file.path).resolve())
    (place / RECORD_NAME).write_bytes(record_bytes(record))
    return place


def _samples(path: Path) -> Iterator[dict[str, Any]]:
    """{in: {name: array}, out: {name: array}, label} of each sample of a pack."""
    from agent.tensors import read_tensors

    found: dict[str, dict[str, Any]] = {}
    for key, array in read_tensors(path).items():
        index, kind, *name = key.split("/", 2)
        sample = found.setdefault(index, {"in": {}, "out": {}})
        if kind == "label":
            sample["label"] = array
        else:
            arrays: dict[str, Array] = sample[kind]
            arrays[name[0]] = array
    yield from found.values()


def main(request: Path) -> None:
    """Prove what a request file asks for; one JSON line on the standard output."""
    asked = decode(Asked, json.loads(request.read_bytes()), "request")
    print(json.dumps(encode(prove(asked))), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
