"""What changed between two builds of a model, and which changes are more than noise. Pure.

Two builds ran at different times. Within one contest all candidates take turns, so what slows the
machine slows them alike and cancels out; between two builds nothing cancels. So speed and memory
are compared only on one machine under the same settings, and a latency counts as changed only if
the 95 % intervals do not touch *and* the medians differ by more than two runs may that each call
themselves stable. `sdk compare` measures two variants in turn, and can tell smaller differences.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from agent.bench import Budget
from agent.errors import UsageError
from agent.identity import isa_class
from agent.manifest import Fingerprint
from sdk.limits import Verdict
from sdk.report.figures import broken, chosen_of, own_name, verdict_of
from sdk.summary import CandidateSummary, ProfileSummary, Summary

RUN_TO_RUN = 2 * Budget.tolerance
"""A stable median may lie `Budget.tolerance` off, and here are two."""
MEMORY_NOISE = 0.05
"""Peak memory is one figure a build, without bounds: allocators round, threads come and go."""

# fmt: off
Answer = Literal[
    "faster", "slower", "better", "worse", "smaller", "larger",
    "within noise", "same", "not comparable", "unknown",
]
# fmt: on


@dataclasses.dataclass(frozen=True, kw_only=True)
class Delta:
    """One figure of one candidate, then and now."""

    quantity: Literal["latency_p50_ms", "accuracy_drop", "peak_memory_bytes", "size_bytes"]
    old: float | None
    new: float | None
    answer: Answer
    note: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CandidateChange:
    """A candidate that both builds tried."""

    name: str
    old_status: str
    new_status: str
    deltas: tuple[Delta, ...]
    old_verdict: Verdict | None = None
    """By the limits of its own build; None where it was not built."""
    new_verdict: Verdict | None = None
    broken: tuple[str, ...] = ()
    """The limits that it breaks now and did not break then."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProfileChange:
    """One profile, then and now; None where a build was not for it."""

    target: str
    profile: str
    old_verdict: Verdict | None
    new_verdict: Verdict | None
    old_selected: str | None
    new_selected: str | None
    selected: tuple[Delta, ...]
    """The selected variants against each other, whether or not they are the same."""
    appeared: tuple[str, ...]
    vanished: tuple[str, ...]
    candidates: tuple[CandidateChange, ...]
    limits: dict[str, tuple[float | None, float | None]]
    """Those that changed: then, now."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two builds of one model."""

    model: str
    old_started: int
    new_started: int
    old_program: str
    new_program: str
    tools: dict[str, tuple[str | None, str | None]]
    """Distribution -> versions then and now, of those that changed."""
    machine: dict[str, tuple[Any, Any]]
    """What differs between the two machines, or their settings."""
    profiles: tuple[ProfileChange, ...]

    @property
    def is_same_model(self) -> bool:
        """The captured programs have one digest."""
        return self.old_program == self.new_program


def compare(old: Summary, new: Summary) -> Comparison:
    """Compare two builds.

    Raises:
        UsageError: they are builds of different models.
    """
    if old.model != new.model:
        raise UsageError(
            f"The summaries are of different models: {old.model} and {new.model}.",
            cause="A comparison is of two builds of one model.",
            remedy="Name two build folders of one model, the older one first.",
        )
    machine = _machine(old.host, new.host)
    befores = {(result.target, result.profile): result for result in old.results}
    afters = {(result.target, result.profile): result for result in new.results}
    same_isa = _isa(old.host) == _isa(new.host)
    return Comparison(
        model=new.model,
        old_started=old.started,
        new_started=new.started,
        old_program=old.program_digest,
        new_program=new.program_digest,
        tools=_changed(old.tool_versions, new.tool_versions),
        machine=machine,
        profiles=tuple(
            _profile(key, befores.get(key), afters.get(key), machine, same_isa=same_isa)
            for key in dict.fromkeys((*afters, *befores))
        ),
    )


def _profile(
    key: tuple[str, str],
    old: ProfileSummary | None,
    new: ProfileSummary | None,
    machine: Mapping[str, tuple[Any, Any]],
    *,
    same_isa: bool,
) -> ProfileChange:
    before = {own_name(c.identifier): c for c in old.candidates} if old else {}
    after = {own_name(c.identifier): c for c in new.candidates} if new else {}
    chosen = chosen_of(old) if old else None, chosen_of(new) if new else None
    return ProfileChange(
        target=key[0],
        profile=key[1],
        old_verdict=old.verdict if old else None,
        new_verdict=new.verdict if new else None,
        old_selected=own_name(chosen[0].identifier) if chosen[0] else None,
        new_selected=own_name(chosen[1].identifier) if chosen[1] else None,
        selected=_deltas(chosen[0], chosen[1], machine, same_isa=same_isa)
        if chosen[0] and chosen[1]
        else (),
        appeared=tuple(name for name in after if name not in before) if old else (),
        vanished=tuple(name for name in before if name not in after) if new else (),
        candidates=tuple(
            _candidate(name, before[name], candidate, machine, same_isa=same_isa)
            for name, candidate in after.items()
            if name in before
        ),
        limits=_changed(old.limits or {}, new.limits or {}) if old and new else {},
    )


