"""The preflight's own process: it loads the variant, and answers for one stage after the other.

`agent.updates.proving` asks, and watches it for time and memory: a runtime that hangs, crashes or
eats the memory refuses a release and harms nothing else. Speed is measured by another process of
this kind, so that what the first one took is given back.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agent.arena import BUSY
from agent.bench import Budget, Contestant, Failure, compare, contest
from agent.codec import decode, encode
from agent.drop import judge_drop, paired_drop
from agent.measurement import Measurement
from agent.metrics import agreement, metric
from agent.processes import die_with, memory, serve
from agent.sessions import CheckedSession, open_record
from agent.tensors import read_tensors
from agent.updates.judge import judge, judge_floors, ratios
from agent.updates.proof import Asked, Found, Placed
from agent.variant import RECORD_NAME, record_bytes


def main(parent: str, questions: str, answers: str, network: str) -> None:
    """Serve until the parent closes the pipe.

    Args:
        parent: its number.
        questions: the number of the pipe that they come through.
        answers: and of theirs.
        network: why this process could not leave it; empty where it has none.
    """
    die_with(int(parent))
    variant = _Variant(network)
    verbs = {
        "prepare": _answering(variant.prepare),
        "golden": _answering(variant.golden),
        "accuracy": _answering(variant.accuracy),
        "memory": _answering(variant.memory),
        "speed": _answering(speed),
    }
    serve(verbs, questions=int(questions), answers=int(answers))


def _answering(stage: Any) -> Any:
    def answer(asked: Any) -> dict[str, Any]:
        found: dict[str, Any] = encode(stage(decode(Asked, asked, "asked")))
        return found

    return answer


class _Variant:
    """One variant, loaded by the first stage."""

    _session: CheckedSession
    _peak_bytes = 0

    def __init__(self, network: str) -> None:
        self._network = network

    def prepare(self, asked: Asked) -> Found:
        """Load it; where its format is compiled on the device, compile it first."""
        self._session = open_record(asked.variant.folder, asked.variant.record)
        return Found(facts={"network": self._network or "none"})

    def golden(self, asked: Asked) -> Found:
        """The original's answers, within the floors."""
        worst: dict[str, float] = {}
        for sample in samples(asked.golden):
            outputs = self._session.run(sample["in"])
            for floor in asked.floors:
                value = agreement(floor.metric, outputs[floor.output], sample["out"][floor.output])
                worst[floor.output] = min(value, worst.get(floor.output, value))
        self._peak_bytes = memory(os.getpid(), "VmHWM") or 0
        judged = judge_floors(asked.floors, worst)
        return Found(
            reasons=tuple(breach.what for breach in judged.breaches), facts={"agreement": worst}
        )

    def accuracy(self, asked: Asked) -> Found:
        """The drop on the evaluation pack, by the rule that the build accepted by."""
        if asked.evaluation is None or asked.metric is None or asked.drop_max_ppm is None:
            return Found(notes=("no evaluation pack: accuracy is not looked at here",))
        chosen = metric(asked.metric)
        original, own = [], []
        for sample in samples(asked.evaluation):
            label, reference = sample.get("label"), sample["out"]
            if chosen.needs_label and label is None:
                note = f"{asked.metric} needs labels, which did not leave the build"
                return Found(notes=(note,))
            original.append(chosen.score(reference, reference, label))
            own.append(chosen.score(self._session.run(sample["in"]), reference, label))
        drop = paired_drop(
            original, own, higher_is_better=asked.higher_is_better, bounds=chosen.bounds
        )
        limit = asked.drop_max_ppm / 1e6
        reasons: tuple[str, ...] = ()
        if judge_drop(drop, limit) == "unmet":
            told = f"{asked.metric} drops by {drop.value:.4f} (at least {drop.low:.4f})"
            reasons = (f"{told}, the limit is {limit:.4f}",)
        facts = {"value": drop.value, "low": drop.low, "high": drop.high, "n": drop.n}
        return Found(reasons=reasons, facts={"drop": facts})

    def memory(self, asked: Asked) -> Found:
        """What this process took: on golden data, as it is measured later, and at most."""
        del asked
        most = memory(os.getpid(), "VmHWM") or 0
        return Found(facts={"memory_bytes": self._peak_bytes, "most_memory_bytes": most})


def speed(asked: Asked) -> Found:
    """Latency and memory against the gates, in turns with what runs."""
    results = _measured(asked)
    own = results["new"]
    if isinstance(own, Failure):
        return Found(reasons=(f"it cannot be measured ({own.kind}): {own.message}",))
    notes = [
        f"the {name} one cannot be measured ({found.kind}): {found.message}"
        for name, found in results.items()
        if isinstance(found, Failure)
    ]
    running, baseline = (_figures(results.get(name)) for name in ("running", "baseline"))
    judged = judge(
        asked.gates,
        own,
        running=running,
        baseline=baseline,
        quiet=asked.quiet,
        steady=BUSY not in own.notes,
    )
    facts: dict[str, Any] = {"measurement": encode(own)}
    if running is not None:
        ratio = compare(own, running)
        facts["ratio_to_running"] = {"value": ratio.value, "low": ratio.low, "high": ratio.high}
        facts["ratios_to_running"] = ratios(own, running)
    return Found(
        reasons=tuple(breach.what for breach in judged.breaches),
        notes=(*notes, *judged.skipped),
        facts=facts,
    )


def samples(path: Path) -> Iterator[dict[str, Any]]:
    """{in: {name: array}, out: {name: array}, label} of each sample of a pack.

    Raises:
        VerificationError: the file is no pack.
    """
    found: dict[str, dict[str, Any]] = {}
    for key, array in read_tensors(path).items():
        index, _, rest = key.partition("/")
        kind, _, name = rest.partition("/")
        sample = found.setdefault(index, {"in": {}, "out": {}})
        if kind == "label":
            sample["label"] = array
        elif kind in ("in", "out"):
            sample[kind][name] = array
    yield from found.values()


def _measured(asked: Asked) -> dict[str, Measurement | Failure]:
    """One contest of all that is to be held against each other."""
    entrants = {"new": asked.variant, "running": asked.running, "baseline": asked.baseline}
    # Beside the variant's own files, which are removed whatever ends this process.
    with tempfile.TemporaryDirectory(dir=asked.variant.folder.parent) as scratch:
        contestants = [
            Contestant(name, _alone(Path(scratch) / name, placed))
            for name, placed in entrants.items()
            if placed is not None
        ]
        return contest(
            contestants,
            inputs=asked.golden,
            log_folder=Path(scratch) / "logs",
            budget=Budget(seconds_per_contestant=asked.seconds_per_contestant),
            memory_limit_mib=asked.memory_limit_mib,
        )


def _alone(place: Path, placed: Placed) -> Path:
    """A variant as a folder of its own, as the harness takes it: links and a record."""
    place.mkdir(parents=True)
    for file in placed.record.files:
        link = place / file.path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to((placed.folder / file.path).resolve())
    (place / RECORD_NAME).write_bytes(record_bytes(placed.record))
    return place


def _figures(found: Measurement | Failure | None) -> Measurement | None:
    return found if isinstance(found, Measurement) else None
