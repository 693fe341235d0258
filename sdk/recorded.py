"""A variant's answers that were recorded on another machine, to be looked at as if it ran here."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from agent.errors import CaptureError, VerificationError
from agent.tensors import Array, TensorWriter, by_sample, read_tensors
from agent.variant import VariantRecord


class RecordedSession:
    """What was answered, by its input; like `agent.sessions.CheckedSession` for whoever scores."""

    def __init__(
        self, record: VariantRecord, questions: Path, answers: Path, placement: Mapping[str, float]
    ) -> None:
        """`questions` and `answers` have keys `<nnnnn>/in/<name>` and `<nnnnn>/out/<name>`.

        Raises:
            VerificationError: a file is damaged, or a question has no answer.
        """
        self.record = record
        self._placement = dict(placement)
        asked = by_sample(read_tensors(questions), "in")
        answered = by_sample(read_tensors(answers), "out")
        if asked.keys() != answered.keys():
            raise VerificationError(
                f"{len(asked)} inputs were sent, and {len(answered)} were answered.",
                cause="The rig's disk was full, or another file came.",
                remedy="Build again: --fresh.",
            )
        self._found = {digest_of(inputs): answered[index] for index, inputs in asked.items()}

    def __enter__(self) -> RecordedSession:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """What was answered to these inputs.

        Raises:
            CaptureError: they were not sent.
        """
        found = self._found.get(digest_of(inputs))
        if found is None:
            raise CaptureError(
                "The score function runs the model on inputs that are no sample's.",
                cause="On a rig every sample is run once, and scored here afterwards.",
                remedy="Give the function the sample's own inputs, or build on the device itself.",
            )
        return found

    def placement(self) -> dict[str, float]:
        """What share of the graph ran where."""
        return self._placement


def write_questions(path: Path, inputs: Iterable[Mapping[str, Array]]) -> int:
    """Write inputs, each once, for a rig to answer; how many there are."""
    seen: set[str] = set()
    with TensorWriter(path) as writer:
        for one in inputs:
            digest = digest_of(one)
            if digest in seen:
                continue
            for name, array in one.items():
                writer.add(f"{len(seen):05d}/in/{name}", array)
            seen.add(digest)
    return len(seen)


def digest_of(inputs: Mapping[str, Array]) -> str:
    """The same for the same arrays, whatever their order."""
    digest = hashlib.sha256()
    for name in sorted(inputs):
        array = inputs[name]
        digest.update(f"{name}\0{array.dtype}\0{array.shape}\0".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