def _candidate(
    name: str,
    old: CandidateSummary,
    new: CandidateSummary,
    machine: Mapping[str, tuple[Any, Any]],
    *,
    same_isa: bool,
) -> CandidateChange:
    were = {limit.name for limit in broken(old)}
    return CandidateChange(
        name=name,
        old_status=old.status,
        new_status=new.status,
        deltas=_deltas(old, new, machine, same_isa=same_isa),
        old_verdict=verdict_of(old),
        new_verdict=verdict_of(new),
        broken=tuple(limit.name for limit in broken(new) if limit.name not in were),
    )


def _deltas(
    old: CandidateSummary,
    new: CandidateSummary,
    machine: Mapping[str, tuple[Any, Any]],
    *,
    same_isa: bool,
) -> tuple[Delta, ...]:
    other = {**machine, **_settings(old, new)}
    found = (
        _latency(old, new, other),
        _drop(old, new, same_isa=same_isa),
        _memory(old, new, other),
        _size(old, new),
    )
    return tuple(delta for delta in found if delta.old is not None or delta.new is not None)


def _latency(
    old: CandidateSummary, new: CandidateSummary, other: Mapping[str, tuple[Any, Any]]
) -> Delta:
    before, after = old.latency_ms, new.latency_ms
    answer: Answer = "unknown"
    note = ""
    if before is not None and after is not None:
        answer = "within noise"
        if other:
            answer, note = "not comparable", _told(other)
        elif not before.stable or not after.stable:
            note = "not stable"
        elif after.high < before.low and _clearly_less(after.p50, before.p50, RUN_TO_RUN):
            answer = "faster"
        elif before.high < after.low and _clearly_less(before.p50, after.p50, RUN_TO_RUN):
            answer = "slower"
    return Delta(
        quantity="latency_p50_ms",
        old=before.p50 if before else None,
        new=after.p50 if after else None,
        answer=answer,
        note=note,
    )


def _clearly_less(one: float, other: float, noise: float) -> bool:
    """Asked both ways round, so that swapping two builds swaps the answer and nothing else."""
    return one < other * (1 - noise)


def _drop(old: CandidateSummary, new: CandidateSummary, *, same_isa: bool) -> Delta:
    before, after = old.accuracy, new.accuracy
    answer: Answer = "unknown"
    note = ""
    if before is not None and after is not None:
        answer = "within noise"
        if before.metric != after.metric:
            answer, note = "not comparable", f"by {before.metric}, now by {after.metric}"
        elif not same_isa:
            answer, note = "not comparable", "another instruction set, where int8 may differ"
        elif after.low > before.high:
            answer = "worse"
        elif after.high < before.low:
            answer = "better"
    return Delta(
        quantity="accuracy_drop",
        old=before.drop if before else None,
        new=after.drop if after else None,
        answer=answer,
        note=note,
    )


def _memory(
    old: CandidateSummary, new: CandidateSummary, other: Mapping[str, tuple[Any, Any]]
) -> Delta:
    before, after = old.peak_memory_bytes, new.peak_memory_bytes
    answer: Answer = "unknown"
    note = ""
    if before is not None and after is not None:
        answer = "within noise"
        if other:
            answer, note = "not comparable", _told(other)
        elif _clearly_less(after, before, MEMORY_NOISE):
            answer = "smaller"
        elif _clearly_less(before, after, MEMORY_NOISE):
            answer = "larger"
    return Delta(quantity="peak_memory_bytes", old=before, new=after, answer=answer, note=note)


def _size(old: CandidateSummary, new: CandidateSummary) -> Delta:
    before, after = old.size_bytes, new.size_bytes
    answer: Answer = "unknown"
    if before is not None and after is not None:
        answer = "same" if before == after else "smaller" if after < before else "larger"
    return Delta(quantity="size_bytes", old=before, new=after, answer=answer)


def _machine(old: Fingerprint, new: Fingerprint) -> dict[str, tuple[Any, Any]]:
    """What makes them two machines to a stopwatch. Other software may be why a figure changed."""
    before, after = ({**one.identity, **one.conditions} for one in (old, new))
    found = _changed(before, after)
    memory = found.get("memory_bytes")
    if memory and all(memory) and abs(memory[1] / memory[0] - 1) < MEMORY_NOISE:
        del found["memory_bytes"]  # the kernel keeps a little more or less of it from boot to boot
    return found


def _settings(old: CandidateSummary, new: CandidateSummary) -> dict[str, tuple[Any, Any]]:
    """What was set otherwise when the candidates were measured."""
    if old.conditions is None or new.conditions is None:
        return {}
    before, after = old.conditions.before, new.conditions.before
    pairs = {
        "power_mode": (before.power_mode, after.power_mode),
        "governor": (before.governor, after.governor),
        "cpus": (old.conditions.environment.get("cpus"), new.conditions.environment.get("cpus")),
    }
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _told(other: Mapping[str, tuple[Any, Any]]) -> str:
    return "another machine or setting: " + ", ".join(
        f"{name} {before} -> {after}" for name, (before, after) in other.items()
    )


def _isa(host: Fingerprint) -> Any:
    identity = host.identity
    return isa_class(
        str(identity.get("arch")), tuple(identity.get("isa") or ()), identity.get("sm")
    )


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {
        name: (old.get(name), new.get(name))
        for name in dict.fromkeys((*old, *new))
        if old.get(name) != new.get(name)
    }
