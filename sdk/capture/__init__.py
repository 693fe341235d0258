"""Model -> Program, with the golden data, the splits and the list of all that was read.

This is a step: it runs alone in a subprocess, because it runs a user's code. What it leaves in its
folder: the program, `golden`, `calibration`, `selection`, `final`, `evaluation` and `bench` as
safetensors, and what it returns as JSON.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from agent.codec import encode
from agent.errors import CaptureError
from agent.manifest import Signature, TensorSpec
from agent.metrics import Metric, metric
from agent.tensors import Array, TensorWriter
from sdk.capture.golden import generated, golden_inputs, resized
from sdk.isolation import user_imports
from sdk.project import Project
from sdk.project_reader import load_project
from sdk.samples import SPLITS, Sample, Split, SplitWriter, StoredSamples, checked, write_sample
from sdk.scoring import noise_of_scores, score_by_function
from sdk.usercode import Recorder, load_function, user_error
from targets.interface import Program

REPEAT_TOLERANCE = 1e-5  # relative: two runs of one model on one input may differ by this much
GOLDEN_BASES = 3  # samples behind the golden data, beside those at the bounds
BENCH_INPUTS = 8  # real inputs that a measurement cycles through
EVALUATION_SAMPLES = 400  # of the final split, for the device's own check
EVALUATION_BYTES = 16 << 20  # a phone on a mobile link still takes this


class Original(Protocol):
    """The user's model as it was given: the reference for accuracy, never a baseline for speed."""

    inputs: tuple[TensorSpec, ...]
    dims: dict[str, tuple[int, int, int]]

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]: ...
    def export(self, example: Mapping[str, Array], out: Path) -> Program: ...


def capture(payload: dict[str, Any], out: Path) -> dict[str, Any]:
    """The step: capture the project in `payload["project"]` into `out`.

    Returns:
        {program, samples{split: count}, metric, original_scores, golden, depfile, notes}.

    Raises:
        CaptureError: the model or the data cannot be used; the message says where and why.
    """
    project = load_project(Path(payload["project"]))
    _import_own_modules()
    recorder = Recorder(ignored=(out,))
    for name in (project.model.file, project.model.checkpoint):
        if name:
            recorder.note(project.root / name)
    with user_imports(project.root):
        original = _load_original(project)
        signature = Signature(inputs=original.inputs, outputs=(), dims=original.dims)
        samples, bases = _read_samples(project, signature)
        golden = _write_golden(original, signature, bases, out)
        program = original.export(bases[0], out)
        with SplitWriter(out) as splits:
            for sample in samples:
                splits.add(_with_outputs(sample, original.run(sample.inputs)))
        scores = _score_original(project, original, out)
        depfile = recorder.depfile()
    _write_bench(signature, bases, out)
    has_evaluation = project.data is not None and splits.counts["final"] > 0
    if has_evaluation:
        _write_evaluation(out, labels=bool(project.data and project.data.labels_may_leave))
    return {
        "program": encode(program) | {"path": program.path.name},
        "samples": dict(splits.counts),
        "evaluation": has_evaluation,
        "golden": golden,
        **scores,
        "depfile": encode(depfile),
    }


def _import_own_modules() -> None:
    """Import what is needed of ours now: later, a user's `agent/` may answer to the name."""
    import agent.sessions.onnxruntime  # noqa: F401  these three for their place in sys.modules
    import sdk.capture.onnx_model
    import sdk.capture.torch_model  # noqa: F401


def _load_original(project: Project) -> Original:
    if project.model.kind == "onnx":
        from sdk.capture.onnx_model import OnnxOriginal

        return OnnxOriginal(project)
    from sdk.capture.torch_model import TorchOriginal

    return TorchOriginal(project)


def _read_samples(
    project: Project, signature: Signature
) -> tuple[Iterable[Sample], list[dict[str, Array]]]:
    """The user's samples, and the first few of them to make golden and bench inputs from."""
    opt = {name: bounds[1] for name, bounds in signature.dims.items()}
    if project.data is None:
        bases = [generated(signature, opt, seed) for seed in range(GOLDEN_BASES)]
        return [], bases
    source = project.data.samples
    function = load_function(project.root, source.file, source.function, "data.samples")
    stream = checked(_user_items(function, str(source), project.root), signature)
    first = list(itertools.islice(stream, BENCH_INPUTS))
    return itertools.chain(first, stream), [sample.inputs for sample in first]


def _user_items(function: Any, name: str, project_root: Path) -> Iterator[Any]:
    count = 0
    try:
        for item in function():
            yield item
            count += 1
    except Exception as error:
        raise user_error(
            f"{name} raised after {count} samples:",
            error,
            project_root,
            remedy="Correct that line.",
        ) from error


def _with_outputs(sample: Sample, outputs: dict[str, Array]) -> Sample:
    return Sample(id=sample.id, inputs=sample.inputs, label=sample.label, outputs=outputs)


def _write_golden(
    original: Original, signature: Signature, bases: list[dict[str, Array]], out: Path
) -> int:
    count = 0
    with TensorWriter(out / "golden.safetensors") as writer:
        for inputs in golden_inputs(signature, bases[:GOLDEN_BASES]):
            first, second = original.run(inputs), original.run(inputs)
            _check_outputs(first, second, inputs)
            sample = Sample(id=str(count), inputs=inputs, label=None, outputs=first)
            write_sample(writer.add, count, sample)
            count += 1
    return count


