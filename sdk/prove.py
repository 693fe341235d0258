"""A variant's numerics and accuracy against the original, and what its figures prove.

`evaluate` is a step: it runs the variant in a process of its own on the golden data and on the
selection and final splits. Speed and memory are measured elsewhere, by `agent.bench`, when nothing
else runs.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from agent.bench import Measurement
from agent.calls import batches, calls_of
from agent.identity import isa_class
from agent.manifest import Fingerprint, match
from agent.metrics import agreement, metric
from agent.sessions import CheckedSession, load
from agent.tensors import Array
from agent.variant import VariantRecord, read_record
from profiles import Profile
from sdk.capture.golden import is_at_opt
from sdk.isolation import user_imports
from sdk.limits import Evidence
from sdk.project_reader import load_project
from sdk.recorded import RecordedSession
from sdk.samples import Sample, StoredSamples
from sdk.scoring import score_by_function
from targets.interface import Recipe

SQNR_CEILING_DB = 120.0  # equal to the last bit of float32; infinity cannot be written as JSON


@dataclasses.dataclass(frozen=True, kw_only=True)
class Agreement:
    """How well one output agrees with the original's, at worst over the golden data."""

    output: str
    metric: str
    """`cosine` for floats, `equal_share` for integers and booleans."""
    value: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What running a variant beside the original's recorded answers gave."""

    golden: tuple[Agreement, ...]
    max_abs: float | None
    """The largest difference of any output element on the golden data; None if not finite."""
    sqnr_db: float | None
    """Pooled over the final split, of the worst output; None without samples or float outputs."""
    scores: dict[str, tuple[float, ...]] | None
    """Split -> one score per sample."""
    placement: dict[str, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """One look at a variant on a machine: what was found, and how much it counts."""

    evaluation: Evaluation | None
    measurement: Measurement | None
    numerics_evidence: Evidence
    speed_evidence: Evidence
    check_as: str | None = None
    """The format of another runtime that ran its files, as a check: such answers prove nothing."""


def evidence(profile: Profile, device: Fingerprint) -> tuple[Evidence, Evidence]:
    """What running on `device` counts for on `profile`: for numerics, and for speed and memory.

    A unit that the profile matches is a device; an emulated one has the right instruction set and
    no speed; any other machine is a host.
    """
    if device.identity.get("emulated"):
        return ("emulated" if _same_isa(profile, device) else "host"), "host"
    if match(profile.match, device):
        return "device", "device"
    return "host", "host"


def proves_numerics(profile: Profile, device: Fingerprint, found: Evidence) -> bool:
    """Whether numerics found with this evidence can prove a limit for the profile.

    INT8 answers differ between CPUs, so a host counts only where its instruction set class
    (architecture, int8 dot product, matrix extension) is the profile's.
    """
    return found in ("device", "emulated") or _same_isa(profile, device)


def _same_isa(profile: Profile, device: Fingerprint) -> bool:
    identity = device.identity
    return profile.isa_class is not None and profile.isa_class == isa_class(
        str(identity.get("arch")), tuple(identity.get("isa", ())), identity.get("sm")
    )


def runnable_as(recipe: Recipe, profile: Profile, device: Fingerprint) -> tuple[str, bool] | None:
    """The format as which this machine can run what the recipe makes, and whether as a check only.

    A recipe of another engine may name a format that runs its files on any CPU (it may be its own
    format, with other options): good for a check of the answers, never for a figure of speed.

    Returns:
        None if it cannot be run here in any way.
    """
    here = recipe.engine in profile.engines and match(profile.match, device)
    if recipe.engine == "cpu" or here:
        return recipe.format, False
    return None if recipe.check is None else (recipe.check, True)


def evaluate(payload: dict[str, Any], out: Path) -> dict[str, Any]:
    """The step: run the variant in `payload["variant"]` against what capture recorded.

    Args:
        payload: {variant, check_as, captured, project, metric, splits, answers}; `variant` and
            `captured` are folders, `check_as` the format to load it as for a check, None to load
            it as what it is, `metric` capture's record or None, `splits` those to score; with
            `answers`, {questions, answers, placement} of a rig, it is not loaded here.
        out: not used: the result is all there is.
    """
    del out
    captured = Path(payload["captured"])
    with _session(payload) as session:
        samples = as_called(StoredSamples(captured / "golden.safetensors"), session.record)
        golden, max_abs = check_agreement(session, samples)
        scores, sqnr_db = None, None
        if payload["metric"] is not None:
            scores, sqnr_db = _score(session, captured, payload)
        return {
            "golden": [dataclasses.asdict(agreement) for agreement in golden],
            "max_abs": max_abs,
            "sqnr_db": sqnr_db,
            "scores": scores,
            "placement": session.placement(),
        }


def _session(payload: Mapping[str, Any]) -> CheckedSession | RecordedSession:
    """The variant, loaded here; or what a rig answered for it."""
    answered = payload.get("answers")
    if answered is None:
        return load(payload["variant"], payload["check_as"])
    return RecordedSession(
        read_record(Path(payload["variant"])),
        Path(answered["questions"]),
        Path(answered["answers"]),
        answered["placement"],
    )


def as_called(samples: StoredSamples, record: VariantRecord) -> Iterator[Sample]:
    """The golden samples; then, where the variant is called in batches, those at opt in batches.

    So the form for a batch is looked at like all others.
    """
    yield from samples
    signature, calls = record.signature, calls_of(record.options)
    if calls.batch is None:
        return
    at_opt = [
        {f"in/{name}": array for name, array in sample.inputs.items()}
        | {f"out/{name}": array for name, array in sample.outputs.items()}
        for sample in samples
        if is_at_opt(sample.inputs, signature)
    ]
    for number, joined in enumerate(batches(at_opt, signature, calls)):
        yield Sample(
            id=f"batch {number}",
            inputs={spec.name: joined[f"in/{spec.name}"] for spec in signature.inputs},
            label=None,
            outputs={spec.name: joined[f"out/{spec.name}"] for spec in signature.outputs},
        )


def check_agreement(
    session: CheckedSession | RecordedSession, samples: Iterable[Sample]
) -> tuple[list[Agreement], float | None]:
    """The worst agreement of each output over the samples, and the largest difference.

    That is None if a difference is not finite, as where an answer holds NaN.
    """
    worst: dict[str, Agreement] = {}
    max_abs = 0.0
    for sample in samples:
        outputs = session.run(sample.inputs)
        for name, reference in sample.outputs.items():
            kind = golden_metric(reference)
            value = agreement(kind, outputs[name], reference)
            if name not in worst or value < worst[name].value:
                worst[name] = Agreement(output=name, metric=kind, value=value)
            max_abs = max(max_abs, _max_abs(outputs[name], reference))
    return list(worst.values()), max_abs if math.isfinite(max_abs) else None


def golden_metric(reference: Array) -> Any:
    """How an output's agreement is measured: floats by direction, all else by equality."""
    return "cosine" if reference.dtype.kind == "f" else "equal_share"


def _max_abs(output: Array, reference: Array) -> float:
    with np.errstate(invalid="ignore"):
        difference = np.abs(output.astype(np.float64) - reference.astype(np.float64))
    # Where both are infinite alike there is no difference; any other NaN is beyond all bounds.
    difference = np.where(output == reference, 0.0, difference)
    return float(np.nan_to_num(difference, nan=np.inf, posinf=np.inf).max(initial=0.0))


def _score(
    session: CheckedSession | RecordedSession, captured: Path, payload: Mapping[str, Any]
) -> tuple[dict[str, list[float]], float | None]:
    splits = {
        split: StoredSamples(captured / f"{split}.safetensors") for split in payload["splits"]
    }
    project = load_project(Path(payload["project"]))
    if project.data is not None and project.data.score is not None:
        with user_imports(project.root):
            scores = {
                split: score_by_function(project, session.run, samples)
                for split, samples in splits.items()
            }
        return scores, _pooled_sqnr(session, splits["final"]) if "final" in splits else None
    chosen = metric(payload["metric"]["name"])
    noise = Noise()
    scores = {split: [] for split in splits}
    for split, samples in splits.items():
        for sample in samples:
            outputs = session.run(sample.inputs)
            scores[split].append(chosen.score(outputs, sample.outputs, sample.label))
            if split == "final":
                noise.add(outputs, sample.outputs)
    return scores, noise.sqnr_db()


def _pooled_sqnr(session: CheckedSession | RecordedSession, samples: StoredSamples) -> float | None:
    noise = Noise()
    for sample in samples:
        noise.add(session.run(sample.inputs), sample.outputs)
    return noise.sqnr_db()


class Noise:
    """Signal and quantisation noise, summed over samples: 10 log10(sum ref^2 / sum error^2)."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[float, float]] = {}

    def add(self, outputs: Mapping[str, Array], reference: Mapping[str, Array]) -> None:
        """Add one sample's outputs."""
        for name, expected in reference.items():
            if expected.dtype.kind == "f":
                signal, noise = self._sums.get(name, (0.0, 0.0))
                wanted = expected.astype(np.float64)
                error = outputs[name].astype(np.float64) - wanted
                finite = np.isfinite(wanted)
                self._sums[name] = (
                    signal + float(np.square(wanted[finite]).sum()),
                    noise + float(np.square(error[finite]).sum()),
                )

    def sqnr_db(self) -> float | None:
        """The worst output's ratio; None if there was no float output or no signal."""
        ratios = [
            10 * np.log10(signal / noise) if noise > 0 else SQNR_CEILING_DB
            for signal, noise in self._sums.values()
            if signal > 0
        ]
        return min(SQNR_CEILING_DB, float(min(ratios))) if ratios else None
