"""A user's samples: read once, checked, split by a hash of their ids, stored beside the program.

The split of a sample depends on its id alone, so it is the same in every build whatever else is
added: a quarter calibrates, a quarter chooses, and the final half is seen by no choice.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np

from agent.errors import CaptureError, UsageError
from agent.manifest import Signature
from agent.sessions import check_inputs
from agent.tensors import Array, TensorWriter, read_tensors

Split = Literal["calibration", "selection", "final"]
SPLITS: tuple[Split, ...] = ("calibration", "selection", "final")
SELECTION, FINAL = SPLITS[1:]
_CALIBRATION_SHARE, _SELECTION_SHARE = 0.25, 0.25


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    """One sample with the original's outputs."""

    id: str
    inputs: dict[str, Array]
    label: Array | None
    outputs: dict[str, Array]


def split_of(sample_id: str) -> Split:
    """Which split a sample belongs to: stable, whatever other samples there are."""
    digest = hashlib.sha256(sample_id.encode()).digest()
    position = int.from_bytes(digest[:8], "big") / 2**64
    if position < _CALIBRATION_SHARE:
        return "calibration"
    return "selection" if position < _CALIBRATION_SHARE + _SELECTION_SHARE else "final"


def checked(items: Iterable[Any], signature: Signature) -> Iterator[Sample]:
    """The user's items as samples, without outputs.

    Raises:
        CaptureError: an item has another form, an id is there twice, an array does not fit the
            signature or holds NaN, or there are no items at all. The message names the sample.
    """
    seen: set[str] = set()
    for index, item in enumerate(items):
        if not isinstance(item, (tuple, list)) or len(item) not in (2, 3):
            raise CaptureError(
                f"Sample {index} is a {type(item).__name__}, not (id, inputs[, label]).",
                cause="The function in data.samples yields something else.",
                remedy='Yield tuples: yield "sample-7", {"image": array}, label',
            )
        sample_id, inputs, label = (*item, None)[:3]
        if not isinstance(sample_id, (str, int)) or not isinstance(inputs, Mapping):
            raise CaptureError(
                f"Sample {index} has an id of type {type(sample_id).__name__} and inputs of type "
                f"{type(inputs).__name__}, expected a string and a dict.",
                cause="The order of the tuple is (id, inputs, label).",
                remedy='Yield tuples: yield "sample-7", {"image": array}, label',
            )
        name = str(sample_id)
        if name in seen:
            raise CaptureError(
                f"The id {name!r} is there twice (again at sample {index}).",
                cause="Ids decide which split a sample belongs to, so each must be its own.",
                remedy="Use something stable and unique, such as the file's name.",
            )
        seen.add(name)
        yield Sample(
            id=name,
            inputs=_inputs(name, inputs, signature),
            label=_label(name, label),
            outputs={},
        )
    if not seen:
        raise CaptureError(
            "The function in data.samples yields no samples.",
            cause="A folder is empty, or a filter removed everything.",
            remedy="Yield at least a few hundred; a drop of 2 % needs 149 final ones to be proven.",
        )


def _inputs(name: str, inputs: Mapping[str, Any], signature: Signature) -> dict[str, Array]:
    try:
        arrays = check_inputs(signature, {key: np.asarray(value) for key, value in inputs.items()})
    except UsageError as error:
        raise CaptureError(
            f"Sample {name!r}: {error.what}", cause=error.cause, remedy=error.remedy
        ) from error
    for key, array in arrays.items():
        if array.dtype.kind == "f" and np.isnan(array).any():
            raise CaptureError(
                f"Sample {name!r}: input {key} holds NaN.",
                cause="A division by zero or a missing value in the data.",
                remedy="Leave the sample out, or mend it.",
            )
    return arrays


def _label(name: str, label: Any) -> Array | None:
    if label is None:
        return None
    array = np.asarray(label)
    if array.dtype.kind not in "biuf":
        raise CaptureError(
            f"Sample {name!r}: the label {label!r} is not a number or an array of numbers.",
            cause="Class names are not compared; their indices are.",
            remedy="Yield the class's index.",
        )
    return array


class SplitWriter:
    """Writes the three splits side by side, holding one sample in memory at a time."""

    def __init__(self, folder: Path) -> None:
        self.counts: dict[Split, int] = dict.fromkeys(SPLITS, 0)
        self._writers = {split: TensorWriter(folder / f"{split}.safetensors") for split in SPLITS}

    def __enter__(self) -> SplitWriter:
        for writer in self._writers.values():
            writer.__enter__()
        return self

    def add(self, sample: Sample) -> Split:
        """Store one sample in the split that its id names."""
        split = split_of(sample.id)
        write_sample(self._writers[split].add, self.counts[split], sample)
        self.counts[split] += 1
        return split

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for writer in self._writers.values():
            writer.__exit__(kind, error, trace)


def write_sample(add: Callable[[str, Array], None], index: int, sample: Sample) -> None:
    """Store one sample under the keys of golden data and evaluation packs (docs: manifest)."""
    for name, array in sample.inputs.items():
        add(f"{index:05d}/in/{name}", array)
    for name, array in sample.outputs.items():
        add(f"{index:05d}/out/{name}", array)
    if sample.label is not None:
        add(f"{index:05d}/label", sample.label)


class StoredSamples:
    """The samples of one file, mapped; iterable as often as one likes."""

    def __init__(self, path: Path, limit: int | None = None) -> None:
        self._samples: dict[str, Sample] = {}
        for key, array in read_tensors(path).items():
            index, kind, *name = key.split("/", 2)
            if index not in self._samples:
                if limit is not None and len(self._samples) == limit:
                    break
                self._samples[index] = Sample(id=index, inputs={}, label=None, outputs={})
            sample = self._samples[index]
            if kind == "label":
                self._samples[index] = dataclasses.replace(sample, label=array)
            else:
                (sample.inputs if kind == "in" else sample.outputs)[name[0]] = array

    def __len__(self) -> int:
        return len(self._samples)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self._samples.values())


class CalibrationInputs:
    """The inputs of stored samples, as a toolchain's quantiser takes them."""

    def __init__(self, samples: StoredSamples) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    def __iter__(self) -> Iterator[Mapping[str, Array]]:
        # Quantisers hand arrays to torch, which warns about read-only memory.
        return ({k: np.array(v) for k, v in sample.inputs.items()} for sample in self._samples)


__all__ = [
    "FINAL",
    "SELECTION",
    "SPLITS",
    "CalibrationInputs",
    "Sample",
    "Split",
    "SplitWriter",
    "StoredSamples",
    "checked",
    "split_of",
    "write_sample",
]