def _check_outputs(
    first: dict[str, Array], second: dict[str, Array], inputs: dict[str, Array]
) -> None:
    shapes = {name: array.shape for name, array in inputs.items()}
    if not first:
        raise CaptureError(
            "The model returns no tensors.",
            cause="forward() returns None or an empty tuple.",
            remedy="Return at least one tensor.",
        )
    for name, left in first.items():
        right = second[name]
        if left.dtype.kind == "f" and np.isnan(left).any():
            raise CaptureError(
                f"Output {name} of the original holds NaN for inputs of shapes {shapes}.",
                cause="A division by zero, the logarithm of a negative, or weights that are NaN.",
                remedy="Mend the model first; no variant can be held against NaN.",
            )
        finite = left[np.isfinite(left)] if left.dtype.kind == "f" else left
        scale = float(np.abs(finite).max()) if finite.size else 0.0
        with np.errstate(invalid="ignore"):
            difference = np.abs(left.astype(np.float64) - right.astype(np.float64))
        worst = float(np.nanmax(difference)) if difference.size else 0.0
        if left.shape != right.shape or worst > REPEAT_TOLERANCE * max(scale, 1e-12):
            raise CaptureError(
                f"Output {name} differs between two runs on the same input: by {worst:.3g}, where "
                f"its largest value is {scale:.3g} (tolerance {REPEAT_TOLERANCE:g} relative).",
                cause="Dropout or noise is on in eval mode, or the model keeps state between runs.",
                remedy="Make forward() depend on its inputs alone.",
            )


def _score_original(project: Project, original: Original, out: Path) -> dict[str, Any]:
    """The original's score of each sample, and by which metric."""
    if project.data is None:
        return {"metric": None, "original_scores": None}
    splits = {split: StoredSamples(out / f"{split}.safetensors") for split in SPLITS[1:]}
    if project.data.score is not None:
        scores = {
            split: score_by_function(project, original.run, samples)
            for split, samples in splits.items()
        }
        _check_scores(scores, str(project.data.score))
        again = score_by_function(project, original.run, splits["selection"])
        described = {
            "name": str(project.data.score),
            "higher_is_better": project.data.higher_is_better,
            "fidelity": False,
            "by_function": True,
            "note": noise_of_scores(scores["selection"], again),
        }
        return {"metric": described, "original_scores": scores}
    labelled = all(sample.label is not None for samples in splits.values() for sample in samples)
    chosen, note = _metric_for(project.data.metric, labelled=labelled)
    scores = {
        split: [chosen.score(s.outputs, s.outputs, s.label) for s in samples]
        for split, samples in splits.items()
    }
    _check_scores(scores, chosen.name)
    return {
        "metric": {
            "name": chosen.name,
            "higher_is_better": chosen.higher_is_better,
            "fidelity": not chosen.needs_label,
            "by_function": False,
            "note": note,
        },
        "original_scores": scores,
    }


def _check_scores(scores: Mapping[Split, list[float]], name: str) -> None:
    for split, found in scores.items():
        if found and not np.mean(found):
            raise CaptureError(
                f"The original's mean {name} on {split} samples is 0; drops are relative to it.",
                cause="The labels belong to other samples, or the metric does not fit the task.",
                remedy="Check labels and metric; a score function may shift the scale.",
            )


def _metric_for(name: str | None, *, labelled: bool) -> tuple[Metric, str]:
    """The metric, or its stand-in where there are no labels to hold answers against."""
    chosen = metric(name or "cosine")
    if labelled or not chosen.needs_label:
        note = "" if chosen.needs_label else "fidelity to the original, not accuracy on labels"
        return chosen, note
    stand_in = metric("top1_agreement" if chosen.name.startswith("top") else "cosine")
    return stand_in, f"no labels: {stand_in.name} to the original stands in for {chosen.name}"


def _write_bench(signature: Signature, bases: list[dict[str, Array]], out: Path) -> None:
    opt = {name: bounds[1] for name, bounds in signature.dims.items()}
    with TensorWriter(out / "bench.safetensors") as writer:
        for index, base in enumerate(bases[:BENCH_INPUTS]):
            inputs = resized(base, signature.inputs, opt)
            write_sample(writer.add, index, Sample(id="", inputs=inputs, label=None, outputs={}))


def _write_evaluation(out: Path, *, labels: bool) -> None:
    """The pack that travels to devices: the first samples of the final split, up to a size."""
    written = 0
    with TensorWriter(out / "evaluation.safetensors") as writer:
        for index, sample in enumerate(
            StoredSamples(out / "final.safetensors", EVALUATION_SAMPLES)
        ):
            arrays = [*sample.inputs.values(), *sample.outputs.values()]
            written += sum(array.nbytes for array in arrays)
            if index and written > EVALUATION_BYTES:
                break
            kept = (
                sample
                if labels
                else Sample(id=sample.id, inputs=sample.inputs, label=None, outputs=sample.outputs)
            )
            write_sample(writer.add, index, kept)
